//! Compaction: the state as of one moment becomes a snapshot of the journal while requests go on.
//!
//! ```text
//!  controller   cut, a new segment ── part ── part ── … ── all told          one part a turn, between two batches
//!                                       │       │              │
//!  writer                               └───────┴── records ───┴── sync, name, remove what it stands for
//! ```
//!
//! What changes after the cut goes into the new segment, which is replayed after the snapshot; entries that change
//! before they were told are told as they were ([`Engine::begin_cut`](crate::control::Engine::begin_cut)). So the
//! snapshot is the state at the segment's beginning, to the byte, whenever the parts were taken, and a crash at any
//! moment leaves either the old snapshot with all segments since, or the new one.
//!
//! # Costs
//!
//! The cut costs the controller what a new segment does, two fsyncs, whatever there is: nothing is copied for it. A
//! part looks at [`PART`] bindings at most, or at half as many lent Push IDs, memberships or RADIUS sessions, some
//! 200 µs of either; a request that changes an entry whose turn has not come costs a copy of that entry more.
//!
//! A server that stops gives up the snapshot that it is writing: its file has no name yet and is removed, by the next
//! start if not before, and the one before it and all segments since are what is replayed then. That is a longer
//! start, of at most as much journal again as a compaction waits for, and nothing is lost.

use std::io;
use std::thread::JoinHandle;

use crossbeam::channel::{Sender, bounded};

use crate::journal::{Disk, Finished, Os, Snapshot};
use crate::table::Change;

/// Bindings that one part looks at: their changes are made in some 200 µs.
pub(super) const PART: u32 = 4096;

/// Parts that wait for the disk at most.
const WAITING_MAX: usize = 4;

/// A snapshot that is being written.
#[derive(Debug)]
pub struct Compaction<D: Disk = Os>(pub(super) Snapshot<D>);

impl<D: Disk> Compaction<D> {
    /// Writes a part of the state.
    ///
    /// # Errors
    /// As the disk says; the journal is unharmed.
    pub fn write(&mut self, part: &[Change]) -> io::Result<()> {
        part.iter().try_for_each(|change| self.0.append(&change.to_bytes()))
    }

    /// Ends it, when all parts are written.
    ///
    /// # Errors
    /// As [`Compaction::write`].
    pub fn finish(self) -> io::Result<Finished> {
        self.0.finish()
    }
}

/// Who writes a snapshot: a thread of its own.
pub(super) struct Writer {
    /// Parts; none: that was all. Dropped before that, the snapshot is given up.
    parts: Option<Sender<Option<Vec<Change>>>>,
    job: JoinHandle<io::Result<Finished>>,
}

impl Writer {
    pub(super) fn start(mut compaction: Compaction) -> io::Result<Self> {
        let (parts, taken) = bounded::<Option<Vec<Change>>>(WAITING_MAX);
        let write = move || {
            while let Ok(part) = taken.recv() {
                match part {
                    Some(part) => compaction.write(&part)?,
                    None => return compaction.finish(),
                }
            }
            Err(io::Error::new(io::ErrorKind::Interrupted, "given up"))
        };
        let job = std::thread::Builder::new().name("compact".to_owned()).spawn(write)?;
        Ok(Self { parts: Some(parts), job })
    }

    /// Whether it takes a part now.
    pub(super) fn is_hungry(&self) -> bool {
        self.parts.as_ref().is_some_and(|parts| !parts.is_full())
    }

    /// Hands it a part; none: that was all.
    pub(super) fn feed(&mut self, part: Option<Vec<Change>>) {
        let is_last = part.is_none();
        // A writer that failed takes nothing any more: its result tells.
        let is_taken = self.parts.as_ref().is_some_and(|parts| parts.send(part).is_ok());
        if is_last || !is_taken {
            self.parts = None;
        }
    }

    /// Whether it has ended, well or not.
    pub(super) fn has_ended(&self) -> bool {
        self.job.is_finished()
    }

    /// What it made; what it had not is given up.
    pub(super) fn end(self) -> io::Result<Finished> {
        drop(self.parts);
        self.job.join().unwrap_or_else(|_| Err(io::Error::other("its thread ended")))
    }
}
