//! One engine without network: requests in, replies and changes out, accounts checked after each.

use pushplane::clock::Now;
use pushplane::config::{Limits, Policy, Radius, RegisterPolicy};
use pushplane::control::{Engine, GroupPush, Outbox, Reply, Report, ReportEnd, Request, Site};
use pushplane::id::{Endpoint, PushId};
use pushplane::reason::Reason;
use pushplane::table::{Binding, Change, Rib, Tables};
use pushplane::wire::prp::auth::{Auth, MacKey};
use pushplane::wire::prp::{Kind, Message, option_type as ty, parse};

use super::lab::{self, LIMITS, LISTEN4, LISTEN6, Msg, NOW, at, msg, secret};

/// In realm 0's segment 10.0.0.0/8.
pub(crate) const INSIDE: &str = "10.0.7.7:5000";
/// In no segment.
pub(crate) const OUTSIDE: &str = "203.0.113.77:5000";

pub(crate) const ANY: Policy = policy(RegisterPolicy::Any);

pub(crate) const fn policy(register: RegisterPolicy) -> Policy {
    Policy { known_sources: false, require_auth: false, rejects: true, register, static_bindings: false }
}

pub(crate) struct Bench {
    pub(crate) engine: Engine,
    pub(crate) tables: Tables,
    pub(crate) site: Site,
    pub(crate) now: Now,
    pub(crate) journal: Vec<Change>,
    radius: Option<Radius>,
    handled: u64,
    answered: u64,
    dropped: u64,
    spread: u64,
    reported: u64,
    reports_ended: u64,
}

/// What one request brought.
#[derive(Default)]
pub(crate) struct Said {
    pub(crate) replies: Vec<Reply>,
    pub(crate) changes: Vec<Change>,
    pub(crate) dropped: Vec<Reason>,
    pub(crate) copies: Vec<GroupPush>,
    pub(crate) reports: Vec<ReportEnd>,
}

/// A reply, read.
pub(crate) struct Read<'a> {
    pub(crate) reply: &'a Reply,
    pub(crate) message: Message,
}

impl Read<'_> {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.reply.datagram
    }

    pub(crate) fn validity(&self) -> Option<u32> {
        self.message.options.validity(self.bytes())
    }

    pub(crate) fn lent(&self) -> Option<PushId> {
        self.message.options.dynamic_id(self.bytes())
    }

    /// The key that it is rightly signed with.
    pub(crate) fn key(&self) -> Option<u32> {
        let auth = Auth::of(&self.message.options, self.bytes())?;
        assert!(MacKey::new(secret(auth.key)).verify(self.bytes(), &auth), "a wrong tag");
        Some(auth.key)
    }
}

impl Said {
    pub(crate) fn read(&self) -> Vec<Read<'_>> {
        let read = |reply| Read { reply, message: parse(&reply.datagram).expect("a PRP datagram") };
        self.replies.iter().map(read).collect()
    }

    /// The one reply.
    pub(crate) fn one(&self, kind: Kind) -> Read<'_> {
        assert_eq!(self.dropped, [], "refused");
        assert_eq!(self.replies.len(), 1, "{:?}", self.replies);
        let read = self.read().remove(0);
        assert_eq!(read.message.kind, kind);
        assert!(!read.reply.is_reject);
        read
    }

    /// The reason of the one REJECT, which changed nothing.
    pub(crate) fn refused(&self) -> Reason {
        assert_eq!(self.changes, [], "a refused request changes nothing");
        assert_eq!((self.replies.len(), self.dropped.len()), (1, 1), "{:?}", self.dropped);
        let read = self.read().remove(0);
        assert!(read.reply.is_reject && read.message.kind == Kind::Reject);
        assert!(read.bytes().len() <= 128);
        let (code, text) = read.message.options.reason(read.bytes()).unwrap();
        assert_eq!((code, text), (self.dropped[0].code(), self.dropped[0].name()));
        self.dropped[0]
    }
}

impl Bench {
    pub(crate) fn new(policy: Policy) -> Self {
        Self::with(policy, LIMITS, &lab::rib())
    }

    pub(crate) fn with(policy: Policy, limits: Limits, rib: &Rib) -> Self {
        Self::listening(policy, limits, rib, None)
    }

    /// One that hears what the network says.
    pub(crate) fn listening(policy: Policy, limits: Limits, rib: &Rib, radius: Option<Radius>) -> Self {
        let site = Site { listen: vec![at(LISTEN4), at(LISTEN6)], policy, limits, seed: 7 };
        let mut bench = Self {
            engine: Engine::new(site.clone()).with_feed(radius.clone()),
            tables: lab::tables(rib),
            site,
            now: NOW,
            journal: Vec::new(),
            radius,
            handled: 0,
            answered: 0,
            dropped: 0,
            spread: 0,
            reported: 0,
            reports_ended: 0,
        };
        let mut out = Outbox::default();
        bench.engine.restored(&bench.tables, bench.now, &mut out);
        bench.settle(out);
        bench
    }

    fn settle(&mut self, out: Outbox) -> Said {
        self.journal.extend(out.changes.iter().cloned());
        self.answered += out.answered;
        self.dropped += out.dropped.len() as u64;
        self.spread += out.copies.len() as u64;
        let live = self.engine.live();
        let ended = self.answered + self.dropped + self.spread + live.pending as u64;
        assert_eq!(ended, self.handled, "every request ends once");
        self.reports_ended += out.reports.len() as u64;
        assert_eq!(self.reports_ended + live.reports as u64, self.reported, "so does every report");
        for change in &out.changes {
            assert_eq!(Change::from_bytes(&change.to_bytes()).as_ref(), Some(change));
        }
        let Outbox { replies, changes, dropped, copies, reports, .. } = out;
        Said { replies, changes, dropped, copies, reports }
    }

    /// A datagram, as a shard passes it on that found its tag right.
    pub(crate) fn datagram(&mut self, bytes: &[u8], from: Endpoint, listener: u8) -> Said {
        let auth = parse(bytes).ok().and_then(|message| Auth::of(&message.options, bytes));
        let signed_by = auth.map(|auth| {
            assert!(MacKey::new(secret(auth.key)).verify(bytes, &auth), "the test signs wrongly");
            auth.key
        });
        let mut out = Outbox::default();
        let request = Request { bytes, from, listener, signed_by, now: self.now };
        self.handled += 1;
        self.engine.handle(&self.tables, &request, &mut out);
        self.settle(out)
    }

    pub(crate) fn ask(&mut self, message: &Msg, from: &str) -> Said {
        self.datagram(&message.bytes(), at(from), 0)
    }

    /// An Accounting-Request that a listener found genuine, from the first client.
    pub(crate) fn report(&mut self, bytes: &[u8], from: Endpoint) -> Said {
        let client = self.radius.as_ref().and_then(|radius| radius.client(from.ip())).unwrap();
        let mut out = Outbox::default();
        self.reported += 1;
        let report = Report { bytes, from, listener: 0, client, now: self.now };
        self.engine.handle_report(&self.tables, &report, &mut out);
        self.settle(out)
    }

    /// Time passes; what is due happens when it is due.
    pub(crate) fn pass_ms(&mut self, ms: u64) -> Said {
        let end = self.now.plus_ns(ms * 1_000_000);
        let mut said = Said::default();
        while let Some(due) = self.engine.poll_timeout().filter(|due| *due <= end.mono_ns) {
            self.now = self.now.plus_ns(due.saturating_sub(self.now.mono_ns));
            let now = self.timeout();
            said.replies.extend(now.replies);
            said.changes.extend(now.changes);
            said.dropped.extend(now.dropped);
            said.reports.extend(now.reports);
        }
        self.now = end;
        let last = self.timeout();
        assert_eq!((last.replies.len(), last.changes.len()), (0, 0), "something was late");
        said
    }

    /// What is due now happens, as much of it as happens at once.
    pub(crate) fn pass_once(&mut self) -> Said {
        self.timeout()
    }

    fn timeout(&mut self) -> Said {
        let mut out = Outbox::default();
        self.engine.handle_timeout(&self.tables, self.now, &mut out);
        self.settle(out)
    }

    /// The server is killed and started again.
    pub(crate) fn restart(&mut self) -> Said {
        self.handled -= self.engine.live().pending as u64;
        self.reported -= self.engine.live().reports as u64;
        let (engine, out) = self.restored_from(&self.journal);
        self.engine = engine;
        self.settle(out)
    }

    /// An engine made of these changes alone, and what it makes of them.
    pub(crate) fn restored_from(&self, changes: &[Change]) -> (Engine, Outbox) {
        let mut engine = Engine::new(self.site.clone()).with_feed(self.radius.clone());
        changes.iter().for_each(|change| engine.restore(change));
        let mut out = Outbox::default();
        engine.restored(&self.tables, self.now, &mut out);
        (engine, out)
    }

    pub(crate) fn replace_tables(&mut self, rib: &Rib) -> Said {
        self.tables = lab::tables(rib);
        let mut out = Outbox::default();
        self.engine.tables_changed(&self.tables, self.now, &mut out);
        self.settle(out)
    }

    /// From now on nobody is listened to, or somebody.
    pub(crate) fn listen(&mut self, radius: Option<Radius>) {
        self.radius = radius;
    }

    /// The bindings that hold by the engine's own account.
    pub(crate) fn bound(&self) -> Vec<Binding> {
        let mut bound: Vec<Binding> = self
            .engine
            .changes()
            .filter_map(|change| match change {
                Change::Bind { binding, .. } | Change::Assign { binding, .. } => Some(binding),
                _ => None,
            })
            .collect();
        bound.sort_by_key(|binding| (binding.user, binding.device));
        bound
    }

    pub(crate) fn binding(&self, user: PushId) -> Option<Binding> {
        self.bound().into_iter().find(|binding| binding.user == user)
    }
}

/// REGISTER with ListenPort 0.
pub(crate) fn register(user: PushId) -> Msg {
    msg(Kind::Register, user, PushId::NONE).option(ty::LISTEN_PORT, &[0, 0])
}

/// REGISTER with PrivateAddress.
pub(crate) fn register_at(user: PushId, private: &str) -> Msg {
    msg(Kind::Register, user, PushId::NONE).endpoint(ty::PRIVATE_ADDRESS, at(private))
}

/// RELEASE of all terminals.
pub(crate) fn release(user: PushId) -> Msg {
    msg(Kind::Release, user, PushId::NONE).device(0)
}

pub(crate) trait Options {
    fn validity(self, seconds: u32) -> Self;
    fn realm(self, realm: u32) -> Self;
}

impl Options for Msg {
    fn validity(self, seconds: u32) -> Self {
        self.option(ty::VALIDITY, &seconds.to_be_bytes())
    }

    fn realm(self, realm: u32) -> Self {
        self.option(ty::REALM, &realm.to_be_bytes())
    }
}
