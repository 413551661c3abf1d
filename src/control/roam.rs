//! Roaming (PROTOCOL.md, ruling 4): users of other servers that register here, and own users that
//! register there.
//!
//! A visitor's REGISTER waits until the home server has taken it; then the visitor is bound here and answered.
//! The home server is told again at half of each validity. What ends a visit: its validity, a RELEASE of
//! the visitor (which the home server is told), or one of the home server, which sends it when the user
//! registers at home or elsewhere. The home server never ends what another server serves by then.

use super::answer::datagram;
use super::register::Registration;
use super::relay::{Due, Relay, Task};
use super::{Engine, Outbox, Outcome, Reply, Request};
use crate::clock::Now;
use crate::id::{Endpoint, PushId};
use crate::reason::Reason;
use crate::table::{Binding, Owed, Parting, Tables};
use crate::wire::prp::{HeadBuilder, Header, Kind, Message};

/// The shortest wait before a renewal that failed is tried again.
const RENEW_MIN_MS: u64 = 1000;
/// The wait, where the visit has no end by which to measure it.
const RENEW_STATIC_MS: u64 = 60_000;

impl Engine {
    pub(super) fn start_relays(&mut self, now: Now) {
        self.relays.start(now);
    }

    /// Asks a visitor's home server.
    pub(super) fn visit(
        &mut self,
        tables: &Tables,
        home: u32,
        registration: Registration,
        now: Now,
        out: &mut Outbox,
    ) -> Result<(), Reason> {
        let Binding { user, device, .. } = registration.binding;
        let to = tables.server_address(home);
        if tables.own().is_none() || self.listener_for(to, 0).is_none() {
            return Err(Reason::NoRoute);
        }
        if self.relays.is_full(user, device, self.site.limits.relays) {
            return Err(Reason::Overloaded);
        }
        self.supersede(tables, (user, device), to, now, out);
        let validity_s = registration.validity_s;
        let task = Task::Register(Box::new(registration));
        let id = self.relays.add(Relay::new(task, to, (user, device), validity_s, now));
        self.transmit(tables, id, now, out);
        Ok(())
    }

    /// Sends a request, for the first time or again.
    pub(super) fn transmit(&mut self, tables: &Tables, id: u64, now: Now, out: &mut Outbox) {
        let Some((message, relay)) = self.relays.attempt(id, now) else { return };
        let own = tables.own().map_or(Endpoint::NONE, |own| tables.server_address(own));
        let to = relay.to;
        let header = |kind| Header::new(kind, relay.user, PushId::NONE, message);
        let mut head = match relay.task {
            Task::Register(_) | Task::Renew => {
                let mut head = HeadBuilder::new(&header(Kind::Register));
                head.device(relay.device).validity(relay.validity_s).serving_server(own);
                head
            }
            Task::Release(parting) => {
                let mut head = HeadBuilder::new(&header(Kind::Release));
                head.device(relay.device);
                if parting == Parting::Terminal && relay.device == 0 {
                    // Device 0 alone would be all (ruling 20): this one is served here now, the others stay.
                    head.serving_server(own);
                }
                head
            }
        };
        // However often it is repeated, it is as old as what the visitor asked: what the home server was asked since,
        // by the visitor itself perhaps, is newer.
        let made_ms = match &relay.task {
            Task::Register(registration) => registration.asked_ms,
            Task::Renew | Task::Release(_) => now.unix_ms,
        };
        let now = Now { unix_ms: made_ms, ..now };
        let key = tables.peer(to).and_then(|peer| tables.server_key(peer)).map(|key| tables.key_id(key));
        let first = self.site.listen.iter().position(|listen| *listen == own).unwrap_or(0) as u8;
        if let (Some(listener), Ok(datagram)) =
            (self.listener_for(to, first), datagram(tables, &mut head, &[], key, now))
        {
            out.replies.push(Reply { to, listener, datagram, is_reject: false });
        }
    }

    /// REGISTERED, RELEASED or REJECT of a server that was asked.
    pub(super) fn relay_answered(
        &mut self,
        tables: &Tables,
        request: &Request<'_>,
        message: &Message,
        out: &mut Outbox,
    ) -> Result<Outcome, Reason> {
        let Request { bytes, from, now, .. } = *request;
        let (id, relay) = self.relays.asked(message.header.message).ok_or(Reason::UnsupportedKind)?;
        if relay.to != from || relay.user != message.header.source {
            return Err(Reason::UnsupportedKind);
        }
        Self::peer(tables, request)?;
        let registers = matches!(relay.task, Task::Register(_) | Task::Renew);
        let result = match message.kind {
            Kind::Registered if registers => Ok(message.options.validity(bytes).unwrap_or(0)),
            Kind::Released if !registers => Ok(0),
            Kind::Reject => {
                let code = message.options.reason(bytes).map_or(0, |(code, _)| code);
                Err(Reason::from_code(code).unwrap_or(Reason::NotPermitted))
            }
            _ => return Err(Reason::UnsupportedKind),
        };
        if let (Task::Release(_), Err(Reason::StaleOrReplayed)) = (&relay.task, result) {
            // Clocks differ, or a registration was under way: later it will be right or be superseded.
            return Ok(Outcome::Answered);
        }
        if let Some(relay) = self.relays.take(id) {
            self.relay_ended(tables, relay, result, now, out);
        }
        Ok(Outcome::Answered)
    }

    /// A request has its answer, or is given up.
    fn relay_ended(
        &mut self,
        tables: &Tables,
        relay: Relay,
        result: Result<u32, Reason>,
        now: Now,
        out: &mut Outbox,
    ) {
        self.settle_debt(tables, &relay, now, out);
        let Relay { task, to, user, device, validity_s, .. } = relay;
        match task {
            Task::Register(mut registration) => {
                let granted = result.map(|home_s| shorter(validity_s, home_s));
                let bound = granted.and_then(|granted_s| {
                    registration.validity_s = granted_s;
                    self.finish_register(tables, &registration, now, out)
                });
                if let Err(reason) = bound {
                    self.refuse(tables, &registration.asker, reason, now, out);
                    let may_be_taken = granted.is_ok() || reason == Reason::GatewayFailed;
                    let is_live =
                        self.store.find(user, device).is_some_and(|(_, entry)| entry.is_live(now.unix_ms));
                    if granted.is_ok() || (may_be_taken && is_live) {
                        self.correct(tables, to, (user, device), now, out);
                    }
                    return;
                }
                out.answered += 1;
                let granted_s = registration.validity_s;
                let wait_ms = (granted_s != 0).then_some(u64::from(granted_s) * 500);
                self.relays.renewed(user, device);
                self.relays.renew_after((user, device), granted_s, wait_ms, now);
            }
            Task::Renew => {
                let Some((_, entry)) = self.store.find(user, device) else { return };
                if !entry.is_live(now.unix_ms) {
                    return;
                }
                let wait_ms = match (result, entry.valid_until_ms()) {
                    (Ok(0), _) => None,
                    (Ok(home_s), _) => Some(u64::from(home_s) * 500),
                    (Err(_), Some(until)) => Some((until.saturating_sub(now.unix_ms) / 2).max(RENEW_MIN_MS)),
                    (Err(_), None) => Some(RENEW_STATIC_MS),
                };
                self.relays.renew_after((user, device), validity_s, wait_ms, now);
            }
            Task::Release(_) => {}
        }
    }

    /// A user's address is another's from now on: who asked for it before waits in vain.
    pub(super) fn refuse_rivals(
        &mut self,
        tables: &Tables,
        binding: &Binding,
        order: u64,
        now: Now,
        out: &mut Outbox,
    ) {
        for relay in self.relays.take_rivals(binding, order) {
            if let Task::Register(registration) = relay.task {
                self.refuse(tables, &registration.asker, Reason::StaleOrReplayed, now, out);
            }
            self.correct(tables, relay.to, (relay.user, relay.device), now, out);
        }
    }

    /// The home server of a visitor may have taken what does not hold here: it is told what does.
    fn correct(
        &mut self,
        tables: &Tables,
        home: Endpoint,
        (user, device): (PushId, u8),
        now: Now,
        out: &mut Outbox,
    ) {
        if self.relays.is_pending(user, Some(device)) {
            return;
        }
        match self.store.find(user, device) {
            Some((_, entry)) if entry.is_live(now.unix_ms) => self.renew(tables, user, device, now, out),
            _ => self.owe(tables, Owed { to: home, user, device, parting: Parting::Visit }, now, out),
        }
    }

    /// Works on a timer that is due; false when there is none.
    pub(super) fn relay_timeout(&mut self, tables: &Tables, to: u64, now: Now, out: &mut Outbox) -> bool {
        match self.relays.due(to) {
            Some(Due::Retry(id)) => self.transmit(tables, id, now, out),
            Some(Due::GiveUp(id)) => {
                if let Some(relay) = self.relays.take(id) {
                    self.relay_ended(tables, relay, Err(Reason::GatewayFailed), now, out);
                }
            }
            Some(Due::Renew(user, device)) => self.renew(tables, user, device, now, out),
            None => return false,
        }
        true
    }

    /// Registers a visitor with its home server again.
    fn renew(&mut self, tables: &Tables, user: PushId, device: u8, now: Now, out: &mut Outbox) {
        let home = tables.route(user).filter(|home| Some(*home) != tables.own());
        let entry = self.store.find(user, device).map(|(_, entry)| entry);
        let entry = entry.filter(|entry| entry.is_live(now.unix_ms));
        let (Some(home), Some(entry)) = (home, entry) else {
            self.relays.end_visit(user, device);
            return;
        };
        // One without an end is not renewed by itself.
        let is_static = entry.valid_until_ms().is_none();
        let validity_s = self.relays.visit_validity(user, device).or(is_static.then_some(0));
        let Some(validity_s) = validity_s else { return };
        if self.relays.is_full(user, device, self.site.limits.relays)
            || self.relays.is_pending(user, Some(device))
        {
            self.relays.renew_after((user, device), validity_s, Some(RENEW_MIN_MS), now);
            return;
        }
        let to = tables.server_address(home);
        let id = self.relays.add(Relay::new(Task::Renew, to, (user, device), validity_s, now));
        self.transmit(tables, id, now, out);
    }

    /// After a restart: the visitor at this place of the store is renewed at half of what is left.
    pub(super) fn resume_visit(&mut self, tables: &Tables, at: u32, now: Now) {
        let Some(entry) = self.store.get(at).filter(|entry| entry.is_live(now.unix_ms)) else { return };
        let (user, device) = (entry.user(), entry.device());
        if let Some(until) = entry.valid_until_ms()
            && tables.route(user).is_some()
            && !Self::is_own(tables, user)
        {
            let left_ms = until.saturating_sub(now.unix_ms);
            let validity_s = u32::try_from(left_ms.div_ceil(1000)).unwrap_or(u32::MAX);
            self.relays.renew_after((user, device), validity_s, Some(left_ms / 2), now);
        }
    }

    /// An own user's terminal is about to be bound: the server that served it before must know.
    pub(super) fn moved(
        &mut self,
        tables: &Tables,
        binding: &Binding,
        former: Option<Endpoint>,
        now: Now,
        out: &mut Outbox,
    ) {
        let Binding { user, device, serving, .. } = *binding;
        if let Some(serving) = serving {
            self.supersede(tables, (user, device), serving, now, out);
        }
        if let Some(to) = former.filter(|former| serving != Some(*former)) {
            self.owe(tables, Owed { to, user, device, parting: Parting::Terminal }, now, out);
        }
    }

    /// An own user releases terminals: the servers that serve them must know. `by_device`: nothing but
    /// this device, or all, is named.
    pub(super) fn left_home(
        &mut self,
        tables: &Tables,
        user: PushId,
        by_device: Option<Option<u8>>,
        ends: &[Binding],
        now: Now,
        out: &mut Outbox,
    ) {
        let owed = |end: &Binding| {
            let to = end.serving?;
            Some(match by_device {
                Some(None) => Owed { to, user, device: 0, parting: Parting::User },
                _ => Owed { to, user, device: end.device, parting: Parting::Terminal },
            })
        };
        let mut told: Vec<Owed> = ends.iter().filter_map(owed).collect();
        told.sort_unstable();
        told.dedup();
        for owed in told {
            self.owe(tables, owed, now, out);
        }
    }

    /// A visitor releases terminals: its home server must know.
    #[expect(clippy::too_many_arguments, reason = "as its counterpart for own users, and which server")]
    pub(super) fn left_visit(
        &mut self,
        tables: &Tables,
        home: u32,
        user: PushId,
        by_device: Option<Option<u8>>,
        ends: &[Binding],
        now: Now,
        out: &mut Outbox,
    ) {
        let to = tables.server_address(home);
        let mut devices: Vec<u8> = match by_device {
            Some(device) => vec![device.unwrap_or(0)],
            None => ends.iter().map(|end| end.device).collect(),
        };
        // Device 0 stands for all: it is told only when it is all.
        let ends_too = |device| ends.iter().any(|end| end.device == device);
        let stays = self.store.of_user(user).any(|(_, entry)| !entry.is_ended() && !ends_too(entry.device()));
        devices.retain(|device| *device != 0 || !stays);
        for device in devices {
            self.owe(tables, Owed { to, user, device, parting: Parting::Visit }, now, out);
        }
    }
}

/// The shorter of two validities in seconds, where 0 has no end.
const fn shorter(a: u32, b: u32) -> u32 {
    match (a, b) {
        (0, other) | (other, 0) => other,
        (a, b) if a < b => a,
        (_, b) => b,
    }
}
