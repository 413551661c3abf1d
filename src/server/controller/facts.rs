//! What the controller tells of its journal and its memory, for whoever scrapes.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::journal::Journal;

/// Written by the controller once a turn, read by anybody: each number by itself, not all of one moment.
#[derive(Debug, Default)]
pub(in crate::server) struct Facts {
    commits: AtomicU64,
    records: AtomicU64,
    segment_bytes: AtomicU64,
    snapshot_bytes: AtomicU64,
    snapshots: AtomicU64,
}

/// What was told last.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) struct Told {
    /// Commits since the start: one fdatasync each.
    pub(in crate::server) commits: u64,
    /// Changes in them.
    pub(in crate::server) records: u64,
    /// Bytes of what is replayed after the snapshot.
    pub(in crate::server) segment_bytes: u64,
    pub(in crate::server) snapshot_bytes: u64,
    /// Snapshots finished since the start.
    pub(in crate::server) snapshots: u64,
}

impl Facts {
    pub(super) fn show(&self, journal: &Journal) {
        let (segment_bytes, snapshot_bytes) = journal.disk_bytes();
        self.commits.store(journal.commits(), Ordering::Relaxed);
        self.segment_bytes.store(segment_bytes, Ordering::Relaxed);
        self.snapshot_bytes.store(snapshot_bytes, Ordering::Relaxed);
    }

    pub(super) fn add_records(&self, records: usize) {
        self.records.fetch_add(records as u64, Ordering::Relaxed);
    }

    pub(super) fn add_snapshot(&self) {
        self.snapshots.fetch_add(1, Ordering::Relaxed);
    }

    pub(in crate::server) fn read(&self) -> Told {
        let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
        Told {
            commits: load(&self.commits),
            records: load(&self.records),
            segment_bytes: load(&self.segment_bytes),
            snapshot_bytes: load(&self.snapshot_bytes),
            snapshots: load(&self.snapshots),
        }
    }
}
