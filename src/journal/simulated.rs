//! A disk in memory that fails and loses power on demand, from a seed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::Disk;

/// Bytes that reach the disk together: less than any real one, which is harder to survive.
const SECTOR_BYTES: usize = 64;

/// A disk in memory, with a page cache that power loss empties: of what was not synced any part may
/// have arrived, in any order, and so may any of the changes of names. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct Simulated {
    state: Arc<Mutex<State>>,
}

/// How an operation fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// It returns this error, a write after some of the bytes. A failed sync forgets what it had to write,
    /// as Linux does: the next one succeeds and means nothing.
    Error(io::ErrorKind),
    /// Power goes off before it: it and all after it fail until [`Simulated::lose_power`].
    Power,
}

#[derive(Clone, Debug, Default)]
struct State {
    chance: u64,
    files: Vec<Content>,
    /// As a process sees them.
    names: BTreeMap<PathBuf, usize>,
    /// As power loss leaves them.
    durable_names: BTreeMap<PathBuf, usize>,
    /// Changes since the last sync of the folder: each sets or removes names together.
    changes: Vec<Vec<(PathBuf, Option<usize>)>>,
    locked: BTreeSet<PathBuf>,
    /// Files and locks of earlier boots are dead.
    boot: u64,
    operations: u64,
    failure: Option<(u64, Failure)>,
    off: bool,
}

#[derive(Clone, Debug, Default)]
struct Content {
    cached: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors in the cache that no sync has written.
    dirty: BTreeSet<usize>,
}

/// An open file of a [`Simulated`] disk.
#[derive(Debug)]
pub struct SimulatedFile {
    at: usize,
    boot: u64,
}

/// The lock of a [`Simulated`] disk.
#[derive(Debug)]
pub struct SimulatedLock {
    disk: Simulated,
    path: PathBuf,
    boot: u64,
}

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.boot == self.boot {
            state.locked.remove(&self.path);
        }
    }
}

impl State {
    fn draw(&mut self, below: usize) -> usize {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.chance;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % below.max(1) as u64) as usize
    }

    /// Counts an operation that changes the disk, and fails it when it is its turn.
    fn operate(&mut self) -> io::Result<()> {
        let now = self.operations;
        match self.failure {
            _ if self.off => return Err(io::Error::other("the power is off")),
            Some((at, Failure::Power)) if at == now => {
                self.off = true;
                return Err(io::Error::other("the power went off"));
            }
            Some((at, Failure::Error(kind))) if at == now => {
                self.operations += 1;
                return Err(kind.into());
            }
            _ => {}
        }
        self.operations += 1;
        Ok(())
    }

    fn content(&mut self, file: &SimulatedFile) -> io::Result<&mut Content> {
        if self.off || file.boot != self.boot {
            return Err(io::Error::other("the power went off"));
        }
        Ok(&mut self.files[file.at])
    }

    fn change(&mut self, names: Vec<(PathBuf, Option<usize>)>) {
        apply(&mut self.names, &names);
        self.changes.push(names);
    }
}

fn apply(names: &mut BTreeMap<PathBuf, usize>, change: &[(PathBuf, Option<usize>)]) {
    for (path, file) in change {
        match file {
            Some(file) => names.insert(path.clone(), *file),
            None => names.remove(path),
        };
    }
}

impl Content {
    /// Makes some of the dirty sectors durable, and perhaps the length.
    fn settle(&mut self, mut coin: impl FnMut(usize) -> usize) {
        let (old, new) = (self.durable.len(), self.cached.len());
        let len = match coin(4) {
            0 => old,
            1 => old.min(new) + coin(old.abs_diff(new) + 1),
            _ => new,
        };
        self.durable.resize(len, 0);
        for sector in &self.dirty {
            let start = sector * SECTOR_BYTES;
            let end = (start + SECTOR_BYTES).min(len).min(new);
            if start < end && coin(2) == 0 {
                self.durable[start..end].copy_from_slice(&self.cached[start..end]);
            }
        }
        self.dirty.clear();
    }
}

impl Simulated {
    /// An empty disk, whose chances come from this seed.
    pub fn new(seed: u64) -> Self {
        Self { state: Arc::new(Mutex::new(State { chance: seed, ..State::default() })) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Operations that changed the disk so far: what [`Simulated::fail_at`] counts.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Fails the operation of this number, the first being 0.
    pub fn fail_at(&self, operation: u64, failure: Failure) {
        self.state().failure = Some((operation, failure));
    }

    /// Ends every process: open files and locks are dead, the page cache stays.
    pub fn kill(&self) {
        let mut state = self.state();
        state.boot += 1;
        state.locked.clear();
        state.failure = None;
    }

    /// Ends every process and empties the page cache, of which any part may have reached the disk; then
    /// the power is on again.
    pub fn lose_power(&self) {
        self.kill();
        let mut state = self.state();
        state.off = false;
        for change in std::mem::take(&mut state.changes) {
            if state.draw(2) == 0 {
                apply(&mut state.durable_names, &change);
            }
        }
        state.names = state.durable_names.clone();
        let mut files = std::mem::take(&mut state.files);
        for file in &mut files {
            file.settle(|below| state.draw(below));
            file.cached.clone_from(&file.durable);
        }
        state.files = files;
    }

    /// A disk of its own with the same content, cache and chances.
    #[must_use]
    pub fn copy(&self) -> Self {
        let copy = Self { state: Arc::new(Mutex::new(self.state().clone())) };
        copy.kill();
        copy
    }

    /// A file's bytes.
    pub fn read(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state();
        state.names.get(path).map(|file| state.files[*file].cached.clone())
    }

    /// Puts a file there, or other bytes into it, durably.
    pub fn write(&self, path: &Path, bytes: &[u8]) {
        let mut state = self.state();
        let file = state.files.len();
        let content = Content { cached: bytes.to_vec(), durable: bytes.to_vec(), dirty: BTreeSet::new() };
        state.files.push(content);
        state.names.insert(path.to_owned(), file);
        state.durable_names.insert(path.to_owned(), file);
    }
}

impl Disk for Simulated {
    type File = SimulatedFile;
    type Lock = SimulatedLock;

    fn create_folder(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<SimulatedLock> {
        let mut state = self.state();
        if !state.locked.insert(path.to_owned()) {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "itself"));
        }
        let boot = state.boot;
        drop(state);
        Ok(SimulatedLock { disk: self.clone(), path: path.to_owned(), boot })
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        let inside = state.names.keys().filter(|path| path.parent() == Some(folder));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect())
    }

    fn create(&self, path: &Path) -> io::Result<SimulatedFile> {
        let mut state = self.state();
        state.operate()?;
        let at = state.files.len();
        state.files.push(Content::default());
        state.change(vec![(path.to_owned(), Some(at))]);
        Ok(SimulatedFile { at, boot: state.boot })
    }

    fn open(&self, path: &Path) -> io::Result<SimulatedFile> {
        let state = self.state();
        let at = *state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(SimulatedFile { at, boot: state.boot })
    }

    fn len(&self, file: &SimulatedFile) -> io::Result<u64> {
        Ok(self.state().content(file)?.cached.len() as u64)
    }

    fn read_at(&self, file: &SimulatedFile, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.state();
        let cached = &state.content(file)?.cached;
        let ahead = &cached[cached.len().min(offset as usize)..];
        let read = ahead.len().min(bytes.len());
        bytes[..read].copy_from_slice(&ahead[..read]);
        Ok(read)
    }

    fn write_at(&self, file: &SimulatedFile, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.state();
        let result = state.operate();
        let some = match result {
            Ok(()) => bytes.len(),
            Err(_) if state.off => return result,
            Err(_) => state.draw(bytes.len() + 1),
        };
        let content = state.content(file)?;
        let (start, end) = (offset as usize, offset as usize + some);
        if content.cached.len() < end {
            content.cached.resize(end, 0);
        }
        content.cached[start..end].copy_from_slice(&bytes[..some]);
        content.dirty.extend(start / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES));
        result
    }

    fn set_len(&self, file: &SimulatedFile, bytes: u64) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        let content = state.content(file)?;
        content.cached.resize(bytes as usize, 0);
        content.dirty.insert(bytes as usize / SECTOR_BYTES);
        Ok(())
    }

    fn sync(&self, file: &SimulatedFile) -> io::Result<()> {
        let mut state = self.state();
        let result = state.operate();
        if state.off {
            return result;
        }
        let mut content = std::mem::take(state.content(file)?);
        match result {
            Ok(()) => {
                content.durable.resize(content.cached.len(), 0);
                for sector in std::mem::take(&mut content.dirty) {
                    let start = (sector * SECTOR_BYTES).min(content.cached.len());
                    let end = (start + SECTOR_BYTES).min(content.cached.len());
                    content.durable[start..end].copy_from_slice(&content.cached[start..end]);
                }
            }
            Err(_) => content.settle(|below| state.draw(below)),
        }
        state.files[file.at] = content;
        result
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        let file = *state.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        state.change(vec![(from.to_owned(), None), (to.to_owned(), Some(file))]);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        if !state.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change(vec![(path.to_owned(), None)]);
        Ok(())
    }

    fn sync_folder(&self, _: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        for change in std::mem::take(&mut state.changes) {
            apply(&mut state.durable_names, &change);
        }
        Ok(())
    }
}
