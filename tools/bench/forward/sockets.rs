//! What a bench's sockets need and no library offers.

#![expect(unsafe_code, reason = "UDP_SEGMENT, UDP_GRO and what comes with a datagram have no safe wrapper")]

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::{io, ptr};

/// Sends that are longer than `bytes` are cut into datagrams of that length.
pub(super) fn segment(socket: &impl AsRawFd, bytes: usize) -> io::Result<()> {
    set(socket, (libc::SOL_UDP, libc::UDP_SEGMENT), bytes as libc::c_int)
}

/// Receives bring datagrams of one length that came together as one.
pub(super) fn coalesce(socket: &impl AsRawFd) -> io::Result<()> {
    set(socket, (libc::SOL_UDP, libc::UDP_GRO), 1)
}

/// Receives tell to which address of this host's datagrams came.
pub(super) fn tell_address(socket: &impl AsRawFd) -> io::Result<()> {
    set(socket, (libc::IPPROTO_IP, libc::IP_PKTINFO), 1)
}

/// What one receive brought.
#[derive(Clone, Copy)]
pub(super) struct Received {
    /// Bytes of all datagrams.
    pub(super) bytes: usize,
    /// Of each of them; the last one may have less.
    pub(super) each: usize,
    /// Where they came to.
    pub(super) to: Ipv4Addr,
}

/// Room for what [`coalesce`] and [`tell_address`] have the kernel tell: 56 bytes, headers included.
type Control = [u64; 8];

/// Receives what is there.
pub(super) fn receive(socket: &impl AsRawFd, buffer: &mut [u8]) -> io::Result<Received> {
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut control: Control = [0; 8];
    let mut header = libc::msghdr {
        msg_name: ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: &raw mut part,
        msg_iovlen: 1,
        msg_control: control.as_mut_ptr().cast(),
        msg_controllen: size_of::<Control>() as _,
        msg_flags: 0,
    };
    // SAFETY: the header points to one buffer and room for control data, each of the length that it says; all outlive
    // the call.
    let bytes = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, 0) };
    let bytes = usize::try_from(bytes).map_err(|_| io::Error::last_os_error())?;
    let mut received = Received { bytes, each: bytes.max(1), to: Ipv4Addr::UNSPECIFIED };
    // SAFETY: the kernel has written whole messages, whose headers say where the next one begins, and of these kinds with
    // this content.
    unsafe {
        let mut at = libc::CMSG_FIRSTHDR(&raw const header);
        while let Some(message) = at.as_ref() {
            let data = libc::CMSG_DATA(at);
            match (message.cmsg_level, message.cmsg_type) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    received.each = data.cast::<libc::c_int>().read_unaligned().max(1) as usize;
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                    received.to = u32::from_be(info.ipi_addr.s_addr).into();
                }
                _ => {}
            }
            at = libc::CMSG_NXTHDR(&raw const header, at);
        }
    }
    Ok(received)
}

fn set(
    socket: &impl AsRawFd,
    (level, option): (libc::c_int, libc::c_int),
    value: libc::c_int,
) -> io::Result<()> {
    let bytes = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the option's value is an int that outlives the call.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), bytes) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
