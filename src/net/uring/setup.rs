//! A ring as this kernel gives it.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use io_uring::IoUring;
use io_uring::types::Napi;

use super::shared::BufferRing;
use crate::net::Listener;
use crate::net::memory::BUFFERS;

/// Entries of the submission ring: as many sends as are handed over at once.
pub(super) const SUBMISSIONS: usize = 256;

/// How the ring was set up, best first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    /// Completions are worked on when the shard asks for them, and a flag says that there are some.
    Deferred,
    /// Completions do not interrupt the shard.
    Cooperative,
    Plain,
}

impl Mode {
    pub(super) const ALL: [Self; 3] = [Self::Deferred, Self::Cooperative, Self::Plain];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Deferred => "single issuer, deferred task work",
            Self::Cooperative => "cooperative task work",
            Self::Plain => "no task work flags",
        }
    }
}

/// Entries of a completion ring in which nothing is ever without a place: each buffer is in at most one
/// completion, each send in one; besides, each receive can end and be cancelled, once before it is armed again.
pub(super) const fn completions(listeners: usize) -> usize {
    BUFFERS + SUBMISSIONS + 4 * listeners + 64
}

/// A ring that knows these sockets and an empty ring of buffers.
pub(super) fn prepare(
    listeners: &[Listener],
    completions: usize,
    modes: &[Mode],
) -> io::Result<(IoUring, Mode, BufferRing)> {
    let (ring, mode) = set_up(SUBMISSIONS.min(completions) as u32, completions as u32, modes)?;
    if !ring.params().is_feature_ext_arg() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut buffers = BufferRing::new(BUFFERS as u16)?;
    buffers.register(&ring)?;
    let files: Vec<_> = listeners.iter().map(|listener| listener.socket.as_raw_fd()).collect();
    let registered = if files.is_empty() { Ok(()) } else { ring.submitter().register_files(&files) };
    if let Err(error) = registered {
        buffers.unregister(&ring)?;
        return Err(error);
    }
    Ok((ring, mode, buffers))
}

/// A ring in the first of these modes that this kernel knows.
fn set_up(submissions: u32, completions: u32, modes: &[Mode]) -> io::Result<(IoUring, Mode)> {
    let mut result = Err(io::Error::from_raw_os_error(libc::EINVAL));
    for &mode in modes {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(completions).setup_clamp();
        match mode {
            Mode::Deferred => {
                builder.setup_submit_all().setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag()
            }
            Mode::Cooperative => builder.setup_submit_all().setup_coop_taskrun(),
            Mode::Plain => &mut builder,
        };
        result = builder.build(submissions).map(|ring| (ring, mode));
        // EINVAL: the kernel does not know a flag. Anything else no flag will change.
        match &result {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            _ => break,
        }
    }
    result
}

/// Makes waits poll the queues of the network cards that datagrams come from, for so long before they sleep. False when
/// that is not wanted, or the kernel does not know how (before Linux 6.9).
pub(super) fn busy_polls(ring: &IoUring, time: Duration) -> bool {
    let micros = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
    let mut napi = Napi::new().set_busy_poll_timeout(micros).set_prefer_busy_poll(true);
    micros > 0 && ring.submitter().register_napi(&mut napi).is_ok()
}
