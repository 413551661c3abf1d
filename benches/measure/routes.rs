//! Longest match: segments of private networks and prefixes of Push servers, by the tens of thousands and millions.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;

use pushplane::id::{Endpoint, PushId, PushPrefix};
use pushplane::table::rib::{Gateway, Segment, Server, Tunnel};
use pushplane::table::{Image, Rib, Tables};

use super::contest::{Contestant, Entrant, Job, Questions, Run};
use super::dpdk::Dpdk;
use super::operator::mix;

/// What is routed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Space {
    /// Private IPv4 networks of one realm.
    V4,
    /// Private IPv6 networks of one realm.
    V6,
    /// Push IDs, by the servers at home in them.
    PushId,
}

/// Gateways that segments lie behind.
const GATEWAYS: u32 = 1000;

impl Space {
    /// What it is, for people.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::V4 => "private IPv4 networks",
            Self::V6 => "private IPv6 networks",
            Self::PushId => "Push servers",
        }
    }

    /// Lengths and how many of a thousand prefixes have them: the shape of the internet's tables, of those of an
    /// operator that numbers its regions, and of a federation.
    const fn lengths(self) -> &'static [(u32, u8)] {
        match self {
            Self::V4 => &[
                (2, 12),
                (20, 16),
                (15, 17),
                (25, 18),
                (35, 19),
                (45, 20),
                (50, 21),
                (105, 22),
                (95, 23),
                (578, 24),
                (10, 28),
                (20, 32),
            ],
            Self::V6 => &[(20, 29), (130, 32), (60, 36), (60, 40), (90, 44), (470, 48), (150, 56), (20, 64)],
            Self::PushId => &[(50, 16), (450, 20), (450, 24), (50, 32)],
        }
    }

    /// Bits that all prefixes begin with, and how many they are.
    const fn root(self) -> (u128, u32) {
        match self {
            Self::V4 | Self::PushId => (0, 0),
            Self::V6 => (0xFD << 120, 8),
        }
    }
}

/// One prefix, its bits left-aligned, and what it leads to, counted from 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Route {
    pub(crate) bits: u128,
    pub(crate) len: u8,
    pub(crate) value: u32,
}

/// Distinct prefixes.
pub(crate) struct Routes {
    pub(crate) space: Space,
    pub(crate) all: Vec<Route>,
    tables: std::cell::OnceCell<Rc<Tables>>,
}

fn mask(len: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)
}

fn wide(n: u64) -> u128 {
    u128::from(mix(n)) << 64 | u128::from(mix(!n))
}

impl Routes {
    pub(crate) fn new(space: Space, count: usize) -> Self {
        let (root, root_bits) = space.root();
        let mut seen = std::collections::HashSet::with_capacity(count);
        let mut all = Vec::with_capacity(count);
        let mut n = 0u64;
        while all.len() < count {
            n += 1;
            let mut share = mix(n ^ 1 << 60) % 1000;
            let part = |(part, _): &&(u32, u8)| {
                let is_it = share < u64::from(*part);
                share = share.wrapping_sub(u64::from(*part));
                is_it
            };
            let len = space.lengths().iter().find(part).map_or(24, |(_, len)| *len);
            let bits = (root | wide(n) >> root_bits) & mask(len);
            if seen.insert((bits, len)) {
                let values = if space == Space::PushId { count as u64 } else { u64::from(GATEWAYS) };
                let value = if space == Space::PushId { all.len() as u64 } else { mix(n ^ 1 << 61) % values };
                all.push(Route { bits, len, value: value as u32 + 1 });
            }
        }
        Self { space, all, tables: std::cell::OnceCell::new() }
    }

    fn tables(&self) -> Rc<Tables> {
        let make = || {
            let image = Image::build(&self.rib()).unwrap();
            Rc::new(Tables::new(image, 1, "none", None))
        };
        Rc::clone(self.tables.get_or_init(make))
    }

    fn rib(&self) -> Rib {
        let mut rib = Rib::default();
        if self.space == Space::PushId {
            rib.servers = (0u32..).zip(&self.all).map(|(n, route)| self.server(n, route)).collect();
            return rib;
        }
        rib.gateways = (0..GATEWAYS).map(gateway).collect();
        let segment = |route: &Route| {
            let bytes = route.bits.to_be_bytes();
            let ip = match self.space {
                Space::V4 => IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3])),
                _ => IpAddr::V6(Ipv6Addr::from(bytes)),
            };
            Segment { realm: 0, ip, len: route.len, gateway: route.value - 1 }
        };
        rib.segments = self.all.iter().map(segment).collect();
        rib
    }

    fn server(&self, n: u32, route: &Route) -> Server {
        let [a, b, c, d] = n.to_be_bytes();
        Server {
            name: format!("server-{n}"),
            prefixes: PushPrefix::new((route.bits >> 64) as u64, route.len).into_iter().collect(),
            address: Endpoint::new([10 + a, b, c, d].into(), 17400),
            key: None,
        }
    }
}

fn gateway(n: u32) -> Gateway {
    let [.., c, d] = n.to_be_bytes();
    Gateway {
        name: format!("ggsn-{n}"),
        address: Endpoint::new([198, 18, c, d].into(), 17400),
        tunnel: Tunnel::Plain,
        source_v4: None,
        source_v6: None,
    }
}

/// Addresses that have a route.
pub(crate) struct Addresses {
    pub(crate) all: Vec<u128>,
    /// What the plain version finds for them, added up.
    sum: u64,
}

impl Addresses {
    /// So many, other ones each round: under a prefix by chance.
    pub(crate) fn draw(routes: &Routes, plain: &Lengths, count: usize, round: usize) -> Self {
        let draw = |k: u64| {
            let k = (round as u64) << 40 | k;
            let route = routes.all[mix(k) as usize % routes.all.len()];
            route.bits | wide(!k) & !mask(route.len)
        };
        let all: Vec<u128> = (0..count as u64).map(draw).collect();
        let sum = all.iter().map(|address| u64::from(plain.find(*address))).sum();
        Self { all, sum }
    }
}

impl Questions for Addresses {
    fn len(&self) -> usize {
        self.all.len()
    }

    fn expected(&self, _: Job) -> Option<u64> {
        Some(self.sum)
    }
}

/// The plain version: a hash map for each length, the longest first.
pub(crate) struct Lengths(Vec<(u8, HashMap<u128, u32, ahash::RandomState>)>);

impl Lengths {
    pub(crate) fn new(routes: &Routes) -> Self {
        let mut maps: Vec<(u8, HashMap<u128, u32, ahash::RandomState>)> = Vec::new();
        for route in &routes.all {
            let at = maps.iter().position(|(len, _)| *len == route.len).unwrap_or_else(|| {
                maps.push((route.len, HashMap::default()));
                maps.len() - 1
            });
            maps[at].1.insert(route.bits, route.value);
        }
        maps.sort_by_key(|(len, _)| std::cmp::Reverse(*len));
        Self(maps)
    }

    fn find(&self, address: u128) -> u32 {
        self.0.iter().find_map(|(len, map)| map.get(&(address & mask(*len)))).copied().unwrap_or(0)
    }
}

impl Contestant<Addresses> for Lengths {
    fn run(&mut self, questions: &Addresses) -> Run {
        Run::of(|| questions.all.iter().map(|address| u64::from(self.find(*address))).sum())
    }
}

impl Routes {
    /// So many lookups in our tables.
    pub(crate) fn lookups(&self, count: usize) -> impl FnOnce() -> u64 + use<> {
        let addresses = Addresses::draw(self, &Lengths::new(self), count, 0);
        let mut own = Own::new(self, false);
        own.prepare(&addresses);
        move || own.find()
    }
}

/// Ours.
struct Own {
    tables: Rc<Tables>,
    space: Space,
    routes: usize,
    /// Asked in bursts, not one after another.
    bursts: bool,
    ids: Vec<PushId>,
    terminals: Vec<(u32, Endpoint)>,
    found: Vec<Option<u32>>,
}

impl Own {
    fn new(routes: &Routes, bursts: bool) -> Self {
        Self {
            tables: routes.tables(),
            space: routes.space,
            routes: routes.all.len(),
            bursts,
            ids: Vec::new(),
            terminals: Vec::new(),
            found: Vec::new(),
        }
    }

    /// Addresses in the form that they are looked up in.
    fn prepare(&mut self, questions: &Addresses) {
        let v4 = self.space == Space::V4;
        let terminal = |address: &u128| {
            let ip =
                if v4 { IpAddr::V4(((address >> 96) as u32).into()) } else { IpAddr::V6((*address).into()) };
            (0, Endpoint::new(ip, 0))
        };
        self.ids.clear();
        self.terminals.clear();
        if self.space == Space::PushId {
            self.ids.extend(questions.all.iter().copied().map(PushId));
        } else {
            self.terminals.extend(questions.all.iter().map(terminal));
        }
        self.found.resize(questions.all.len(), None);
    }

    fn find(&mut self) -> u64 {
        let value = |found: Option<u32>| found.map_or(0, |found| u64::from(found) + 1);
        let segments = self.tables.segments();
        match (self.space == Space::PushId, self.bursts) {
            (true, true) => self.tables.routes(&self.ids, &mut self.found),
            (false, true) => segments.gateways(&self.terminals, &mut self.found),
            (true, false) => {
                let prefixes = self.tables.prefixes();
                return self.ids.iter().map(|id| value(prefixes.lookup(id.high()))).sum();
            }
            (false, false) => {
                let found = |(realm, private): &(u32, Endpoint)| segments.gateway(*realm, *private);
                return self.terminals.iter().map(|terminal| value(found(terminal))).sum();
            }
        }
        self.found.iter().map(|found| value(*found)).sum()
    }
}

impl Contestant<Addresses> for Own {
    fn run(&mut self, questions: &Addresses) -> Run {
        self.prepare(questions);
        Run::of(|| self.find())
    }

    fn bytes(&self) -> Option<f64> {
        Some(self.tables.arrays().routes_size() as f64 / self.routes as f64)
    }
}

/// DPDK's tables of IPv4 prefixes.
struct Routed {
    dpdk: Dpdk,
    /// How it is asked.
    form: Form,
    bytes: Option<f64>,
}

#[derive(Clone, Copy)]
enum Form {
    Lpm,
    Fib { entry_bytes: u8, vector: bool },
}

impl Routed {
    fn new(routes: &Routes, form: Form) -> Result<Self, String> {
        let mut dpdk = Dpdk::start()?;
        let record = |route: &Route| {
            let mut record = [0; 16];
            record[..4].copy_from_slice(&((route.bits >> 96) as u32).to_ne_bytes());
            record[4..8].copy_from_slice(&u32::from(route.len).to_ne_bytes());
            record[8..12].copy_from_slice(&route.value.to_ne_bytes());
            record
        };
        let file = dpdk.file("routes", routes.all.iter().map(record));
        let bytes = match form {
            Form::Lpm => dpdk.ask(&format!("lpm {}", file.display())),
            Form::Fib { entry_bytes, vector } => {
                dpdk.ask(&format!("fib {} {entry_bytes} {}", file.display(), u8::from(vector)))
            }
        }?;
        Ok(Self { dpdk, form, bytes: bytes.parse().ok() })
    }
}

impl Contestant<Addresses> for Routed {
    fn run(&mut self, questions: &Addresses) -> Run {
        let words = questions.all.iter().map(|address| ((address >> 96) as u32).to_ne_bytes());
        let file = self.dpdk.file("addresses", words);
        let question = match self.form {
            Form::Lpm => format!("lpm_run {}", file.display()),
            Form::Fib { .. } => format!("fib_run {}", file.display()),
        };
        self.dpdk.run(&question).0
    }

    fn bytes(&self) -> Option<f64> {
        self.bytes
    }
}

/// Ours, the plain version, and DPDK's where it has one.
pub(crate) fn entrants(space: Space) -> Vec<super::RouteEntrant> {
    let mut entrants: Vec<super::RouteEntrant> = vec![
        Entrant::new("pushplane", Job::Value, |routes: &Routes| Ok(Own::new(routes, false))),
        Entrant::new("pushplane, in bursts", Job::Value, |routes: &Routes| Ok(Own::new(routes, true))),
        Entrant::new("a HashMap a length", Job::Value, |routes: &Routes| Ok(Lengths::new(routes))),
    ];
    let fib = |entry_bytes, vector| Form::Fib { entry_bytes, vector };
    if space == Space::V4 {
        for (name, form) in [
            ("DPDK rte_fib, 4 bytes, scalar", fib(4, false)),
            ("DPDK rte_fib, 4 bytes, AVX-512", fib(4, true)),
            ("DPDK rte_fib, 2 bytes, scalar", fib(2, false)),
            ("DPDK rte_fib, 2 bytes, AVX-512", fib(2, true)),
            ("DPDK rte_lpm, bulk", Form::Lpm),
        ] {
            entrants.push(Entrant::new(name, Job::Value, move |routes: &Routes| Routed::new(routes, form)));
        }
    }
    entrants
}
