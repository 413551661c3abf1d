//! The controller: registration, release, roaming, groups, names and introductions, as PROTOCOL.md has them.
//! The one writer of everything that changes while a server runs.
//!
//! Sans-IO. [`Engine::handle`] takes a request that a shard parsed, checked (Auth, replay) and passed on;
//! into the [`Outbox`] go the [`Change`]s that follow, the datagrams to send, and what became of requests.
//! The caller makes the changes durable, applies them to the tables that the shards read, and only then
//! sends: so nothing is answered that a crash could undo. The engine itself already counts on them;
//! a caller that cannot make them durable must not go on with this engine.
//!
//! ```text
//!  request ──► handle ──► changes ──► journal (fsync) ──► live tables ─┐
//!                 │                                                    ▼
//!                 └─────► replies ────────────────────────────────► socket
//!  time ─────► handle_timeout: validity, renewals, retries
//! ```
//!
//! At the start every change of the journal goes through [`Engine::restore`], then
//! [`Engine::restored`] is called once, without a journal too.
//!
//! | part | what |
//! |---|---|
//! | [`store`], [`lend`], [`group`] | the state: what [`Change`]s make of it, whoever brings them |
//! | [`timer`], [`expire`] | what ends by itself |
//! | [`register`], [`release`], [`permit`] | who is where, and who may say so |
//! | [`roam`], [`relay`], [`debt`] | users of other servers here, own users there |
//! | [`spread`] | a PUSH for a group: who gets a copy, and what its sender is told |
//! | [`feed`] | what the network itself says of who is where: RADIUS accounting |
//! | [`name`], [`introduce`], [`deliver`] | RESOLVE, INTRODUCE, and the way to a terminal |
//! | [`answer`] | the datagrams |

mod answer;
mod debt;
mod deliver;
mod expire;
mod feed;
mod group;
mod introduce;
mod kept;
mod lend;
mod name;
mod permit;
mod register;
mod relay;
mod release;
mod roam;
mod spread;
mod store;
mod timer;

use std::collections::HashSet;

use ahash::RandomState;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub use feed::{Effect, Report, ReportAnswer, ReportEnd};
pub use spread::{GroupPush, NAMED_MAX};

use answer::Asker;
use feed::Feed;
use group::Groups;
use kept::Kept;
use lend::Loans;
use relay::Relays;
use store::Store;
use timer::{TimerId, Wheel};

use crate::clock::Now;
use crate::config::{Limits, Policy};
use crate::id::{Endpoint, PushId};
use crate::reason::Reason;
use crate::table::{Binding, Change, Owed, Tables};
use crate::wire::prp::auth::SKEW_MS;
use crate::wire::prp::{Header, Kind, Message, parse};

/// Who and where the server is.
#[derive(Clone, Debug)]
pub struct Site {
    /// Its listening addresses; their places are the `listener`s of requests, replies and bindings.
    pub listen: Vec<Endpoint>,
    /// What is allowed.
    pub policy: Policy,
    /// What is bounded.
    pub limits: Limits,
    /// Of hashes, message identifiers and lent Push IDs: from the system in a server, fixed in a
    /// simulation.
    pub seed: u64,
}

/// A datagram that a shard passed on.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The datagram, with its Auth.
    pub bytes: &'a [u8],
    /// Where it came from.
    pub from: Endpoint,
    /// Which listening address it came to.
    pub listener: u8,
    /// The identifier on the wire of the key whose tag was found right and fresh; none: unsigned.
    pub signed_by: Option<u32>,
    /// When.
    pub now: Now,
}

/// A datagram to send once the changes that came with it, and before it, are durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// Where to.
    pub to: Endpoint,
    /// From which listening address.
    pub listener: u8,
    /// The datagram, signed where it must be, in its tunnel where it needs one.
    pub datagram: Vec<u8>,
    /// It is a REJECT: the caller limits their rate (PROTOCOL.md, ruling 31).
    pub is_reject: bool,
}

/// What comes of requests and of time.
#[derive(Clone, Default, Debug)]
pub struct Outbox {
    /// To make durable and to apply, in this order.
    pub changes: Vec<Change>,
    /// To send afterwards.
    pub replies: Vec<Reply>,
    /// Requests that were answered, and answers of other servers that were taken.
    pub answered: u64,
    /// Why requests failed: one a request. At all times `answered`, these and `copies` together are the requests
    /// handled less [`Live::pending`].
    pub dropped: Vec<Reason>,
    /// Messages for groups, to copy to their members.
    pub copies: Vec<GroupPush>,
    /// How reports ended, each once; those that are answered are sent as the replies are.
    pub reports: Vec<ReportEnd>,
}

/// How much the engine holds.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Live {
    /// Terminals that are bound by REGISTER.
    pub bindings: usize,
    /// Terminals that are not, and are remembered as such.
    pub ended: usize,
    /// Push IDs that are lent.
    pub lent: usize,
    /// Groups with an owner.
    pub groups: usize,
    /// Users that joined a group, or left one of groups.csv.
    pub group_members: usize,
    /// Requests to other servers without an answer yet.
    pub relays: usize,
    /// REGISTERs that wait for the home server of their user.
    pub pending: usize,
    /// Sessions that the network told of.
    pub sessions: usize,
    /// Those of them whose subscriber is not known here.
    pub sessions_unknown: usize,
    /// Reports that were taken and have not ended.
    pub reports: usize,
}

/// What becomes of a request that did not fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Answered,
    /// It ends when its relay does.
    Pending,
    /// It ends when its copies have left.
    Spread,
}

/// How long an ended binding without a row in users.csv is known, a lent Push ID not lent again.
const REMEMBER_MS: u64 = 600_000;
/// How long a RELEASE is remembered (PROTOCOL.md, ruling 18).
const RELEASED_MS: u64 = 60_000;
/// How many changes before its own a change's part of the indexes is asked for: some hundred nanoseconds.
const AHEAD: usize = 8;
/// RELEASEs of nothing that are remembered at once.
const RELEASED_MAX: usize = 1 << 16;

/// What was released although nothing was bound: a user, and which of its devices or all.
type Nothing = (PushId, Option<u8>);

/// What the controller knows, and decides by.
#[derive(Debug)]
pub struct Engine {
    site: Site,
    rng: StdRng,
    store: Store,
    loans: Loans,
    groups: Groups,
    /// What was released, when that was sent, and the timer that forgets it.
    released: Kept<Nothing, (u64, Option<TimerId>)>,
    relays: Relays,
    /// RELEASEs without an answer yet.
    owed: Kept<Owed, ()>,
    feed: Feed,
    /// Places of the store: bindings that end, ended ones that are forgotten.
    expiry: Wheel<u32>,
    loan_expiry: Wheel<PushId>,
    released_expiry: Wheel<Nothing>,
    /// From the tables: public addresses of users.csv and the lines that have them, sorted.
    static_nats: Vec<(Endpoint, u32)>,
    /// From the tables: addresses of gateways.
    gateways: HashSet<[u8; 16], RandomState>,
}

impl Engine {
    /// An engine that knows nothing yet. [`Engine::restored`] makes it ready.
    pub fn new(site: Site) -> Self {
        let mut rng = StdRng::seed_from_u64(site.seed);
        let hasher = RandomState::with_seeds(rng.random(), rng.random(), rng.random(), rng.random());
        Self {
            store: Store::new(site.limits.bindings, rng.random()),
            loans: Loans::new(&hasher),
            groups: Groups::new(),
            released: Kept::default(),
            relays: Relays::new(&hasher),
            owed: Kept::default(),
            feed: Feed::new(site.limits.sessions, &hasher),
            expiry: Wheel::default(),
            loan_expiry: Wheel::default(),
            released_expiry: Wheel::default(),
            static_nats: Vec::new(),
            gateways: HashSet::with_hasher(hasher),
            rng,
            site,
        }
    }

    /// Replays a change of the journal.
    pub fn restore(&mut self, change: &Change) {
        self.apply(change);
        match *change {
            // A journal can be long; what is remembered for a time only must not grow with it.
            Change::Released { heard_ms, .. } if self.released.len() > 2 * RELEASED_MAX => {
                self.forget_released_before(heard_ms.saturating_sub(2 * (RELEASED_MS + SKEW_MS)));
            }
            Change::Unlend { lent } if self.loans.len() > self.site.limits.bindings => {
                self.loans.forget(lent)
            }
            _ => {}
        }
    }

    /// Replays changes of the journal, what they look at fetched ahead.
    pub fn restore_all(&mut self, changes: &[Change]) {
        for (at, change) in changes.iter().enumerate() {
            if let Some(ahead) = changes.get(at + AHEAD) {
                self.store.prefetch(ahead);
            }
            self.restore(change);
        }
    }

    fn forget_released_before(&mut self, unix_ms: u64) {
        let old = self.released.iter().filter(|(_, (heard_ms, _))| *heard_ms < unix_ms);
        let old: Vec<Nothing> = old.map(|(key, _)| *key).collect();
        for key in old {
            self.released.remove(&key);
        }
    }

    /// Decides a request.
    pub fn handle(&mut self, tables: &Tables, request: &Request<'_>, out: &mut Outbox) {
        let outcome = match parse(request.bytes) {
            Ok(message) => self.dispatch(tables, request, &message, out),
            Err(reason) => Err(reason),
        };
        match outcome {
            Ok(Outcome::Answered) => out.answered += 1,
            Ok(Outcome::Pending | Outcome::Spread) => {}
            Err(reason) => match Header::read(request.bytes) {
                Some(header) => self.refuse(tables, &Asker::new(request, header), reason, request.now, out),
                None => out.dropped.push(reason),
            },
        }
        self.settle_users(tables, request.now, out);
    }

    fn dispatch(
        &mut self,
        tables: &Tables,
        request: &Request<'_>,
        message: &Message,
        out: &mut Outbox,
    ) -> Result<Outcome, Reason> {
        match message.kind {
            Kind::Register => self.register(tables, request, message, out),
            Kind::Release => self.release(tables, request, message, out),
            Kind::Group => self.group(tables, request, message, out),
            Kind::Push => self.push_to_group(tables, request, message, out),
            Kind::Resolve => Self::resolve_name(tables, request, message, out),
            Kind::Introduce => self.introduce(tables, request, message, out),
            Kind::Registered | Kind::Released | Kind::Reject => {
                self.relay_answered(tables, request, message, out)
            }
            _ => Err(Reason::UnsupportedKind),
        }
    }

    /// The server ends: who waits for the answer of another server is told to ask again.
    pub fn give_up(&mut self, tables: &Tables, now: Now, out: &mut Outbox) {
        for asker in self.relays.drop_all_pending() {
            self.refuse(tables, &asker, Reason::Overloaded, now, out);
        }
    }

    /// What a change makes of the state; the place of the entry that it made or changed.
    fn apply(&mut self, change: &Change) -> Option<u32> {
        match *change {
            Change::Bind { ref binding, heard_ms } => return Some(self.store.bind(binding, heard_ms, false)),
            Change::Assign { ref binding, heard_ms } => {
                return Some(self.store.bind(binding, heard_ms, true));
            }
            Change::End { user, device, heard_ms } => return Some(self.store.end(user, device, heard_ms)),
            Change::Forget { user, device } => {
                if let Some(timer) = self.store.forget(user, device) {
                    self.expiry.cancel(timer);
                }
            }
            Change::Lend { lent, user, device, until_ms } => self.loans.lend(lent, user, device, until_ms),
            Change::Unlend { lent } => self.loans.take_back(lent),
            Change::Found { group, owner } => self.groups.found(group, owner),
            Change::Join { group, member } => self.groups.join(group, member),
            Change::Leave { group, member } => self.groups.leave(group, member),
            Change::Disband { group } => self.groups.disband(group),
            Change::Released { user, device, heard_ms } => {
                let (known_ms, timer) = self.released.get(&(user, device)).copied().unwrap_or_default();
                self.released.insert((user, device), (heard_ms.max(known_ms), timer));
            }
            Change::Attach(ref session) => drop(self.feed.sessions.set(session)),
            Change::Detach { ref id, ended_ms } => {
                if let Some(timer) = self.feed.sessions.remove(id, ended_ms).and_then(|held| held.timer) {
                    self.feed.expiry.cancel(timer);
                }
            }
            Change::Owe(owed) => drop(self.owed.insert(owed, ())),
            Change::Settle(ref owed) => drop(self.owed.remove(owed)),
        }
        None
    }

    /// Makes a change: in the state, its timers, and the outbox.
    fn commit(&mut self, tables: &Tables, change: Change, now: Now, out: &mut Outbox) {
        let at = self.apply(&change);
        match (&change, at) {
            (Change::Bind { .. } | Change::Assign { .. }, Some(at)) => self.arm_binding(at, now),
            (Change::End { .. }, Some(at)) => self.arm_ended(tables, at, now),
            (Change::Lend { lent, .. } | Change::Unlend { lent }, _) => self.arm_loan(*lent, now),
            (Change::Released { user, device, .. }, _) => self.arm_released((*user, *device), now),
            (Change::Leave { group, member }, _) => self.groups.prune_role(*group, *member, tables),
            (Change::Disband { group }, _) => self.groups.prune_head(*group, tables),
            (Change::Attach(session), _) => self.arm_session(&session.id, now),
            _ => {}
        }
        self.feed.unsettle(&change);
        let ended = match change {
            Change::End { user, device, .. } => Some((user, device)),
            _ => None,
        };
        out.changes.push(change);
        if let Some((user, device)) = ended {
            self.relays.end_visit(user, device);
            if let Some(lent) = self.loans.held_by(user, device) {
                self.commit(tables, Change::Unlend { lent }, now, out);
            }
        }
    }

    /// The age of the last REGISTER or RELEASE accepted for a terminal, as long as it is remembered.
    /// What is further ahead of now than any request may be was heard before the clock was set back.
    fn last_heard(&self, user: PushId, device: u8, now: Now) -> u64 {
        let entry = self.store.find(user, device).map(|(_, entry)| entry);
        let remembered = |since: u64| timer::tick(now) < since.saturating_add(RELEASED_MS);
        let heard =
            entry.filter(|entry| entry.ended_at().is_none_or(remembered)).map_or(0, |entry| entry.heard_ms);
        let released = [Some(device), None].map(|device| self.released.get(&(user, device)));
        let heard = released.into_iter().flatten().map(|(heard, _)| *heard).chain([heard]);
        heard.filter(|heard| *heard <= now.unix_ms.saturating_add(SKEW_MS)).max().unwrap_or(0)
    }

    /// The row of users.csv for a terminal.
    fn row(tables: &Tables, user: PushId, device: u8) -> Option<Binding> {
        Self::rows(tables, user).find(|row| row.device == device)
    }

    /// The rows of users.csv for a user, as bindings.
    fn rows(tables: &Tables, user: PushId) -> impl Iterator<Item = Binding> {
        let arrays = tables.arrays();
        tables.terminals(user).map(move |line| {
            let row = line.to_user(arrays.nat6());
            Binding {
                user,
                device: row.device,
                realm: row.realm,
                private: row.private,
                nat: row.nat,
                imsi: row.imsi,
                bearers: row.bearers,
                serving: row.serving,
                valid_until_ms: row.valid_until.map(|until| until.saturating_mul(1000)),
                listener: 0,
            }
        })
    }

    /// The terminals of a user that can be reached from here now: live bindings, and rows of users.csv
    /// that nothing newer is known of.
    fn terminals(&self, tables: &Tables, user: PushId, now: Now) -> Vec<Binding> {
        let entries = self.store.of_user(user).filter(|(_, entry)| entry.is_live(now.unix_ms));
        let mut found: Vec<Binding> = entries.map(|(_, entry)| entry.binding()).collect();
        if Self::is_own(tables, user) {
            let rows = Self::rows(tables, user).filter(|row| store::is_valid(row, now.unix_ms));
            found.extend(rows.filter(|row| self.store.find(user, row.device).is_none()));
        }
        found.sort_unstable_by_key(|binding| binding.device);
        found
    }

    /// Whether this server is the user's home.
    fn is_own(tables: &Tables, user: PushId) -> bool {
        tables.own().is_some() && tables.route(user) == tables.own()
    }

    /// When [`Engine::handle_timeout`] should be called, on the monotonic clock; none: not before
    /// something was handled.
    pub fn poll_timeout(&self) -> Option<u64> {
        let ticks = [
            self.expiry.next_tick(),
            self.loan_expiry.next_tick(),
            self.released_expiry.next_tick(),
            self.relays.next_tick(),
            self.feed.expiry.next_tick(),
            self.feed.is_busy().then_some(0),
        ];
        ticks.into_iter().flatten().min().map(timer::tick_ns)
    }

    /// The whole state: replayed into an empty engine it makes the same.
    pub fn changes(&self) -> impl Iterator<Item = Change> + '_ {
        self.store.changes().chain(self.changes_of_the_rest())
    }

    /// Marks a moment: [`Engine::cut_some`] then tells the whole state as of it, while requests go on. Nothing is
    /// copied for it.
    pub fn begin_cut(&mut self) {
        self.store.begin_cut();
        self.loans.begin_cut();
        self.groups.begin_cut();
        self.released.begin_cut();
        self.feed.sessions.begin_cut();
        self.owed.begin_cut();
    }

    /// The next part of the state as it was at the cut: at most so many bindings, or half as many lent Push IDs,
    /// memberships or sessions, and those that have changed since; `None` when that was all.
    pub fn cut_some(&mut self, bindings: u32) -> Option<Vec<Change>> {
        let others = bindings.div_ceil(2) as usize;
        let released = |(key, value): &(Nothing, (u64, Option<TimerId>))| released(*key, value.0);
        let part = self.store.cut_some(bindings);
        let part = part.or_else(|| self.loans.cut_some(others));
        let part = part.or_else(|| self.groups.cut_some(others));
        let part = part.or_else(|| Some(self.released.cut_some(others)?.iter().map(released).collect()));
        let part = part.or_else(|| self.feed.sessions.cut_some(others));
        let owe = |(owed, ()): (Owed, ())| Change::Owe(owed);
        part.or_else(|| Some(self.owed.cut_some(others)?.into_iter().map(owe).collect()))
    }

    /// Gives the cut up.
    pub fn end_cut(&mut self) {
        self.store.end_cut();
        self.loans.end_cut();
        self.groups.end_cut();
        self.released.end_cut();
        self.feed.sessions.end_cut();
        self.owed.end_cut();
    }

    fn changes_of_the_rest(&self) -> impl Iterator<Item = Change> + '_ {
        let released = self.released.iter().map(|(key, (heard_ms, _))| released(*key, *heard_ms));
        let rest = self.loans.changes().chain(self.groups.changes()).chain(released);
        let owed = self.owed.iter().map(|(owed, ())| Change::Owe(*owed));
        rest.chain(self.feed.sessions.changes()).chain(owed)
    }

    /// How much it holds.
    pub fn live(&self) -> Live {
        Live {
            bindings: self.store.bound(),
            ended: self.store.len() - self.store.bound(),
            lent: self.loans.lent(),
            groups: self.groups.len(),
            group_members: self.groups.members(),
            relays: self.relays.len(),
            pending: self.relays.pending(),
            sessions: self.feed.sessions.len(),
            sessions_unknown: self.feed.sessions.unknown(),
            reports: self.feed.pending(),
        }
    }
}

fn released((user, device): Nothing, heard_ms: u64) -> Change {
    Change::Released { user, device, heard_ms }
}
