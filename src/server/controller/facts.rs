//! What the controller tells of its journal, for whoever scrapes.

use std::sync::atomic::{AtomicU64, Ordering};

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
#[derive(Clone, Copy, Debug, Default)]
pub struct Told {
    /// Commits since the start: one fdatasync each.
    pub commits: u64,
    /// Changes in them.
    pub records: u64,
    /// Bytes of what is replayed after the snapshot.
    pub segment_bytes: u64,
    /// Bytes of the snapshot.
    pub snapshot_bytes: u64,
    /// Snapshots finished since the start.
    pub snapshots: u64,
}

impl Facts {
    pub(super) fn show(&self, told: &Told) {
        self.commits.store(told.commits, Ordering::Relaxed);
        self.records.store(told.records, Ordering::Relaxed);
        self.segment_bytes.store(told.segment_bytes, Ordering::Relaxed);
        self.snapshot_bytes.store(told.snapshot_bytes, Ordering::Relaxed);
        self.snapshots.store(told.snapshots, Ordering::Relaxed);
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
