//! What sessions mean for the tables: who is bound where, and who is not any more.

use std::sync::Arc;

use crate::clock::Now;
use crate::control::store::{Entry, nothing};
use crate::control::{Engine, Outbox};
use crate::id::{Endpoint, PushId};
use crate::reason::Unanswered;
use crate::table::{Binding, Change, Session, Tables, base_of};
use crate::wire::prp::auth::SKEW_MS;

/// Rows of users.csv that one session may end at once: what the live tables always have room for.
const ROWS_MAX: usize = 256;

impl Engine {
    /// The bindings to an address, as [`base_of`] has it.
    pub(super) fn bound_at(&self, realm: u32, base: [u8; 16]) -> impl Iterator<Item = (u32, &Entry)> {
        let at = Endpoint::from_octets(base, 0);
        let ipv4 = at.is_ipv4().then(|| self.store.owners_of_private(realm, at));
        let ipv6 = (!at.is_ipv4()).then(|| self.store.owners_in_net(realm, base));
        ipv4.into_iter().flatten().chain(ipv6.into_iter().flatten())
    }

    /// Whether a session that began later, or of which something later is known, has an address of this one: then
    /// what is said of this one came too late. Where clocks are ahead of ours the latter tells what the former cannot,
    /// as nothing counts as begun that is to come; it does not count of those that are ahead beyond all reason.
    pub(super) fn is_outdated(&self, session: &Session, now: Now) -> bool {
        let latest_ms = now.unix_ms.saturating_add(SKEW_MS);
        let mut others = session.addresses().flat_map(|base| self.feed.sessions.at(session.realm, base));
        others.any(|other| {
            let is_known_later = other.heard_ms > session.heard_ms && other.heard_ms <= latest_ms;
            let is_later = other.since_ms > session.since_ms || is_known_later;
            other.id != session.id && is_later && !share(other, session)
        })
    }

    /// The other bearers of a session's terminal.
    pub(super) fn sharing(&self, session: &Session) -> Vec<Session> {
        let at = session.addresses().flat_map(|base| self.feed.sessions.at(session.realm, base));
        let mut found: Vec<Session> = at.filter(|other| share(other, session)).cloned().collect();
        found.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        found.dedup_by(|a, b| a.id == b.id);
        found
    }

    /// Tells the other bearers of a session's terminal whose it is, those that did not know and theirs: what holds for
    /// one of them then holds for each that is left. Before the session itself holds, so that a crash in between leaves
    /// nothing to be made up for.
    pub(super) fn make_known(
        &mut self,
        tables: &Tables,
        session: &Session,
        now: Now,
        out: &mut Outbox,
    ) -> Result<(), Unanswered> {
        let mut known = vec![session.clone()];
        while let Some(Session { user: user @ Some(_), port, bearers, .. }) = known.last() {
            let (user, port, bearers) = (*user, *port, *bearers);
            let others = known.pop().map(|session| self.sharing(&session)).unwrap_or_default();
            for other in others.into_iter().filter(|other| other.user.is_none() && other.id != session.id) {
                let other = Session { user, port, bearers, ..other };
                self.take_addresses(tables, None, &other, now, out)?;
                self.commit(tables, Change::Attach(Box::new(other.clone())), now, out);
                known.push(other);
            }
        }
        Ok(())
    }

    /// Takes the addresses of a session from whoever had them, and ends what was bound to those that it had before.
    pub(super) fn take_addresses(
        &mut self,
        tables: &Tables,
        before: Option<&Session>,
        session: &Session,
        now: Now,
        out: &mut Outbox,
    ) -> Result<(), Unanswered> {
        let rows = self.rows_of_others(tables, session);
        if rows.len() > ROWS_MAX {
            return Err(Unanswered::Overloaded);
        }
        for base in session.addresses() {
            let others = self.feed.sessions.at(session.realm, base);
            let over = |other: &&Session| other.id != session.id && !share(other, session);
            let others: Vec<Session> = others.filter(over).cloned().collect();
            for other in &others {
                self.end_session(tables, other, Some(session.since_ms), Some(session), now, out);
            }
            self.end_bound(tables, (session.realm, base), |entry| stays(entry, session), now, out);
        }
        for (user, device) in rows {
            self.commit(tables, Change::End { user, device, heard_ms: 0 }, now, out);
        }
        if let Some(before) = before {
            self.clear_addresses(tables, before, u64::MAX, Some(session), now, out);
        }
        Ok(())
    }

    /// Rows of users.csv that give an address of this session to another user, where nothing newer is known of them.
    fn rows_of_others(&self, tables: &Tables, session: &Session) -> Vec<(PushId, u8)> {
        let arrays = tables.arrays();
        let owner = session.user.map(|(user, _)| user);
        let ipv4 = session.ipv4.map(|address| Endpoint::new(address.into(), 0));
        let exact = ipv4.into_iter().flat_map(|at| arrays.owners(session.realm, at));
        let first = |prefix| self.feed.nets.partition_point(|net| *net < (session.realm, prefix, 0));
        let nets = session.ipv6.into_iter().flat_map(|net| {
            let same = self.feed.nets[first(net.prefix)..].iter();
            same.take_while(move |row| (row.0, row.1) == (session.realm, net.prefix))
        });
        let nets = nets.filter_map(|(.., at)| arrays.lines().get(*at as usize));
        let mut rows: Vec<(PushId, u8)> = exact
            .chain(nets)
            .map(|line| (line.user(), line.device()))
            .filter(|(user, device)| Some(*user) != owner && self.store.find(*user, *device).is_none())
            .collect();
        rows.sort_unstable();
        rows.dedup();
        rows
    }

    /// Ends what is bound to an address, but what may stay.
    fn end_bound(
        &mut self,
        tables: &Tables,
        (realm, base): (u32, [u8; 16]),
        stays: impl Fn(&Entry) -> bool,
        now: Now,
        out: &mut Outbox,
    ) {
        let bound = self.bound_at(realm, base).filter(|(_, entry)| !stays(entry));
        let mut ends: Vec<(PushId, u8, u64)> =
            bound.map(|(_, entry)| (entry.binding().user, entry.binding().device, entry.heard_ms)).collect();
        ends.sort_unstable();
        for (user, device, heard_ms) in ends {
            self.commit(tables, Change::End { user, device, heard_ms }, now, out);
        }
    }

    /// Ends a session, and what is bound to its addresses unless another one has them: `newcomer`, or another bearer
    /// of the same terminal. `ended_ms`: when, if it must not come back.
    pub(super) fn end_session(
        &mut self,
        tables: &Tables,
        session: &Session,
        ended_ms: Option<u64>,
        newcomer: Option<&Session>,
        now: Now,
        out: &mut Outbox,
    ) {
        self.clear_addresses(tables, session, ended_ms.unwrap_or(u64::MAX), newcomer, now, out);
        let ended_ms = ended_ms.map(|ended_ms| ended_ms.max(session.heard_ms));
        self.commit(tables, Change::Detach { id: Arc::clone(&session.id), ended_ms }, now, out);
        self.feed.unsettled.extend(session.user.map(|(user, _)| user));
    }

    /// Ends what is bound to a session's addresses, but to those that another session has. What an unknown
    /// subscriber's terminal registered after the session's end is not of this session.
    fn clear_addresses(
        &mut self,
        tables: &Tables,
        session: &Session,
        ended_ms: u64,
        newcomer: Option<&Session>,
        now: Now,
        out: &mut Outbox,
    ) {
        // Events are told in whole seconds.
        let last_ms = if session.user.is_some() { u64::MAX } else { ended_ms.saturating_add(999) };
        for base in session.addresses() {
            let is_other = |other: &Session| other.id != session.id;
            let is_kept = newcomer.is_some_and(|new| new.realm == session.realm && new.has(base))
                || self.feed.sessions.at(session.realm, base).any(is_other);
            if !is_kept {
                self.end_bound(tables, (session.realm, base), |entry| entry.heard_ms > last_ms, now, out);
            }
        }
    }

    /// Binds the terminal of a session, unless it speaks for itself. `is_new`: the session has just got its user or
    /// its address, which is then the last word on where that device is.
    pub(super) fn bind_session(
        &mut self,
        tables: &Tables,
        session: &Session,
        is_new: bool,
        now: Now,
        out: &mut Outbox,
    ) -> Result<(), Unanswered> {
        let (Some((user, device)), Some(private)) = (session.user, session.endpoint()) else { return Ok(()) };
        if session.released || !session.is_live(now.unix_ms) || !self.is_usable(tables, private) {
            return Ok(());
        }
        let binding = Binding {
            realm: session.realm,
            private: Some(private),
            imsi: session.imsi,
            bearers: session.bearers,
            valid_until_ms: self.last_until(session, private),
            listener: self.listener_for(private, 0).unwrap_or(0),
            ..nothing(user, device)
        };
        if self.speaks_for_itself(&binding, now) {
            self.end_assigned(tables, &binding, None, now, out);
            return Ok(());
        }
        let known = self.store.find(user, device).map(|(_, entry)| entry);
        if let Some(entry) = known.filter(|entry| entry.is_live(now.unix_ms)) {
            let is_kept = match entry.is_assigned() {
                true => {
                    entry.binding() == binding || (!is_new && self.is_elsewhere(&entry.binding(), &binding))
                }
                false => !is_new || entry.heard_ms > session.since_ms,
            };
            if is_kept {
                return Ok(());
            }
        }
        let heard_ms = known.map_or(0, |entry| entry.heard_ms);
        if known.is_none() && !self.has_place() {
            return Err(Unanswered::Overloaded);
        }
        let former = self.serving_now(tables, user, device, now);
        self.end_assigned(tables, &binding, Some(device), now, out);
        self.moved(tables, &binding, former, now, out);
        self.commit(tables, Change::Assign { binding, heard_ms }, now, out);
        Ok(())
    }

    /// How long a session's user has an address: as long as the last of the terminal's bearers counts.
    fn last_until(&self, session: &Session, private: Endpoint) -> Option<u64> {
        let bearers = self.feed.sessions.at(session.realm, private.octets());
        let own = bearers.filter(|bearer| bearer.user == session.user && bearer.id != session.id);
        own.chain([session])
            .map(|bearer| bearer.until_ms.unwrap_or(u64::MAX))
            .max()
            .filter(|until| *until < u64::MAX)
    }

    /// Whether a terminal of the user registered from this very address.
    fn speaks_for_itself(&self, binding: &Binding, now: Now) -> bool {
        let entries = self.store.of_user(binding.user).map(|(_, entry)| entry);
        let mut own = entries.filter(|entry| !entry.is_assigned() && entry.is_live(now.unix_ms));
        own.any(|entry| is_same_place(&entry.binding(), binding))
    }

    /// Whether a device is bound to another address than this binding's, where another session says that it is.
    fn is_elsewhere(&self, known: &Binding, binding: &Binding) -> bool {
        let place = |binding: &Binding| binding.private.map(|private| (binding.realm, private.octets()));
        let Some((realm, elsewhere)) = place(known).filter(|_| place(known) != place(binding)) else {
            return false;
        };
        let says_so = |session: &Session| {
            let is_own = session.user.is_some_and(|(user, _)| user == known.user);
            is_own && session.endpoint().map(Endpoint::octets) == Some(elsewhere)
        };
        self.feed.sessions.at(realm, elsewhere).any(says_so)
    }

    /// Ends what the network's word alone had bound of this user to the address of this binding, but for the device
    /// `but`: another of its devices speaks for the terminal there.
    pub(in crate::control) fn end_assigned(
        &mut self,
        tables: &Tables,
        binding: &Binding,
        but: Option<u8>,
        now: Now,
        out: &mut Outbox,
    ) {
        let Some(private) = binding.private.filter(|_| self.feed.sessions.len() > 0) else { return };
        let stays = |entry: &Entry| {
            let Binding { user, device, .. } = entry.binding();
            !entry.is_assigned() || user != binding.user || Some(device) == but
        };
        self.end_bound(tables, (binding.realm, base_of(private.octets())), stays, now, out);
    }

    /// Brings what is bound by the network's word in line with what it says, of users of whom something changed, and
    /// of those for whom there was no room before. Done to every user at a restart it changes nothing.
    pub(in crate::control) fn settle_users(&mut self, tables: &Tables, now: Now, out: &mut Outbox) {
        let mut users = std::mem::take(&mut self.feed.unsettled);
        users.sort_unstable();
        users.dedup();
        for user in users {
            self.settle(tables, user, now, out);
        }
        while self.has_place()
            && let Some(user) = self.feed.waiting.pop_first()
        {
            self.settle(tables, user, now, out);
        }
        self.feed.unsettled.clear();
    }

    fn settle(&mut self, tables: &Tables, user: PushId, now: Now, out: &mut Outbox) {
        self.feed.waiting.remove(&user);
        self.end_unfounded(tables, user, now, out);
        let mut sessions: Vec<Session> = self.feed.sessions.of_user(user).cloned().collect();
        // The newest first.
        sessions.sort_unstable_by(|a, b| (b.since_ms, &b.id).cmp(&(a.since_ms, &a.id)));
        for session in sessions {
            if self.bind_session(tables, &session, false, now, out).is_err() {
                self.feed.waiting.insert(user);
            }
        }
    }

    /// Ends what was bound by the word of a session that is not there.
    fn end_unfounded(&mut self, tables: &Tables, user: PushId, now: Now, out: &mut Outbox) {
        let founded = |realm, octets| {
            let mut holders = self.feed.sessions.at(realm, octets);
            holders.any(|session| session.user.is_some_and(|(own, _)| own == user))
        };
        let entries = self.store.of_user(user).map(|(_, entry)| entry);
        let assigned = entries.filter(|entry| entry.is_assigned() && !entry.is_ended());
        let unfounded = assigned.filter(|entry| {
            let private = entry.binding().private;
            !private.is_some_and(|private| founded(entry.binding().realm, private.octets()))
        });
        let mut ends: Vec<(u8, u64)> =
            unfounded.map(|entry| (entry.binding().device, entry.heard_ms)).collect();
        ends.sort_unstable();
        for (device, heard_ms) in ends {
            self.commit(tables, Change::End { user, device, heard_ms }, now, out);
        }
    }

    /// Whether one more terminal may be known.
    pub(in crate::control) fn has_place(&self) -> bool {
        self.store.len() - self.store.hiding() < self.site.limits.bindings
    }

    /// Whether, by the network's word, a subscriber that is not known has got the private address of this binding
    /// since its terminal asked for it.
    pub(in crate::control) fn is_taken_since(&self, binding: &Binding, heard_ms: u64, now: Now) -> bool {
        let Some(private) = binding.private.filter(|_| self.feed.sessions.len() > 0) else { return false };
        let mut holders = self.feed.sessions.at(binding.realm, private.octets());
        holders.any(|session| {
            let is_it = session.imsi.is_some() && session.imsi == binding.imsi;
            session.user.is_none() && session.is_live(now.unix_ms) && session.since_ms > heard_ms && !is_it
        })
    }

    /// Whether the network says that another user has the private address of this binding.
    pub(in crate::control) fn is_anothers(&self, binding: &Binding, now: Now) -> bool {
        let Some(private) = binding.private.filter(|_| self.feed.sessions.len() > 0) else { return false };
        let mut holders = self.feed.sessions.at(binding.realm, private.octets());
        holders.any(|session| {
            session.is_live(now.unix_ms) && session.user.is_some_and(|(user, _)| user != binding.user)
        })
    }

    /// A user released terminals: the sessions that are meant, and those of what `ended`, do not bind it again.
    pub(in crate::control) fn silence(
        &mut self,
        tables: &Tables,
        user: PushId,
        means: impl Fn(&Binding) -> bool,
        ended: &[Binding],
        now: Now,
        out: &mut Outbox,
    ) {
        let spoke = |session: &Session| {
            let is_there = |private: Endpoint| session.has(private.octets());
            ended.iter().any(|end| end.realm == session.realm && end.private.is_some_and(is_there))
        };
        let is_meant = |session: &&Session| {
            let device = session.user.map_or(0, |(_, device)| device);
            let binding = Binding {
                realm: session.realm,
                private: session.endpoint(),
                imsi: session.imsi,
                ..nothing(user, device)
            };
            !session.released && (means(&binding) || spoke(session))
        };
        let meant: Vec<Session> = self.feed.sessions.of_user(user).filter(is_meant).cloned().collect();
        for session in meant {
            let change = Change::Attach(Box::new(Session { released: true, ..session }));
            self.commit(tables, change, now, out);
        }
    }

    /// Ends rows of users.csv, of tables that are new, which contradict what the network says.
    pub(super) fn end_rows_of_sessions(&mut self, tables: &Tables, now: Now, out: &mut Outbox) {
        let mut rows: Vec<(PushId, u8)> =
            self.feed.sessions.iter().flat_map(|(_, session)| self.rows_of_others(tables, session)).collect();
        rows.sort_unstable();
        rows.dedup();
        for (user, device) in rows {
            self.commit(tables, Change::End { user, device, heard_ms: 0 }, now, out);
        }
    }
}

/// Whether two bindings are to one private address or net, whatever the port.
fn is_same_place(a: &Binding, b: &Binding) -> bool {
    let place = |binding: &Binding| Some((binding.realm, base_of(binding.private?.octets())));
    place(a).is_some() && place(a) == place(b)
}

/// Whether two sessions are bearers of one terminal: an IMSI and an NSAPI name a PDP context (TS 23.060 §13).
fn share(a: &Session, b: &Session) -> bool {
    let is_other_bearer = a.nsapi.is_some() && b.nsapi.is_some() && a.nsapi != b.nsapi;
    let is_one_user = a.user.is_none() || b.user.is_none() || a.user == b.user;
    is_one_user
        && (a.id.domain, &a.id.nas) == (b.id.domain, &b.id.nas)
        && a.imsi.is_some()
        && a.imsi == b.imsi
        && is_other_bearer
}

/// Whether a binding to an address of a session may stay: its user's, or, of a subscriber that is not known, what was
/// registered since it has the address or says the same IMSI.
fn stays(entry: &Entry, session: &Session) -> bool {
    match session.user {
        Some((user, _)) => entry.binding().user == user,
        None if entry.is_assigned() => false,
        None => {
            entry.heard_ms >= session.since_ms
                || (session.imsi.is_some() && entry.binding().imsi == session.imsi)
        }
    }
}
