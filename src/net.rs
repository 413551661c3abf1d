//! Ports: holds on the network that move bursts and know no message.
//!
//! | port | what it is |
//! |---|---|
//! | [`Uring`] | one `io_uring` a shard: multishot receive into the shard's frames, batched sends |
//! | [`Udp`] | `recvmmsg`/`sendmmsg`, where a kernel or container denies `io_uring` |
//!
//! Both receive with `UDP_GRO` and send with `UDP_SEGMENT` where the kernel has them, and share what that takes:
//! buffers that hold many datagrams ([`memory`], [`arrivals`]), groups of datagrams that leave as one
//! ([`groups`]), the account of what is on its way ([`outbox`]).
//!
//! The simulator's links are ports too.

use std::io;
use std::time::Duration;

use crate::config::Coalesce;
use crate::packet::Burst;

mod affinity;
mod arrivals;
mod groups;
mod header;
mod memory;
mod outbox;
mod socket;
mod udp;
mod uring;

pub use affinity::{AffinityError, Placement, allowed_cpus, choose_cpus, give_way, pin};
pub use socket::{BindError, Bound, Listener, bind_shards};
pub use udp::Udp;
pub use uring::{Refused, Uring, uring_refusal};

/// How a port receives and sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// Which datagrams may come and go as one, where the kernel knows how.
    pub coalesce: Coalesce,
    /// How long the kernel polls a network card's queue before a wait sleeps, where both know how: Linux 6.9 with
    /// `io_uring`, and a card whose driver has NAPI.
    pub busy_poll: Duration,
}

/// What a port has done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Receives that brought something: a datagram, or several that came as one.
    pub receives: u64,
    /// Sends that the kernel took: of a datagram, or of several that left as one.
    pub sends: u64,
    /// Groups of datagrams that the kernel did not take as one; each of them was then sent alone.
    pub groups_refused: u64,
    /// Receives that had to be armed again because no buffer was left: the shard is behind.
    pub starved: u64,
    /// Receives that had to be armed again although nothing failed: the completion ring was full.
    pub interrupted: u64,
    /// Receives that failed.
    pub errors: u64,
}

/// A hold on the network.
pub trait Port {
    /// Appends to `burst.rows` what has arrived and to `burst.done` what was sent, waiting at most
    /// `wait` when there is neither. Returning with nothing is no error.
    ///
    /// # Errors
    /// Only what the port cannot recover from by itself.
    fn recv(&mut self, burst: &mut Burst, wait: Duration) -> io::Result<()>;

    /// Whether more has likely arrived already: what is to be sent may wait for the next burst, to leave with
    /// datagrams of that.
    fn more(&self) -> bool {
        false
    }

    /// Takes all of `burst.tx` and hands it to the kernel: to each next hop the datagrams of one flow in
    /// their order. What it cannot take is in `burst.done` as ENOBUFS at once, its frame back in the pool.
    ///
    /// # Errors
    /// Only what the port cannot recover from by itself.
    fn send(&mut self, burst: &mut Burst) -> io::Result<()>;

    /// How many datagrams are handed to the kernel and not yet done.
    fn in_flight(&self) -> usize;

    /// Datagrams that the kernel dropped before this port could receive them, so far.
    fn kernel_drops(&mut self) -> u64 {
        0
    }

    /// How many next hops had the burst that was sent last, as far as datagrams to one of them leave as one: the more
    /// there are, the larger a burst is worth being.
    fn spread(&self) -> usize {
        0
    }

    /// What it has done so far.
    fn counts(&self) -> Counts {
        Counts::default()
    }

    /// Stops receiving: from now on [`Port::recv`] gives what had arrived by then, and nothing after that. Sending
    /// goes on.
    ///
    /// # Errors
    /// Only what the port cannot recover from.
    fn stop(&mut self, burst: &mut Burst) -> io::Result<()>;

    /// Stops receiving and waits, within limits, until nothing is in flight: every frame is in the
    /// pool or in the burst again.
    ///
    /// # Errors
    /// When the kernel does not give everything back.
    fn close(&mut self, burst: &mut Burst) -> io::Result<()>;
}

/// How many frames a port leaves in the pool for the caller's copies: a quarter.
fn reserve(burst: &Burst) -> usize {
    burst.pool.capacity() / 4
}

/// What a port says of itself: how it receives and sends.
fn describe_coalescing(received: bool, sent: bool) -> &'static str {
    match (received, sent) {
        (true, true) => "datagrams coalesced both ways (UDP_GRO, UDP_SEGMENT)",
        (true, false) => "datagrams coalesced when received (UDP_GRO), sent one by one",
        (false, true) => "datagrams received one by one, coalesced when sent (UDP_SEGMENT)",
        (false, false) => "datagrams received and sent one by one",
    }
}

/// What a port says that was closed.
fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the port is closed")
}

impl<P: Port + ?Sized> Port for Box<P> {
    fn recv(&mut self, burst: &mut Burst, wait: Duration) -> io::Result<()> {
        (**self).recv(burst, wait)
    }

    fn more(&self) -> bool {
        (**self).more()
    }

    fn send(&mut self, burst: &mut Burst) -> io::Result<()> {
        (**self).send(burst)
    }

    fn in_flight(&self) -> usize {
        (**self).in_flight()
    }

    fn kernel_drops(&mut self) -> u64 {
        (**self).kernel_drops()
    }

    fn spread(&self) -> usize {
        (**self).spread()
    }

    fn counts(&self) -> Counts {
        (**self).counts()
    }

    fn stop(&mut self, burst: &mut Burst) -> io::Result<()> {
        (**self).stop(burst)
    }

    fn close(&mut self, burst: &mut Burst) -> io::Result<()> {
        (**self).close(burst)
    }
}
