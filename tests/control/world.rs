//! Three Push servers and roaming users on virtual time, over links that lose, delay and repeat
//! datagrams: after healing every user is where it is, and nowhere else; messages come to an end.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};

use pushplane::clock::Now;
use pushplane::control::{Engine, Outbox, Request, Site};
use pushplane::id::{Endpoint, PushId};
use pushplane::table::rib::{Key, Server};
use pushplane::table::{Binding, Change, Image, Rib, Tables};
use pushplane::wire::prp::auth::{Auth, MacKey};
use pushplane::wire::prp::{Kind, parse};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::bench::*;
use super::lab::*;

const SERVERS: [(&str, &str, &str); 3] = [
    ("a", "0011", "198.51.100.1:17400"),
    ("b", "0010", "198.51.100.2:17400"),
    ("c", "0001", "198.51.100.3:17400"),
];
const KEY: u32 = 1;
const USERS: usize = 6;
/// Seconds that a registration lasts.
const VALIDITY: u32 = 120;

fn rib_of(signed: bool) -> Rib {
    let server = |(name, prefix, address): (&str, &str, &str)| Server {
        name: name.into(),
        prefixes: vec![prefix.parse().unwrap()],
        address: at(address),
        key: signed.then_some(KEY),
    };
    Rib {
        servers: SERVERS.map(server).to_vec(),
        keys: vec![Key { id: KEY, value: secret(KEY), user: None }],
        ..Rib::default()
    }
}

struct Node {
    engine: Engine,
    tables: Tables,
    journal: Vec<Change>,
    seen: HashMap<(u32, u128, u128, u64), u64>,
    handled: u64,
    ended: u64,
    requests: u64,
}

struct User {
    id: PushId,
    home: usize,
    /// The server it is registered with, as it knows: the last that answered.
    at: Option<usize>,
    address: Endpoint,
}

type Flight = (std::cmp::Reverse<(u64, u64)>, Endpoint, Endpoint, Vec<u8>);

struct World {
    rng: StdRng,
    now: Now,
    nodes: Vec<Node>,
    users: Vec<User>,
    flying: BinaryHeap<Flight>,
    sent: u64,
    loss: f64,
    delay_ms: u64,
    /// What clients were answered: message identifier and kind.
    answers: BTreeMap<u64, Kind>,
    message: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let rib = rib_of(rng.random());
        let node = |(name, _, address): (&str, &str, &str)| {
            let tables = Tables::new(Image::build(&rib).unwrap(), 1, name, None);
            let site = Site { listen: vec![at(address)], policy: ANY, limits: LIMITS, seed };
            let mut engine = Engine::new(site);
            engine.restored(&tables, NOW, &mut Outbox::default());
            let (journal, seen) = (Vec::new(), HashMap::new());
            Node { engine, tables, journal, seen, handled: 0, ended: 0, requests: 0 }
        };
        let nodes = SERVERS.into_iter().map(node).collect();
        let user = |n: usize| {
            let home = n % 3;
            let prefix = [3u128, 2, 1][home];
            let address = Endpoint::new([203, 0, 113, n as u8].into(), 5000);
            User { id: PushId((prefix << 124) | (n as u128 + 1)), home, at: None, address }
        };
        let users = (0..USERS).map(user).collect();
        let loss = rng.random_range(0.0..0.5);
        let delay_ms = rng.random_range(1..2000);
        Self {
            rng,
            now: NOW,
            nodes,
            users,
            flying: BinaryHeap::new(),
            sent: 0,
            loss,
            delay_ms,
            answers: BTreeMap::new(),
            message: 0,
        }
    }

    fn send(&mut self, from: Endpoint, to: Endpoint, bytes: Vec<u8>) {
        let copies = match self.rng.random::<f64>() {
            chance if chance < self.loss => 0,
            chance if self.loss > 0.0 && chance > 0.9 => 2,
            _ => 1,
        };
        for _ in 0..copies {
            self.sent += 1;
            let delay_ns = self.rng.random_range(0..=self.delay_ms * 1_000_000);
            let due = (self.now.mono_ns + delay_ns, self.sent);
            self.flying.push((std::cmp::Reverse(due), from, to, bytes.clone()));
        }
    }

    /// What a server's shard does before it passes a request on; then the server.
    fn receive(&mut self, node: usize, from: Endpoint, bytes: &[u8]) {
        let now = self.now;
        let this = &mut self.nodes[node];
        let message = parse(bytes).unwrap();
        let header = message.header;
        let auth = Auth::of(&message.options, bytes);
        let wanted = this.tables.peer(from).and_then(|peer| this.tables.server_key(peer));
        assert!(wanted.is_none() || auth.is_some(), "a server does not sign");
        if let Some(auth) = auth {
            assert!(MacKey::new(secret(auth.key)).verify(bytes, &auth) && auth.is_fresh(now.unix_ms));
            this.seen.retain(|_, at| *at + 60_000 > now.unix_ms);
            let print = (auth.key, header.source.0, header.destination.0, header.message);
            if this.seen.insert(print, now.unix_ms).is_some() {
                return;
            }
        }
        let signed_by = auth.map(|auth| auth.key);
        let mut out = Outbox::default();
        this.handled += 1;
        this.engine.handle(&this.tables, &Request { bytes, from, listener: 0, signed_by, now }, &mut out);
        self.settle(node, out);
    }

    fn settle(&mut self, node: usize, out: Outbox) {
        let this = &mut self.nodes[node];
        this.journal.extend(out.changes);
        this.ended += out.answered + (out.dropped.len() + out.copies.len()) as u64;
        let live = this.engine.live();
        assert_eq!(this.ended + live.pending as u64, this.handled);
        assert!(live.relays <= LIMITS.relays);
        let own = at(SERVERS[node].2);
        for reply in out.replies {
            let message = parse(&reply.datagram).unwrap();
            self.nodes[node].requests += u64::from(!message.kind.is_answer());
            self.send(own, reply.to, reply.datagram);
        }
        self.check(node);
    }

    /// At all times: no address has two users, restored is what was, and a server that is not a user's
    /// home never says that the user is elsewhere.
    fn check(&self, node: usize) {
        let bound = bound(&self.nodes[node].engine);
        let mut owners = BTreeMap::new();
        for binding in &bound {
            for address in [binding.private, binding.nat].into_iter().flatten() {
                let owner = *owners.entry(address).or_insert(binding.user);
                assert_eq!(owner, binding.user, "{address} has two users");
            }
            let home = self.users.iter().find(|user| user.id == binding.user).unwrap().home;
            assert!(binding.serving.is_none() || home == node);
            assert!(binding.serving != Some(at(SERVERS[node].2)), "served by itself");
        }
    }

    /// Until this time, everything that is due.
    fn run_until(&mut self, end: u64) {
        loop {
            let flying = self.flying.peek().map(|flight| flight.0.0.0);
            let timers = self.nodes.iter().enumerate();
            let timer = timers.filter_map(|(at, node)| Some((node.engine.poll_timeout()?, at))).min();
            let next = flying.into_iter().chain(timer.map(|(due, _)| due)).min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = self.now.plus_ns(next.saturating_sub(self.now.mono_ns));
            // Both clocks by the same steps: milliseconds do not get lost.
            self.now.unix_ms = NOW.unix_ms + (self.now.mono_ns - NOW.mono_ns) / 1_000_000;
            if let Some((due, node)) = timer.filter(|(due, _)| flying.is_none_or(|flying| *due <= flying)) {
                assert!(due <= self.now.mono_ns);
                let mut out = Outbox::default();
                let this = &mut self.nodes[node];
                this.engine.handle_timeout(&this.tables, self.now, &mut out);
                self.settle(node, out);
            } else if let Some((_, from, to, bytes)) = self.flying.pop() {
                match SERVERS.iter().position(|(_, _, address)| at(address) == to) {
                    Some(node) => self.receive(node, from, &bytes),
                    None => {
                        let message = parse(&bytes).unwrap();
                        self.answers.insert(message.header.message, message.kind);
                    }
                }
            }
        }
        self.now.mono_ns = self.now.mono_ns.max(end);
        self.now.unix_ms = NOW.unix_ms + (self.now.mono_ns - NOW.mono_ns) / 1_000_000;
    }

    fn pass_ms(&mut self, ms: u64) {
        self.run_until(self.now.mono_ns + ms * 1_000_000);
    }

    fn ask(&mut self, user: usize, node: usize, request: Msg) -> u64 {
        self.message += 1;
        let User { address, .. } = self.users[user];
        self.send(address, at(SERVERS[node].2), request.id(self.message).bytes());
        self.message
    }

    fn register(&mut self, user: usize, node: usize) -> u64 {
        self.users[user].at = Some(node);
        self.ask(user, node, register(self.users[user].id).validity(VALIDITY))
    }

    fn release(&mut self, user: usize) {
        if let Some(node) = self.users[user].at.take() {
            self.ask(user, node, msg(Kind::Release, self.users[user].id, PushId::NONE).device(0));
        }
    }

    fn restart(&mut self, node: usize) {
        let seed = self.rng.random();
        let (address, now) = (at(SERVERS[node].2), self.now);
        let this = &mut self.nodes[node];
        // Requests that waited are never answered.
        this.ended += this.engine.live().pending as u64;
        this.engine = Engine::new(Site { listen: vec![address], policy: ANY, limits: LIMITS, seed });
        for change in &this.journal {
            this.engine.restore(change);
        }
        let mut out = Outbox::default();
        this.engine.restored(&this.tables, now, &mut out);
        self.settle(node, out);
    }

    fn chaos(&mut self) {
        for _ in 0..60 {
            let user = self.rng.random_range(0..USERS);
            let node = self.rng.random_range(0..3);
            match self.rng.random_range(0..20) {
                0..11 => drop(self.register(user, node)),
                11..13 => self.release(user),
                13..15 => {
                    // The network gives its address to somebody else.
                    let other = self.rng.random_range(0..USERS);
                    let (a, b) = (self.users[user].address, self.users[other].address);
                    (self.users[user].address, self.users[other].address) = (b, a);
                }
                15 => self.restart(node),
                _ => {}
            }
            let wait = self.rng.random_range(0..12_000);
            self.pass_ms(wait);
        }
    }

    /// What a client does whose request was not answered, or was refused: it asks again.
    fn register_until_answered(&mut self, user: usize, node: usize) {
        for _ in 0..30 {
            let message = self.register(user, node);
            self.pass_ms(6_000);
            if self.answers.get(&message) == Some(&Kind::Registered) {
                return;
            }
        }
        panic!("user {user} cannot register with {node}");
    }
}

fn bound(engine: &Engine) -> Vec<Binding> {
    let changes = engine.changes();
    let bind = |change| match change {
        Change::Bind { binding, .. } => Some(binding),
        _ => None,
    };
    changes.filter_map(bind).collect()
}

fn scenario(seed: u64) {
    let mut world = World::new(seed);
    world.chaos();
    (world.loss, world.delay_ms) = (0.0, 20);
    world.pass_ms(2_000);
    for user in 0..USERS {
        let node = world.rng.random_range(0..3);
        world.register_until_answered(user, node);
    }
    // What was to be said elsewhere has been said.
    world.pass_ms(70_000);
    // Everybody moves on once more, and this time what was there before ends at once.
    for user in 0..USERS {
        let node = world.users[user].at.unwrap();
        let next = (node + world.rng.random_range(0..3)) % 3;
        world.register_until_answered(user, next);
    }
    world.pass_ms(1_000);
    for User { id, home, at: node, address } in &world.users {
        let node = node.unwrap();
        let found: BTreeSet<(usize, Option<Endpoint>, Option<Endpoint>)> = world
            .nodes
            .iter()
            .enumerate()
            .flat_map(|(at, node)| bound(&node.engine).into_iter().map(move |binding| (at, binding)))
            .filter(|(_, binding)| binding.user == *id)
            .map(|(at, binding)| (at, binding.nat, binding.serving))
            .collect();
        let mut expected = BTreeSet::from([(node, Some(*address), None)]);
        if node != *home {
            expected.insert((*home, None, Some(at(SERVERS[node].2))));
        }
        assert_eq!(found, expected, "user {id} of {home} at {node}");
    }
    // Nobody asks any more, and everything comes to an end.
    world.pass_ms(u64::from(VALIDITY) * 2000);
    assert_eq!(world.flying.len(), 0);
    for node in &world.nodes {
        let live = node.engine.live();
        assert_eq!((live.bindings, live.relays, live.pending), (0, 0, 0));
        // Each request of a client brings a few of servers: nothing goes round.
        assert!(node.requests < 40 * world.message, "{} for {}", node.requests, world.message);
    }
    world.pass_ms(700_000);
    assert!(world.nodes.iter().all(|node| node.engine.poll_timeout().is_none()));
    assert!(world.nodes.iter().all(|node| node.engine.changes().next().is_none()), "nothing is left");
}

#[test]
fn after_healing_everybody_is_where_it_is() {
    let seeds = std::env::var("PUSHPLANE_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(200);
    for seed in 0..seeds {
        let run = std::panic::catch_unwind(|| scenario(seed));
        assert!(run.is_ok(), "seed {seed}");
    }
}

#[test]
fn the_same_seed_is_the_same_world() {
    let trace = |seed| {
        let mut world = World::new(seed);
        world.chaos();
        let journals = world.nodes.iter().map(|node| node.journal.clone()).collect::<Vec<_>>();
        (journals, world.sent)
    };
    assert_eq!(trace(5), trace(5));
}
