//! Why there is no `io_uring`, in words.

use std::fmt;
use std::io;

use crate::net::Listener;

/// Why [`super::Uring::new`] made no port, with what it was given.
#[derive(Debug)]
pub struct Refused {
    /// What the kernel said.
    pub error: io::Error,
    /// The sockets, as they were.
    pub listeners: Vec<Listener>,
}

/// As [`uring_refusal`].
impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&uring_refusal(&self.error))
    }
}

impl std::error::Error for Refused {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Why there is no `io_uring`, and what to do: one sentence without its full stop.
pub fn uring_refusal(error: &io::Error) -> String {
    let reason = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => match sysctl_disabled() {
            Some(2) => "io_uring is disabled on this host: set kernel.io_uring_disabled to 0".to_owned(),
            Some(1) => "io_uring is for privileged processes only on this host: set kernel.io_uring_disabled to 0, or \
                        run in the group of kernel.io_uring_group"
                .to_owned(),
            _ => "io_uring is denied by a seccomp profile or a security module: allow io_uring_setup, \
                  io_uring_enter and io_uring_register to this container or service"
                .to_owned(),
        },
        Some(libc::ENOSYS) => "this kernel has no io_uring, or a seccomp profile hides it: allow io_uring_setup, \
                               io_uring_enter and io_uring_register, or run Linux 6.0 or newer"
            .to_owned(),
        Some(libc::ENOMEM) => format!(
            "io_uring may not lock enough memory{}: raise it (LimitMEMLOCK= of the service, or ulimit -l) or lower \
             limits.frames",
            memory_lock_limit().map_or(String::new(), |limit| format!(", the limit is {limit}"))
        ),
        Some(libc::EINVAL | libc::EOPNOTSUPP) => {
            "this kernel's io_uring has no multishot receive into provided buffers: run Linux 6.0 or newer".to_owned()
        }
        Some(libc::EMFILE | libc::ENFILE) => {
            "io_uring needs a file descriptor more than this process may open: raise LimitNOFILE= (ulimit -n)".to_owned()
        }
        _ => format!("io_uring failed: {error}"),
    };
    format!("{reason}; or use plain sockets (io = \"socket\")")
}

fn sysctl_disabled() -> Option<u32> {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}

/// The soft limit, as the kernel writes it.
fn memory_lock_limit() -> Option<String> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find(|line| line.starts_with("Max locked memory"))?;
    let soft = line.split_ascii_whitespace().nth(3)?;
    Some(format!("{soft} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_a_remedy() {
        for (errno, remedy) in [
            (libc::EPERM, "io_uring"),
            (libc::ENOSYS, "seccomp"),
            (libc::ENOMEM, "LimitMEMLOCK"),
            (libc::EINVAL, "Linux 6.0"),
            (libc::EIO, "io_uring failed"),
        ] {
            let sentence = uring_refusal(&io::Error::from_raw_os_error(errno));
            assert!(sentence.contains(remedy) && sentence.contains("io = \"socket\""), "{sentence}");
        }
    }
}
