//! Bare forwarders: they read the next hop out of the PUSH, take one off its hop limit and send it on. They look
//! nothing up, check nobody and keep no accounts: what the kernel's ways cost, and nothing else.
//!
//! They stand beside the engine, so they share none of its code.

#![expect(unsafe_code, reason = "system calls and rings without a library in between")]

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use io_uring::types::{BufRingEntry, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode};
use pushplane::id::Endpoint;
use pushplane::net::pin;

use super::operator::HOP_AT;
use super::sockets;
use crate::Stop;

/// Where a PUSH has its hop limit.
const HOP_LIMIT_AT: usize = 2;
/// How long an idle one waits before it looks whether it should end.
const IDLE: Duration = Duration::from_millis(20);
/// The kernel's buffers, as `serve` asks for by default.
const BUFFER_BYTES: usize = 1 << 20;

/// Which ways of the kernel a bare forwarder takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// `recvmmsg` and `sendmmsg`.
    Batches,
    /// `io_uring`, and `UDP_SEGMENT` to each next hop.
    Segments,
    /// The same, and `UDP_GRO`.
    Coalesced,
}

impl Way {
    pub(super) const ALL: [Self; 3] = [Self::Batches, Self::Segments, Self::Coalesced];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Batches => "recvmmsg_sendmmsg",
            Self::Segments => "io_uring_segment",
            Self::Coalesced => "io_uring_gro_segment",
        }
    }

    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Batches => "a bare loop of recvmmsg and sendmmsg, no lookup",
            Self::Segments => "a bare io_uring with UDP_SEGMENT, no lookup",
            Self::Coalesced => "a bare io_uring with UDP_GRO and UDP_SEGMENT, no lookup",
        }
    }
}

/// A bare forwarder on a thread of its own.
pub(super) struct Bare {
    pub(super) address: Endpoint,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    forwarded: AtomicU64,
    /// The thread, by the kernel's number.
    thread: AtomicU32,
}

impl Bare {
    /// Starts one with this socket on this CPU.
    pub(super) fn start(way: Way, socket: UdpSocket, hops: &[Endpoint], cpu: usize) -> Result<Self, Stop> {
        let failed = |error: io::Error| Stop::Failed(format!("a bare forwarder's socket failed: {error}"));
        let reference = socket2::SockRef::from(&socket);
        let _ = reference.set_recv_buffer_size(BUFFER_BYTES);
        let _ = reference.set_send_buffer_size(BUFFER_BYTES);
        let address = socket.local_addr().map_err(failed)?.into();
        let ring = if way == Way::Batches { None } else { Some(Ring::open(&socket, way).map_err(failed)?) };
        let names: Vec<libc::sockaddr_in> = hops.iter().filter_map(name).collect();
        let shared = Arc::new(Shared::default());
        let its = Arc::clone(&shared);
        let run = move || {
            let _ = pin(cpu);
            // SAFETY: takes nothing and cannot fail.
            its.thread.store(unsafe { libc::gettid() } as u32, Ordering::Release);
            match ring {
                None => batches(&socket, &names, &its),
                Some(mut ring) => ring.forward(&names, &its),
            }
        };
        let thread = std::thread::Builder::new().name("bare".to_owned()).spawn(run).map_err(failed)?;
        Ok(Self { address, shared, thread: Some(thread) })
    }

    /// How many datagrams it has sent on.
    pub(super) fn forwarded(&self) -> u64 {
        self.shared.forwarded.load(Ordering::Relaxed)
    }

    /// The kernel's number of its thread.
    pub(super) fn thread(&self) -> u32 {
        self.shared.thread.load(Ordering::Acquire)
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn name(hop: &Endpoint) -> Option<libc::sockaddr_in> {
    Some(libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: hop.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(hop.ipv4()?) },
        sin_zero: [0; 8],
    })
}

const NAME_BYTES: libc::socklen_t = size_of::<libc::sockaddr_in>() as libc::socklen_t;

const NO_HEADER: libc::msghdr = libc::msghdr {
    msg_name: ptr::null_mut(),
    msg_namelen: 0,
    msg_iov: ptr::null_mut(),
    msg_iovlen: 0,
    msg_control: ptr::null_mut(),
    msg_controllen: 0,
    msg_flags: 0,
};

const NO_BYTES: libc::iovec = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };

/// The hop of a PUSH, after one was taken off its hop limit.
fn decide(push: &mut [u8], hops: usize) -> usize {
    push[HOP_LIMIT_AT] = push[HOP_LIMIT_AT].wrapping_sub(1);
    usize::from(u16::from_be_bytes([push[HOP_AT], push[HOP_AT + 1]])) % hops
}

fn batches(socket: &UdpSocket, names: &[libc::sockaddr_in], shared: &Shared) {
    const BATCH: usize = 64;
    const BYTES: usize = 2048;
    let fd = socket.as_raw_fd();
    let mut buffers = vec![[0u8; BYTES + 64]; BATCH];
    let base = buffers.as_mut_ptr();
    let mut iovecs = vec![NO_BYTES; BATCH];
    let mut received = vec![libc::mmsghdr { msg_hdr: NO_HEADER, msg_len: 0 }; BATCH];
    let mut sent = received.clone();
    while !shared.stop.load(Ordering::Relaxed) {
        for at in 0..BATCH {
            // SAFETY: `at` is below the number of buffers.
            let iov_base = unsafe { base.add(at) }.cast();
            iovecs[at] = libc::iovec { iov_base, iov_len: BYTES };
            received[at].msg_hdr = libc::msghdr { msg_iov: &raw mut iovecs[at], msg_iovlen: 1, ..NO_HEADER };
        }
        // SAFETY: each header points to an iovec, this to a buffer of that length; all outlive the call.
        let count = unsafe {
            let flags = libc::MSG_DONTWAIT as _;
            libc::recvmmsg(fd, received.as_mut_ptr(), BATCH as _, flags, ptr::null_mut())
        };
        let Ok(count @ 1..) = usize::try_from(count) else {
            let mut wait = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
            // SAFETY: one entry, which outlives the call.
            unsafe { libc::poll(&raw mut wait, 1, IDLE.as_millis() as _) };
            continue;
        };
        for at in 0..count {
            let bytes = received[at].msg_len as usize;
            // SAFETY: the kernel has written so many bytes of this buffer, which nobody else looks at.
            let push = unsafe { std::slice::from_raw_parts_mut(base.add(at).cast(), bytes) };
            let hop = if bytes > HOP_AT + 1 { decide(push, names.len()) } else { 0 };
            iovecs[at].iov_len = bytes;
            sent[at].msg_hdr = libc::msghdr {
                msg_name: (&raw const names[hop]).cast_mut().cast(),
                msg_namelen: NAME_BYTES,
                msg_iov: &raw mut iovecs[at],
                msg_iovlen: 1,
                ..NO_HEADER
            };
        }
        let (mut done, mut taken) = (0, 0);
        while done < count {
            // SAFETY: as above; the headers from `done` to `count` lie within the vector.
            let now = unsafe {
                let flags = libc::MSG_DONTWAIT as _;
                libc::sendmmsg(fd, sent.as_mut_ptr().add(done), (count - done) as _, flags)
            };
            let now = usize::try_from(now).unwrap_or(0);
            taken += now;
            // What is refused is passed over.
            done += now.max(1);
        }
        shared.forwarded.fetch_add(taken as u64, Ordering::Relaxed);
    }
}

/// What a send header points to besides the datagrams.
#[derive(Clone, Copy)]
#[repr(C)]
struct Segment {
    header: libc::cmsghdr,
    bytes: u16,
}

/// Datagrams of one length for one next hop, where they arrived.
#[derive(Clone)]
struct Group {
    bytes: usize,
    parts: Vec<libc::iovec>,
}

const SEGMENTS_MAX: usize = 64;
const SENDS_MAX: usize = 512;
/// What an IPv4 packet holds, less the headers of IP and UDP.
const BYTES_MAX: usize = 65_507;
/// What the kernel writes before a datagram: `io_uring_recvmsg_out`, the sender, the length of each of several.
const OUT_BYTES: usize = 16;
const CONTROL_BYTES: usize = 24;
const PAGE: usize = 4096;

/// A ring over one socket, tuned: provided buffers, a receive that stays armed, registered socket, deferred work.
struct Ring {
    ring: IoUring,
    _socket: UdpSocket,
    receive: Box<libc::msghdr>,
    buffers: Buffers,
}

/// Buffers that are lent to the kernel.
struct Buffers {
    memory: Vec<u8>,
    spacing: usize,
    bytes: usize,
    entries: Vec<Page>,
    count: u16,
    tail: u16,
    /// Of the control message that may lie in front of datagrams.
    control: usize,
}

/// A page of the ring of buffers' entries.
#[derive(Clone, Copy)]
#[repr(align(4096))]
struct Page {
    _bytes: [u8; PAGE],
}

// SAFETY: the pointers in the header are null; the ring is made disabled and used by one thread.
unsafe impl Send for Ring {}

impl Ring {
    fn open(socket: &UdpSocket, way: Way) -> io::Result<Self> {
        let (count, buffer_bytes, control) = match way {
            Way::Coalesced => (64u16, (1 << 16) + 128, CONTROL_BYTES),
            _ => (512, 2304, 0),
        };
        if way == Way::Coalesced {
            sockets::coalesce(socket)?;
        }
        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_defer_taskrun().setup_r_disabled().setup_cqsize(4096);
        let ring = builder.build(SENDS_MAX as u32)?;
        let receive =
            Box::new(libc::msghdr { msg_namelen: NAME_BYTES, msg_controllen: control as _, ..NO_HEADER });
        let mut buffers = Buffers::new(count, buffer_bytes, control);
        let address = buffers.entries.as_mut_ptr() as u64;
        // SAFETY: the entries begin at a page, are as many as said, and live as long as the ring.
        unsafe { ring.submitter().register_buf_ring_with_flags(address, count, 0, 0)? };
        ring.submitter().register_files(&[socket.as_raw_fd()])?;
        (0..count).for_each(|id| buffers.lend(id));
        Ok(Self { ring, _socket: socket.try_clone()?, receive, buffers })
    }

    fn forward(&mut self, names: &[libc::sockaddr_in], shared: &Shared) {
        let Self { ring, receive, buffers, .. } = self;
        let mut groups = vec![Group { bytes: 0, parts: Vec::with_capacity(SEGMENTS_MAX) }; names.len()];
        let mut sends = Sends::new(names);
        let (mut touched, mut used) = (Vec::new(), Vec::new());
        let mut completions: Vec<cqueue::Entry> = Vec::new();
        let enabled = ring.submitter().register_enable_rings();
        let mut armed = false;
        while enabled.is_ok() && !shared.stop.load(Ordering::Relaxed) {
            if !armed {
                let receive = opcode::RecvMsgMulti::new(Fixed(0), &raw const **receive, 0).build();
                // SAFETY: the header lives as long as the ring.
                armed = unsafe { ring.submission().push(&receive) }.is_ok();
            }
            let wait = Timespec::from(IDLE);
            let _ = ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&wait));
            completions.extend(ring.completion());
            let mut any = false;
            for completion in completions.drain(..) {
                if completion.user_data() > 0 {
                    // Only what the kernel took was forwarded.
                    let datagrams = if completion.result() < 0 { 0 } else { completion.user_data() };
                    shared.forwarded.fetch_add(datagrams, Ordering::Relaxed);
                    continue;
                }
                armed &= cqueue::more(completion.flags());
                let Some(id) = cqueue::buffer_select(completion.flags()) else { continue };
                used.push(id);
                let (pushes, each) = buffers.pushes(id, completion.result().max(0) as usize);
                for push in pushes.chunks_mut(each).filter(|push| push.len() > HOP_AT + 1) {
                    let hop = decide(push, names.len());
                    let part = libc::iovec { iov_base: push.as_mut_ptr().cast(), iov_len: push.len() };
                    let group = &mut groups[hop];
                    let is_full = group.parts.len() == SEGMENTS_MAX
                        || (group.parts.len() + 1) * part.iov_len > BYTES_MAX;
                    if group.bytes != part.iov_len || is_full {
                        sends.push(ring, hop, group);
                    }
                    if group.parts.is_empty() {
                        touched.push(hop);
                    }
                    group.bytes = part.iov_len;
                    group.parts.push(part);
                    any = true;
                }
            }
            for hop in touched.drain(..) {
                sends.push(ring, hop, &mut groups[hop]);
            }
            if any {
                sends.submit(ring);
                used.drain(..).for_each(|id| buffers.lend(id));
            }
        }
    }
}

impl Buffers {
    fn new(count: u16, bytes: usize, control: usize) -> Self {
        let spacing = ((bytes / 64) | 1) * 64;
        Self {
            memory: vec![0; usize::from(count) * spacing],
            spacing,
            bytes: bytes.min(spacing),
            entries: vec![Page { _bytes: [0; PAGE] }; (usize::from(count) * 16).div_ceil(PAGE)],
            count,
            tail: 0,
            control,
        }
    }

    fn lend(&mut self, id: u16) {
        let base = self.entries.as_mut_ptr().cast::<BufRingEntry>();
        // SAFETY: the entry is one of the ring's, which the kernel has consumed or never seen; the buffer holds
        // nothing that is still needed. The tail is shown last.
        unsafe {
            let entry = &mut *base.add(usize::from(self.tail & (self.count - 1)));
            entry.set_addr(self.memory.as_mut_ptr().add(usize::from(id) * self.spacing) as u64);
            entry.set_len(self.bytes as u32);
            entry.set_bid(id);
            self.tail = self.tail.wrapping_add(1);
            let tail = BufRingEntry::tail(base).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
    }

    /// The datagrams of a buffer in which the kernel wrote so many bytes, and the length of each.
    fn pushes(&mut self, id: u16, written: usize) -> (&mut [u8], usize) {
        let lead = OUT_BYTES + NAME_BYTES as usize + self.control;
        let buffer = &mut self.memory[usize::from(id) * self.spacing..][..written];
        let word = |at: usize| u32::from_ne_bytes(buffer[at..at + 4].try_into().unwrap_or_default()) as usize;
        let several = self.control > 0 && written > lead && word(4) > 0;
        // Behind the length, level and type of the control message.
        let each = if several { word(OUT_BYTES + NAME_BYTES as usize + 16) } else { usize::MAX };
        (buffer.get_mut(lead..).unwrap_or_default(), each.max(1))
    }
}

/// Headers of one submission.
struct Sends<'a> {
    names: &'a [libc::sockaddr_in],
    headers: Vec<libc::msghdr>,
    parts: Vec<[libc::iovec; SEGMENTS_MAX]>,
    segments: Vec<Segment>,
    count: usize,
}

impl<'a> Sends<'a> {
    fn new(names: &'a [libc::sockaddr_in]) -> Self {
        let header = libc::cmsghdr {
            cmsg_len: size_of::<libc::cmsghdr>() + size_of::<u16>(),
            cmsg_level: libc::SOL_UDP,
            cmsg_type: libc::UDP_SEGMENT,
        };
        Self {
            names,
            headers: vec![NO_HEADER; SENDS_MAX],
            parts: vec![[NO_BYTES; SEGMENTS_MAX]; SENDS_MAX],
            segments: vec![Segment { header, bytes: 0 }; SENDS_MAX],
            count: 0,
        }
    }

    /// Queues a group and empties it.
    fn push(&mut self, ring: &mut IoUring, hop: usize, group: &mut Group) {
        if group.parts.is_empty() {
            return;
        }
        if self.count == SENDS_MAX {
            self.submit(ring);
        }
        let (at, parts) = (self.count, group.parts.len());
        self.parts[at][..parts].copy_from_slice(&group.parts);
        group.parts.clear();
        let mut header = libc::msghdr {
            msg_name: (&raw const self.names[hop]).cast_mut().cast(),
            msg_namelen: NAME_BYTES,
            msg_iov: self.parts[at].as_mut_ptr(),
            msg_iovlen: parts,
            ..NO_HEADER
        };
        if parts > 1 {
            self.segments[at].bytes = group.bytes as u16;
            header.msg_control = (&raw mut self.segments[at]).cast();
            header.msg_controllen = size_of::<Segment>() as _;
        }
        self.headers[at] = header;
        let send = opcode::SendMsg::new(Fixed(0), &raw const self.headers[at]);
        let send = send.flags(libc::MSG_DONTWAIT as u32).build().user_data(parts as u64);
        // SAFETY: headers, names, parts and datagrams stay as they are until the submission is done, which does
        // not wait.
        if unsafe { ring.submission().push(&send) }.is_ok() {
            self.count += 1;
        }
    }

    fn submit(&mut self, ring: &mut IoUring) {
        let _ = ring.submit();
        self.count = 0;
    }
}
