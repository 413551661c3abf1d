//! What a packet says: of which session, when, and whose it is.

use std::net::IpAddr;
use std::sync::Arc;

use super::Report;
use super::sessions::Names;
use crate::clock::Now;
use crate::config::{Identify, Radius};
use crate::control::Engine;
use crate::id::{Endpoint, Imsi, PushId};
use crate::table::rib::User;
use crate::table::{Nas, Net6, Session, SessionId, Tables};
use crate::wire::radius::{Accounting, Status};

/// An Accounting-Request, and what follows from who sent it and when.
pub(super) struct Said<'a> {
    pub(super) what: Accounting<'a>,
    pub(super) id: Arc<SessionId>,
    /// When it happened, milliseconds since 1970.
    pub(super) at_ms: u64,
    /// By the clock of who counts, not by ours.
    pub(super) is_dated: bool,
    pub(super) now: Now,
    realm: u32,
    from: IpAddr,
}

impl<'a> Said<'a> {
    pub(super) fn new(config: &Radius, report: &Report<'_>, what: Accounting<'a>) -> Self {
        let Report { client, now, from, .. } = *report;
        let from = from.ip();
        let undated_ms = now.unix_ms.saturating_sub(u64::from(what.delay_s) * 1000);
        let by_address = what.nas_address.or(what.ggsn.filter(|_| what.nas_identifier.is_none()));
        let nas = match (by_address, what.nas_identifier) {
            (Some(address), _) => Nas::Address(address),
            (None, Some(name)) => Nas::Identifier(name.into()),
            (None, None) => Nas::Address(from),
        };
        let id = SessionId { domain: config.realm(client, None), nas, session: what.session.into() };
        Self {
            id: Arc::new(id),
            at_ms: what.event_s.map_or(undated_ms, |event| u64::from(event) * 1000),
            is_dated: what.event_s.is_some(),
            now,
            realm: config.realm(client, what.called_station),
            from,
            what,
        }
    }

    /// The names of who sent it.
    pub(super) fn names(&self) -> Names {
        let mut addresses: Vec<IpAddr> = self.what.nas_address.into_iter().chain(self.what.ggsn).collect();
        let identifier: Option<Box<[u8]>> = self.what.nas_identifier.map(Into::into);
        if addresses.is_empty() && identifier.is_none() {
            addresses.push(self.from);
        }
        Names { addresses, identifier }
    }

    /// The session as it is now, by what was known of it: what is not said has not changed. Whose it is, is as before.
    pub(super) fn session(&self, config: &Radius, before: Option<&Session>) -> Session {
        let Accounting { ggsn, imsi, nsapi, nas_identifier, .. } = self.what;
        let now_ms = self.now.unix_ms;
        let known = |field: fn(&Session) -> Option<IpAddr>| before.and_then(field);
        let ipv6 = self.what.ipv6.map(|net| Net6 { prefix: net.prefix, interface: net.interface });
        let known6 = before.and_then(|before| before.ipv6);
        let same_net = known6.filter(|known| ipv6.is_none_or(|net| net.prefix == known.prefix));
        let named = nas_identifier.filter(|_| matches!(self.id.nas, Nas::Address(_)));
        let max_ms = u64::from(config.session_max_s) * 1000;
        let mut session = Session {
            id: Arc::clone(&self.id),
            gateway: ggsn.or(known(|before| before.gateway)),
            identifier: named.map(Into::into).or(before.and_then(|before| before.identifier.clone())),
            user: before.and_then(|before| before.user),
            imsi: imsi.or(before.and_then(|before| before.imsi)),
            nsapi: nsapi.or(before.and_then(|before| before.nsapi)),
            realm: before.filter(|_| self.what.called_station.is_none()).map_or(self.realm, |b| b.realm),
            ipv4: self.what.ipv4.or(before.and_then(|before| before.ipv4)),
            ipv6: ipv6.filter(|net| net.interface.is_some()).or(same_net).or(ipv6),
            port: before.map_or(config.port, |before| before.port),
            bearers: before.map_or(User::DEFAULT_BEARERS, |before| before.bearers),
            since_ms: 0,
            heard_ms: self.at_ms,
            until_ms: (max_ms > 0).then(|| now_ms.saturating_add(max_ms)),
            released: false,
        };
        let place = |session: &Session| (session.realm, session.ipv4, session.ipv6);
        match before.filter(|before| place(before) == place(&session)) {
            Some(before) => (session.since_ms, session.released) = (before.since_ms, before.released),
            None => session.since_ms = self.began_ms(before.is_some()).min(now_ms),
        }
        session
    }

    /// When the session got its addresses, as far as can be told.
    fn began_ms(&self, is_known: bool) -> u64 {
        let lasted_s = self.what.session_s.filter(|_| self.what.status == Status::Interim && !is_known);
        self.at_ms.saturating_sub(u64::from(lasted_s.unwrap_or(0)) * 1000)
    }
}

impl Engine {
    /// Says whose a session is, by the first of the configured ways that leads to a user of this server; if none
    /// does, it is whose it was.
    pub(super) fn identify(&self, tables: &Tables, config: &Radius, said: &Said<'_>, session: &mut Session) {
        let is_own = |user: &PushId| Self::is_own(tables, *user);
        let found = config.identify.iter().find_map(|way| match way {
            Identify::Imsi => session.imsi.and_then(|imsi| self.by_imsi(tables, imsi, session)),
            Identify::CallingStation => by_number(tables, said.what.calling_station?).filter(is_own),
            Identify::UserName => tables.arrays().name(said.what.user_name?).filter(is_own),
        });
        let Some(user) = found else { return };
        let rows = || Self::rows(tables, user);
        let row = rows().find(|row| row.imsi.is_some() && row.imsi == session.imsi).or_else(|| rows().next());
        session.user = Some((user, row.as_ref().map_or(0, |row| row.device)));
        session.bearers = row.as_ref().map_or(User::DEFAULT_BEARERS, |row| row.bearers);
        session.port = row.and_then(|row| row.private).map_or(config.port, Endpoint::port);
    }

    /// The one user whose rows of users.csv have this IMSI; if no row has, the user of the terminal that registered
    /// with it from the session's own address.
    fn by_imsi(&self, tables: &Tables, imsi: Imsi, session: &Session) -> Option<PushId> {
        let lines = tables.arrays().lines();
        let of = |at: &u32| lines.get(*at as usize);
        let tbcd = |at: &u32| of(at).and_then(|line| line.imsi()).map_or([0; 8], Imsi::to_tbcd);
        let first = self.feed.imsis.partition_point(|at| tbcd(at) < imsi.to_tbcd());
        let same = self.feed.imsis.iter().skip(first).take_while(|at| tbcd(at) == imsi.to_tbcd());
        let mut users = same.filter_map(|at| Some(of(at)?.user()));
        if let Some(user) = users.next() {
            return Some(user)
                .filter(|user| users.all(|other| other == *user) && Self::is_own(tables, *user));
        }
        let bound = session.addresses().flat_map(|base| self.bound_at(session.realm, base));
        let same = bound.filter(|(_, entry)| entry.binding().imsi == Some(imsi));
        same.map(|(_, entry)| entry.binding().user).find(|user| Self::is_own(tables, *user))
    }

    /// Looks through the tables for what sessions are held against.
    pub(super) fn index_tables(&mut self, tables: &Tables) {
        (self.feed.imsis, self.feed.nets) = (Vec::new(), Vec::new());
        if self.feed.config.is_none() {
            return;
        }
        let lines = || (0u32..).zip(tables.arrays().lines());
        let mut imsis: Vec<([u8; 8], u32)> =
            lines().filter_map(|(at, line)| Some((line.imsi()?.to_tbcd(), at))).collect();
        imsis.sort_unstable();
        self.feed.imsis = imsis.into_iter().map(|(_, at)| at).collect();
        let net = |(at, line): (u32, &crate::table::binding::Line)| {
            let private = line.private().filter(|private| !private.is_ipv4())?;
            let prefix = *private.octets().first_chunk()?;
            Some((line.realm(), prefix, at))
        };
        self.feed.nets = lines().filter_map(net).collect();
        self.feed.nets.sort_unstable();
    }
}

/// Whose a telephone number is, with or without the plus sign.
fn by_number(tables: &Tables, number: &str) -> Option<PushId> {
    let name = |name: &str| tables.arrays().name(name);
    name(number).or_else(|| match number.strip_prefix('+') {
        Some(digits) => name(digits),
        None => name(&format!("+{number}")),
    })
}
