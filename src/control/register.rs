//! REGISTER, and what it means that an address belongs to one user at a time.

use rand::RngExt;

use super::answer::Asker;
use super::permit::Age;
use super::store::{is_valid, nothing};
use super::{Engine, Outbox, Outcome, Request};
use crate::clock::Now;
use crate::id::PushId;
use crate::reason::Reason;
use crate::table::rib::User;
use crate::table::{Binding, Change, Tables};
use crate::wire::prp::{Kind, Message};

/// The bits of Bearers that have a meaning.
const BEARERS: u32 = 15;
/// How often a random Push ID is drawn before it is given up: once is enough but where the server's
/// prefixes are full of other servers' longer ones.
const DRAWS: usize = 64;

/// A REGISTER that was understood and may be: what is left is to see whether it can be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Registration {
    /// The binding but for its end.
    pub(super) binding: Binding,
    pub(super) age: Age,
    /// When it was asked for, milliseconds since 1970.
    pub(super) asked_ms: u64,
    /// Seconds granted; 0: static.
    pub(super) validity_s: u32,
    /// It asks for a lent Push ID.
    pub(super) lend: Lend,
    pub(super) asker: Asker,
    /// Its place among the registrations that waited for another server; of one that never did, behind them all.
    pub(super) order: u64,
}

/// Whether a REGISTER concerns a lent Push ID.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lend {
    /// No.
    No,
    /// It asks for one beside its own.
    Beside,
    /// It has no other: the user is the lent one.
    Instead,
}

impl Engine {
    pub(super) fn register(
        &mut self,
        tables: &Tables,
        request: &Request<'_>,
        message: &Message,
        out: &mut Outbox,
    ) -> Result<Outcome, Reason> {
        let Request { bytes, now, .. } = *request;
        let peer = Self::peer(tables, request)?;
        if let Some(serving) = message.options.serving_server(bytes) {
            // Only from that very server, whatever the policy says (ruling 4).
            if peer.is_none() || serving != request.from {
                return Err(Reason::NotPermitted);
            }
            let binding = Binding {
                imsi: message.options.imsi(bytes),
                bearers: bearers(request, message),
                serving: Some(serving),
                listener: request.listener,
                ..nothing(message.header.destination, message.options.device(bytes).unwrap_or(0))
            };
            let registration = self.registration(request, message, binding, Lend::No);
            if !Self::is_own(tables, binding.user) || binding.user.is_none() {
                return Err(Reason::NoRoute);
            }
            self.finish_register(tables, &registration, now, out)?;
            return Ok(Outcome::Answered);
        }
        self.permit(tables, request, message, message.header.destination)?;
        let (user, lend) = self.whom_to_bind(tables, request, message)?;
        let home = tables.route(user).ok_or(Reason::NoRoute)?;
        let binding = self.addresses(tables, request, message, user)?;
        let registration = self.registration(request, message, binding, lend);
        if tables.own() == Some(home) {
            self.finish_register(tables, &registration, now, out)?;
            return Ok(Outcome::Answered);
        }
        self.check(&registration, now)?;
        self.visit(tables, home, registration, now, out)?;
        Ok(Outcome::Pending)
    }

    fn registration(
        &self,
        request: &Request<'_>,
        message: &Message,
        binding: Binding,
        lend: Lend,
    ) -> Registration {
        Registration {
            binding,
            age: Age::of(request, message),
            asked_ms: request.now.unix_ms,
            validity_s: self.grant(message.options.validity(request.bytes)),
            lend,
            asker: Asker::new(request, message.header),
            order: u64::MAX,
        }
    }

    /// The user in the destination field, or the Push ID that is lent to who has none (ruling 5).
    fn whom_to_bind(
        &mut self,
        tables: &Tables,
        request: &Request<'_>,
        message: &Message,
    ) -> Result<(PushId, Lend), Reason> {
        let user = message.header.destination;
        let wanted = message.options.dynamic_id(request.bytes);
        if !user.is_none() {
            let is_user = !self.groups.exists(user, tables) && self.loans.get(user).is_none();
            if !is_user {
                return Err(Reason::NotPermitted);
            }
            return Ok((user, if wanted.is_some() { Lend::Beside } else { Lend::No }));
        }
        let wanted = wanted.ok_or(Reason::UnknownDestination)?;
        let is_bound = self.store.of_user(wanted).any(|(_, entry)| !entry.is_ended());
        if !wanted.is_none() && is_bound {
            // It has one already and names it, so what holds for a user holds for it.
            self.permit(tables, request, message, wanted)?;
            return Ok((wanted, Lend::Instead));
        }
        Ok((self.draw(tables).ok_or(Reason::Overloaded)?, Lend::Instead))
    }

    /// A Push ID under one of this server's prefixes that nobody has.
    pub(super) fn draw(&mut self, tables: &Tables) -> Option<PushId> {
        // The shortest prefix has the most room.
        let prefix = tables.own_prefixes().min_by_key(|prefix| prefix.len())?;
        let rest = u128::MAX.checked_shr(prefix.len().into()).unwrap_or(0);
        (0..DRAWS).find_map(|_| {
            let id = PushId(u128::from(prefix.bits()) << 64 | (self.rng.random::<u128>() & rest));
            let is_known = self.store.of_user(id).next().is_some()
                || self.loans.get(id).is_some()
                || self.groups.is_known(id, tables)
                || Self::rows(tables, id).next().is_some()
                || tables.user_key(id).is_some();
            (!id.is_none() && Self::is_own(tables, id) && !is_known).then_some(id)
        })
    }

    /// Where the terminal says, and shows, that it is (rulings 21 to 23, 34).
    pub(super) fn addresses(
        &self,
        tables: &Tables,
        request: &Request<'_>,
        message: &Message,
        user: PushId,
    ) -> Result<Binding, Reason> {
        let Request { bytes, from, .. } = *request;
        let options = &message.options;
        let realm = options.realm(bytes).unwrap_or(0);
        let mut private = options.private_address(bytes);
        let mut nat = options.nat_address(bytes);
        if let Some(port) = options.listen_port(bytes) {
            let at = if port == 0 { from } else { from.with_port(port) };
            if tables.gateway(realm, at).is_some() {
                private = private.or(Some(at));
            } else {
                // What the network shows goes before what the terminal believes.
                nat = Some(at);
            }
        }
        if [private, nat].into_iter().flatten().any(|at| !self.is_usable(tables, at)) {
            return Err(Reason::NotPermitted);
        }
        Ok(Binding {
            realm,
            private,
            nat,
            imsi: options.imsi(bytes),
            bearers: bearers(request, message),
            listener: request.listener,
            ..nothing(user, options.device(bytes).unwrap_or(0))
        })
    }

    /// Seconds granted to who asked for so many (ruling 19); 0: static.
    fn grant(&self, asked: Option<u32>) -> u32 {
        let seconds = |limit: usize| u32::try_from(limit).unwrap_or(u32::MAX).max(1);
        let max = seconds(self.site.limits.validity_max_s);
        match asked {
            None => seconds(self.site.limits.validity_default_s).min(max),
            Some(0) if self.site.policy.static_bindings => 0,
            Some(0) => max,
            Some(asked) => asked.min(max),
        }
    }

    /// Whether the registration is new enough and there is room for it.
    pub(super) fn check(&self, registration: &Registration, now: Now) -> Result<(), Reason> {
        let Registration { binding, age, .. } = registration;
        // What the network says goes before what a terminal says.
        if self.is_anothers(binding, now) {
            return Err(Reason::NotPermitted);
        }
        if age.heard_ms < self.last_heard(binding.user, binding.device, now) {
            return Err(Reason::StaleOrReplayed);
        }
        // A signature tells when the terminal spoke: it must not take an address from who got it later.
        let is_other = |user: PushId| user != binding.user;
        let taken_later = self.store.holders(binding).any(|(_, entry)| {
            is_other(entry.user()) && entry.is_live(now.unix_ms) && entry.heard_ms > age.heard_ms
        });
        if (age.is_signed && taken_later) || self.is_taken_since(binding, age.heard_ms, now) {
            return Err(Reason::StaleOrReplayed);
        }
        let is_new = self.store.find(binding.user, binding.device).is_none();
        if is_new && !self.has_place() {
            return Err(Reason::Overloaded);
        }
        let needs_loan =
            registration.lend == Lend::Beside && self.loans.held_by(binding.user, binding.device).is_none();
        if needs_loan && self.loans.len() >= self.site.limits.bindings {
            return Err(Reason::Overloaded);
        }
        Ok(())
    }

    /// Binds, and answers REGISTERED; nothing happens when it fails.
    pub(super) fn finish_register(
        &mut self,
        tables: &Tables,
        registration: &Registration,
        now: Now,
        out: &mut Outbox,
    ) -> Result<(), Reason> {
        self.check(registration, now)?;
        let Registration { mut binding, age, validity_s, lend, asker, order, .. } = *registration;
        let (user, device) = (binding.user, binding.device);
        let lent = match lend {
            Lend::No => None,
            Lend::Instead => Some(user),
            Lend::Beside => match self.loans.held_by(user, device) {
                Some(held) => Some(held),
                None => Some(self.draw(tables).ok_or(Reason::Overloaded)?),
            },
        };
        let wait_ms = u64::from(validity_s) * 1000;
        binding.valid_until_ms = (validity_s != 0).then(|| now.unix_ms.saturating_add(wait_ms));

        let mut head = asker.head(Kind::Registered);
        head.validity(validity_s);
        if device != 0 {
            head.device(device);
        }
        if let Some(lent) = lent {
            head.dynamic_id(lent);
        }
        // So a client behind a NAT knows its mapping, and when that changes.
        if let Some(nat) = binding.nat {
            head.nat_address(nat);
        }
        asker.answer(tables, &mut head, &[], now, out)?;

        let former = self.serving_now(tables, user, device, now);
        self.end_others(tables, &binding, now, out);
        self.refuse_rivals(tables, &binding, order, now, out);
        if Self::is_own(tables, user) {
            self.moved(tables, &binding, former, now, out);
        }
        self.commit(tables, Change::Bind { binding, heard_ms: age.heard_ms }, now, out);
        self.end_assigned(tables, &binding, None, now, out);
        if let (Lend::Beside, Some(lent)) = (lend, lent) {
            let until_ms = binding.valid_until_ms.unwrap_or(u64::MAX);
            self.commit(tables, Change::Lend { lent, user, device, until_ms }, now, out);
        }
        Ok(())
    }

    /// Ends every other user's binding to an address of this one (ruling 6), users.csv included.
    fn end_others(&mut self, tables: &Tables, binding: &Binding, now: Now, out: &mut Outbox) {
        let others = self.store.holders(binding).filter(|(_, entry)| entry.user() != binding.user);
        let mut ends: Vec<(PushId, u8, u64)> =
            others.map(|(_, entry)| (entry.user(), entry.device(), entry.heard_ms)).collect();
        ends.sort_unstable();
        ends.dedup();
        for (user, device, heard_ms) in ends {
            self.commit(tables, Change::End { user, device, heard_ms }, now, out);
        }
        self.end_rows(tables, binding, now, out);
    }

    /// Ends what users.csv says of other users and an address of this binding, where nothing newer is
    /// known of them.
    pub(super) fn end_rows(&mut self, tables: &Tables, binding: &Binding, now: Now, out: &mut Outbox) {
        let arrays = tables.arrays();
        let mut rows: Vec<(PushId, u8)> = Vec::new();
        if let Some(private) = binding.private {
            rows.extend(arrays.owners(binding.realm, private).map(|line| (line.user(), line.device())));
        }
        if let Some(nat) = binding.nat {
            let first = self.static_nats.partition_point(|(other, _)| *other < nat);
            let same = self.static_nats.iter().skip(first).take_while(|(other, _)| *other == nat);
            let lines = same.filter_map(|(_, line)| arrays.lines().get(*line as usize));
            rows.extend(lines.map(|line| (line.user(), line.device())));
        }
        rows.retain(|(user, device)| *user != binding.user && self.store.find(*user, *device).is_none());
        rows.sort_unstable();
        rows.dedup();
        for (user, device) in rows {
            self.commit(tables, Change::End { user, device, heard_ms: 0 }, now, out);
        }
    }

    /// The Push server that serves an own user's terminal now.
    pub(super) fn serving_now(
        &self,
        tables: &Tables,
        user: PushId,
        device: u8,
        now: Now,
    ) -> Option<crate::id::Endpoint> {
        let known = self.store.find(user, device).map(|(_, entry)| entry);
        let binding = match known {
            Some(entry) => (!entry.is_ended()).then(|| entry.binding()),
            None => Self::row(tables, user, device),
        };
        binding.filter(|binding| is_valid(binding, now.unix_ms))?.serving
    }
}

/// What the terminal can take (ruling 34).
fn bearers(request: &Request<'_>, message: &Message) -> u8 {
    let asked = message.options.bearers(request.bytes);
    asked.map_or(User::DEFAULT_BEARERS, |asked| (asked & BEARERS) as u8)
}
