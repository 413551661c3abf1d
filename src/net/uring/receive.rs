//! The receiving half: buffers that the kernel has, and what came back in them.

#![expect(unsafe_code, reason = "lends buffers to the kernel and reads them when they are back")]

use std::io;

use io_uring::cqueue;

use super::shared::BufferRing;
use crate::id::Endpoint;
use crate::net::arrivals::{Arrival, Arrivals};
use crate::net::header::Coalesced;
use crate::net::memory::{BUFFERS, Landing};
use crate::net::socket::Name;
use crate::packet::Burst;

/// What the kernel writes before a datagram: `io_uring_recvmsg_out`, the sender's address, control data.
const OUT_BYTES: usize = 16;
const LEAD: usize = OUT_BYTES + Name::BYTES + Coalesced::BYTES;

/// What a receive brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Taken {
    /// Datagrams, or one.
    Arrival,
    /// Less than what the kernel writes in front of one.
    Unreadable,
    /// No buffer: it ended, for some reason.
    Nothing,
}

/// The buffers of a ring, each of which is with the kernel or holds an arrival.
pub(super) struct Receiving {
    pub(super) ring: BufferRing,
    landing: Landing,
    arrivals: Arrivals,
    /// How many buffers the kernel has.
    lent: usize,
}

impl Receiving {
    /// Lends every buffer of a new ring to the kernel; leaves `reserve` frames to the caller's copies.
    pub(super) fn new(ring: BufferRing, reserve: usize) -> Self {
        let mut receiving =
            Self { ring, landing: Landing::new(LEAD), arrivals: Arrivals::new(reserve), lent: 0 };
        for id in 0..BUFFERS as u16 {
            lend(&mut receiving.ring, &receiving.landing, id);
        }
        receiving.lent = BUFFERS;
        receiving.ring.publish();
        receiving
    }

    /// Whether the kernel has so few buffers that a receive which is armed now soon ends again. Armed as soon as there
    /// is one, it would end after each under a flood: a call more for every burst. What is not lent is dealt first.
    pub(super) const fn is_starved(&self) -> bool {
        self.lent < BUFFERS / 2
    }

    /// Whether datagrams wait for rows.
    pub(super) fn has_arrivals(&self) -> bool {
        !self.arrivals.is_empty()
    }

    /// Takes the buffer of a receive's completion, if it used one.
    pub(super) fn take(&mut self, result: i32, flags: u32, listener: u8) -> Taken {
        let id = cqueue::buffer_select(flags).filter(|id| usize::from(*id) < BUFFERS);
        let Some(id) = id else { return Taken::Nothing };
        self.lent -= 1;
        let bytes = usize::try_from(result).unwrap_or(0);
        if bytes < LEAD {
            lend(&mut self.ring, &self.landing, id);
            self.lent += 1;
            self.ring.publish();
            return if result < 0 { Taken::Nothing } else { Taken::Unreadable };
        }
        // SAFETY: a buffer that came with a completion is not with the kernel; it is lent again when
        // its arrival has been dealt.
        unsafe {
            let lead = self.landing.bytes(id, 0, LEAD);
            self.arrivals.push(read(lead, Arrival { buffer: id, end: bytes, listener, ..NOTHING }));
        }
        Taken::Arrival
    }

    /// Moves what has arrived into the free rows; buffers that are empty then are lent again.
    pub(super) fn deal(&mut self, burst: &mut Burst) {
        if self.arrivals.is_empty() {
            return;
        }
        let Self { ring, landing, arrivals, lent } = self;
        arrivals.deal(landing, burst, |id| {
            lend(ring, landing, id);
            *lent += 1;
        });
        ring.publish();
    }

    /// Gives up what is in no row yet; says how many datagrams that were.
    pub(super) fn discard(&mut self) -> u64 {
        self.arrivals.discard()
    }

    /// As [`BufferRing::unregister`].
    pub(super) fn unregister(&mut self, ring: &io_uring::IoUring) -> io::Result<()> {
        self.ring.unregister(ring)
    }

    /// Never frees the buffers.
    pub(super) fn leak(&mut self) {
        self.landing.leak();
    }
}

const NOTHING: Arrival = Arrival {
    buffer: 0,
    start: LEAD,
    end: 0,
    segment: 0,
    from: Endpoint::NONE,
    listener: 0,
    truncated: false,
};

/// Hands a buffer to the kernel, which sees it with the next [`BufferRing::publish`].
fn lend(ring: &mut BufferRing, landing: &Landing, id: u16) {
    let (address, bytes) = landing.buffer(id);
    // SAFETY: the buffer is not with the kernel: it was never lent, or has come back and holds nothing that is
    // still to be read. The ring has an entry for each.
    unsafe { ring.add(address, bytes, id) };
}

/// Completes an arrival by what the kernel wrote in front of it: struct `io_uring_recvmsg_out` (namelen, controllen,
/// payloadlen, flags), the name, the control data.
fn read(lead: &[u8], arrival: Arrival) -> Arrival {
    let word = |at: usize| u32::from_ne_bytes([lead[at], lead[at + 1], lead[at + 2], lead[at + 3]]);
    let (name_bytes, control_bytes, flags) = (word(0), word(4) as usize, word(12));
    let (name, control) = lead[OUT_BYTES..].split_at(Name::BYTES);
    let from = match <&[u8; Name::BYTES]>::try_from(name) {
        Ok(name) if name_bytes > 0 => Name::parse(name),
        _ => Endpoint::NONE,
    };
    Arrival {
        segment: Coalesced::segment(control.get(..control_bytes).unwrap_or_default()),
        from,
        truncated: flags & libc::MSG_TRUNC as u32 != 0,
        ..arrival
    }
}
