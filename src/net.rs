//! Ports: holds on the network that move bursts and know no message.
//!
//! | port | what it is |
//! |---|---|
//! | [`Uring`] | one `io_uring` a shard: multishot receive into the shard's frames, batched sends |
//! | [`Udp`] | `recvmmsg`/`sendmmsg`, where a kernel or container denies `io_uring` |
//!
//! The simulator's links and a capture are ports too.

use std::io;
use std::time::Duration;

use crate::packet::Burst;

mod affinity;
mod socket;
mod udp;
mod uring;

pub use affinity::{AffinityError, Placement, allowed_cpus, choose_cpus, pin};
pub use socket::{BindError, Bound, Listener, bind_shards};
pub use udp::Udp;
pub use uring::{Rearms, Refused, Uring, uring_refusal};

/// A hold on the network.
pub trait Port {
    /// Appends to `burst.rows` what has arrived and to `burst.done` what was sent, waiting at most
    /// `wait` when there is neither. Returning with nothing is no error.
    ///
    /// # Errors
    /// Only what the port cannot recover from by itself.
    fn recv(&mut self, burst: &mut Burst, wait: Duration) -> io::Result<()>;

    /// Takes all of `burst.tx`, in order, and hands it to the kernel. What it cannot take is in
    /// `burst.done` as ENOBUFS at once, its frame back in the pool.
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

/// What a port says that was closed.
fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the port is closed")
}

impl<P: Port + ?Sized> Port for Box<P> {
    fn recv(&mut self, burst: &mut Burst, wait: Duration) -> io::Result<()> {
        (**self).recv(burst, wait)
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

    fn close(&mut self, burst: &mut Burst) -> io::Result<()> {
        (**self).close(burst)
    }
}
