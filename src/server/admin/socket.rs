//! The control socket's life: made where nothing is or where a dead server left its own, used by its owner alone, gone
//! with its server.
//!
//! *One server a socket.* Whoever makes one holds a lock on the folder (flock(2)) from the look at what is there until
//! it listens, so of two servers that start at once the second finds the first. A server that lives takes connections;
//! the socket of one that does not refuses them, and is taken away. A file that is no socket never is.
//!
//! *Its owner alone.* The kernel gives a socket's file the mode of the socket (unix(7)), which is set before there
//! is a file.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::server::{StartError, can_write};

/// The longest path of a Unix socket: sun_path has a byte more, which is zero (unix(7)).
const PATH_BYTES_MAX: usize = 107;

/// Connections that wait until they are taken.
const BACKLOG: i32 = 128;

/// A control socket that listens; the file goes with it.
#[derive(Debug)]
pub(in crate::server) struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    /// The file's device and inode. Not given to another file while the listener is open.
    made: (u64, u64),
}

impl ControlSocket {
    /// Listens at this path.
    pub(in crate::server) fn bind(path: &Path) -> Result<Self, StartError> {
        check(path)?;
        let _lock = lock(path);
        take_away_stale(path)?;
        let bind = || -> io::Result<Self> {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            let socket = File::from(OwnedFd::from(socket));
            socket.set_permissions(Permissions::from_mode(0o600))?;
            let socket = Socket::from(OwnedFd::from(socket));
            socket.bind(&SockAddr::unix(path)?)?;
            let file = path.symlink_metadata()?;
            socket.listen(BACKLOG)?;
            socket.set_nonblocking(true)?;
            let listener = UnixListener::from(OwnedFd::from(socket));
            Ok(Self { listener, path: path.to_owned(), made: (file.dev(), file.ino()) })
        };
        bind().map_err(|error| wrong(path, format_args!("cannot be made: {error}; change server.control")))
    }

    /// The listener, once more.
    pub(super) fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let ours = self.path.symlink_metadata().is_ok_and(|file| (file.dev(), file.ino()) == self.made);
        if ours {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// What is wrong with a path, as far as that can be told while a server may live there.
pub(in crate::server) fn check(path: &Path) -> Result<(), StartError> {
    let bytes = path.as_os_str().as_bytes().len();
    if bytes > PATH_BYTES_MAX {
        return Err(wrong(
            path,
            format_args!(
                "cannot be made: expected a path of at most {PATH_BYTES_MAX} bytes, as a socket's address takes no more, \
                 found {bytes}; name a shorter one in server.control"
            ),
        ));
    }
    match path.symlink_metadata() {
        Ok(file) if !file.file_type().is_socket() => {
            let found = match file.file_type() {
                kind if kind.is_dir() => "a folder",
                kind if kind.is_symlink() => "a symbolic link",
                _ => "a file",
            };
            Err(wrong(
                path,
                format_args!(
                    "cannot be made: expected nothing there, or what a server before left, found {found} that is no \
                     socket; it stays as it is: move it away or change server.control"
                ),
            ))
        }
        _ => can_write(folder(path)).map_err(|error| {
            wrong(
                path,
                format_args!(
                    "cannot be made: {error}; make its folder, give the server's user the right to write there, or change \
                     server.control"
                ),
            )
        }),
    }
}

fn wrong(path: &Path, what: std::fmt::Arguments<'_>) -> StartError {
    StartError(format!("the control socket {} {what}", path.display()))
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Nobody else makes a socket in this folder until this is dropped, where the file system knows locks.
fn lock(path: &Path) -> Option<File> {
    let folder = File::open(folder(path)).ok()?;
    folder.lock().ok()?;
    Some(folder)
}

/// Takes away the socket of a server that is no more.
fn take_away_stale(path: &Path) -> Result<(), StartError> {
    use io::ErrorKind::{ConnectionRefused, NotFound, WouldBlock};
    let connected = (|| {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // Who lives but does not take connections would be waited for.
        socket.set_nonblocking(true)?;
        socket.connect(&SockAddr::unix(path)?)
    })();
    let found = match connected {
        Err(error) if error.kind() == NotFound => return Ok(()),
        Err(error) if error.kind() == ConnectionRefused => match std::fs::remove_file(path) {
            Err(error) if error.kind() != NotFound => {
                format!("one that a server before left, which cannot be taken away ({error})")
            }
            _ => return Ok(()),
        },
        Err(error) if error.kind() != WouldBlock => format!("one that cannot be asked who uses it ({error})"),
        Ok(()) | Err(_) => "that of a server which is running".to_owned(),
    };
    Err(wrong(
        path,
        format_args!(
            "is in use: expected none, or what a server before left, found {found}; stop that server or name another \
             path in server.control"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(folder: &tempfile::TempDir) -> PathBuf {
        folder.path().join("control.sock")
    }

    fn refused(path: &Path) -> String {
        ControlSocket::bind(path).unwrap_err().to_string()
    }

    #[test]
    fn its_owner_alone_may_use_it_and_it_goes_with_its_server() {
        let folder = tempfile::tempdir().unwrap();
        let path = path(&folder);
        let socket = ControlSocket::bind(&path).unwrap();
        assert_eq!(path.symlink_metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
        drop(socket);
        assert!(path.symlink_metadata().is_err());
    }

    #[test]
    fn what_is_not_its_own_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = path(&folder);
        let socket = ControlSocket::bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let other = ControlSocket::bind(&path).unwrap();
        drop(socket);
        assert!(std::os::unix::net::UnixStream::connect(&path).is_ok(), "the other's");
        drop(other);
        for (made, found) in [("file", "found a file that"), ("folder", "found a folder that")] {
            let path = folder.path().join(made);
            match made {
                "file" => std::fs::write(&path, "mine").unwrap(),
                _ => std::fs::create_dir(&path).unwrap(),
            }
            assert!(refused(&path).contains(found), "{}", refused(&path));
            assert!(path.exists());
        }
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(refused(&link).contains("found a symbolic link that"), "{}", refused(&link));
    }

    /// Whoever comes second is refused, also where nobody takes connections; what is left of the dead is not in the way.
    #[test]
    fn the_living_are_left_and_the_dead_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = path(&folder);
        let first = ControlSocket::bind(&path).unwrap();
        assert!(refused(&path).contains("found that of a server which is running"), "{}", refused(&path));
        let waiting: Vec<_> = std::iter::from_fn(|| {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket.connect(&SockAddr::unix(&path).unwrap()).ok().map(|()| socket)
        })
        .collect();
        assert!(waiting.len() >= BACKLOG as usize);
        assert!(refused(&path).contains("found that of a server which is running"), "{}", refused(&path));
        drop((first, waiting));
        // As a process that is killed leaves it.
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.symlink_metadata().is_ok());
        ControlSocket::bind(&path).unwrap();
    }

    #[test]
    fn of_many_that_start_at_once_over_a_dead_one_a_single_one_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = path(&folder);
        for _ in 0..50 {
            drop(UnixListener::bind(&path).unwrap());
            let made: Vec<_> = std::thread::scope(|scope| {
                let bind = || ControlSocket::bind(&path).ok();
                let starting: Vec<_> = (0..4).map(|_| scope.spawn(bind)).collect();
                starting.into_iter().filter_map(|start| start.join().unwrap()).collect()
            });
            assert_eq!(made.len(), 1);
            assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
        }
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let long = folder.path().join("x".repeat(PATH_BYTES_MAX));
        assert!(refused(&long).contains("expected a path of at most 107 bytes"), "{}", refused(&long));
        let longest = PATH_BYTES_MAX - folder.path().as_os_str().len() - 1;
        ControlSocket::bind(&folder.path().join("x".repeat(longest))).unwrap();
        let nowhere = folder.path().join("nowhere/control.sock");
        assert!(refused(&nowhere).contains("make its folder"), "{}", refused(&nowhere));
    }
}
