//! Writing a snapshot, on whatever thread has the time.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::Disk;
use super::format::{HEADER_BYTES, Header, Kind, RECORD_BYTES_MAX, Record};
use super::recover::Names;
use super::{Os, aside, path_of};

/// Bytes gathered before a write.
const BUFFER_BYTES: usize = 1 << 20;
/// Bytes written before a sync: a snapshot left to one sync at the end would stand in the way of the
/// journal's for as long as all of it takes.
const SYNC_BYTES: u64 = 4 << 20;

/// A snapshot being written.
#[derive(Debug)]
pub struct Snapshot<D: Disk = Os> {
    disk: D,
    folder: PathBuf,
    header: Header,
    file: D::File,
    buffer: Vec<u8>,
    offset: u64,
    synced: u64,
    records: u64,
    covered: u64,
    /// The file aside is removed on drop.
    unfinished: bool,
    token: Arc<()>,
}

/// A finished snapshot, for [`super::Journal::finish_snapshot`].
#[derive(Debug)]
#[must_use = "the journal is to take note of it"]
pub struct Finished {
    /// Records in the snapshot.
    pub records: u64,
    /// The file's length.
    pub bytes: u64,
    /// Older files that could not be removed; the next open tries again.
    pub left: usize,
    /// Bytes of the segments that the snapshot stands for.
    pub(super) covered: u64,
    _token: Arc<()>,
}

impl<D: Disk> Snapshot<D> {
    pub(super) fn create(
        disk: D,
        folder: &Path,
        header: Header,
        covered: u64,
        token: Arc<()>,
    ) -> io::Result<Self> {
        let path = aside(&path_of(folder, Kind::Snapshot, header.number));
        // Not synced: whoever begins a snapshot may have better to do than to wait for a disk, and its end does so.
        let file = disk.create(&path)?;
        disk.write_at(&file, &header.to_bytes(), 0)?;
        Ok(Self {
            disk,
            folder: folder.to_owned(),
            header,
            file,
            buffer: Vec::with_capacity(BUFFER_BYTES + RECORD_BYTES_MAX),
            offset: HEADER_BYTES as u64,
            synced: 0,
            records: 0,
            covered,
            unfinished: true,
            token,
        })
    }

    /// Adds a live record.
    ///
    /// # Errors
    /// `InvalidInput` when it is longer than [`RECORD_BYTES_MAX`]; a failed write or sync, after which the
    /// snapshot is to be dropped: the journal is unharmed.
    pub fn append(&mut self, record: &[u8]) -> io::Result<()> {
        if record.len() > RECORD_BYTES_MAX {
            let sentence =
                format!("a record of {} bytes; a journal takes at most {RECORD_BYTES_MAX}", record.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, sentence));
        }
        self.add(record, false)
    }

    fn add(&mut self, payload: &[u8], mark: bool) -> io::Result<()> {
        Record { sequence: self.records, back: 0, mark, payload }.write(self.header.id, &mut self.buffer);
        self.records += u64::from(!mark);
        if self.buffer.len() >= BUFFER_BYTES || mark {
            self.disk.write_at(&self.file, &self.buffer, self.offset)?;
            self.offset += self.buffer.len() as u64;
            self.buffer.clear();
            if self.offset - self.synced >= SYNC_BYTES || mark {
                self.disk.sync(&self.file)?;
                self.synced = self.offset;
            }
        }
        Ok(())
    }

    /// Completes the file, gives it its name durably, and removes the snapshots and segments that it
    /// stands for.
    ///
    /// # Errors
    /// A failed write, sync or rename: the older files are still there and still the journal.
    pub fn finish(mut self) -> io::Result<Finished> {
        self.add(&[], true)?;
        let path = path_of(&self.folder, Kind::Snapshot, self.header.number);
        self.disk.rename(&aside(&path), &path)?;
        self.unfinished = false;
        self.disk.sync_folder(&self.folder)?;
        let left = match Names::read(&self.disk, &self.folder) {
            Ok(names) => names.remove_older(&self.disk, &self.folder, self.header.number),
            Err(_) => 1,
        };
        Ok(Finished {
            records: self.records,
            bytes: self.offset,
            left,
            covered: self.covered,
            _token: Arc::clone(&self.token),
        })
    }
}

impl<D: Disk> Drop for Snapshot<D> {
    fn drop(&mut self) {
        if self.unfinished {
            let _ = self.disk.remove(&aside(&path_of(&self.folder, Kind::Snapshot, self.header.number)));
        }
    }
}
