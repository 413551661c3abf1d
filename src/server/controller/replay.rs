//! Replaying the journal: what was durable becomes the engine's state and the live tables again.
//!
//! ```text
//!  this thread: read, check, decode ─► batches ─┬─► engine      a thread of its own
//!                                               └─► live tables another
//! ```
//!
//! Engine and live tables are made of the same changes and know nothing of each other, so each has its own core
//! where there is one; and as all changes of a batch are known, what each will look at is fetched ahead.

use std::panic::resume_unwind;
use std::path::Path;
use std::sync::Arc;

use crossbeam::channel::{Sender, bounded};

use crate::control::Engine;
use crate::journal::{Disk, Journal, JournalError, Options, Recovery};
use crate::table::{Change, LiveWriter};

/// Changes of a batch.
const BATCH: usize = 4096;

/// Batches that wait at most.
const WAITING_MAX: usize = 8;

/// What replaying could not do although the journal is sound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// A record that this version does not know.
    Unknown,
    /// More than the live tables have room for.
    Full,
}

/// Opens the journal of a folder and makes all of its changes.
pub(super) fn replay<D: Disk>(
    disk: D,
    folder: &Path,
    options: Options,
    engine: &mut Engine,
    writer: &mut LiveWriter,
) -> Result<(Journal<D>, Recovery, Option<Fault>), JournalError> {
    std::thread::scope(|scope| {
        let (to_engine, for_engine) = bounded::<Arc<Vec<Change>>>(WAITING_MAX);
        let (to_live, for_live) = bounded::<Arc<Vec<Change>>>(WAITING_MAX);
        let engine = scope.spawn(move || for_engine.iter().for_each(|batch| engine.restore_all(&batch)));
        let live = scope.spawn(move || {
            let applied = for_live.iter().map(|batch| writer.apply_all(&batch));
            // All of them: the sender must not wait for ever.
            applied.fold(Ok(()), Result::and)
        });
        let mut batches = Batches { to: [to_engine, to_live], batch: Vec::with_capacity(BATCH) };
        let mut unknown = false;
        let opened = Journal::open_on(disk, folder, options, |record| match Change::from_bytes(record) {
            Some(change) => batches.push(change),
            None => unknown = true,
        });
        batches.send();
        drop(batches);
        engine.join().unwrap_or_else(|panic| resume_unwind(panic));
        let applied = live.join().unwrap_or_else(|panic| resume_unwind(panic));
        let fault = if unknown { Some(Fault::Unknown) } else { applied.err().map(|_| Fault::Full) };
        opened.map(|(journal, recovery)| (journal, recovery, fault))
    })
}

/// Changes on their way.
struct Batches {
    to: [Sender<Arc<Vec<Change>>>; 2],
    batch: Vec<Change>,
}

impl Batches {
    fn push(&mut self, change: Change) {
        self.batch.push(change);
        if self.batch.len() == BATCH {
            self.send();
        }
    }

    fn send(&mut self) {
        let batch = Arc::new(std::mem::replace(&mut self.batch, Vec::with_capacity(BATCH)));
        for to in &self.to {
            // Only who panicked takes nothing more: that is found when it is joined.
            let _ = to.send(Arc::clone(&batch));
        }
    }
}
