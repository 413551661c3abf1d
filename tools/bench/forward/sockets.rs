//! What a bench's sockets need and no library offers.

#![expect(unsafe_code, reason = "UDP_SEGMENT and UDP_GRO have no safe wrapper")]

use std::io;
use std::os::fd::AsRawFd;

/// Sends that are longer than `bytes` are cut into datagrams of that length.
pub(super) fn segment(socket: &impl AsRawFd, bytes: usize) -> io::Result<()> {
    set(socket, libc::UDP_SEGMENT, bytes as libc::c_int)
}

/// Receives bring datagrams of one length that came together as one.
pub(super) fn coalesce(socket: &impl AsRawFd) -> io::Result<()> {
    set(socket, libc::UDP_GRO, 1)
}

fn set(socket: &impl AsRawFd, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let bytes = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the option's value is an int that outlives the call.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, option, (&raw const value).cast(), bytes)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
