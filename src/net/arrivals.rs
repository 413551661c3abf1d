//! What was received and is in no row yet.

#![expect(unsafe_code, reason = "reads what the kernel wrote")]

use std::collections::VecDeque;

use super::memory::{BUFFERS, Landing};
use crate::id::Endpoint;
use crate::packet::{Burst, Row};

/// What one receive brought: a datagram, or several of one size from one sender, the last perhaps shorter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    /// The buffer of the [`Landing`] that it lies in.
    pub(super) buffer: u16,
    /// Where in the buffer the next datagram starts.
    pub(super) start: usize,
    /// Where the last one ends.
    pub(super) end: usize,
    /// Bytes of each datagram; 0 for one alone.
    pub(super) segment: usize,
    pub(super) from: Endpoint,
    pub(super) listener: u8,
    /// The kernel had no room for all of it.
    pub(super) truncated: bool,
}

/// Arrivals in their order.
#[derive(Debug)]
pub(super) struct Arrivals {
    queue: VecDeque<Arrival>,
    /// Frames that are left in the pool for the caller's copies.
    reserve: usize,
}

impl Arrivals {
    pub(super) fn new(reserve: usize) -> Self {
        Self { queue: VecDeque::with_capacity(BUFFERS), reserve }
    }

    /// Appends an arrival.
    ///
    /// # Safety
    /// The kernel is done with its buffer, and gets it again only when [`Arrivals::deal`] or
    /// [`Arrivals::discard`] has said that it is free.
    pub(super) unsafe fn push(&mut self, arrival: Arrival) {
        self.queue.push_back(arrival);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Copies datagrams into the free rows, as long as there are frames above the reserve; the first one may
    /// take the last frame. Tells `free` which buffers have nothing more in them.
    pub(super) fn deal(&mut self, landing: &Landing, burst: &mut Burst, mut free: impl FnMut(u16)) {
        let datagram_max = burst.pool.datagram_max();
        while !burst.is_full()
            && (burst.rows.is_empty() || burst.pool.available() > self.reserve)
            && let Some(arrival) = self.queue.front_mut()
        {
            let Some(mut frame) = burst.pool.take() else { break };
            let left = arrival.end - arrival.start;
            let len = if arrival.segment == 0 { left } else { left.min(arrival.segment) };
            // SAFETY: the buffer is ours until `free` is told of it below.
            let bytes = unsafe { landing.bytes(arrival.buffer, arrival.start, len.min(datagram_max)) };
            let filled = frame.fill(bytes);
            debug_assert!(filled, "a frame holds datagram_max bytes");
            let truncated = arrival.truncated || len > datagram_max;
            burst.rows.push(Row {
                frame: Some(frame),
                from: arrival.from,
                listener: arrival.listener,
                truncated,
            });
            arrival.start += len;
            if arrival.start >= arrival.end {
                free(arrival.buffer);
                self.queue.pop_front();
            }
        }
    }

    /// Gives up whatever is left; says how many datagrams that were.
    pub(super) fn discard(&mut self) -> u64 {
        let count = |arrival: Arrival| match arrival.segment {
            0 => 1,
            segment => (arrival.end - arrival.start).div_ceil(segment),
        };
        self.queue.drain(..).map(count).sum::<usize>() as u64
    }
}
