//! Our own tables: the whole resolution in bursts, by the calls that the plane makes, and the limit of what memory
//! allows over the same lines.

use std::rc::Rc;
use std::sync::Arc;

use pushplane::clock::Now;
use pushplane::config::{Limits, Policy};
use pushplane::id::{Endpoint, PushId};
use pushplane::packet::BURST_MAX;
use pushplane::plane::{Known, Looks, Moment, Shared, Site, Visit};
use pushplane::table::memory::prefetch;
use pushplane::table::{Binding, Change, Image, LiveWriter, Tables};

use super::contest::{Beside, Contestant, Entrant, Job, Run};
use super::operator::{APP, at, id, mix, private, realm, rib_without_users, rows};
use super::users::{Population, Users};

const NOW: Now = Now { mono_ns: 1_000_000_000_000, unix_ms: 1_767_225_600_000 };
const GATEWAYS: [&str; 2] = ["10.255.0.1:4789", "10.255.0.3:17400"];
/// Users that have registered, where some have.
const REGISTERED_MAX: u64 = 1 << 20;
/// Addresses that push, and how many messages each sends at a time.
const SENDERS: usize = 16;
const TRAIN: usize = 8;

/// The tables of a synthetic operator as a server has them.
pub(crate) struct World {
    tables: Tables,
    site: Site,
    senders: [Endpoint; SENDERS],
    users: u64,
}

/// What a shard has of the tables.
type Served<'a> = (&'a Site, &'a Tables);

/// A site at which some users have registered.
struct Registered {
    site: Site,
    /// Those of the world, beside what is registered.
    tables: Tables,
    writer: LiveWriter,
    count: u64,
}

fn site(bindings: usize) -> Site {
    let limits = Limits { bindings, ..Limits::default() };
    Site {
        policy: Policy::default(),
        listen: vec![at("192.0.2.1:17400")],
        datagram_max: limits.datagram_max,
        shard: 0,
        shared: Arc::new(Shared::new(&limits, 1, 7)),
    }
}

/// What resolving a message to user number `n` adds to the sum.
pub(crate) fn right_answer(n: u64) -> u64 {
    answer(realm(n) % 2, private(n))
}

#[inline(always)]
pub(crate) fn answer(gateway: u32, private: Endpoint) -> u64 {
    let [.., d, c, b, a] = private.octets();
    u64::from(gateway) << 48 ^ u64::from(u32::from_be_bytes([d, c, b, a])) << 16 ^ u64::from(private.port())
}

fn bind(n: u64) -> Change {
    let binding = Binding { realm: realm(n), private: Some(private(n)), ..Binding::new(id(n), 0) };
    Change::Bind { binding, heard_ms: NOW.unix_ms }
}

/// The sum of what a push needs to know of its terminals: the reverse check was made before they are shown.
struct Answers<'a> {
    moment: &'a Moment<'a>,
    sum: u64,
}

impl Visit for Answers<'_> {
    #[inline(always)]
    fn visit(&mut self, known: &impl Known) {
        if known.is_live(NOW)
            && known.serving().is_none()
            && let Some(private) = known.private()
            && let Some(gateway) = self.moment.gateway(known)
        {
            self.sum = self.sum.wrapping_add(answer(gateway, private));
        }
    }
}

/// The sum of private addresses.
struct Addresses(u64);

impl Visit for Addresses {
    #[inline(always)]
    fn visit(&mut self, known: &impl Known) {
        self.0 = self.0.wrapping_add(known.private().map_or(0, |private| answer(0, private)));
    }
}

impl World {
    pub(crate) fn new(users: u64) -> Self {
        let rib = rib_without_users(users, at(GATEWAYS[0]), at(GATEWAYS[1]));
        let image = Image::build_with(&rib, rows(users).collect(), &|_| {}).unwrap();
        let senders = std::array::from_fn(|n| Endpoint::new([192, 0, 2, n as u8].into(), 5000));
        Self { tables: Tables::new(image, 1, "home", None), site: site(1), senders, users }
    }

    /// Bytes that the image takes for each user.
    pub(crate) fn bytes(&self) -> f64 {
        self.tables.image().bytes().len() as f64 / self.users as f64
    }

    /// What the plane does between a message and its gateway, for a whole burst: the sum of the answers.
    #[inline(never)]
    fn resolve(&self, (site, tables): Served<'_>, looks: &mut Looks, ids: &[PushId]) -> u64 {
        let moment = Moment::new(site, tables, NOW);
        for (at, id) in ids.iter().enumerate() {
            moment.look_for(looks, at, *id);
        }
        moment.look(looks, ids.len());
        let mut allowed = [false; BURST_MAX / TRAIN];
        for (train, allowed) in allowed[..ids.len().div_ceil(TRAIN)].iter_mut().enumerate() {
            let app = tables.app(APP);
            *allowed = app.is_some_and(|app| app.in_sources(self.senders[train % SENDERS]));
        }
        moment.look_closer(looks, ids.len());
        let mut answers = Answers { moment: &moment, sum: 0 };
        for (at, id) in ids.iter().enumerate() {
            if allowed[at / TRAIN] && moment.is_home(*id) {
                moment.each(looks, at, &mut answers);
            }
        }
        answers.sum
    }

    /// Resolves all of these while nothing is registered.
    pub(crate) fn all(&self, ids: &[PushId]) -> u64 {
        in_bursts(ids, |looks, ids| self.resolve((&self.site, &self.tables), looks, ids))
    }
}

fn in_bursts(ids: &[PushId], mut each: impl FnMut(&mut Looks, &[PushId]) -> u64) -> u64 {
    let mut looks = Looks::new();
    ids.chunks(BURST_MAX).fold(0u64, |sum, ids| sum.wrapping_add(each(&mut looks, ids)))
}

/// The whole resolution while nothing is registered.
pub(crate) struct Static(Rc<World>);

impl Static {
    pub(crate) fn new(population: &Population) -> Result<Self, String> {
        Ok(Self(population.world()))
    }
}

impl Contestant<Users> for Static {
    fn run(&mut self, questions: &Users) -> Run {
        Run::of(|| self.0.all(&questions.ids))
    }

    fn bytes(&self) -> Option<f64> {
        Some(self.0.bytes())
    }
}

/// The whole resolution while some users have registered, and go on to do so.
pub(crate) struct Live {
    world: Rc<World>,
    registered: Registered,
}

impl Live {
    pub(crate) fn new(population: &Population) -> Result<Self, String> {
        Self::with(population, population.users.min(REGISTERED_MAX))
    }

    /// So many have registered.
    pub(crate) fn with(population: &Population, count: u64) -> Result<Self, String> {
        let site = site(count as usize);
        let mut writer = site.shared.live_writer().expect("nobody else asked");
        for n in 0..count {
            writer.apply(&bind(n)).map_err(|full| full.to_string())?;
        }
        let world = population.world();
        let tables = Tables::new(Arc::clone(world.tables.image()), 1, "home", None);
        let tables = tables.beside(site.shared.live());
        Ok(Self { world, registered: Registered { site, tables, writer, count } })
    }

    /// Resolves all of these.
    pub(crate) fn all(&self, ids: &[PushId]) -> u64 {
        let Registered { site, tables, .. } = &self.registered;
        in_bursts(ids, |looks, ids| self.world.resolve((site, tables), looks, ids))
    }
}

impl Contestant<Users> for Live {
    fn run(&mut self, questions: &Users) -> Run {
        Run::of(|| self.all(&questions.ids))
    }

    fn bytes(&self) -> Option<f64> {
        // Of the users' tables: what is registered comes on top.
        let overlay = self.registered.tables.bytes() - self.world.tables.bytes();
        Some(self.world.bytes() + overlay as f64 / self.world.users as f64)
    }

    fn beside_writer(&mut self, questions: &Users) -> Option<Beside> {
        let Self { world, registered: Registered { site, tables, writer, count } } = self;
        let mut k = 0u64;
        let write = || {
            k += 1;
            let n = (u128::from(mix(k)) * u128::from(*count)) >> 64;
            assert!(writer.apply(&bind(n as u64)).is_ok());
        };
        Some(Beside::of(write, || {
            Run::of(|| in_bursts(&questions.ids, |looks, ids| world.resolve((site, tables), looks, ids)))
        }))
    }
}

/// One table alone, in bursts as in the whole.
pub(crate) struct Alone {
    world: Rc<World>,
    part: Part,
}

/// The tables that a resolution asks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Binding,
    Prefix,
    Allowlist,
}

impl Alone {
    pub(crate) fn new(population: &Population, part: Part) -> Result<Self, String> {
        Ok(Self { world: population.world(), part })
    }
}

impl World {
    /// Looks all of these up in one table.
    pub(crate) fn part(&self, part: Part, ids: &[PushId]) -> u64 {
        match part {
            Part::Binding => in_bursts(ids, |looks, ids| self.bindings(looks, ids)),
            Part::Prefix => in_bursts(ids, |_, ids| self.prefixes(ids)),
            Part::Allowlist => in_bursts(ids, |_, ids| self.allowlist(ids)),
        }
    }

    fn bindings(&self, looks: &mut Looks, ids: &[PushId]) -> u64 {
        let moment = Moment::new(&self.site, &self.tables, NOW);
        for (at, id) in ids.iter().enumerate() {
            moment.look_for(looks, at, *id);
        }
        moment.look(looks, ids.len());
        moment.look_closer(looks, ids.len());
        let mut found = Addresses(0);
        for at in 0..ids.len() {
            moment.each(looks, at, &mut found);
        }
        found.0
    }

    fn prefixes(&self, ids: &[PushId]) -> u64 {
        let (prefixes, own) = (self.tables.prefixes(), self.tables.own());
        ids.iter().map(|id| u64::from(prefixes.lookup(id.high()) == own)).sum()
    }

    fn allowlist(&self, ids: &[PushId]) -> u64 {
        let allowed = |(place, _): (usize, &PushId)| {
            let app = self.tables.app(APP);
            u64::from(app.is_some_and(|app| app.in_sources(self.senders[place % SENDERS])))
        };
        ids.iter().enumerate().map(allowed).sum()
    }
}

impl Contestant<Users> for Alone {
    fn run(&mut self, questions: &Users) -> Run {
        Run::of(|| self.world.part(self.part, &questions.ids))
    }
}

/// The limit: random lines of the very same array, prefetched as deep as pays.
pub(crate) struct Limit {
    world: Rc<World>,
    depth: usize,
    places: Vec<u32>,
}

impl Limit {
    pub(crate) fn new(population: &Population, depth: usize) -> Result<Self, String> {
        Ok(Self { world: population.world(), depth, places: Vec::new() })
    }
}

impl Contestant<Users> for Limit {
    fn run(&mut self, questions: &Users) -> Run {
        let lines = self.world.tables.arrays().lines();
        let place = |id: &PushId| ((u128::from(mix(id.0 as u64)) * lines.len() as u128) >> 64) as u32;
        self.places.clear();
        self.places.extend(questions.ids.iter().map(place));
        let ahead = self.places.iter().skip(self.depth).chain(std::iter::repeat(&0));
        Run::of(|| {
            let mut sum = 0u64;
            for (place, ahead) in self.places.iter().zip(ahead) {
                prefetch(lines, *ahead as usize);
                sum = sum.wrapping_add(u64::from(lines[*place as usize].bearers()));
            }
            sum
        })
    }
}

/// Who comes from this house.
pub(crate) fn entrants() -> Vec<super::UserEntrant> {
    vec![
        Entrant::new("any line, 64 ahead", Job::Line, |population| Limit::new(population, 64)),
        Entrant::new("any line, 128 ahead", Job::Line, |population| Limit::new(population, 128)),
        Entrant::new("pushplane", Job::Resolution, Static::new),
        Entrant::new("pushplane, a million registered", Job::Resolution, Live::new),
        Entrant::new("bindings alone", Job::Binding, |population| Alone::new(population, Part::Binding)),
        Entrant::new("prefixes alone", Job::Yes, |population| Alone::new(population, Part::Prefix)),
        Entrant::new("allowlist alone, no trains", Job::Yes, |population| {
            Alone::new(population, Part::Allowlist)
        }),
    ]
}
