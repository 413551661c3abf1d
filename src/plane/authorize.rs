//! Second stage: whether the sender may (PROTOCOL.md, step 2 and ruling 11 for the order).

use super::parse::is_taken;
use super::replay::Seen;
use super::terminals::Known;
use super::{Cell, Grant, Moment, NoTrace, Plane, Read, Trace, Verdict};
use crate::id::{Endpoint, PushId};
use crate::packet::{Burst, Class};
use crate::reason::Reason;
use crate::table::rib::Rule;
use crate::table::{AppView, Tables};
use crate::wire::prp::auth::Auth;
use crate::wire::prp::{Kind, Message};

/// The application's rule. The sender's own PRIORITY does not count: anybody can set it, and a server passes it on.
impl From<Rule> for Class {
    fn from(rule: Rule) -> Self {
        match rule {
            Rule::MinDelay => Self::MinDelay,
            Rule::Priority => Self::Priority,
            Rule::Normal => Self::Normal,
        }
    }
}

impl Plane {
    pub(super) fn authorize(&mut self, moment: &Moment<'_>, burst: &Burst, trace: &mut impl Trace) {
        let Moment { site, tables, .. } = *moment;
        let mut before = Before { from: Endpoint::NONE, peer: None, app: None };
        for (at, (cell, row)) in self.cells.iter_mut().zip(&burst.rows).enumerate() {
            let Cell { read: Read::Message(message), verdict, peer, grant, .. } = cell else { continue };
            let Some(frame) = &row.frame else { continue };
            if before.from != row.from {
                before = Before { from: row.from, peer: tables.peer(row.from), app: None };
            }
            *peer = before.peer;
            let bytes = frame.bytes();
            let sender = Sender { moment, from: row.from, peer: *peer, message, bytes };
            match sender.authorize(&mut before, grant, at, trace) {
                Ok(()) if site.listen.len() > 1 => site.shared.heard.note(row.from, row.listener),
                Ok(()) => {}
                Err(reason) => {
                    *verdict = Verdict::Drop(reason);
                    trace.step(at, || format!("{reason}: {}", reason.text()));
                    grant.signed_by = grant.signed_by.or_else(|| sender.answer_key(reason));
                }
            }
        }
    }
}

/// What was found for the row before: application servers send in trains.
struct Before<'a> {
    from: Endpoint,
    peer: Option<u32>,
    /// The application, and whether it has `from` in its sources.
    app: Option<(u32, AppView<'a>, bool)>,
}

impl<'a> Before<'a> {
    /// The application with this identifier, and whether it has the sender's address in its sources.
    fn app(&mut self, tables: &'a Tables, id: u32) -> Option<(AppView<'a>, bool)> {
        match self.app {
            Some((same, app, in_sources)) if same == id => Some((app, in_sources)),
            _ => {
                let app = tables.app(id)?;
                let in_sources = app.has_sources() && app.in_sources(self.from);
                self.app = Some((id, app, in_sources));
                Some((app, in_sources))
            }
        }
    }
}

/// One message, who sent it, and what is needed to judge it.
struct Sender<'a> {
    moment: &'a Moment<'a>,
    from: Endpoint,
    peer: Option<u32>,
    message: &'a Message,
    bytes: &'a [u8],
}

impl<'a> Sender<'a> {
    fn authorize(
        &self,
        before: &mut Before<'a>,
        grant: &mut Grant,
        at: usize,
        trace: &mut impl Trace,
    ) -> Result<(), Reason> {
        let Message { kind, header, options, .. } = self.message;
        // Only another server answers what this one asks: anybody else's answer belongs to no question.
        let answers_nothing = matches!(kind, Kind::Registered | Kind::Released) && self.peer.is_none();
        if !is_taken(*kind) || answers_nothing {
            return Err(Reason::UnsupportedKind);
        }
        if let Some(peer) = self.peer {
            trace.step(at, || format!("from the Push server {}", self.moment.tables.server_name(peer)));
        }
        let app = match kind {
            Kind::Push => {
                let (app, in_sources) =
                    before.app(self.moment.tables, header.app).ok_or(Reason::ApplicationNotAllowed)?;
                trace.step(at, || format!("application {} ({}) is on the allowlist", header.app, app.name()));
                self.check_address(app, in_sources, at, trace)?;
                Some((app, in_sources))
            }
            _ => None,
        };
        grant.signed_by = self.check_auth(app.map(|(app, _)| app), at, trace)?;
        if let Some(key) = grant.signed_by {
            self.check_replay(key)?;
        }
        if let Some((app, in_sources)) = app {
            self.check_source(in_sources, at, trace)?;
            // What another server sends was counted there (ruling 2).
            let rate = app.rate().filter(|_| self.peer.is_none());
            if rate.is_some_and(|rate| !rate.take(self.moment.now.mono_ns)) {
                return Err(Reason::RateLimited);
            }
            grant.class = Some(app.rule().into());
            grant.sets_priority = app.rule() == Rule::Priority;
        }
        match options.deadline(self.bytes) {
            Some(deadline) if deadline < self.moment.now.unix_ms => Err(Reason::Expired),
            _ => Ok(()),
        }
    }

    fn check_address(
        &self,
        app: AppView<'_>,
        in_sources: bool,
        at: usize,
        trace: &mut impl Trace,
    ) -> Result<(), Reason> {
        if !app.has_sources() {
            trace.step(at, || "anyone may push for it".to_owned());
            return Ok(());
        }
        let (judged, passes) = match self.peer {
            // The server judged its sender; here only what it passed on is judged again (ruling 2).
            Some(_) => match self.message.options.source_address(self.bytes) {
                Some(source) => (source, app.in_sources(source)),
                None => return Ok(()),
            },
            None => (self.from, in_sources),
        };
        if passes {
            trace.step(at, || format!("{judged} is in the application's sources"));
            return Ok(());
        }
        if self.peer.is_none() && app.takes_users() && self.is_terminal() {
            trace.step(at, || format!("{judged} is a terminal of the source"));
            return Ok(());
        }
        Err(Reason::SourceAddressNotAllowed)
    }

    /// Whether the source has a live binding whose address the datagram came from, or came through
    /// the gateway of (INTERFACE.md, ruling 3). A private address belongs to one user whatever its
    /// port; of a public one the port counts too, since users share it.
    fn is_terminal(&self) -> bool {
        let source = self.message.header.source;
        if source.is_none() {
            return false;
        }
        let mut found = false;
        self.moment.each_of(source, |known| {
            found |= known.is_live(self.moment.now) && self.is_from(known);
        });
        found
    }

    /// Whether the datagram came from this terminal, or from the gateway that it lies behind.
    fn is_from(&self, known: &dyn Known) -> bool {
        let from = self.from;
        let is_gateway = |private| {
            let tables = self.moment.tables;
            let gateway = tables.gateway(known.realm(), private);
            gateway.is_some_and(|gateway| tables.gateway_view(gateway).address().octets() == from.octets())
        };
        known.nat() == Some(from)
            || known.private().is_some_and(|own| own.octets() == from.octets() || is_gateway(own))
    }

    /// The index of the key whose signature is right; an error when one is missing or wrong.
    fn check_auth(
        &self,
        app: Option<AppView<'_>>,
        at: usize,
        trace: &mut impl Trace,
    ) -> Result<Option<u32>, Reason> {
        let Message { header, options, .. } = self.message;
        let peer_key = self.peer.and_then(|peer| self.moment.tables.server_key(peer));
        let app_key = app.and_then(|app| app.key());
        // Whose key it must be, where that is laid down.
        let wanted = match self.peer {
            Some(_) => peer_key,
            None => app_key,
        };
        let Some(auth) = Auth::of(options, self.bytes) else {
            let needed = wanted.is_some() || self.moment.site.policy.require_auth;
            return if needed { Err(Reason::AuthenticationFailed) } else { Ok(None) };
        };
        let key = self.moment.tables.key_index(auth.key).ok_or(Reason::AuthenticationFailed)?;
        // Of what is asked for oneself the destination is who asks.
        let asks =
            matches!(self.message.kind, Kind::Register | Kind::Release | Kind::Group | Kind::Introduce);
        let has_key = |user| self.moment.tables.user_key(user) == Some(key);
        // A terminal answers as the Push ID that it was sent to, which may be lent: it has the key of its user.
        let is_users = |user| has_key(user) || self.moment.lent_to(user).is_some_and(has_key);
        let belongs = match wanted {
            Some(wanted) => key == wanted,
            None => app_key == Some(key) || is_users(header.source) || (asks && is_users(header.destination)),
        };
        let schedule = self.moment.tables.key(key).filter(|_| belongs).ok_or(Reason::AuthenticationFailed)?;
        if !schedule.verify(self.bytes, &auth) {
            return Err(Reason::AuthenticationFailed);
        }
        trace.step(at, || format!("rightly signed with key {}", auth.key));
        Ok(Some(key))
    }

    /// What is rightly signed is answered signed, even when it failed before its signature was looked
    /// at (ruling 15): a server that shares a key with this one would refuse the REJECT otherwise.
    fn answer_key(&self, reason: Reason) -> Option<u32> {
        if !matches!(reason, Reason::ApplicationNotAllowed | Reason::SourceAddressNotAllowed) {
            return None;
        }
        let app = Some(self.message.header.app).filter(|_| self.message.kind == Kind::Push);
        self.check_auth(app.and_then(|app| self.moment.tables.app(app)), 0, &mut NoTrace).ok().flatten()
    }

    fn check_replay(&self, key: u32) -> Result<(), Reason> {
        let Message { header, options, .. } = self.message;
        let fresh = Auth::of(options, self.bytes).is_some_and(|auth| auth.is_fresh(self.moment.now.unix_ms));
        if !fresh {
            return Err(Reason::StaleOrReplayed);
        }
        let window = &self.moment.site.shared.replay;
        let id = self.moment.tables.key_id(key);
        match window.check(id, header.source, header.destination, header.message, self.moment.now.mono_ns) {
            Seen::First => Ok(()),
            Seen::Before => Err(Reason::StaleOrReplayed),
            Seen::NoRoom => Err(Reason::Overloaded),
        }
    }

    /// `policy.known_sources` (INTERFACE.md, ruling 4).
    fn check_source(&self, in_sources: bool, at: usize, trace: &mut impl Trace) -> Result<(), Reason> {
        if !self.moment.site.policy.known_sources {
            return Ok(());
        }
        let source = self.message.header.source;
        let passes = if source.is_none() {
            self.peer.is_some() || in_sources
        } else {
            self.moment.is_user(source) || (self.peer.is_some() && self.is_foreign(source))
        };
        if !passes {
            return Err(Reason::UnknownSource);
        }
        trace.step(at, || format!("source {source} is legal"));
        Ok(())
    }

    fn is_foreign(&self, user: PushId) -> bool {
        self.moment.tables.route(user).is_some_and(|server| Some(server) != self.moment.tables.own())
    }
}
