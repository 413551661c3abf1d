//! What the journal asks of a disk, and the operating system's own.

use std::fmt;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

/// Everything the journal does to files: small enough for a test to stand in between, to fail any
/// operation, or to lose power after it.
///
/// Promises kept by every implementation: what was written is durable once [`Disk::sync`] returned;
/// names are durable once [`Disk::sync_folder`] returned; [`Disk::rename`] replaces a name at once or
/// not at all. Nothing else is relied on: unsynced bytes may arrive in any order, or never.
pub trait Disk: Clone + Send + 'static {
    /// An open file.
    type File: Send + fmt::Debug;
    /// Holds the folder for this process until dropped.
    type Lock: Send + fmt::Debug;

    /// Creates the folder and those above it, readable by the owner only, durably; an existing one is
    /// left as it is.
    ///
    /// # Errors
    /// As the system says.
    fn create_folder(&self, folder: &Path) -> io::Result<()>;

    /// Takes the lock of this file, creating it if need be: `Err` of kind `WouldBlock` when another
    /// holds it.
    ///
    /// # Errors
    /// As the system says, and `WouldBlock`.
    fn lock(&self, path: &Path) -> io::Result<Self::Lock>;

    /// The names in a folder, in any order.
    ///
    /// # Errors
    /// As the system says.
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;

    /// Makes an empty file, for reading and writing, readable by the owner only.
    ///
    /// # Errors
    /// As the system says.
    fn create(&self, path: &Path) -> io::Result<Self::File>;

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// As the system says.
    fn open(&self, path: &Path) -> io::Result<Self::File>;

    /// The file's length, bytes.
    ///
    /// # Errors
    /// As the system says.
    fn len(&self, file: &Self::File) -> io::Result<u64>;

    /// Reads some bytes; 0 at the end.
    ///
    /// # Errors
    /// As the system says.
    fn read_at(&self, file: &Self::File, bytes: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of the bytes, not yet durably.
    ///
    /// # Errors
    /// As the system says; some of the bytes may have been written.
    fn write_at(&self, file: &Self::File, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Cuts the file, not yet durably.
    ///
    /// # Errors
    /// As the system says.
    fn set_len(&self, file: &Self::File, bytes: u64) -> io::Result<()>;

    /// Makes everything written to the file durable, its length included: fdatasync.
    ///
    /// # Errors
    /// As the system says; nothing is known of what was written since the last success.
    fn sync(&self, file: &Self::File) -> io::Result<()>;

    /// Renames a file, replacing one that is there, not yet durably.
    ///
    /// # Errors
    /// As the system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file, not yet durably.
    ///
    /// # Errors
    /// As the system says.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the folder's names durable.
    ///
    /// # Errors
    /// As the system says.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;
}

/// The operating system's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct Os;

/// How often a lock that is taken is tried again, and how long apart: 100 ms in all. A child that whoever held it had
/// just begun to start holds it until it runs its own program.
const LOCK_TRIES: u32 = 20;
const BETWEEN_TRIES: Duration = Duration::from_millis(5);

impl Disk for Os {
    type File = File;
    type Lock = File;

    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        if folder.is_dir() {
            return Ok(());
        }
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        match folder.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => self.sync_folder(parent),
            _ => self.sync_folder(Path::new(".")),
        }
    }

    fn lock(&self, path: &Path) -> io::Result<File> {
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let mut tries = LOCK_TRIES;
        let mut locked = file.try_lock();
        while let (Err(TryLockError::WouldBlock), 1..) = (&locked, tries) {
            tries -= 1;
            std::thread::sleep(BETWEEN_TRIES);
            locked = file.try_lock();
        }
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                let _ = (&mut file).take(32).read_to_string(&mut owner);
                return Err(io::Error::new(io::ErrorKind::WouldBlock, owner.trim().to_owned()));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        Ok(file)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        File::options().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        File::options().read(true).write(true).open(path)
    }

    fn len(&self, file: &File) -> io::Result<u64> {
        Ok(file.metadata()?.len())
    }

    fn read_at(&self, file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match file.read_at(bytes, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    fn set_len(&self, file: &File, bytes: u64) -> io::Result<()> {
        file.set_len(bytes)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }
}
