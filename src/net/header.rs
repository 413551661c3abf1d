//! What the kernel reads of a send and writes of a receive: `msghdr` and what it points to.

#![expect(unsafe_code, reason = "points headers at each other")]

use std::ptr;

use super::socket::Name;
use crate::id::Endpoint;

/// A header without anything in it.
pub(super) const EMPTY: libc::msghdr = libc::msghdr {
    msg_name: ptr::null_mut(),
    msg_namelen: 0,
    msg_iov: ptr::null_mut(),
    msg_iovlen: 0,
    msg_control: ptr::null_mut(),
    msg_controllen: 0,
    msg_flags: 0,
};

/// A control message that says how long the segments of a group are.
#[derive(Clone, Copy)]
#[repr(C)]
struct SegmentBytes {
    header: libc::cmsghdr,
    bytes: u16,
}

/// `CMSG_LEN(2)`: without the padding at the end.
const SEGMENT_LEN: usize = size_of::<libc::cmsghdr>() + size_of::<u16>();

/// One message to send: a header and what it points to. It must not move while a pointer to its header
/// is in use.
pub(super) struct Outgoing {
    header: libc::msghdr,
    iovec: libc::iovec,
    control: SegmentBytes,
    name: Name,
}

impl Outgoing {
    pub(super) const fn new() -> Self {
        let header = libc::cmsghdr {
            cmsg_len: SEGMENT_LEN as _,
            cmsg_level: libc::SOL_UDP,
            cmsg_type: libc::UDP_SEGMENT,
        };
        Self {
            header: EMPTY,
            iovec: libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 },
            control: SegmentBytes { header, bytes: 0 },
            name: Name::ZERO,
        }
    }

    /// Describes a message of these bytes to the kernel; `segment` where it is a group of datagrams. Returns
    /// a header that points into `at`.
    ///
    /// # Safety
    /// `at` is valid for writing, and nobody else looks at it meanwhile. Before it moves, is written again or
    /// `bytes` ends, nobody may follow the header any more.
    pub(super) unsafe fn describe(
        at: *mut Self,
        to: Endpoint,
        bytes: *const [u8],
        segment: Option<u16>,
    ) -> libc::msghdr {
        // SAFETY: the caller says that `at` is ours; the one reference made here, to the name, ends before the
        // pointers are made.
        unsafe {
            (*at).iovec =
                libc::iovec { iov_base: bytes.cast::<u8>().cast_mut().cast(), iov_len: bytes.len() };
            let msg_namelen = (*at).name.set(to);
            let (msg_control, msg_controllen) = match segment {
                None => (ptr::null_mut(), 0),
                Some(bytes) => {
                    (*at).control.bytes = bytes;
                    ((&raw mut (*at).control).cast(), size_of::<SegmentBytes>())
                }
            };
            libc::msghdr {
                msg_name: (&raw mut (*at).name).cast(),
                msg_namelen,
                msg_iov: &raw mut (*at).iovec,
                msg_iovlen: 1,
                msg_control,
                msg_controllen: msg_controllen as _,
                msg_flags: 0,
            }
        }
    }

    /// As [`Outgoing::describe`], with the header kept beside what it points to.
    ///
    /// # Safety
    /// As there.
    pub(super) unsafe fn prepare(
        at: *mut Self,
        to: Endpoint,
        bytes: *const [u8],
        segment: Option<u16>,
    ) -> *const libc::msghdr {
        // SAFETY: as the caller says.
        unsafe {
            (*at).header = Self::describe(at, to, bytes, segment);
            &raw const (*at).header
        }
    }
}

/// The control message with which the kernel says that several datagrams came as one, and how long each is.
pub(super) struct Coalesced;

impl Coalesced {
    /// `CMSG_SPACE(4)`.
    pub(super) const BYTES: usize = size_of::<libc::cmsghdr>() + 8;

    /// The length of each datagram, in what the kernel wrote; 0 where it wrote nothing of the kind.
    pub(super) fn segment(control: &[u8]) -> usize {
        const DATA: usize = size_of::<libc::cmsghdr>();
        let Some(control) = control.get(..DATA + 4) else { return 0 };
        let word =
            |at: usize| i32::from_ne_bytes([control[at], control[at + 1], control[at + 2], control[at + 3]]);
        let is_ours = word(DATA - 8) == libc::SOL_UDP && word(DATA - 4) == libc::UDP_GRO;
        if is_ours { usize::try_from(word(DATA)).unwrap_or(0) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_length_is_read_from_its_control_message_only() {
        let mut control = [0; Coalesced::BYTES];
        control[..8].copy_from_slice(&20usize.to_ne_bytes());
        control[8..12].copy_from_slice(&libc::SOL_UDP.to_ne_bytes());
        control[12..16].copy_from_slice(&libc::UDP_GRO.to_ne_bytes());
        control[16..20].copy_from_slice(&148i32.to_ne_bytes());
        assert_eq!(Coalesced::segment(&control), 148);
        assert_eq!(Coalesced::segment(&control[..19]), 0);
        control[12] ^= 1;
        assert_eq!(Coalesced::segment(&control), 0);
        assert_eq!(Coalesced::segment(&[]), 0);
    }

    #[test]
    fn what_a_header_points_to_is_what_was_said() {
        let mut outgoing = Box::new(Outgoing::new());
        let to: Endpoint = "192.0.2.1:4789".parse().unwrap();
        // SAFETY: the box does not move while the header is looked at.
        let header = unsafe { Outgoing::describe(&raw mut *outgoing, to, b"datagram".as_slice(), Some(4)) };
        assert_eq!(header.msg_controllen, 24);
        // SAFETY: as above; the C library's macros find our one control message.
        let (kind, bytes) = unsafe {
            let message = libc::CMSG_FIRSTHDR(&raw const header);
            ((*message).cmsg_type, libc::CMSG_DATA(message).cast::<u16>().read())
        };
        assert_eq!((kind, bytes), (libc::UDP_SEGMENT, 4));
        // SAFETY: as above.
        assert_eq!(unsafe { (*header.msg_iov).iov_len }, 8);
    }
}
