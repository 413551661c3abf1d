//! What one would write first: hash maps, and loops over what is small. Finds a value, or resolves all.

use std::collections::HashMap;
use std::hash::BuildHasher;

use pushplane::id::{Endpoint, PushId};

use super::contest::{Contestant, Entrant, Job, Run};
use super::operator::{APP, at, id, private, realm, rib};
use super::own::answer;
use super::users::{Population, Users, Value};

/// The standard library's map, which is hashbrown.
struct Map<S>(HashMap<PushId, Value, S>);

impl<S: BuildHasher + Default> Map<S> {
    fn new(population: &Population) -> Self {
        let mut map = HashMap::with_capacity_and_hasher(population.users as usize, S::default());
        map.extend((0..population.users).map(|n| (id(n), Value::of(n))));
        Self(map)
    }
}

impl<S: BuildHasher> Contestant<Users> for Map<S> {
    fn run(&mut self, questions: &Users) -> Run {
        let value = |sum: u64, id| sum.wrapping_add(self.0.get(id).map_or(0, Value::word));
        Run::of(|| questions.ids.iter().fold(0, value))
    }

    fn bytes(&self) -> Option<f64> {
        // A byte of control beside each place, an eighth of the places kept free.
        let places = (self.0.capacity() * 8 / 7) as f64;
        Some(places * (size_of::<(PushId, Value)>() + 1) as f64 / self.0.len() as f64)
    }
}

/// The whole resolution by maps: the same answers, one question at a time.
struct Plain {
    apps: HashMap<u32, Vec<(u32, u32)>>,
    /// Bits, length, whether it is this server's.
    prefixes: Vec<(u128, u32, bool)>,
    users: HashMap<PushId, (u32, Endpoint)>,
    owners: HashMap<(u32, [u8; 16]), PushId>,
    /// Realm, bits, length, gateway.
    segments: Vec<(u32, u32, u32, u32)>,
}

fn bits(endpoint: Endpoint) -> u32 {
    endpoint.ipv4().map_or(0, u32::from_be_bytes)
}

impl Plain {
    fn new(population: &Population) -> Self {
        let rib = rib(0, at("10.255.0.1:4789"), at("10.255.0.3:17400"));
        let bits_of = |ip| bits(Endpoint::new(ip, 0));
        let sources = |app: &pushplane::table::rib::App| {
            let sources = app.sources.iter().flatten();
            (app.id, sources.map(|(ip, len)| (bits_of(*ip), u32::from(*len))).collect())
        };
        let users = 0..population.users;
        Self {
            apps: rib.apps.iter().map(sources).collect(),
            prefixes: (0..).zip(&rib.servers).map(|(n, s)| (n << 124, 4, s.name == "home")).collect(),
            users: users.clone().map(|n| (id(n), (realm(n), private(n)))).collect(),
            owners: users.map(|n| ((realm(n), private(n).octets()), id(n))).collect(),
            segments: super::operator::segments(population.users)
                .map(|row| (row.realm, bits_of(row.ip), u32::from(row.len), row.gateway))
                .collect(),
        }
    }

    fn resolve(&self, id: PushId, from: Endpoint) -> Option<u64> {
        let from = bits(from);
        let allowed = self.apps.get(&APP)?.iter().any(|(bits, len)| (from ^ bits) >> (32 - len) == 0);
        let matching = |(bits, len, _): &&(u128, u32, bool)| (id.0 ^ bits) >> (128 - len) == 0;
        let (_, _, own) = self.prefixes.iter().filter(matching).max_by_key(|(_, len, _)| len)?;
        if !allowed || !own {
            return None;
        }
        let (realm, private) = *self.users.get(&id)?;
        if self.owners.get(&(realm, private.octets()))? != &id {
            return None;
        }
        let ip = bits(private);
        let matching =
            |(of, bits, len, _): &&(u32, u32, u32, u32)| *of == realm && (ip ^ bits) >> (32 - len) == 0;
        let (.., gateway) = self.segments.iter().filter(matching).max_by_key(|(_, _, len, _)| len)?;
        Some(answer(*gateway, private))
    }
}

impl Contestant<Users> for Plain {
    fn run(&mut self, questions: &Users) -> Run {
        let from = Endpoint::new([192, 0, 2, 50].into(), 5000);
        let answer = |sum: u64, id: &PushId| sum.wrapping_add(self.resolve(*id, from).unwrap_or(0));
        Run::of(|| questions.ids.iter().fold(0, answer))
    }
}

/// The plain versions.
pub(crate) fn entrants() -> Vec<super::UserEntrant> {
    vec![
        Entrant::new("HashMaps, one at a time", Job::Resolution, |population| Ok(Plain::new(population)))
            .heavy(),
        Entrant::new("hashbrown, ahash", Job::Value, |population| {
            Ok(Map::<ahash::RandomState>::new(population))
        })
        .heavy(),
    ]
}
