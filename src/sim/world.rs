//! The world: servers, cast and links on virtual time, one event after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use xxhash_rust::xxh3::Xxh3;

use super::agenda::Agenda;
use super::cast::Record;
use super::dataplane::{Dataplane, compile};
use super::link::{Arrival, Flying, LinkCounters, Links};
use super::naive::{Letter, kind};
use super::operator::{OPEN_REALM, Operator, START_UNIX_S};
use super::options::{Faults, LinkClass, Options};
use super::oracle::Model;
use super::port::{Offered, PortLimits, SimPort};
use crate::clock::Now;
use crate::config::Limits;
use crate::id::Endpoint;
use crate::metrics::Counters;
use crate::table::Tables;
use crate::table::rib::Tunnel;

/// How long a server takes from a datagram's arrival to its burst, at most.
const WORK_NS: u64 = 200_000;

/// One Push server: the engine's own shards, and the oracle's model of it.
pub(super) struct Server {
    pub(super) dataplane: Dataplane,
    pub(super) model: Model,
    /// REJECTs by the address that they went to, and when.
    pub(super) rejects: BTreeMap<Endpoint, Vec<u64>>,
}

/// What happens next.
#[derive(Debug)]
pub(super) enum Event {
    Arrive(Flying),
    Work { site: usize, shard: usize },
    Send { from: Endpoint, to: Endpoint, bytes: Vec<u8> },
    Script(super::run::Step),
}

/// Who has an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Host {
    /// A server's listening address: site and place.
    Server(usize, u8),
    /// The gateways of a site.
    Gateway(usize),
    /// A terminal.
    Handset(usize),
    /// An application server.
    Pusher(usize),
}

/// A federation from a seed. Every check that fails panics with the seed and the options.
pub struct World {
    seed: u64,
    /// What the world was drawn with.
    pub options: Options,
    /// Who is there; change rows here, then [`World::publish`].
    pub operator: Operator,
    pub(super) rng: Pcg64Mcg,
    pub(super) now: Now,
    pub(super) servers: Vec<Server>,
    pub(super) links: Links,
    agenda: Agenda<Event>,
    pub(super) records: BTreeMap<u64, Record>,
    /// Messages of which a changed datagram may have passed a server: no claim is made of them.
    pub(super) loose: BTreeSet<u64>,
    /// Message identifiers that a link made.
    pub(super) garbled: BTreeSet<u64>,
    /// When an address of a site's realm changed hands last.
    pub(super) moved: BTreeMap<(usize, u32, Endpoint), u64>,
    digest: Xxh3,
    watched: Option<Vec<Flying>>,
    /// Deliveries that an address's move overtook.
    pub overtaken: usize,
    /// REJECTs that a server's limit held back.
    pub(super) suppressed: u64,
}

impl World {
    /// A world at rest.
    ///
    /// # Panics
    /// When the tables of a server cannot be compiled.
    pub fn new(seed: u64, options: Options, operator: Operator) -> Self {
        let mut world = Self {
            seed,
            rng: Pcg64Mcg::seed_from_u64(seed ^ 0x0077_6F72_6C64),
            now: Now { mono_ns: 1_000_000_000, unix_ms: START_UNIX_S * 1000 },
            servers: Vec::new(),
            links: Links { faults: options.links, counters: LinkCounters::default() },
            agenda: Agenda::default(),
            records: BTreeMap::new(),
            loose: BTreeSet::new(),
            garbled: BTreeSet::new(),
            moved: BTreeMap::new(),
            digest: Xxh3::new(),
            watched: None,
            overtaken: 0,
            suppressed: 0,
            options,
            operator,
        };
        world.servers = (0..world.operator.sites.len()).map(|site| world.server(site)).collect();
        world
    }

    fn tables(&self, site: usize, generation: u64, before: Option<&Tables>) -> Tables {
        compile(&self.operator.sites[site], generation, before).unwrap_or_else(|error| self.fail(&error))
    }

    fn server(&self, at: usize) -> Server {
        let (site, options) = (&self.operator.sites[at], &self.options);
        let limits = Limits {
            datagram_max: options.datagram_max,
            frames: options.frames,
            receipts: 1 << 12,
            replays: 1 << 14,
            reject_sources: 1 << 10,
            ..Limits::default()
        };
        let port = PortLimits {
            burst_max: options.burst_max,
            room: options.room,
            mtu: options.local_mtu,
            inbox: options.inbox,
            lag: options.lag,
        };
        let tables = self.tables(at, 1, None);
        Server {
            dataplane: Dataplane::new(site, tables, &limits, options.shards, port, self.seed),
            model: Model::new(options.shards, options.datagram_max),
            rejects: BTreeMap::new(),
        }
    }

    /// Panics with the seed, the options and what went wrong.
    ///
    /// # Panics
    /// Always.
    #[track_caller]
    pub fn fail(&self, what: &str) -> ! {
        panic!(
            "{what}\n  at {} µs of seed {} (run it alone: PUSHPLANE_SEED={} PUSHPLANE_SEEDS=1)\n  {:?}",
            self.now.mono_ns / 1000,
            self.seed,
            self.seed,
            self.options
        )
    }

    /// The instant.
    pub const fn now(&self) -> Now {
        self.now
    }

    /// What the links did so far.
    pub const fn link_counters(&self) -> LinkCounters {
        self.links.counters
    }

    /// What a server counted so far.
    pub fn counters(&self, site: usize) -> Counters {
        self.servers[site].dataplane.counters()
    }

    /// What became of a message, as the cast saw it.
    ///
    /// # Panics
    /// When no such message was sent.
    pub fn record(&self, message: u64) -> &Record {
        self.records.get(&message).unwrap_or_else(|| self.fail("no such message"))
    }

    /// A server's port.
    pub fn port_mut(&mut self, site: usize, shard: usize) -> &mut SimPort {
        self.servers[site].dataplane.shards[shard].port_mut()
    }

    /// What was sent since this was asked last; from the first call on.
    pub fn watch(&mut self) -> Vec<Flying> {
        self.watched.replace(Vec::new()).unwrap_or_default()
    }

    /// Changes what a class of links does from now on.
    pub fn set_faults(&mut self, class: LinkClass, faults: Faults) {
        self.links.faults[class as usize] = faults;
    }

    /// A number for all that happened: the same for the same seed.
    pub fn digest(&self) -> u64 {
        self.digest.digest()
    }

    pub(super) fn note(&mut self, what: &[&[u8]]) {
        self.digest.update(&self.now.mono_ns.to_le_bytes());
        what.iter().for_each(|part| self.digest.update(part));
    }

    /// Something happens so many nanoseconds from now.
    pub(super) fn after(&mut self, delay_ns: u64, event: Event) {
        self.agenda.at(self.now.mono_ns + delay_ns, event);
    }

    /// Makes every link clean from now on and gives every port room.
    pub fn heal(&mut self) {
        self.links.faults = [Faults::CLEAN; 3];
        self.options.local_mtu = 65_507;
        for server in &mut self.servers {
            for shard in &mut server.dataplane.shards {
                let limits = shard.port_mut().limits_mut();
                (limits.room, limits.mtu, limits.inbox) = (usize::MAX, 65_507, 4096);
            }
        }
    }

    /// Publishes a server's tables as they now stand in [`World::operator`]. The old generation must be free
    /// at once: no shard works in between.
    pub fn publish(&mut self, site: usize) {
        let current = self.servers[site].dataplane.publisher.current();
        let tables = self.tables(site, current.generation() + 1, Some(current));
        let dataplane = &mut self.servers[site].dataplane;
        dataplane.publish(tables);
        if dataplane.publisher.reclaim() != 0 {
            self.fail("a generation is kept though no shard is inside");
        }
        self.note(&[b"publish", &site.to_le_bytes()]);
    }

    /// Says that addresses of a site changed hands now: what was sent to them before may still come.
    pub fn changed_hands(&mut self, site: usize, addresses: &[(u32, Endpoint)]) {
        for (realm, private) in addresses {
            self.moved.insert((site, *realm, *private), self.now.mono_ns);
        }
    }

    /// Runs until nothing is left to happen.
    pub fn run(&mut self) {
        self.run_until(u64::MAX);
    }

    /// Runs what happens before this time on the monotonic clock, and lets it become this time.
    pub fn run_until(&mut self, until_ns: u64) {
        while let Some((at_ns, event)) = self.agenda.pop_before(until_ns) {
            self.advance(at_ns);
            match event {
                Event::Arrive(datagram) => self.arrive(datagram),
                Event::Work { site, shard } => self.work(site, shard),
                Event::Send { from, to, bytes } => self.send(from, to, bytes),
                Event::Script(step) => self.step(step),
            }
            if self.links.counters.missing() != 0 {
                self.fail("a datagram between two addresses is in no counter");
            }
        }
        if until_ns < u64::MAX {
            self.advance(until_ns);
        }
    }

    fn advance(&mut self, at_ns: u64) {
        let ns = at_ns - self.now.mono_ns;
        // Whole milliseconds of the wall clock are those of the monotonic one here.
        self.now = Now { mono_ns: at_ns, unix_ms: START_UNIX_S * 1000 + (at_ns - 1_000_000_000) / 1_000_000 };
        debug_assert!(ns < u64::MAX / 2, "time goes forward");
    }

    /// Who has this address.
    pub fn host(&self, to: Endpoint) -> Option<Host> {
        for (at, site) in self.operator.sites.iter().enumerate() {
            if let Some(listener) = site.listen.iter().position(|own| *own == to) {
                return Some(Host::Server(at, listener as u8));
            }
            if site.rib.gateways.iter().any(|gateway| gateway.address == to && gateway.tunnel != Tunnel::None)
            {
                return Some(Host::Gateway(at));
            }
        }
        if let Some(at) = self.operator.pushers.iter().position(|own| *own == to) {
            return Some(Host::Pusher(at));
        }
        let has = |handset: &super::operator::Handset| {
            let open = handset.realm == OPEN_REALM && handset.private == Some(to);
            open || handset.nat == Some(to) || handset.uplink == Some(to)
        };
        self.operator.handsets.iter().position(has).map(Host::Handset)
    }

    /// Sends a datagram over a link.
    pub(super) fn send(&mut self, from: Endpoint, to: Endpoint, bytes: Vec<u8>) {
        self.note(&[b"send", &from.octets(), &to.octets(), &to.port().to_le_bytes(), &bytes]);
        let is_server = |host| matches!(host, Some(Host::Server(..)));
        let class = match (self.host(from), self.host(to)) {
            (one, two) if is_server(one) && is_server(two) => LinkClass::Federation,
            (Some(Host::Pusher(_)), _) | (_, Some(Host::Pusher(_))) => LinkClass::Client,
            _ => LinkClass::Access,
        };
        let datagram = Flying { from, to, bytes, sent_ns: self.now.mono_ns, is_corrupt: false };
        let (twice, original) = (self.links.counters.twice, datagram.clone());
        if let Some(watched) = &mut self.watched {
            watched.push(datagram.clone());
        }
        let arrivals = self.links.carry(&mut self.rng, class, datagram);
        if self.links.counters.twice > twice {
            self.count_copy(&original.bytes);
        }
        for Arrival { at_ns, datagram } in arrivals {
            if datagram.is_corrupt {
                self.judge_corruption(&original, &datagram);
            }
            self.agenda.at(at_ns, Event::Arrive(datagram));
        }
    }

    /// Whether a message is an answer: which of a record's counters it is.
    pub(super) fn side(kind: u8) -> usize {
        usize::from(super::naive::is_answer(kind))
    }

    fn count_copy(&mut self, bytes: &[u8]) {
        if let Some(head) = Letter::head(bytes)
            && let Some(record) = self.records.get_mut(&head.message)
        {
            record.copies[Self::side(head.kind)] += 1;
        }
    }

    /// Whether what a link made of a datagram could pass for a message: then nothing is claimed of
    /// it. Where the server wants a signature, it must not pass, and all is claimed as before.
    fn judge_corruption(&mut self, original: &Flying, changed: &Flying) {
        let Some(Host::Server(site, _)) = self.host(original.to) else { return };
        let site = &self.operator.sites[site];
        let peer = site.rib.servers.iter().find(|server| server.address == original.from);
        let head = Letter::head(&original.bytes);
        let app = head.as_ref().filter(|head| head.kind == kind::PUSH).map(|head| head.app);
        let app = site.rib.apps.iter().find(|row| Some(row.id) == app);
        let wants_signature = site.policy.require_auth
            || peer.map_or(app.is_some_and(|app| app.key.is_some()), |peer| peer.key.is_some());
        // An application that wants no signature may be what the change made of one that does; the Auth of
        // the former is then wrong.
        let heads = [head, Letter::head(&changed.bytes)];
        for head in heads.iter().flatten() {
            if !wants_signature {
                self.loose.insert(head.message);
            }
        }
        if let Some(head) = &heads[1] {
            self.garbled.insert(head.message);
        }
        self.count_copy(&changed.bytes);
    }

    pub(super) fn wake(&mut self, site: usize, shard: usize) {
        if !std::mem::replace(&mut self.servers[site].dataplane.awake[shard], true) {
            let delay_ns = self.rng.random_range(1..WORK_NS);
            self.after(delay_ns, Event::Work { site, shard });
        }
    }

    fn work(&mut self, site: usize, shard: usize) {
        let server = &mut self.servers[site];
        let dataplane = &mut server.dataplane;
        dataplane.awake[shard] = false;
        let before = dataplane.boards[shard].read();
        let running = &mut dataplane.shards[shard];
        let received = running.receive(Duration::ZERO).map(|()| running.port_mut().take_received());
        let received = received.unwrap_or_default();
        let expected = server.model.judge(&self.operator.sites[site], shard, self.now, &received);
        let worked = running.work(self.now).is_ok();
        let offered = running.port_mut().take_offered();
        let again = running.port_mut().waiting() > 0 || crate::net::Port::in_flight(running.port_mut()) > 0;
        let after = dataplane.boards[shard].read();
        if !worked {
            self.fail("a shard stopped");
        }
        self.check_burst(site, &received, expected, &offered, &before, &after);
        let listen = self.operator.sites[site].listen.clone();
        for Offered { bytes, to, listener, is_sent, .. } in offered {
            if is_sent {
                self.send(listen[usize::from(listener)], to, bytes);
            }
        }
        if again {
            self.wake(site, shard);
        }
    }

    /// Closes every server and holds its accounts: nothing waits, nothing is in flight, every frame is
    /// back.
    pub fn close(&mut self) {
        self.run();
        let (now, frames) = (self.now, self.options.frames);
        for at in 0..self.servers.len() {
            for shard in &mut self.servers[at].dataplane.shards {
                let closed = shard.close(now).is_ok();
                let free = shard.frames_free();
                if !closed || free != frames {
                    self.fail(&format!("server {at} holds {} of {frames} frames", frames - free));
                }
            }
            let counters = self.counters(at);
            if counters.unaccounted() != 0 || counters.in_flight != 0 {
                self.fail(&format!("server {at} does not account for everything: {counters:?}"));
            }
        }
        let LinkCounters { flying, .. } = self.links.counters;
        if flying != 0 || self.links.counters.missing() != 0 {
            self.fail(&format!("the links do not account for everything: {:?}", self.links.counters));
        }
    }
}
