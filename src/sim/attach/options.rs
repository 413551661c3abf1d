//! What a world of attaching terminals is drawn with.

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::config::RegisterPolicy;
use crate::sim::options::{Faults, ServerKeys};

/// The longest validity that servers grant, seconds.
pub(super) const VALIDITY_MAX_S: u32 = 100;

/// What the disks of the servers do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disks {
    /// What they promise.
    Honest,
    /// They fail now and then, and say so.
    Failing,
    /// They forget what they said was durable, which no server can survive: to show that it is noticed.
    Forgetful,
}

/// Everything that a seed decides besides the rows and who moves where. Printed with the seed when something
/// fails.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many Push servers.
    pub servers: usize,
    /// Shards of each.
    pub shards: usize,
    /// How many terminals.
    pub phones: usize,
    /// Addresses in each pool: few, so that they change hands.
    pub addresses: usize,
    /// Pools of each server's network.
    pub pools: usize,
    /// `policy.register` of each server.
    pub policies: Vec<RegisterPolicy>,
    /// `policy.static_bindings` of all.
    pub static_bindings: bool,
    /// Which keys the servers share.
    pub server_keys: ServerKeys,
    /// Of a thousand users, those with a key.
    pub signed: u32,
    /// Of a thousand users, those with a row in users.csv.
    pub rows: u32,
    /// Faults of the client, federation and access links.
    pub links: [Faults; 3],
    /// How far a clock is off at most, milliseconds either way.
    pub skew_ms: i64,
    /// Seconds that terminals ask for.
    pub validity_s: [u32; 2],
    /// How long everything may go wrong, seconds.
    pub span_s: u64,
    /// Times that a user does something meanwhile.
    pub moves: usize,
    /// Messages pushed meanwhile.
    pub pushes: usize,
    /// Times that a server ends meanwhile.
    pub crashes: usize,
    /// Times that the servers do not hear each other for a while.
    pub partitions: usize,
    /// Times that a server's tables are applied again.
    pub reloads: usize,
    /// `limits.journal`: how often journals are compacted.
    pub journal: usize,
    /// How long a commit takes at most, microseconds.
    pub commit_us: u64,
    /// How long a burst takes at most, microseconds: a shard can lose its CPU.
    pub burst_us: u64,
    /// What the disks do.
    pub disks: Disks,
    /// Gateways tell servers by RADIUS accounting who has which address.
    pub feeds: bool,
    /// Servers wait with answers until the bursts have left that may not have seen a change. They always do but
    /// to show that it is noticed when they do not.
    pub grace: bool,
}

/// A link that loses, repeats, delays and reorders, seconds at times; it changes nothing: what a changed
/// datagram may do is the other world's subject.
fn faults(rng: &mut Pcg64Mcg) -> Faults {
    let mut faults = Faults { corrupt: 0, caught: 0, mtu: Faults::CLEAN.mtu, ..Faults::draw(rng) };
    if rng.random_bool(0.3) {
        faults.jitter_us = rng.random_range(100_000..4_000_000);
    }
    faults
}

impl Options {
    /// Those of a seed ("swarm": what one seed leaves out lets the rest come further).
    pub fn of(seed: u64) -> Self {
        let rng = &mut Pcg64Mcg::seed_from_u64(seed);
        let servers = rng.random_range(1..=3);
        let clean = rng.random_bool(0.15);
        let link = |rng: &mut Pcg64Mcg| if clean { Faults::CLEAN } else { faults(rng) };
        let links = [link(rng), link(rng), link(rng)];
        let policy = |rng: &mut Pcg64Mcg| match rng.random_range(0..4) {
            0 => RegisterPolicy::Signed,
            1 => RegisterPolicy::Any,
            _ => RegisterPolicy::Segment,
        };
        let policies = (0..servers).map(|_| policy(rng)).collect();
        let shortest = [6, 10, 20, 60][rng.random_range(0..4)];
        let span_s = rng.random_range(40..240);
        Self {
            servers,
            shards: rng.random_range(1..=2),
            phones: rng.random_range(2..=8),
            addresses: rng.random_range(1..=3),
            pools: rng.random_range(1..=3),
            policies,
            static_bindings: rng.random_bool(0.1),
            server_keys: [ServerKeys::None, ServerKeys::One, ServerKeys::Pairs][rng.random_range(0..3)],
            signed: [0, 500, 1000][rng.random_range(0..3)],
            rows: [0, 0, 400][rng.random_range(0..3)],
            links,
            skew_ms: [0, 200, 3_000, 9_000][rng.random_range(0..4)],
            validity_s: [shortest, shortest + rng.random_range(0..40)],
            span_s,
            moves: rng.random_range(10..60),
            pushes: rng.random_range(50..250),
            crashes: if rng.random_bool(0.7) { rng.random_range(1..6) } else { 0 },
            partitions: rng.random_range(0..3),
            reloads: rng.random_range(0..3),
            journal: [256, 4 << 10, 64 << 20][rng.random_range(0..3)],
            commit_us: [50, 2_000, 40_000][rng.random_range(0..3)],
            burst_us: [100, 2_000, 100_000][rng.random_range(0..3)],
            disks: if rng.random_bool(0.2) { Disks::Failing } else { Disks::Honest },
            feeds: rng.random_bool(0.35),
            grace: true,
        }
    }
}
