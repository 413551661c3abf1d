//! A federation whose terminals come and go, on virtual time, from one seed: registration, renewal, release,
//! roaming, addresses that pass from one user to the next, what gateways report of that by RADIUS accounting, servers
//! that crash and come back.
//!
//! ```text
//!                            ┌ shards ── controller ── journal ── disk that loses power
//!  application ── links ── servers (several lives each) ── links ── gateways, NATs ── terminals
//!    servers                 └ the witness: what was asked and answered, seen from outside
//! ```
//!
//! Each server is the engine's own: shards over ports without a network, and the very
//! [`Controller`](crate::server::Controller) that a server's thread runs, over a journal on a disk that tears
//! writes and loses what was not synced. [`run_seed`] draws [`Options`], lets terminals move and servers end
//! while links lose, repeat, delay and reorder, heals everything, and demands delivery. What must hold:
//!
//! - *Safety*, at every datagram that leaves a server, with a message for a user, for an address: no more than the
//!   server was told. From the moment that it answered REGISTERED to an address's new user, or RELEASED, or that a
//!   validity it granted is over, nothing that it sends for the former user goes there ([`witness`] says exactly).
//! - *Memory*, at every start: what was answered REGISTERED or RELEASED, or to a report, and nothing since can have
//!   changed, is what the shards see.
//! - *Way*, at every server: no message goes back to the server it came from, none that was marked ROAMED goes on.
//! - *Accounts*, always: received = delivered + forwarded + answered + dropped, of each life of each server.
//! - Nobody gets a message more often than links made copies of it.
//! - *Delivery*, in the end: every terminal that is attached is registered; each message to a user reaches each of
//!   its terminals exactly once, and every receipt comes back.
//!
//! A failure panics with the seed and a short trace. The same seed gives the same run, to the last byte. Costs some
//! ten milliseconds a seed.

mod accounting;
mod demand;
mod draw;
mod network;
mod node;
mod options;
mod phone;
mod run;
mod terminals;
mod trace;
mod witness;
mod world;

pub use options::{Disks, Options};
pub use run::{run_seed, run_with};

/// What a run did, for those who want to know that something was tested.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// The number for all that happened.
    pub digest: u64,
    /// Datagrams that servers received.
    pub received: u64,
    /// REGISTEREDs that reached terminals.
    pub registered: u64,
    /// Messages that left for a terminal, or for the server that serves it.
    pub led: u64,
    /// Messages that came to an address after it was given on.
    pub overtaken: u64,
    /// Messages that came to a private address that nobody had.
    pub to_nobody: u64,
    /// Times that a server's process ended.
    pub ends: u64,
    /// Starts that found a torn commit.
    pub torn: u64,
    /// Batches that a server refused because its disk had failed.
    pub refusing: u64,
    /// Snapshots of journals that were written.
    pub compactions: u64,
    /// Terminals that a server had to know, and did, each time that it was asked.
    pub remembered: u64,
    /// Sessions of RADIUS accounting that a server had to know, and did.
    pub told: u64,
    /// Deliveries that were demanded after healing.
    pub demanded: usize,
}

impl Summary {
    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.digest ^= other.digest;
        self.received += other.received;
        self.registered += other.registered;
        self.led += other.led;
        self.overtaken += other.overtaken;
        self.to_nobody += other.to_nobody;
        self.ends += other.ends;
        self.torn += other.torn;
        self.refusing += other.refusing;
        self.compactions += other.compactions;
        self.remembered += other.remembered;
        self.told += other.told;
        self.demanded += other.demanded;
    }
}
