//! What a world is drawn with: everything that a seed decides besides the operator's rows.

use rand::RngExt;
use rand_pcg::Pcg64Mcg;

/// Which links: each class has faults of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkClass {
    /// Between a server and who is neither server, gateway nor terminal's address.
    Client,
    /// Between two servers.
    Federation,
    /// From a server to gateways and terminals, and back.
    Access,
}

/// What a link does to datagrams. Shares are in thousandths.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Faults {
    /// Lost.
    pub loss: u32,
    /// Sent twice.
    pub twice: u32,
    /// Changed in one to three bits.
    pub corrupt: u32,
    /// Of the changed ones, those that the UDP checksum catches.
    pub caught: u32,
    /// The way takes at least this long.
    pub delay_us: u64,
    /// And up to this much longer: this is what reorders.
    pub jitter_us: u64,
    /// Longer datagrams are lost on the way.
    pub mtu: usize,
}

impl Faults {
    /// A link that only takes time, always the same.
    pub const CLEAN: Self =
        Self { loss: 0, twice: 0, corrupt: 0, caught: 0, delay_us: 500, jitter_us: 0, mtu: 65_507 };

    /// Any link.
    pub fn draw(rng: &mut Pcg64Mcg) -> Self {
        let mut share = |odds: f64, max: u32| {
            if rng.random_bool(odds) { rng.random_range(1..=max) } else { 0 }
        };
        let (loss, twice, corrupt) = (share(0.5, 300), share(0.5, 300), share(0.5, 200));
        Self {
            loss,
            twice,
            corrupt,
            caught: [0, 500, 950][rng.random_range(0..3)],
            delay_us: rng.random_range(10..5_000),
            jitter_us: if rng.random_bool(0.7) { rng.random_range(0..50_000) } else { 0 },
            mtu: if rng.random_bool(0.1) { rng.random_range(200..1_500) } else { 65_507 },
        }
    }
}

/// Which keys the servers of a federation share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ServerKeys {
    /// None.
    None,
    /// One for all.
    One,
    /// One for each pair.
    Pairs,
}

/// Everything else that a seed decides. Printed with the seed when something fails.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many Push servers.
    pub servers: usize,
    /// Shards of each.
    pub shards: usize,
    /// A datagram goes to the shard that its destination says, not to any.
    pub steered: bool,
    /// The most datagrams that a port gives at once.
    pub burst_max: usize,
    /// Frames of each shard.
    pub frames: usize,
    /// Sends are done some receives later, as with `io_uring`, not at once.
    pub lag: bool,
    /// How many datagrams a port takes in one send; the rest is ENOBUFS.
    pub room: usize,
    /// Datagrams longer than this are EMSGSIZE at the sending server.
    pub local_mtu: usize,
    /// Datagrams that wait at a port; more are lost.
    pub inbox: usize,
    /// The longest datagram that a server takes.
    pub datagram_max: usize,
    /// Which keys the servers share.
    pub server_keys: ServerKeys,
    /// Faults of the client, federation and access links at first.
    pub links: [Faults; 3],
    /// How often the links change.
    pub changes: usize,
    /// Messages sent while the links have faults.
    pub messages: usize,
    /// Within so many milliseconds.
    pub span_ms: u64,
    /// How often addresses move and tables are published.
    pub reloads: usize,
    /// Messages pushed after the links are healed.
    pub healed_messages: usize,
}

impl Options {
    /// Clean links, ports that take everything: for fixed scenarios.
    pub const fn plain(servers: usize) -> Self {
        Self {
            servers,
            shards: 1,
            steered: true,
            burst_max: 64,
            frames: 128,
            lag: false,
            room: usize::MAX,
            local_mtu: 65_507,
            inbox: 1024,
            datagram_max: 2048,
            server_keys: ServerKeys::None,
            links: [Faults::CLEAN; 3],
            changes: 0,
            messages: 0,
            span_ms: 0,
            reloads: 0,
            healed_messages: 0,
        }
    }

    /// Any options ("swarm": what one seed leaves out lets the rest come further).
    pub fn swarm(rng: &mut Pcg64Mcg) -> Self {
        let clean = rng.random_bool(0.15);
        let mut link = || if clean { Faults::CLEAN } else { Faults::draw(rng) };
        let links = [link(), link(), link()];
        let scarce = rng.random_bool(0.15);
        Self {
            servers: rng.random_range(1..=4),
            shards: rng.random_range(1..=2),
            steered: rng.random_bool(0.5),
            burst_max: [1, 4, 64][rng.random_range(0..3)],
            frames: if scarce { rng.random_range(16..40) } else { 128 },
            lag: rng.random_bool(0.4),
            room: if scarce { rng.random_range(1..8) } else { usize::MAX },
            local_mtu: if rng.random_bool(0.1) { rng.random_range(300..1_400) } else { 65_507 },
            inbox: if scarce { rng.random_range(4..64) } else { 1024 },
            datagram_max: if rng.random_bool(0.2) { 1472 } else { 2048 },
            server_keys: [ServerKeys::None, ServerKeys::One, ServerKeys::Pairs][rng.random_range(0..3)],
            links,
            changes: if clean { 0 } else { rng.random_range(0..4) },
            messages: rng.random_range(10..80),
            span_ms: [20, 500, 5_000][rng.random_range(0..3)],
            reloads: rng.random_range(0..4),
            healed_messages: 40,
        }
    }

    /// Whether a server may lack frames, or its port room, for what it should send.
    pub const fn is_scarce(&self) -> bool {
        self.room < usize::MAX || self.frames < 128
    }
}
