//! A Push server's plane without network: tables that meet every rule of PROTOCOL.md, a builder of
//! messages, and [`Lab::take`], which has the plane work on a burst and gives back what it sent.

#![allow(dead_code, reason = "each test that includes this module uses a part of it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pushplane::clock::Now;
use pushplane::config::{Limits, Policy};
use pushplane::id::{Endpoint, PushId};
use pushplane::packet::{BURST_MAX, Burst, Class, Done, FramePool};
use pushplane::plane::{NoTrace, Plane, Shared, Site, Verdict};
use pushplane::reason::Reason;
use pushplane::table::rib::{App, Gateway, Key, Rule, Segment, Server, Tunnel, User};
use pushplane::table::{Image, Rib, Tables};
use pushplane::wire::prp::auth::MacKey;
use pushplane::wire::prp::{HeadBuilder, Header, Kind, Message, flag, option_type as ty, parse};

pub(crate) fn at(text: &str) -> Endpoint {
    text.parse().unwrap()
}

/// A user of this server (prefix 0011).
pub(crate) const fn own(n: u128) -> PushId {
    PushId(0x3 << 124 | n)
}

/// A user of the server `abroad` (prefix 0010), which shares a key with this one.
pub(crate) const fn abroad(n: u128) -> PushId {
    PushId(0x2 << 124 | n)
}

/// A user of the server `open` (prefix 0001), which shares none.
pub(crate) const fn open(n: u128) -> PushId {
    PushId(0x1 << 124 | n)
}

/// Where application servers push from: in the `sources` of those that have some.
pub(crate) const SENDER: &str = "192.0.2.50:5000";
/// An address that is in nobody's `sources`.
pub(crate) const STRANGER: &str = "203.0.113.200:5000";
pub(crate) const LISTEN4: &str = "192.0.2.1:17400";
pub(crate) const LISTEN6: &str = "[2001:db8::1]:17400";
pub(crate) const ABROAD: &str = "198.51.100.2:17400";
pub(crate) const OPEN: &str = "198.51.100.3:17400";
pub(crate) const NESTED: &str = "198.51.100.4:17400";
pub(crate) const OVER6: &str = "[2001:db8:f::1]:17400";
/// A server that is in no table.
pub(crate) const ELSEWHERE: &str = "198.51.100.99:17400";
pub(crate) const VXLAN: &str = "10.255.0.1:4789";
pub(crate) const GTPU: &str = "10.255.0.2:2152";
pub(crate) const PLAIN: &str = "10.255.0.3:17400";
pub(crate) const GTPU6: &str = "[2001:db8:e::1]:2152";
pub(crate) const VNI: u32 = 0x0A_0B0C;
pub(crate) const TEID: u32 = 0xDEAD_BEEF;
pub(crate) const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The inner source of the tunnels.
pub(crate) const INNER4: &str = "10.255.0.254:17400";
pub(crate) const INNER6: &str = "[fd00:ff::1]:17400";

/// The key that `abroad` shares with this server, that of [`app::KEYED`], and that of no one.
pub(crate) const ABROAD_KEY: u32 = 2;
pub(crate) const APP_KEY: u32 = 12;
pub(crate) const NOBODYS_KEY: u32 = 99;
/// The value of every key follows from its identifier.
pub(crate) fn secret(id: u32) -> [u8; 16] {
    [id as u8; 16]
}

/// Identifiers of applications.
pub(crate) mod app {
    /// Anyone may push.
    pub(crate) const ANY: u32 = 7;
    /// Only 192.0.2.0/24 and 2001:db8:5::/48.
    pub(crate) const SOURCES: u32 = 8;
    /// The same, and terminals.
    pub(crate) const USERS: u32 = 9;
    /// rule = "priority".
    pub(crate) const PRIORITY: u32 = 10;
    /// rule = "min-delay".
    pub(crate) const MIN_DELAY: u32 = 11;
    /// Five messages a second.
    pub(crate) const RATE: u32 = 12;
    /// Signed with [`super::APP_KEY`].
    pub(crate) const KEYED: u32 = 13;
    /// `sources`, a key and one message a second: everything that can fail.
    pub(crate) const STRICT: u32 = 14;
    /// On no list.
    pub(crate) const UNLISTED: u32 = 666;
}

/// Users of this server by what they are, for `own(…)`.
pub(crate) mod user {
    pub(crate) const VXLAN: u128 = 1;
    pub(crate) const GTPU: u128 = 2;
    pub(crate) const PLAIN: u128 = 3;
    pub(crate) const NONE: u128 = 4;
    pub(crate) const VXLAN6: u128 = 5;
    pub(crate) const GTPU6: u128 = 6;
    pub(crate) const PLAIN6: u128 = 7;
    pub(crate) const NONE6: u128 = 8;
    /// A public address only.
    pub(crate) const NAT: u128 = 9;
    /// A private address in no segment, and a public one.
    pub(crate) const NAT_NO_SEGMENT: u128 = 10;
    pub(crate) const IMSI_ONLY: u128 = 11;
    /// A private address in no segment, and nothing else.
    pub(crate) const NO_SEGMENT: u128 = 12;
    pub(crate) const NO_SEGMENT_IMSI: u128 = 13;
    /// Device 0 behind vxlan, 1 at a public address, 2 ran out, 3 behind plain.
    pub(crate) const SEVERAL: u128 = 14;
    /// At the server `abroad`.
    pub(crate) const ROAMING: u128 = 15;
    /// Device 1 at the server `abroad`, device 2 behind vxlan.
    pub(crate) const HALF_ROAMING: u128 = 16;
    /// Device 1 at the server `abroad`, device 2 with an IMSI only.
    pub(crate) const ROAMING_OR_IMSI: u128 = 17;
    pub(crate) const RAN_OUT: u128 = 18;
    /// Behind vxlan, without bit 1 of Bearers.
    pub(crate) const NO_PACKET_DATA: u128 = 19;
    /// An IMSI only, without bit 2 of Bearers.
    pub(crate) const NO_REQUESTED: u128 = 20;
    /// Own keys, of the user's number.
    pub(crate) const KEY_VXLAN: u128 = 21;
    pub(crate) const KEY_NAT: u128 = 22;
    pub(crate) const KEY_PLAIN: u128 = 23;
    /// Two devices at the server `abroad`, one at [`super::ELSEWHERE`].
    pub(crate) const ROAMING_TWICE: u128 = 24;
    /// Public IPv6 address.
    pub(crate) const NAT6: u128 = 26;
    /// In realm 9 the private address of [`VXLAN`].
    pub(crate) const REALM9: u128 = 27;
    /// A row with nothing to reach it by.
    pub(crate) const NOTHING: u128 = 28;
    /// Private address behind vxlan and the public one that the network shows for it.
    pub(crate) const BOTH: u128 = 29;
    /// Behind a gateway whose tunnel goes over IPv6.
    pub(crate) const OUTER6: u128 = 30;
    /// `serving` is this very server.
    pub(crate) const ROAMING_HERE: u128 = 31;
    /// In no table.
    pub(crate) const NOBODY: u128 = 0xFFFF;
}

/// When the lab begins.
pub(crate) const NOW: Now = Now { mono_ns: 1_000_000_000_000, unix_ms: 1_767_225_600_000 };

fn prefix(text: &str, len: u8) -> (std::net::IpAddr, u8) {
    (text.parse().unwrap(), len)
}

fn servers() -> Vec<Server> {
    let server = |name: &str, prefixes: &[&str], address: &str, key| Server {
        name: name.into(),
        prefixes: prefixes.iter().map(|text| text.parse().unwrap()).collect(),
        address: at(address),
        key,
    };
    vec![
        server("home", &["0011"], LISTEN4, Some(1)),
        server("abroad", &["0010"], ABROAD, Some(ABROAD_KEY)),
        server("open", &["0001"], OPEN, None),
        server("nested", &["0x3F/8"], NESTED, None),
        server("over6", &["1000"], OVER6, None),
    ]
}

fn gateways() -> Vec<Gateway> {
    let gateway = |name: &str, address: &str, tunnel| Gateway {
        name: name.into(),
        address: at(address),
        tunnel,
        source_v4: Some(at(INNER4)),
        source_v6: Some(at(INNER6)),
    };
    vec![
        gateway("v", VXLAN, Tunnel::Vxlan { vni: VNI, mac: pushplane::id::Mac(MAC) }),
        gateway("g", GTPU, Tunnel::Gtpu { teid: TEID }),
        gateway("p", PLAIN, Tunnel::Plain),
        gateway("n", "10.255.0.4:17400", Tunnel::None),
        gateway("s", GTPU6, Tunnel::Gtpu { teid: 7 }),
    ]
}

fn segments() -> Vec<Segment> {
    let rows = [
        (0, "10.0.0.0", 8, 0),
        (0, "10.1.0.0", 16, 1),
        (0, "10.2.0.0", 16, 2),
        (0, "10.3.0.0", 16, 3),
        (0, "10.4.0.0", 16, 4),
        (0, "fd00::", 16, 0),
        (0, "fd01::", 16, 1),
        (0, "fd02::", 16, 2),
        (0, "fd03::", 16, 3),
        (9, "10.0.0.0", 8, 2),
    ];
    let row = |(realm, ip, len, gateway)| {
        let (ip, len) = prefix(ip, len);
        Segment { realm, ip, len, gateway }
    };
    rows.map(row).to_vec()
}

fn apps() -> Vec<App> {
    let app = |id| App {
        id,
        name: format!("app-{id}"),
        sources: None,
        users: false,
        rule: Rule::Normal,
        rate: None,
        key: None,
    };
    let sources = || Some(vec![prefix("192.0.2.0", 24), prefix("2001:db8:5::", 48)]);
    vec![
        app(app::ANY),
        App { sources: sources(), ..app(app::SOURCES) },
        App { sources: sources(), users: true, ..app(app::USERS) },
        App { rule: Rule::Priority, ..app(app::PRIORITY) },
        App { rule: Rule::MinDelay, ..app(app::MIN_DELAY) },
        App { rate: Some(5), ..app(app::RATE) },
        App { key: Some(APP_KEY), ..app(app::KEYED) },
        App { sources: sources(), key: Some(APP_KEY), rate: Some(1), ..app(app::STRICT) },
    ]
}

/// The tables.
pub(crate) fn rib() -> Rib {
    let private = |n, device, text: &str| User { private: Some(at(text)), ..User::new(own(n), device) };
    let nat = |n, device, text: &str| User { nat: Some(at(text)), ..User::new(own(n), device) };
    let serving = |n, device, text: &str| User { serving: Some(at(text)), ..User::new(own(n), device) };
    let imsi =
        |n, device| User { imsi: Some("460001234567890".parse().unwrap()), ..User::new(own(n), device) };
    let before = Some(NOW.unix_s() - 1);
    let users = vec![
        private(user::VXLAN, 0, "10.0.0.1:2948"),
        private(user::GTPU, 0, "10.1.0.1:2948"),
        private(user::PLAIN, 0, "10.2.0.1:2948"),
        private(user::NONE, 0, "10.3.0.1:2948"),
        private(user::VXLAN6, 0, "[fd00::5]:2948"),
        private(user::GTPU6, 0, "[fd01::6]:2948"),
        private(user::PLAIN6, 0, "[fd02::7]:2948"),
        private(user::NONE6, 0, "[fd03::8]:2948"),
        nat(user::NAT, 0, "203.0.113.9:40009"),
        User { nat: Some(at("203.0.113.10:40010")), ..private(user::NAT_NO_SEGMENT, 0, "172.16.0.1:2948") },
        imsi(user::IMSI_ONLY, 0),
        private(user::NO_SEGMENT, 0, "172.16.0.2:2948"),
        User { private: Some(at("172.16.0.3:2948")), ..imsi(user::NO_SEGMENT_IMSI, 0) },
        private(user::SEVERAL, 0, "10.0.0.14:2948"),
        nat(user::SEVERAL, 1, "203.0.113.14:40014"),
        User { valid_until: before, ..private(user::SEVERAL, 2, "10.0.1.14:2948") },
        private(user::SEVERAL, 3, "10.2.0.14:2948"),
        serving(user::ROAMING, 0, ABROAD),
        serving(user::HALF_ROAMING, 1, ABROAD),
        private(user::HALF_ROAMING, 2, "10.0.0.16:2948"),
        serving(user::ROAMING_OR_IMSI, 1, ABROAD),
        imsi(user::ROAMING_OR_IMSI, 2),
        User { valid_until: before, ..private(user::RAN_OUT, 0, "10.0.0.18:2948") },
        User { bearers: 2, ..private(user::NO_PACKET_DATA, 0, "10.0.0.19:2948") },
        User { bearers: 1, ..imsi(user::NO_REQUESTED, 0) },
        private(user::KEY_VXLAN, 0, "10.0.0.21:2948"),
        nat(user::KEY_NAT, 0, "203.0.113.22:40022"),
        private(user::KEY_PLAIN, 0, "10.2.0.23:2948"),
        serving(user::ROAMING_TWICE, 1, ABROAD),
        serving(user::ROAMING_TWICE, 2, ABROAD),
        serving(user::ROAMING_TWICE, 3, ELSEWHERE),
        nat(user::NAT6, 0, "[2001:db8:9::26]:40026"),
        User { realm: 9, ..private(user::REALM9, 0, "10.0.0.1:2948") },
        User::new(own(user::NOTHING), 0),
        User { nat: Some(at("203.0.113.29:40029")), ..private(user::BOTH, 0, "10.0.0.29:2948") },
        private(user::OUTER6, 0, "10.4.0.30:2948"),
        serving(user::ROAMING_HERE, 0, LISTEN4),
        User { private: Some(at("10.0.0.200:2948")), ..User::new(abroad(1), 0) },
    ];
    let of_user = |n: u128| Key { id: n as u32, value: secret(n as u32), user: Some(own(n)) };
    let of_none = |id| Key { id, value: secret(id), user: None };
    let keys = vec![
        of_none(1),
        of_none(ABROAD_KEY),
        of_none(APP_KEY),
        of_none(NOBODYS_KEY),
        of_user(user::KEY_VXLAN),
        of_user(user::KEY_NAT),
        of_user(user::KEY_PLAIN),
        Key { user: Some(own(user::BOTH)), ..of_none(29) },
    ];
    Rib {
        servers: servers(),
        gateways: gateways(),
        segments: segments(),
        apps: apps(),
        users,
        keys,
        ..Rib::default()
    }
}

/// A message under construction.
#[derive(Clone, Debug)]
pub(crate) struct Msg {
    pub(crate) header: Header,
    options: Vec<(u8, Vec<u8>)>,
    payload: Vec<u8>,
    key: Option<(u32, u64)>,
}

/// A message of this kind with an identifier that no other has.
pub(crate) fn msg(kind: Kind, destination: PushId, source: PushId) -> Msg {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let header = Header::new(kind, destination, source, NEXT.fetch_add(1, Ordering::Relaxed));
    Msg { header, options: Vec::new(), payload: b"hello".to_vec(), key: None }
}

/// The Push ID that application servers push as: a user of another server.
pub(crate) const ASKER: PushId = open(77);

/// A PUSH of [`app::ANY`] to one of this server's users.
pub(crate) fn push(n: u128) -> Msg {
    push_to(own(n))
}

/// A PUSH of [`app::ANY`].
pub(crate) fn push_to(destination: PushId) -> Msg {
    msg(Kind::Push, destination, ASKER).app(app::ANY)
}

impl Msg {
    pub(crate) fn app(mut self, app: u32) -> Self {
        self.header.app = app;
        self
    }

    pub(crate) fn source(mut self, source: PushId) -> Self {
        self.header.source = source;
        self
    }

    pub(crate) fn flags(mut self, flags: u8) -> Self {
        self.header.flags |= flags;
        self
    }

    pub(crate) fn hops(mut self, hops: u8) -> Self {
        self.header.hop_limit = hops;
        self
    }

    pub(crate) fn id(mut self, message: u64) -> Self {
        self.header.message = message;
        self
    }

    pub(crate) fn version(mut self, version: u8) -> Self {
        self.header.version = version;
        self
    }

    pub(crate) fn kind(mut self, code: u8) -> Self {
        self.header.kind = code;
        self
    }

    pub(crate) fn option(mut self, option: u8, value: &[u8]) -> Self {
        self.options.push((option, value.to_vec()));
        self
    }

    pub(crate) fn endpoint(self, option: u8, endpoint: Endpoint) -> Self {
        let port = endpoint.port().to_be_bytes();
        match endpoint.ipv4() {
            Some(ip) => self.option(option, &[&ip[..], &port].concat()),
            None => self.option(option, &[&endpoint.octets()[..], &port].concat()),
        }
    }

    pub(crate) fn deadline(self, unix_ms: u64) -> Self {
        self.option(ty::DEADLINE, &unix_ms.to_be_bytes())
    }

    pub(crate) fn device(self, device: u8) -> Self {
        self.option(ty::DEVICE, &[device])
    }

    pub(crate) fn source_address(self, text: &str) -> Self {
        self.endpoint(ty::SOURCE_ADDRESS, at(text))
    }

    pub(crate) fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// Signed with this key, now.
    pub(crate) fn signed(self, key: u32) -> Self {
        self.signed_at(key, NOW.unix_ms)
    }

    pub(crate) fn signed_at(mut self, key: u32, unix_ms: u64) -> Self {
        self.key = Some((key, unix_ms));
        self
    }

    /// The datagram.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut head = HeadBuilder::new(&self.header);
        for (option, value) in &self.options {
            head.option(*option, &[value]);
        }
        if let Some((key, unix_ms)) = self.key {
            head.auth(key, unix_ms);
        }
        let mut datagram = head.datagram(&self.payload).expect("a head that fits");
        if let Some((key, _)) = self.key {
            let head_bytes = usize::from(datagram[3]) * 4;
            assert!(MacKey::new(secret(key)).sign(&mut datagram, head_bytes));
        }
        datagram
    }
}

/// A datagram that the plane sent.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) bytes: Vec<u8>,
    pub(crate) to: Endpoint,
    pub(crate) listener: u8,
    pub(crate) class: Class,
}

impl Sent {
    /// What it says, when it is a PRP datagram in no tunnel.
    pub(crate) fn message(&self) -> Message {
        parse(&self.bytes).expect("a PRP datagram")
    }

    /// The reason, when it is a REJECT.
    pub(crate) fn reason(&self) -> Option<Reason> {
        let message = self.message();
        assert_eq!(message.kind, Kind::Reject);
        let (code, text) = message.options.reason(&self.bytes).unwrap();
        let reason = Reason::from_code(code);
        assert_eq!(reason.map(Reason::name), Some(text));
        reason
    }
}

/// What became of a burst.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) sent: Vec<Sent>,
    pub(crate) verdicts: Vec<Verdict>,
}

/// One shard's plane over tables.
pub(crate) struct Lab {
    pub(crate) site: Site,
    pub(crate) tables: Tables,
    pub(crate) plane: Plane,
    pub(crate) burst: Burst,
    pub(crate) now: Now,
}

/// Small limits, so that a lab is made quickly.
pub(crate) const LIMITS: Limits = Limits {
    datagram_max: 2048,
    frames: 1024,
    receipts: 1 << 10,
    replays: 1 << 14,
    reject_sources: 1 << 12,
    punts: 64,
    receive_buffer: 1 << 20,
    bindings: 1 << 10,
    journal: 1 << 20,
    validity_default_s: 3600,
    validity_max_s: 86_400,
    groups: 1 << 6,
    group_members: 1 << 10,
    relays: 1 << 6,
    sessions: 1 << 8,
    reports: 1 << 6,
};

/// Tables of a source, as the server `home` sees them.
pub(crate) fn tables(rib: &Rib) -> Tables {
    Tables::new(Image::build(rib).unwrap(), 1, "home", None)
}

/// A site that listens on both families.
pub(crate) fn site(policy: Policy, shard: usize, shared: Arc<Shared>) -> Site {
    Site { policy, listen: vec![at(LISTEN4), at(LISTEN6)], datagram_max: LIMITS.datagram_max, shard, shared }
}

impl Lab {
    pub(crate) fn new() -> Self {
        Self::with(Policy::default(), &rib())
    }

    pub(crate) fn with(policy: Policy, rib: &Rib) -> Self {
        let site = site(policy, 0, Arc::new(Shared::new(&LIMITS, 1, 7)));
        Self::at_site(site, tables(rib))
    }

    pub(crate) fn at_site(site: Site, tables: Tables) -> Self {
        let pool = FramePool::new(LIMITS.frames, LIMITS.datagram_max);
        let burst = Burst::new(pool);
        let tables = tables.beside(site.shared.live());
        Self { site, tables, plane: Plane::new(LIMITS.frames), burst, now: NOW }
    }

    /// Works on a burst and has everything that it sends leave. The accounts must close.
    pub(crate) fn take<B: AsRef<[u8]>>(&mut self, datagrams: &[(B, Endpoint)]) -> Outcome {
        self.take_failing(datagrams, |_| 0)
    }

    /// As [`Lab::take`], with the error number that the kernel has for each datagram.
    pub(crate) fn take_failing<B: AsRef<[u8]>>(
        &mut self,
        datagrams: &[(B, Endpoint)],
        errno: impl Fn(&Sent) -> i32,
    ) -> Outcome {
        assert!(datagrams.len() <= BURST_MAX);
        for (bytes, from) in datagrams {
            let listener = u8::from(!from.is_ipv4());
            assert!(self.burst.push_copy(bytes.as_ref(), *from, listener));
        }
        let Self { site, tables, plane, burst, now } = self;
        plane.process(site, tables, *now, burst, &mut NoTrace);
        assert_eq!(plane.ledger().counters().unaccounted(), 0);
        let verdicts: Vec<Verdict> = (0..datagrams.len()).map(|row| plane.verdict(row)).collect();
        let mut sent = Vec::new();
        for tx in burst.tx.drain(..) {
            let one =
                Sent { bytes: tx.frame.bytes().to_vec(), to: tx.to, listener: tx.listener, class: tx.class };
            burst.done.push(Done { token: tx.token, bytes: one.bytes.len() as u32, errno: errno(&one) });
            sent.push(one);
            burst.pool.put(tx.frame);
        }
        plane.ledger_mut().settle(&burst.done);
        burst.done.clear();
        burst.clear_rows();
        let counters = plane.ledger().counters();
        assert_eq!((counters.unaccounted(), counters.in_flight), (0, 0));
        assert_eq!(burst.pool.available(), burst.pool.capacity(), "every frame is back");
        Outcome { sent, verdicts }
    }

    /// One message from an address.
    pub(crate) fn one(&mut self, msg: &Msg, from: &str) -> Outcome {
        self.take(&[(msg.bytes(), at(from))])
    }

    /// The only datagram that one message causes.
    pub(crate) fn sent(&mut self, msg: &Msg, from: &str) -> Sent {
        let outcome = self.one(msg, from);
        assert_eq!(outcome.sent.len(), 1, "{outcome:?}");
        outcome.sent.into_iter().next().unwrap()
    }

    /// The reason for which one message is dropped; the REJECT that says so must fit it.
    pub(crate) fn dropped(&mut self, msg: &Msg, from: &str) -> Reason {
        self.dropped_bytes(&msg.bytes(), from)
    }

    /// As [`Lab::dropped`], of bytes.
    pub(crate) fn dropped_bytes(&mut self, bytes: &[u8], from: &str) -> Reason {
        let before = *self.plane.ledger().counters();
        let outcome = self.take(&[(bytes, at(from))]);
        let Verdict::Drop(reason) = outcome.verdicts[0] else { panic!("{outcome:?}") };
        let counters = self.plane.ledger().counters();
        assert_eq!(counters.dropped[reason.index()], before.dropped[reason.index()] + 1, "{reason}");
        assert_eq!(counters.dropped_total(), before.dropped_total() + 1);
        let question = Header::read(bytes);
        let is_answer = question.is_some_and(|q| Kind::from_code(q.kind).is_some_and(Kind::is_answer));
        match (question, &outcome.sent[..]) {
            (Some(question), [reject]) if !is_answer => {
                assert_eq!(reject.to, at(from));
                assert_eq!(reject.reason(), Some(reason));
                let answer = reject.message().header;
                assert_eq!(answer.destination, question.source);
                assert_eq!(answer.source, question.destination);
                assert_eq!(answer.message, question.message);
                assert!(reject.bytes.len() <= bytes.len().max(128));
            }
            (None, []) => {}
            (Some(_), []) if is_answer || !self.site.policy.rejects => {}
            (_, sent) => panic!("{reason}: {sent:?}"),
        }
        reason
    }
}

/// Flags, by their names.
pub(crate) const RECEIPT: u8 = flag::RECEIPT;
