//! Links: what happens to datagrams between two addresses, and the count of all of them.

use rand::RngExt;
use rand_pcg::Pcg64Mcg;

use super::options::{Faults, LinkClass};
use crate::id::Endpoint;

/// A datagram between two addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flying {
    /// From.
    pub from: Endpoint,
    /// To.
    pub to: Endpoint,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// When it was sent.
    pub sent_ns: u64,
    /// A link changed it.
    pub is_corrupt: bool,
}

/// What became of all datagrams that were sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LinkCounters {
    /// By the cast and by servers.
    pub sent: u64,
    /// Copies that links made.
    pub twice: u64,
    /// Reached a server, gateway, terminal or application server.
    pub delivered: u64,
    /// Lost.
    pub lost: u64,
    /// Longer than the link takes.
    pub too_long: u64,
    /// Changed, and caught by the UDP checksum.
    pub caught: u64,
    /// Changed, and delivered.
    pub corrupted: u64,
    /// To an address where nobody is.
    pub nobody: u64,
    /// At a server that had no room for more.
    pub overflow: u64,
    /// On their way: a gauge.
    pub flying: u64,
}

impl LinkCounters {
    /// Datagrams that are in no counter: always 0.
    pub const fn missing(&self) -> i64 {
        let ends = self.delivered + self.lost + self.too_long + self.caught + self.nobody + self.overflow;
        (self.sent + self.twice) as i64 - (ends + self.flying) as i64
    }
}

/// All links.
#[derive(Clone, Debug)]
pub(super) struct Links {
    /// What each class does.
    pub(super) faults: [Faults; 3],
    /// What was done.
    pub(super) counters: LinkCounters,
}

/// A datagram that arrives, and when.
#[derive(Debug)]
pub(super) struct Arrival {
    /// When, nanoseconds.
    pub(super) at_ns: u64,
    /// What.
    pub(super) datagram: Flying,
}

impl Links {
    /// Takes a datagram; returns it, perhaps changed, perhaps twice, perhaps not.
    pub(super) fn carry(&mut self, rng: &mut Pcg64Mcg, class: LinkClass, datagram: Flying) -> Vec<Arrival> {
        let faults = self.faults[class as usize];
        let mut hits = |share: u32| share > 0 && rng.random_range(0..1000) < share;
        self.counters.sent += 1;
        let copies = if hits(faults.twice) { 2 } else { 1 };
        self.counters.twice += copies - 1;
        let mut arrivals = Vec::with_capacity(copies as usize);
        for _ in 0..copies {
            let mut hits = |share: u32| share > 0 && rng.random_range(0..1000) < share;
            if datagram.bytes.len() > faults.mtu {
                self.counters.too_long += 1;
                continue;
            }
            if hits(faults.loss) {
                self.counters.lost += 1;
                continue;
            }
            let mut datagram = datagram.clone();
            if hits(faults.corrupt) && !datagram.bytes.is_empty() {
                if hits(faults.caught) {
                    self.counters.caught += 1;
                    continue;
                }
                // Most of what matters is in the first bytes: half of the changes go there.
                let head =
                    if rng.random_bool(0.5) { datagram.bytes.len().min(64) } else { datagram.bytes.len() };
                for _ in 0..rng.random_range(1..=3) {
                    let bit = rng.random_range(0..head * 8);
                    datagram.bytes[bit / 8] ^= 1 << (bit % 8);
                }
                self.counters.corrupted += 1;
                datagram.is_corrupt = true;
            }
            let jitter_us = if faults.jitter_us > 0 { rng.random_range(0..faults.jitter_us) } else { 0 };
            let at_ns = datagram.sent_ns + (faults.delay_us + jitter_us) * 1000;
            self.counters.flying += 1;
            arrivals.push(Arrival { at_ns, datagram });
        }
        arrivals
    }
}
