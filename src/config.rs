//! The configuration of one Push server: `pushplane.toml` (`INTERFACE.md`, "Configuration"), with
//! every limit, its unit, its default and its arithmetic.

pub(crate) mod address;
pub(crate) mod document;
pub(crate) mod faults;
mod load;
mod radius;

use std::path::PathBuf;
use std::time::Duration;

pub use load::Places;
pub use radius::{Identify, Radius, RadiusClient, Secret};

use crate::id::Endpoint;

/// All of `pushplane.toml`, checked, with paths made relative to the file's folder.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// Which of the `[[server]]` entries this server is.
    pub name: String,
    /// Addresses that it receives on; the first of a family is the one that it sends from by default.
    pub listen: Vec<Endpoint>,
    /// A directory of table sources, or an image.
    pub tables: PathBuf,
    /// Where bindings are kept across restarts.
    pub state: PathBuf,
    /// How many shards, or on which CPUs.
    pub shards: Shards,
    /// The control socket.
    pub control: PathBuf,
    /// Where `/metrics`, `/live` and `/ready` are served, if anywhere.
    pub metrics: Option<Endpoint>,
    /// Who is asked where an IMSI is served.
    pub hlr: Option<Endpoint>,
    /// Who tells which terminal has which address, if anybody does.
    pub radius: Option<Radius>,
    /// Which hold on the network to take.
    pub io: Io,
    /// Which datagrams may come and go as one.
    pub coalesce: Coalesce,
    /// How long a shard without work goes on looking for some before it sleeps. Work then finds it awake, some
    /// 30 µs sooner, at the price of the CPU: one that looks for longer than work stays away is busy always.
    pub spin: Duration,
    /// What is allowed.
    pub policy: Policy,
    /// What is bounded.
    pub limits: Limits,
}

/// `server.shards`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Shards {
    /// One for each CPU that this process may use.
    Auto,
    /// So many, on the first CPUs that this process may use.
    Count(usize),
    /// One on each of these CPUs.
    Cpus(Vec<usize>),
}

/// `server.io`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Io {
    /// `io_uring` where the kernel gives it, else plain sockets, said aloud.
    Auto,
    /// `io_uring` or nothing.
    Uring,
    /// `recvmmsg` and `sendmmsg`.
    Socket,
}

/// `server.coalesce`: datagrams of one size between the same two addresses, which the kernel can carry as one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Coalesce {
    /// Those received (`UDP_GRO`) and those sent (`UDP_SEGMENT`).
    #[default]
    Both,
    /// Those received only.
    Receive,
    /// Those sent only.
    Send,
    /// None.
    Neither,
}

impl Coalesce {
    /// Whether those that are received may be.
    pub const fn receives(self) -> bool {
        matches!(self, Self::Both | Self::Receive)
    }

    /// Whether those that are sent may be.
    pub const fn sends(self) -> bool {
        matches!(self, Self::Both | Self::Send)
    }
}

/// `[policy]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    /// A source Push ID must be a known user.
    pub known_sources: bool,
    /// Every datagram must be signed.
    pub require_auth: bool,
    /// Failures are answered with REJECT.
    pub rejects: bool,
    /// Who may register.
    pub register: RegisterPolicy,
    /// A REGISTER that asks for Validity 0 gets a binding without end; else the longest validity.
    pub static_bindings: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            known_sources: false,
            require_auth: false,
            rejects: true,
            register: RegisterPolicy::Segment,
            static_bindings: false,
        }
    }
}

/// `policy.register`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RegisterPolicy {
    /// Rightly signed requests only.
    Signed,
    /// Also those whose address lies in a known segment.
    Segment,
    /// Everybody.
    Any,
}

/// `[limits]`: everything that could grow, and how far. What the shards use is allocated at the start; what
/// the controller keeps grows up to here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The longest datagram taken, bytes. 1472 to 65507.
    pub datagram_max: usize,
    /// Datagrams that a shard holds at once, received or being sent. × (`datagram_max` + 192 bytes, and 450 of
    /// accounts): 4096 × 2.7 KiB = 11 MiB a shard; besides, 4.5 MiB to receive into and to send from, of
    /// which only what datagrams have touched is there.
    pub frames: usize,
    /// Receipts that a shard can owe at once, for 32 s each. × 64 bytes: 262 144 × 64 B = 16 MiB a shard.
    /// Each has eight places to be in: up to a quarter full none is refused, which is 2000 receipts a second
    /// (262 144 / 4 / 32 s); beyond, a few PUSHes that want one are `overloaded`.
    pub receipts: usize,
    /// Signed messages remembered against replay, for 60 s each, by the whole server. × 8 bytes:
    /// 4 194 304 × 8 B = 32 MiB. Each has sixteen places to be in: up to five eighths full none is refused,
    /// which is 43 000 signed messages a second; beyond, a few are `overloaded`.
    pub replays: usize,
    /// Source addresses whose REJECTs are rate-limited apart, by the whole server. × 8 bytes.
    pub reject_sources: usize,
    /// Requests that a shard has waiting for the controller. × 1.5 KiB: 1024 × 1.5 KiB = 1.5 MiB a shard; beyond
    /// it a request is `overloaded`.
    pub punts: usize,
    /// The kernel's receive buffer of one socket, bytes. More than fits the near caches costs
    /// 20 to 40 percent at saturation.
    pub receive_buffer: usize,
    /// Terminals that are bound, or were within the last ten minutes, by REGISTER. × about 140 bytes in
    /// the controller: 1 048 576 × 140 B = 140 MiB, and × 115 bytes in the tables that the shards read
    /// (92 an entry, a quarter more entries for lent Push IDs and public IPv6 addresses): 115 MiB. Both are taken
    /// as they are needed. Beyond it a new one is `overloaded`.
    pub bindings: usize,
    /// Bytes on disk beyond which the journal is compacted, where that halves it.
    pub journal: usize,
    /// Validity granted to who asks for none, seconds.
    pub validity_default_s: usize,
    /// The longest validity granted, seconds.
    pub validity_max_s: usize,
    /// Groups made by GROUP. × about 200 bytes: 65 536 × 200 B = 13 MiB.
    pub groups: usize,
    /// Memberships made or ended by GROUP, all groups together. × about 40 bytes: 1 048 576 × 40 B = 40 MiB.
    pub group_members: usize,
    /// Requests to other Push servers that wait for an answer. × about 500 bytes: 16 384 × 500 B = 8 MiB.
    pub relays: usize,
    /// Sessions of RADIUS accounting, those that ended within the last ten minutes too. × about 400 bytes:
    /// 1 048 576 × 400 B = 400 MiB, taken as they are needed. Beyond it a new one is not answered.
    pub sessions: usize,
    /// Accounting-Requests that wait for the controller. × at most 4 KiB: 1024 × 4 KiB = 4 MiB. Beyond it one is not
    /// answered: its sender tries again.
    pub reports: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            datagram_max: 2048,
            frames: 4096,
            receipts: 1 << 18,
            replays: 1 << 22,
            reject_sources: 1 << 16,
            punts: 1 << 10,
            receive_buffer: 1 << 20,
            bindings: 1 << 20,
            journal: 64 << 20,
            validity_default_s: 3600,
            validity_max_s: 86_400,
            groups: 1 << 16,
            group_members: 1 << 20,
            relays: 1 << 14,
            sessions: 1 << 20,
            reports: 1 << 10,
        }
    }
}
