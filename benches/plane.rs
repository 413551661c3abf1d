//! The plane without network: nanoseconds a datagram of [`Plane::decide`] (what becomes of it) and
//! [`Plane::process`] (and the datagram to send), for a PUSH of 148 bytes to a uniformly random user behind
//! a vxlan or a plain gateway, in bursts of the most that a shard works on at a time.
//!
//! ```text
//! cargo bench --bench plane                            10 thousand and 1 million users
//! PUSHPLANE_BENCH_LARGE=1 cargo bench --bench plane    and 10 million: 3 GiB, half a minute to build
//! ```
//!
//! Beside it, in the same run: the plain version, the same functions with one datagram at a time; and
//! the peer, what one would write first: a `HashMap` of users (hashbrown, with ahash), prefixes and
//! segments looked through one by one, each datagram made in a new vector. The peer neither authorizes
//! a source nor keeps accounts, and still makes the same bytes.
//!
//! Instructions, which do not depend on the machine's mood, are counted by
//!
//! ```text
//! valgrind --tool=callgrind --collect-atstart=no --toggle-collect='*counted*' \
//!     target/release/deps/plane-… --instructions process
//! (or process-registered, process-beside-live, process-both)
//! ```
//!
//! Each burst is filled with new users before the clock starts: their tables are in no cache but by
//! chance, the datagrams are, as after a receive. Every answer is compared with what follows from the
//! users' numbers. The table at the end has the best of all samples.

mod operator;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use operator::*;
use pushplane::clock::Now;
use pushplane::config::{Limits, Policy};
use pushplane::id::{Endpoint, PushId};
use pushplane::packet::{BURST_MAX, Burst, Done, FramePool};
use pushplane::plane::{NoTrace, Plane, Shared, Site, Verdict};
use pushplane::table::{Binding, Change, Image, Tables};
use pushplane::wire::tunnel;

const NOW: Now = Now { mono_ns: 1_000_000_000_000, unix_ms: 1_767_225_600_000 };
const TO_VXLAN: &str = "10.255.0.1:4789";
const TO_PLAIN: &str = "10.255.0.3:17400";

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn clock() -> std::time::Instant {
    std::time::Instant::now()
}

/// A stream of user numbers of one realm, uniformly random.
struct Users {
    state: u64,
    users: u64,
    realm: u32,
}

impl Users {
    fn next(&mut self) -> u64 {
        self.state += 1;
        // Multiply-shift: the high bits are as even as the number of users allows.
        let n = (u128::from(mix(self.state)) * u128::from(self.users / 2)) >> 64;
        n as u64 * 2 + u64::from(self.realm)
    }
}

/// What a right answer for user number `n` adds to the checksum: where it goes, to whom, in what.
fn answer(n: u64, to: Endpoint, private: Endpoint) -> u64 {
    let address = u128::from_be_bytes(to.octets()) ^ u128::from_be_bytes(private.octets()) << 16;
    mix(address as u64 ^ u64::from(to.port()) << 48 ^ u64::from(private.port())) ^ mix(n)
}

fn right_answer(n: u64) -> u64 {
    let to = if realm(n) == VXLAN { at(TO_VXLAN) } else { at(TO_PLAIN) };
    answer(n, to, private(n))
}

/// What a sent datagram says, read from its bytes.
fn read_answer(to: Endpoint, bytes: &[u8]) -> u64 {
    let endpoint = |ip: &[u8], port: &[u8]| {
        let ip: [u8; 4] = ip.try_into().unwrap();
        Endpoint::new(ip.into(), u16::from_be_bytes(port.try_into().unwrap()))
    };
    let (prp, private) = if to == at(TO_VXLAN) {
        assert_eq!(bytes[4..7], [0, 0, VNI as u8]);
        (&bytes[50..], endpoint(&bytes[38..42], &bytes[44..46]))
    } else {
        let option = bytes.len() - PAYLOAD.len() - 16;
        assert_eq!(bytes[option..option + 2], [3, 6], "PrivateAddress");
        (bytes, endpoint(&bytes[option + 2..option + 6], &bytes[option + 6..option + 8]))
    };
    let n = u64::from_be_bytes(prp[40..48].try_into().unwrap());
    assert_eq!(prp[8..24], id(n).to_bytes(), "the user that it is for");
    assert_eq!(prp[prp.len() - PAYLOAD.len()..], PAYLOAD);
    answer(n, to, private)
}

/// A plane over tables, and datagrams for it.
struct Lab {
    site: Site,
    tables: Tables,
    plane: Plane,
    /// Only decides: what is received and not made is in no account.
    decider: Plane,
    burst: Burst,
    sender: Endpoint,
    template: Vec<u8>,
}

/// Where the plane finds the users.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Known {
    /// In users.csv; nobody registered.
    Rows,
    /// In users.csv, beside somebody who registered: each row's address may have passed to another.
    RowsBesideLive,
    /// They registered; users.csv is empty.
    Registered,
    /// They registered, and are in users.csv.
    Both,
}

impl Known {
    const ALL: [Self; 4] = [Self::Rows, Self::RowsBesideLive, Self::Registered, Self::Both];

    /// The columns that it is measured in.
    const fn names(self) -> [&'static str; 2] {
        match self {
            Self::Rows => ["decide", "process"],
            Self::RowsBesideLive => ["decide-beside-live", "process-beside-live"],
            Self::Registered => ["decide-registered", "process-registered"],
            Self::Both => ["decide-both", "process-both"],
        }
    }
}

/// What user number `n` registers.
fn binding(n: u64) -> Change {
    let binding = Binding {
        user: id(n),
        device: 0,
        realm: realm(n),
        private: Some(private(n)),
        nat: None,
        imsi: None,
        bearers: 3,
        serving: None,
        valid_until_ms: Some(NOW.unix_ms + 3_600_000),
        listener: 0,
    };
    Change::Bind { binding, heard_ms: NOW.unix_ms }
}

impl Lab {
    fn new(users: u64, known: Known) -> Self {
        let (rows, live) = match known {
            Known::Rows => (users, 0..0),
            Known::RowsBesideLive => (users, users..users + 1),
            Known::Registered => (0, 0..users),
            Known::Both => (users, 0..users),
        };
        let limits = Limits { bindings: (users as usize).max(1 << 16), ..Limits::default() };
        let site = Site {
            policy: Policy::default(),
            listen: vec![at("192.0.2.1:17400")],
            datagram_max: limits.datagram_max,
            shard: 0,
            shared: Arc::new(Shared::new(&limits, 1, 7)),
        };
        let mut writer = site.shared.live_writer().unwrap();
        live.for_each(|n| writer.apply(&binding(n)).unwrap());
        let image = Image::build(&rib(rows, at(TO_VXLAN), at(TO_PLAIN))).unwrap();
        let tables = Tables::new(image, 1, "home", None).beside(site.shared.live());
        Self {
            site,
            tables,
            plane: Plane::new(limits.frames),
            decider: Plane::new(limits.frames),
            burst: Burst::new(FramePool::new(limits.frames, limits.datagram_max)),
            sender: Endpoint::new(SENDER.into(), 5000),
            template: push(0),
        }
    }

    /// Fills the burst with datagrams to the next users; returns what their answers add up to.
    fn fill(&mut self, users: &mut Users, count: usize) -> u64 {
        let mut sum = 0u64;
        for _ in 0..count {
            let n = users.next();
            self.template[8..24].copy_from_slice(&id(n).to_bytes());
            self.template[40..48].copy_from_slice(&n.to_be_bytes());
            assert!(self.burst.push_copy(&self.template, self.sender, 0));
            sum = sum.wrapping_add(right_answer(n));
        }
        sum
    }

    /// Time that deciding so many datagrams takes.
    fn decide(&mut self, users: &mut Users, burst: usize, bursts: u64) -> Duration {
        let mut time = Duration::ZERO;
        for _ in 0..bursts {
            self.fill(users, burst);
            let Self { site, tables, decider, burst: rows, .. } = self;
            let start = clock();
            decider.decide(site, tables, NOW, black_box(rows), &mut NoTrace);
            time += start.elapsed();
            assert!(all_delivered(decider, burst));
            self.burst.clear_rows();
        }
        time
    }

    /// Time that making what is sent for so many datagrams takes, deciding included.
    fn process(&mut self, users: &mut Users, burst: usize, bursts: u64) -> Duration {
        let mut time = Duration::ZERO;
        for _ in 0..bursts {
            let expected = self.fill(users, burst);
            let Self { site, tables, plane, burst: rows, .. } = self;
            let start = clock();
            plane.process(site, tables, NOW, black_box(rows), &mut NoTrace);
            time += start.elapsed();
            assert!(all_delivered(plane, burst));
            let mut sum = 0u64;
            let Burst { pool, tx, done, .. } = &mut self.burst;
            for tx in tx.drain(..) {
                sum = sum.wrapping_add(read_answer(tx.to, tx.frame.bytes()));
                done.push(Done { token: tx.token, bytes: tx.frame.len() as u32, errno: 0 });
                pool.put(tx.frame);
            }
            assert_eq!(sum, expected);
            self.plane.ledger_mut().settle(&self.burst.done);
            self.burst.done.clear();
            self.burst.clear_rows();
        }
        let counters = self.plane.ledger().counters();
        assert_eq!((counters.unaccounted(), counters.dropped_total()), (0, 0));
        time
    }
}

fn all_delivered(plane: &Plane, count: usize) -> bool {
    (0..count).all(|row| plane.verdict(row) == Verdict::Deliver && plane.sends(row).len() == 1)
}

/// The peer: hash maps and loops.
struct Peer {
    users: HashMap<PushId, (u32, Endpoint), ahash::RandomState>,
    apps: HashMap<u32, (), ahash::RandomState>,
    /// Bits, length, whether it is this server's.
    prefixes: Vec<(u128, u32, bool)>,
    /// Realm, bits, length, gateway.
    segments: Vec<(u32, u32, u32, u32)>,
    out: Vec<(Endpoint, Vec<u8>)>,
}

impl Peer {
    fn new(users: u64) -> Self {
        let rib = rib(0, at(TO_VXLAN), at(TO_PLAIN));
        Self {
            users: (0..users).map(|n| (id(n), (realm(n), private(n)))).collect(),
            apps: rib.apps.iter().map(|app| (app.id, ())).collect(),
            prefixes: (0..).zip(&rib.servers).map(|(n, s)| (n << 124, 4, s.name == "home")).collect(),
            segments: rib
                .segments
                .iter()
                .map(|row| {
                    let ip = Endpoint::new(row.ip, 0).ipv4().map_or(0, u32::from_be_bytes);
                    (row.realm, ip, u32::from(row.len), row.gateway)
                })
                .collect(),
            out: Vec::with_capacity(BURST_MAX),
        }
    }

    /// The gateway and the private address of the user that a datagram is for.
    fn decide(&self, bytes: &[u8]) -> Option<(u32, u32, Endpoint)> {
        let header = pushplane::wire::prp::parse(bytes).ok()?.header;
        self.apps.get(&header.app)?;
        let matching =
            |(bits, len, _): &&(u128, u32, bool)| (header.destination.0 ^ bits) >> (128 - len) == 0;
        let (_, _, own) = self.prefixes.iter().filter(matching).max_by_key(|(_, len, _)| len)?;
        if !own {
            return None;
        }
        let (realm, private) = *self.users.get(&header.destination)?;
        let ip = u32::from_be_bytes(private.ipv4()?);
        let matching =
            |(of, bits, len, _): &&(u32, u32, u32, u32)| *of == realm && (ip ^ bits) >> (32 - len) == 0;
        let (.., gateway) = self.segments.iter().filter(matching).max_by_key(|(_, _, len, _)| len)?;
        Some((*gateway, realm, private))
    }

    fn process(&mut self, bytes: &[u8]) {
        let Some((gateway, realm, private)) = self.decide(bytes) else { return };
        let mut out = Vec::with_capacity(bytes.len() + 64);
        if gateway == 0 {
            out.extend(tunnel::vxlan_ethernet(VNI, MAC, true));
            out.extend([0; 28]);
            out.extend(bytes);
            assert!(tunnel::write_ip_udp(&mut out[22..], at_source(), private));
            self.out.push((Endpoint::new([10, 255, 0, 1].into(), 4789), out));
        } else {
            let head = usize::from(bytes[3]) * 4;
            out.extend(&bytes[..head]);
            out.extend([3, 6]);
            out.extend(private.ipv4().unwrap_or_default());
            out.extend(private.port().to_be_bytes());
            out.extend([5, 4]);
            out.extend(realm.to_be_bytes());
            out.extend([0, 0]);
            out[3] += 4;
            out.extend(&bytes[head..]);
            self.out.push((Endpoint::new([10, 255, 0, 3].into(), 17400), out));
        }
    }

    fn run(&mut self, lab: &mut Lab, users: &mut Users, bursts: u64, whole: bool) -> Duration {
        let mut time = Duration::ZERO;
        for _ in 0..bursts {
            let expected = lab.fill(users, BURST_MAX);
            let start = clock();
            for row in &lab.burst.rows {
                let bytes = row.frame.as_ref().map_or(&[][..], |frame| frame.bytes());
                if whole {
                    self.process(bytes);
                } else {
                    assert!(black_box(self.decide(bytes)).is_some());
                }
            }
            time += start.elapsed();
            let sum =
                self.out.drain(..).fold(0u64, |sum, (to, bytes)| sum.wrapping_add(read_answer(to, &bytes)));
            assert!(!whole || sum == expected);
            lab.burst.clear_rows();
        }
        time
    }
}

/// The inner source, made without parsing.
fn at_source() -> Endpoint {
    Endpoint::new([10, 255, 0, 254].into(), 17400)
}

/// The best nanoseconds a datagram of each column, by row.
type Best = RefCell<BTreeMap<(u64, &'static str), BTreeMap<&'static str, f64>>>;

/// Measures one column of one row of the table.
fn measure(
    group: &mut BenchmarkGroup<'_, WallTime>,
    best: &Best,
    (users, form): (u64, &'static str),
    (name, burst): (&'static str, usize),
    mut run: impl FnMut(u64) -> Duration,
) {
    group.bench_function(BenchmarkId::new(name, users), |bencher| {
        bencher.iter_custom(|datagrams| {
            let bursts = datagrams.div_ceil(burst as u64);
            let time = run(bursts);
            let each = time.as_nanos() as f64 / (bursts * burst as u64) as f64;
            let mut best = best.borrow_mut();
            let cell = best.entry((users, form)).or_default().entry(name).or_insert(f64::MAX);
            // A handful of datagrams is no sample.
            if bursts >= 16 {
                *cell = cell.min(each);
            }
            Duration::from_nanos((each * datagrams as f64) as u64)
        });
    });
}

fn bench(criterion: &mut Criterion, users: u64, best: &Best) {
    let mut lab = Lab::new(users, Known::Rows);
    let mut peer = Peer::new(users);
    for (form, realm) in [("vxlan", VXLAN), ("plain", PLAIN)] {
        let mut group = criterion.benchmark_group(format!("plane/{form}"));
        group.throughput(Throughput::Elements(1));
        let mut stream = Users { state: 1 << 40, users, realm };
        let row = (users, form);
        measure(&mut group, best, row, ("decide", BURST_MAX), |n| lab.decide(&mut stream, BURST_MAX, n));
        measure(&mut group, best, row, ("decide-one-at-a-time", 1), |n| lab.decide(&mut stream, 1, n));
        measure(&mut group, best, row, ("decide-hashmap", BURST_MAX), |n| {
            peer.run(&mut lab, &mut stream, n, false)
        });
        measure(&mut group, best, row, ("process", BURST_MAX), |n| lab.process(&mut stream, BURST_MAX, n));
        measure(&mut group, best, row, ("process-one-at-a-time", 1), |n| lab.process(&mut stream, 1, n));
        measure(&mut group, best, row, ("process-hashmap", BURST_MAX), |n| {
            peer.run(&mut lab, &mut stream, n, true)
        });
        group.finish();
    }
    drop((lab, peer));
    for known in &Known::ALL[1..] {
        let mut lab = Lab::new(users, *known);
        let mut stream = Users { state: 1 << 40, users, realm: VXLAN };
        let mut group = criterion.benchmark_group("plane/vxlan");
        group.throughput(Throughput::Elements(1));
        let row = (users, "vxlan");
        let names = known.names();
        measure(&mut group, best, row, (names[0], BURST_MAX), |n| lab.decide(&mut stream, BURST_MAX, n));
        measure(&mut group, best, row, (names[1], BURST_MAX), |n| lab.process(&mut stream, BURST_MAX, n));
        group.finish();
    }
}

/// What callgrind counts: bursts of PUSHes to users behind vxlan.
#[inline(never)]
fn counted(site: &Site, tables: &Tables, plane: &mut Plane, burst: &mut Burst) {
    plane.process(site, tables, NOW, burst, &mut NoTrace);
}

fn instructions(known: Known) {
    const BURSTS: usize = 500;
    let mut lab = Lab::new(10_000, known);
    let mut users = Users { state: 0, users: 10_000, realm: VXLAN };
    for _ in 0..BURSTS {
        lab.fill(&mut users, BURST_MAX);
        counted(&lab.site, &lab.tables, &mut lab.plane, &mut lab.burst);
        assert!(all_delivered(&lab.plane, BURST_MAX));
        let Burst { pool, tx, done, .. } = &mut lab.burst;
        for tx in tx.drain(..) {
            done.push(Done { token: tx.token, bytes: tx.frame.len() as u32, errno: 0 });
            pool.put(tx.frame);
        }
        lab.plane.ledger_mut().settle(&lab.burst.done);
        lab.burst.done.clear();
        lab.burst.clear_rows();
    }
    println!("divide by {} datagrams", BURSTS * BURST_MAX);
}

fn main() {
    if let Some(column) = std::env::args().skip_while(|arg| arg != "--instructions").nth(1) {
        let known = Known::ALL.into_iter().find(|known| known.names()[1] == column);
        return instructions(known.expect("a column of process"));
    }
    let large = std::env::var_os("PUSHPLANE_BENCH_LARGE").is_some_and(|value| value == "1");
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let best = Best::default();
    // Without --bench (as `cargo test --benches` calls this) each function runs once: the smallest tables.
    let measuring = std::env::args().any(|arg| arg == "--bench");
    let sizes: &[u64] = if measuring { &[10_000, 1_000_000, 10_000_000] } else { &[10_000] };
    for users in sizes.iter().filter(|users| **users < 10_000_000 || large) {
        bench(&mut criterion, *users, &best);
    }
    criterion.final_summary();
    println!("\nbest ns a datagram; one datagram at a time and the HashMap in multiples of it");
    for ((users, form), row) in best.borrow().iter() {
        for name in ["decide", "process"] {
            let Some(own) = row.get(name).filter(|own| **own < f64::MAX) else { continue };
            let beside = |suffix: &str| row.get(&*format!("{name}-{suffix}")).map_or(f64::NAN, |ns| ns / own);
            let (one, map) = (beside("one-at-a-time"), beside("hashmap"));
            println!(
                "{users:>9} users  {form:<5}  {name:<7}  {own:6.1} ns  one at a time {one:4.2}  HashMap {map:4.2}"
            );
            let live = ["beside-live", "registered", "both"].map(|suffix| beside(suffix) * own);
            if live.iter().all(|ns| ns.is_finite()) {
                let [beside, registered, both] = live;
                println!(
                    "    ns: users.csv beside somebody who registered {beside:.1}, registered {registered:.1}, in both {both:.1}"
                );
            }
        }
    }
}
