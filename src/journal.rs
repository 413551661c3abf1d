//! The journal: what was acknowledged survives any crash.
//!
//! An append-only sequence of opaque records in a folder, written by one thread. Records are appended
//! to a buffer; [`Journal::commit`] makes everything appended since the last one durable with one write
//! and one fdatasync (group commit), after which it may be acknowledged. [`Journal::open`] replays the
//! newest snapshot and every record since, in order. A snapshot of all live records can be written on
//! another thread meanwhile ([`Journal::begin_snapshot`]); the segments before it are then deleted.
//!
//! # The folder
//!
//! Mode 0700 when the journal creates it, files 0600.
//!
//! | name | holds |
//! |---|---|
//! | `lock` | an flock for as long as the journal is open, and the holder's pid |
//! | `segment-<n>` | records in the order of their commits; `n` in 16 hexadecimal digits, from 1, without gaps |
//! | `snapshot-<n>` | all live records as of the beginning of `segment-<n>` |
//! | `….tmp` | a file being written; deleted by the next open |
//!
//! The state is the newest snapshot followed by the segments from its number on. A new segment or
//! snapshot is written aside, synced, renamed, and the folder synced, so a file without `.tmp` always
//! has a whole header, and a snapshot is always whole.
//!
//! # A file
//!
//! Everything is little-endian. First the header:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `PPJRNL\0\0` |
//! | 8 | 4 | format, 1 |
//! | 12 | 4 | 1 segment, 2 snapshot |
//! | 16 | 8 | the file's number |
//! | 24 | 8 | sequence number of the first record of the segment of this number |
//! | 32 | 8 | the journal's identity, drawn at random once |
//! | 40 | 8 | XXH3-64 of bytes 0 to 40 |
//!
//! Then records without gaps:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | XXH3-64, seeded with the identity, of everything below |
//! | 8 | 4 | length of the payload, at most 65 536; bit 31: a mark, not a record |
//! | 12 | 4 | bytes from the beginning of the commit that wrote the record to here |
//! | 16 | 8 | sequence number: 1, 2, 3… through all segments; 0, 1, 2… in a snapshot |
//! | 24 | length | the payload |
//!
//! A mark takes a sequence number like a record. One ends every snapshot, with nothing behind it; one is
//! written when a journal is closed properly ([`Journal::close`]). The seed makes a record that a payload
//! imitates, or that was left from another journal, as bad as any other wrong bytes.
//!
//! # Torn or damaged
//!
//! A crash may leave any part of the last commit in the file, in any order, with zeros or nothing
//! between: none of it was acknowledged, so it is cut, and [`Recovery::cut`] says what was lost.
//! Anything else is damage to what was acknowledged, and refused. The two are told apart by the third
//! field: a whole record found behind a bad one, and written by a commit that began behind the bad one,
//! proves that the bad one was once durable, for a commit is written only after the one before was
//! synced. Without such a record behind it, damage within the very last commit looks like a torn one and
//! is cut as such, with the same message; a proper close leaves no commit in that position. Cutting
//! whole files or whole commits off the end cannot be seen at all.
//!
//! Replay ends by writing the last commit once more, and syncing it: it may have come from a page cache
//! whose write-back failed, and the caller is about to build on it.
//!
//! # Failure
//!
//! After a failed write or fdatasync the journal is poisoned: every later append and commit fails. The
//! kernel marks pages clean although they never reached the disk, so that a second fdatasync succeeds
//! and means nothing. The remedy is to open the journal again, which trusts only what it reads and
//! checks.
//!
//! # Costs
//!
//! 24 bytes a record on disk and one hash; one write and one fdatasync a commit; no allocation once the
//! buffer has grown to the largest batch. Space is not allocated ahead: on ext4 over a virtual disk
//! neither `fallocate` nor a file of written zeros changed the fdatasync after an append (median 4.0 ms
//! each way).

mod disk;
mod error;
mod format;
mod recover;
mod simulated;
mod snapshot;
#[cfg(test)]
mod tests;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

pub use self::disk::{Disk, Os};
pub use self::error::{Cut, JournalError, Recovery};
pub use self::format::{Fault, RECORD_BYTES_MAX};
pub use self::simulated::{Failure, Simulated, SimulatedFile, SimulatedLock};
pub use self::snapshot::{Finished, Snapshot};

use self::format::{HEADER_BYTES, Header, Kind, Record};

/// What a journal may be told.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// A commit that finds the segment this long begins a new one.
    pub segment_bytes: u64,
    /// An append that finds the batch this long commits it first.
    pub batch_bytes_max: usize,
    /// [`Journal::should_compact`] when the segments are this many times as long as the last snapshot…
    pub compact_ratio: u64,
    /// …and at least this long.
    pub compact_bytes_min: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            batch_bytes_max: 16 << 20,
            compact_ratio: 2,
            compact_bytes_min: 64 << 20,
        }
    }
}

/// Where a file of the journal lies.
fn path_of(folder: &Path, kind: Kind, number: u64) -> PathBuf {
    match kind {
        Kind::Segment => folder.join(format!("segment-{number:016x}")),
        Kind::Snapshot => folder.join(format!("snapshot-{number:016x}")),
    }
}

/// The name of a file that is being written.
fn aside(path: &Path) -> PathBuf {
    path.with_extension("tmp")
}

/// An open journal: the only writer of its folder.
#[derive(Debug)]
pub struct Journal<D: Disk = Os> {
    disk: D,
    folder: PathBuf,
    options: Options,
    _lock: D::Lock,
    id: u64,
    /// Of the segment that is written.
    number: u64,
    file: D::File,
    /// Where the next commit goes.
    offset: u64,
    /// Records appended since the last commit, as they will stand in the file.
    batch: Vec<u8>,
    /// Sequence number of the next record.
    next: u64,
    /// Sequence number of the first record that is not durable.
    pending: u64,
    /// How often [`Journal::commit`] made something durable since the journal was opened.
    commits: u64,
    /// Bytes in the segments that the newest snapshot does not cover.
    segments_bytes: u64,
    snapshot_bytes: u64,
    /// Alive while a snapshot is being written.
    writing: Weak<()>,
    poison: Option<Poison>,
}

/// The failure after which nothing is written any more.
#[derive(Debug)]
struct Poison {
    action: &'static str,
    kind: io::ErrorKind,
    error: String,
}

impl Journal<Os> {
    /// Opens the journal of a folder, or creates it: hands every record of the newest snapshot to
    /// `replay`, then every record committed since, in order. What `replay` was given before an error is
    /// to be thrown away.
    ///
    /// # Errors
    /// A file cannot be read or written; another process has the journal; something that was acknowledged
    /// is damaged or missing.
    pub fn open(
        folder: &Path,
        options: Options,
        replay: impl FnMut(&[u8]),
    ) -> Result<(Self, Recovery), JournalError> {
        Self::open_on(Os, folder, options, replay)
    }
}

impl<D: Disk> Journal<D> {
    /// As [`Journal::open`], on a disk of the caller's.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn open_on(
        disk: D,
        folder: &Path,
        options: Options,
        mut replay: impl FnMut(&[u8]),
    ) -> Result<(Self, Recovery), JournalError> {
        recover::open(disk, folder, options, &mut replay)
    }

    /// Adds a record to the batch and returns its sequence number; durable after the next
    /// [`Journal::commit`]. Does no I/O unless the batch has grown to [`Options::batch_bytes_max`].
    ///
    /// # Errors
    /// `InvalidInput` when the record is longer than [`RECORD_BYTES_MAX`] (nothing changes); the journal is
    /// poisoned; or as [`Journal::commit`].
    pub fn append(&mut self, record: &[u8]) -> io::Result<u64> {
        if record.len() > RECORD_BYTES_MAX {
            let sentence =
                format!("a record of {} bytes; a journal takes at most {RECORD_BYTES_MAX}", record.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, sentence));
        }
        self.add(record, false)
    }

    fn add(&mut self, payload: &[u8], mark: bool) -> io::Result<u64> {
        self.check()?;
        if self.batch.len() >= self.options.batch_bytes_max.min(1 << 30) {
            self.commit()?;
        }
        let sequence = self.next;
        Record { sequence, back: self.batch.len() as u32, mark, payload }.write(self.id, &mut self.batch);
        self.next += 1;
        Ok(sequence)
    }

    /// Makes everything appended durable: one write, one fdatasync; nothing at all when nothing was
    /// appended.
    ///
    /// # Errors
    /// The write or the fdatasync failed, now or earlier: the journal is poisoned. What was appended since
    /// the last success may or may not be found by the next open, the first records of it before the
    /// later ones.
    pub fn commit(&mut self) -> io::Result<()> {
        self.check()?;
        if self.batch.is_empty() {
            return Ok(());
        }
        if self.offset >= self.options.segment_bytes && self.offset > HEADER_BYTES as u64 {
            let made = self.make_segment().map_err(|error| self.poison("begin a segment", &error))?;
            self.take_segment(made)?;
        }
        self.disk
            .write_at(&self.file, &self.batch, self.offset)
            .map_err(|error| self.poison("write", &error))?;
        self.disk.sync(&self.file).map_err(|error| self.poison("sync", &error))?;
        self.offset += self.batch.len() as u64;
        self.segments_bytes += self.batch.len() as u64;
        self.pending = self.next;
        self.commits += 1;
        self.batch.clear();
        Ok(())
    }

    /// Commits and writes the mark of a proper end, after which damage even to the last commit is
    /// recognised.
    ///
    /// # Errors
    /// As [`Journal::commit`].
    pub fn close(mut self) -> io::Result<()> {
        self.commit()?;
        self.add(&[], true)?;
        self.commit()
    }

    /// Begins a snapshot: commits, begins a new segment, and returns what writes the snapshot, on any
    /// thread, while appends go on. The caller streams into it every record that rebuilds the state as of
    /// this call, then calls [`Snapshot::finish`] there and [`Journal::finish_snapshot`] here. Dropping it
    /// instead gives it up; nothing is lost by that.
    ///
    /// # Errors
    /// `ResourceBusy` while another one is being written. When a new file cannot be made, the journal
    /// goes on without. Else as [`Journal::commit`].
    pub fn begin_snapshot(&mut self) -> io::Result<Snapshot<D>> {
        if self.writing.strong_count() > 0 {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "a snapshot is being written already"));
        }
        self.commit()?;
        let covered = self.segments_bytes;
        let made = self.make_segment()?;
        self.take_segment(made)?;
        let token = Arc::new(());
        self.writing = Arc::downgrade(&token);
        let header = Header { kind: Kind::Snapshot, number: self.number, first: self.next, id: self.id };
        Snapshot::create(self.disk.clone(), &self.folder, header, covered, token)
    }

    /// Takes note that a snapshot is finished.
    pub fn finish_snapshot(&mut self, finished: Finished) {
        self.snapshot_bytes = finished.bytes;
        self.segments_bytes = self.segments_bytes.saturating_sub(finished.covered);
    }

    /// Whether the segments have grown so far beyond the last snapshot that a new one pays; never while
    /// one is being written.
    pub fn should_compact(&self) -> bool {
        self.writing.strong_count() == 0
            && self.segments_bytes >= self.options.compact_bytes_min
            && self.segments_bytes >= self.snapshot_bytes.saturating_mul(self.options.compact_ratio)
    }

    /// Sequence number that the next record appended will have.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Sequence number of the first record that is not durable: all before it may be acknowledged.
    pub fn durable(&self) -> u64 {
        self.pending
    }

    /// Commits that made something durable since the journal was opened: one fdatasync each.
    pub fn commits(&self) -> u64 {
        self.commits
    }

    /// Bytes in segments that the newest snapshot does not cover, and in that snapshot.
    pub fn disk_bytes(&self) -> (u64, u64) {
        (self.segments_bytes, self.snapshot_bytes)
    }

    /// Whether an earlier failure stopped the journal.
    pub fn is_poisoned(&self) -> bool {
        self.poison.is_some()
    }

    fn check(&self) -> io::Result<()> {
        let Some(poison) = &self.poison else { return Ok(()) };
        let sentence = format!(
            "{}: the journal is stopped: cannot {}: {}; after such a failure the page cache cannot be trusted: \
             mend the disk and open the journal again",
            self.folder.display(),
            poison.action,
            poison.error
        );
        Err(io::Error::new(poison.kind, sentence))
    }

    fn poison(&mut self, action: &'static str, error: &io::Error) -> io::Error {
        self.poison = Some(Poison { action, kind: error.kind(), error: error.to_string() });
        self.check().err().unwrap_or_else(|| io::Error::from(error.kind()))
    }

    /// Writes the next segment aside: a failure leaves the journal as it was.
    fn make_segment(&self) -> io::Result<(PathBuf, D::File)> {
        let header =
            Header { kind: Kind::Segment, number: self.number + 1, first: self.pending, id: self.id };
        let path = path_of(&self.folder, Kind::Segment, header.number);
        let beside = aside(&path);
        let made = write_new(&self.disk, &beside, &header.to_bytes());
        if made.is_err() {
            let _ = self.disk.remove(&beside);
        }
        made.map(|file| (path, file))
    }

    /// Goes on in the segment just made. Once it may have its name, the old one must not grow.
    fn take_segment(&mut self, (path, file): (PathBuf, D::File)) -> io::Result<()> {
        self.disk
            .rename(&aside(&path), &path)
            .and_then(|()| self.disk.sync_folder(&self.folder))
            .map_err(|error| self.poison("begin a segment", &error))?;
        self.file = file;
        self.number += 1;
        self.offset = HEADER_BYTES as u64;
        self.segments_bytes += HEADER_BYTES as u64;
        Ok(())
    }
}

/// A new file with these bytes, synced; its name is not.
fn write_new<D: Disk>(disk: &D, path: &Path, bytes: &[u8]) -> io::Result<D::File> {
    let file = disk.create(path)?;
    disk.write_at(&file, bytes, 0)?;
    disk.sync(&file)?;
    Ok(file)
}

/// A number that nobody who sends payloads knows.
fn draw_id() -> u64 {
    RandomState::new().build_hasher().finish()
}
