//! The sending half: groups of datagrams that are with the kernel.

#![expect(unsafe_code, reason = "shares headers and datagrams with the kernel")]

use io_uring::types::Fixed;
use io_uring::{opcode, squeue};

use super::setup::SUBMISSIONS;
use super::shared::Headers;
use super::{Op, Word};
use crate::net::groups::Group;
use crate::net::memory::Staging;
use crate::net::outbox::Outbox;
use crate::packet::{Done, FramePool};

/// Groups on their way, each with a header of its own.
pub(super) struct Sending {
    pub(super) outbox: Outbox,
    headers: Headers,
    flights: Box<[Option<Flight>]>,
    /// Headers that are free.
    free: Vec<u16>,
    staging: Staging,
    /// Groups that the kernel wants one by one.
    again: Vec<Group>,
    /// As [`crate::net::Counts`] has them.
    pub(super) sends: u64,
    pub(super) groups_refused: u64,
}

#[derive(Clone, Copy, Debug)]
struct Flight {
    group: Group,
    generation: u32,
}

impl Sending {
    pub(super) fn new(outbox: Outbox) -> Self {
        Self {
            outbox,
            headers: Headers::new(SUBMISSIONS),
            flights: vec![None; SUBMISSIONS].into(),
            free: (0..SUBMISSIONS as u16).rev().collect(),
            staging: Staging::new(),
            again: Vec::with_capacity(SUBMISSIONS),
            sends: 0,
            groups_refused: 0,
        }
    }

    /// How a receive is laid out.
    pub(super) fn receive_header(&self) -> *const libc::msghdr {
        self.headers.receive()
    }

    /// Makes the request that sends a group; `None` when there is no room for it before others are done.
    pub(super) fn prepare(&mut self, group: &Group, generation: u32) -> Option<squeue::Entry> {
        let Self { outbox, headers, flights, free, staging, .. } = self;
        let slot = *free.last()?;
        let bytes = group.bytes as usize;
        let (start, segment) = if group.count > 1 {
            let parts = outbox.frames(group).map(|frame| frame.bytes());
            (staging.gather(bytes, parts)?, Some(group.segment as u16))
        } else {
            (outbox.frames(group).next()?.as_ptr(), None)
        };
        free.pop();
        flights[usize::from(slot)] = Some(Flight { group: *group, generation });
        let datagrams = std::ptr::slice_from_raw_parts(start, bytes);
        // SAFETY: the header was free. What it points to stays: a frame in the outbox until the request's
        // completion ends it, a part of the staging until all requests are complete; both are leaked if that
        // never comes.
        let header = unsafe { headers.describe(usize::from(slot), group.to, datagrams, segment) };
        let word = Word { generation, op: Op::Send, index: u32::from(slot) };
        let entry = opcode::SendMsg::new(Fixed(u32::from(group.listener)), header)
            .flags((libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as u32)
            .build();
        Some(entry.user_data(word.pack()))
    }

    /// Takes back the request that was prepared last and never submitted.
    pub(super) fn unprepare(&mut self, entry: &squeue::Entry) {
        if let Some(word) = Word::unpack(entry.get_user_data()) {
            self.land(word);
        }
    }

    fn land(&mut self, word: Word) -> Option<Group> {
        let place = self.flights.get_mut(word.index as usize)?;
        let flight = place.take_if(|flight| flight.generation == word.generation)?;
        self.free.push(word.index as u16);
        if self.free.len() == self.flights.len() {
            // SAFETY: no request is with the kernel any more.
            unsafe { self.staging.clear() };
        }
        Some(flight.group)
    }

    /// Ends the group of a completion; where the kernel refused it, its datagrams are to leave one by one.
    pub(super) fn complete(&mut self, word: Word, result: i32, pool: &mut FramePool, done: &mut Vec<Done>) {
        let Some(group) = self.land(word) else { return };
        self.sends += u64::from(result >= 0);
        if self.outbox.end(&group, result, pool, done) {
            self.groups_refused += 1;
            self.again.push(group);
        }
    }

    /// A group that the kernel wants one by one.
    pub(super) fn again(&mut self) -> Option<Group> {
        self.again.pop()
    }

    /// Whether nothing is with the kernel.
    pub(super) fn is_idle(&self) -> bool {
        self.free.len() == self.flights.len()
    }

    /// As [`Sending::complete`], when the port is dropped: the frames are lost to their pool.
    pub(super) fn forget(&mut self, word: Word) {
        if self.land(word).is_some() && self.is_idle() {
            self.outbox.forget();
        }
    }

    /// Never frees what the kernel may look at.
    pub(super) fn leak(&mut self) {
        self.headers.leak();
        self.staging.leak();
    }
}
