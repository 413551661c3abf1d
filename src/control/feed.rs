//! What the network says of who has which address: RADIUS accounting (RFC 2866, TS 29.061 §16).
//!
//! | packet | what follows |
//! |---|---|
//! | Start, Interim | the session holds its addresses, and nobody else does; its terminal is bound there |
//! | Stop | if the session still holds its addresses, whatever is bound there ends |
//! | On, Off | so do all sessions of who sent it, but those that began since |
//! | others | nothing |
//!
//! *Which session.* By who counts it (NAS-IP-Address, NAS-IPv6-Address, else NAS-Identifier) and Acct-Session-Id. An
//! Interim of a session that is not known is its Start. Of two sessions with one address the one that began later holds
//! it, and the other is over, but for bearers of one terminal (the same IMSI, another NSAPI): these share it until the
//! last one stops, or one with 3GPP-Session-Stop-Indicator.
//!
//! *When.* By Event-Timestamp, else by arrival less Acct-Delay-Time. What is older than what is known of the session,
//! than its end, or than what is known of who has its address by now, comes too late: it is answered and changes
//! nothing.
//!
//! *Whose.* As `radius.identify` says, of users whose home is this server. A session of nobody known takes its address
//! from whoever had it all the same; a terminal that registers there with its own Push ID may.
//!
//! *What a terminal says.* A REGISTER from another user's address is refused. One of the user itself goes before what
//! the network says: it knows the port. When it ends by its validity, the network's word holds again; after a RELEASE
//! not before the next session.
//!
//! *Answers.* Once everything is durable and visible. A request that is repeated byte by byte is answered again and
//! not looked at; one that is told anew, with another Acct-Delay-Time, finds nothing left to change.
//!
//! | part | what |
//! |---|---|
//! | [`sessions`], [`over`] | what is known |
//! | [`said`] | what a packet says: which session, when, whose |
//! | [`bind`] | what follows for the tables, and what REGISTER and RELEASE mean for sessions |
//! | [`sweep`] | On, Off, and sessions of which nothing more is heard |
//! | [`repeats`] | requests that are repeated |

mod bind;
mod over;
mod repeats;
mod said;
pub(super) mod sessions;
mod sweep;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use ahash::RandomState;

use self::repeats::{Repeated, Repeats};
use self::said::Said;
use self::sessions::Sessions;
use self::sweep::Sweep;
use super::timer::Wheel;
use super::{Engine, Outbox};
use crate::clock::Now;
use crate::config::Radius;
use crate::id::{Endpoint, PushId};
use crate::reason::Unanswered;
use crate::table::{Change, Session, Tables};
use crate::wire::radius::{Accounting, Packet, Status, code};

/// An Accounting-Request that a listener found genuine.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// The packet.
    pub bytes: &'a [u8],
    /// Where it came from.
    pub from: Endpoint,
    /// Which address of `radius.listen` it came to.
    pub listener: u8,
    /// Which of [`Radius::clients`] sent it.
    pub client: usize,
    /// When.
    pub now: Now,
}

/// An Accounting-Response to send once the changes that came with it, and before it, are durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReportAnswer {
    /// Where to.
    pub to: Endpoint,
    /// From which address of `radius.listen`.
    pub listener: u8,
    /// The packet.
    pub datagram: Vec<u8>,
}

/// How a report ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReportEnd {
    /// It is answered.
    Answered(ReportAnswer, Effect),
    /// It is not.
    Dropped(Unanswered),
}

/// What an answered report changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// It said something of a session, a terminal or a whole NAS.
    Taken,
    /// It came too late.
    Late,
    /// It had been answered before.
    Repeated,
    /// It says nothing of addresses.
    Ignored,
}

/// What is known by the feed.
#[derive(Debug)]
pub(super) struct Feed {
    /// None: nobody is listened to.
    config: Option<Arc<Radius>>,
    pub(super) sessions: Sessions,
    repeats: Repeats,
    /// Places of sessions that end when nothing more is heard of them.
    pub(super) expiry: Wheel<u32>,
    sweeps: VecDeque<Sweep>,
    /// Users of whom something changed: what the network says of them may hold again.
    unsettled: Vec<PushId>,
    /// Users whose terminal the network says is somewhere and for whose binding there was no room.
    waiting: BTreeSet<PushId>,
    /// From the tables: lines of users.csv with an IMSI, by IMSI.
    imsis: Vec<u32>,
    /// From the tables: realm and net of lines with a private IPv6 address, sorted.
    nets: Vec<(u32, [u8; 8], u32)>,
}

impl Feed {
    /// Remembers so many sessions at most that are over.
    pub(super) fn new(sessions: usize, hasher: &RandomState) -> Self {
        Self {
            config: None,
            sessions: Sessions::new(sessions, hasher),
            repeats: Repeats::new(hasher),
            expiry: Wheel::default(),
            sweeps: VecDeque::new(),
            unsettled: Vec::new(),
            waiting: BTreeSet::new(),
            imsis: Vec::new(),
            nets: Vec::new(),
        }
    }

    /// Whether there is something that does not wait for time.
    pub(super) fn is_busy(&self) -> bool {
        !self.sweeps.is_empty()
    }

    /// Reports that were taken and have not ended.
    pub(super) fn pending(&self) -> usize {
        self.sweeps.len()
    }

    /// Takes notice of a change that may leave a user's terminal where only the network says that it is.
    pub(super) fn unsettle(&mut self, change: &Change) {
        let user = match change {
            Change::End { user, .. } => Some(*user),
            Change::Bind { binding, .. } | Change::Assign { binding, .. } => Some(binding.user),
            _ => None,
        };
        self.unsettled.extend(user.filter(|_| self.sessions.len() > 0));
    }
}

/// What becomes of a report that is not dropped.
enum Outcome {
    Answered(Effect),
    /// It ends when its sweep does.
    Pending(Sweep),
}

impl Engine {
    /// Listens to RADIUS accounting as configured. To be called before [`Engine::restore`].
    #[must_use]
    pub fn with_feed(mut self, config: Option<Radius>) -> Self {
        self.feed.config = config.map(Arc::new);
        self
    }

    /// Decides a report: one end of it goes into the outbox, now or later.
    pub fn handle_report(&mut self, tables: &Tables, report: &Report<'_>, out: &mut Outbox) {
        if let Err(unanswered) = self.take_report(tables, report, out) {
            out.reports.push(ReportEnd::Dropped(unanswered));
        }
        self.settle_users(tables, report.now, out);
    }

    fn take_report(
        &mut self,
        tables: &Tables,
        report: &Report<'_>,
        out: &mut Outbox,
    ) -> Result<(), Unanswered> {
        let Some(config) = self.feed.config.clone() else { return Err(Unanswered::NotAccounting) };
        let client = config.clients.get(report.client).ok_or(Unanswered::UnknownClient)?;
        let packet = Packet::parse(report.bytes).map_err(|_| Unanswered::Malformed)?;
        if packet.code() != code::ACCOUNTING_REQUEST {
            return Err(Unanswered::NotAccounting);
        }
        let accounting = Accounting::read(&packet).map_err(|_| Unanswered::Malformed)?;
        let (key, authenticator) = ((report.from, packet.identifier()), packet.authenticator());
        let outcome = match self.feed.repeats.find(key, authenticator) {
            Some(Repeated::UnderWay) => return Err(Unanswered::Repeated),
            Some(Repeated::Decided) => Outcome::Answered(Effect::Repeated),
            None => {
                let said = Said::new(&config, report, accounting);
                self.feed.sessions.forget_over(report.now);
                self.decide(tables, &config, &said, out)?
            }
        };
        let mut datagram = Vec::new();
        packet.respond(client.secret.octets(), &mut datagram);
        let answer = ReportAnswer { to: report.from, listener: report.listener, datagram };
        match outcome {
            Outcome::Answered(effect) => {
                self.feed.repeats.remember(key, authenticator, Repeated::Decided, report.now);
                out.reports.push(ReportEnd::Answered(answer, effect));
            }
            Outcome::Pending(sweep) => {
                self.feed.repeats.remember(key, authenticator, Repeated::UnderWay, report.now);
                self.feed.sweeps.push_back(sweep.then(answer, key, authenticator));
            }
        }
        Ok(())
    }

    fn decide(
        &mut self,
        tables: &Tables,
        config: &Radius,
        said: &Said<'_>,
        out: &mut Outbox,
    ) -> Result<Outcome, Unanswered> {
        let effect = match said.what.status {
            Status::Start | Status::Interim => self.session_goes_on(tables, config, said, out)?,
            Status::Stop => self.session_stops(tables, said, out),
            Status::On | Status::Off => return Ok(Outcome::Pending(self.sweep_of(said))),
            Status::Other(_) => Effect::Ignored,
        };
        Ok(Outcome::Answered(effect))
    }

    /// Start and Interim.
    fn session_goes_on(
        &mut self,
        tables: &Tables,
        config: &Radius,
        said: &Said<'_>,
        out: &mut Outbox,
    ) -> Result<Effect, Unanswered> {
        let now = said.now;
        let is_over = |ended_ms: u64| !said.is_dated || said.at_ms <= ended_ms;
        if self.feed.sessions.over(&said.id).is_some_and(is_over) {
            return Ok(Effect::Late);
        }
        let before = self.feed.sessions.find(&said.id).map(|(_, session)| session.clone());
        if before.as_ref().is_some_and(|before| said.at_ms < before.heard_ms) {
            return Ok(Effect::Late);
        }
        let mut session = said.session(config, before.as_ref());
        self.identify(tables, config, said, &mut session);
        // Bearers of one terminal say the same of it, whichever tables were there when each began.
        let is_known = |other: &Session| other.id != session.id && other.user.is_some();
        if let Some(known) = self.sharing(&session).into_iter().find(is_known) {
            (session.user, session.port, session.bearers) = (known.user, known.port, known.bearers);
        }
        let is_new = before.as_ref().is_none_or(|before| {
            let bearer = |session: &Session| (session.user, session.imsi, session.nsapi);
            let place = |session: &Session| (session.realm, session.ipv4, session.ipv6);
            (place(before), bearer(before)) != (place(&session), bearer(&session))
        });
        if is_new {
            if self.is_outdated(&session, now) {
                return Ok(Effect::Late);
            }
            let users = [before.as_ref().and_then(|before| before.user), session.user];
            self.feed.unsettled.extend(users.into_iter().flatten().map(|(user, _)| user));
            self.take_addresses(tables, before.as_ref(), &session, now, out)?;
            self.make_known(tables, &session, now, out)?;
        }
        if before.is_none() && self.feed.sessions.len() >= self.site.limits.sessions {
            return Err(Unanswered::Overloaded);
        }
        let is_due = before.as_ref().is_none_or(|before| is_due(before, &session, config));
        if let (false, Some(before)) = (is_due, &before) {
            session.until_ms = before.until_ms;
        }
        // First the binding: if a crash keeps no more than that, nothing stands for it, and it is told again.
        self.bind_session(tables, &session, is_new, now, out)?;
        match is_due {
            true => self.commit(tables, Change::Attach(Box::new(session)), now, out),
            false => self.feed.sessions.heard(&session.id, session.heard_ms),
        }
        Ok(Effect::Taken)
    }

    fn session_stops(&mut self, tables: &Tables, said: &Said<'_>, out: &mut Outbox) -> Effect {
        let Some(session) = self.feed.sessions.find(&said.id).map(|(_, session)| session.clone()) else {
            // What was sent before it and arrives after it must not bring the session back.
            let known = self.feed.sessions.over(&said.id);
            if known.is_none_or(|ended_ms| ended_ms < said.at_ms) {
                let change = Change::Detach { id: Arc::clone(&said.id), ended_ms: Some(said.at_ms) };
                self.commit(tables, change, said.now, out);
            }
            return Effect::Late;
        };
        if said.at_ms < session.since_ms {
            return Effect::Late;
        }
        if said.what.stops_all {
            for other in self.sharing(&session) {
                self.end_session(tables, &other, Some(said.at_ms), None, said.now, out);
            }
        }
        self.end_session(tables, &session, Some(said.at_ms), None, said.now, out);
        Effect::Taken
    }
}

/// Whether a session is worth a record: when something changed, or a quarter of its time has gone by since the last.
fn is_due(before: &Session, session: &Session, config: &Radius) -> bool {
    let rest = |session: &Session| Session { heard_ms: 0, until_ms: None, ..session.clone() };
    let quarter_ms = u64::from(config.session_max_s) * 250;
    let is_worn = match (before.until_ms, session.until_ms) {
        (Some(before), Some(until)) => until.saturating_sub(before) >= quarter_ms,
        (before, until) => before != until,
    };
    is_worn || rest(before) != rest(session)
}
