//! The port for kernels and containers that deny `io_uring`: `recvmmsg`, `sendmmsg` and `ppoll`.
//!
//! Cost: one system call for up to 64 receives from one listener, one for each run of up to 64 groups of datagrams
//! sent from one listener, and one to wait. 20 KiB of headers, made once, and the buffers of every port.
//!
//! Sending ends within [`Port::send`], so nothing is ever in flight.

#![expect(
    unsafe_code,
    reason = "recvmmsg, sendmmsg and ppoll have no safe wrapper that takes prepared buffers"
)]

use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;
use std::time::Duration;

use super::arrivals::{Arrival, Arrivals};
use super::groups::Group;
use super::header::{Coalesced, EMPTY, Outgoing};
use super::memory::{BUFFERS, Landing, Staging};
use super::outbox::{Outbox, Path};
use super::socket::{self, Drops, Listener, Name};
use super::{Counts, Options, Port};
use crate::packet::{BURST_MAX, Burst, Done, FramePool};

/// Messages of one system call.
const BATCH: usize = 64;

/// As many receives in one call say that the kernel has more.
const MANY: usize = 16;

/// A port of plain sockets.
pub struct Udp {
    listeners: Vec<Open>,
    polls: Vec<libc::pollfd>,
    /// Where the next receive starts, so that no listener starves another.
    turn: usize,
    incoming: Incoming,
    outbox: Outbox,
    outgoing: Outgoings,
    /// The last call brought as much as it asked for.
    more: bool,
    coalesced: bool,
    counts: Counts,
    stopped: bool,
    closed: bool,
    dropped: u64,
}

#[derive(Debug)]
struct Open {
    listener: Listener,
    drops: Drops,
    /// Its send buffer is full: the rest of this `send` stays here.
    blocked: bool,
}

/// Buffers to receive into, with the headers that say so.
struct Incoming {
    landing: Landing,
    /// Buffers that hold no arrival.
    free: Vec<u16>,
    arrivals: Arrivals,
    headers: Box<[libc::mmsghdr]>,
    parts: Box<[Part]>,
}

/// What a header of a receive points to.
#[derive(Clone, Copy)]
struct Part {
    name: Name,
    control: Control,
    iovec: libc::iovec,
}

/// Control data, aligned as the kernel writes it.
#[derive(Clone, Copy)]
#[repr(align(8))]
struct Control([u8; Coalesced::BYTES]);

/// Messages that are handed over in one call.
struct Outgoings {
    headers: Box<[libc::mmsghdr]>,
    messages: Box<[Outgoing]>,
    groups: Vec<Group>,
    staging: Staging,
}

// SAFETY: the pointers in the headers are written before each system call and read only by it; what they point
// to is the port's own and moves with it.
unsafe impl Send for Incoming {}
// SAFETY: as above.
unsafe impl Send for Outgoings {}

impl Udp {
    /// A port over these sockets, for frames of `burst.pool`, as well as the kernel can.
    pub fn new(listeners: Vec<Listener>, burst: &Burst) -> Self {
        Self::with(listeners, burst, &Options::default())
    }

    /// As [`Udp::new`], with these options.
    pub fn with(listeners: Vec<Listener>, burst: &Burst, options: &Options) -> Self {
        let poll = |listener: &Listener| libc::pollfd {
            fd: listener.socket.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let polls = listeners.iter().map(poll).collect();
        let coalesced = options.coalesce.receives() && socket::coalesce(&listeners);
        let segments = options.coalesce.sends() && socket::takes_segments(&listeners);
        let outbox = Outbox::new(burst.pool.capacity(), segments);
        Self {
            listeners: listeners
                .into_iter()
                .map(|listener| Open { listener, drops: Drops::default(), blocked: false })
                .collect(),
            polls,
            turn: 0,
            incoming: Incoming::new(super::reserve(burst)),
            outbox,
            outgoing: Outgoings::new(),
            more: false,
            coalesced,
            counts: Counts::default(),
            stopped: false,
            closed: false,
            dropped: 0,
        }
    }

    /// Which features are in use, for the line that says that the server is ready.
    pub fn describe(&self) -> String {
        let coalesced = super::describe_coalescing(self.coalesced, self.outbox.has_segments());
        format!("plain sockets: recvmmsg and sendmmsg on {} sockets, {coalesced}", self.listeners.len())
    }

    /// Fills the free rows: with what arrived before, then from every listener, none of them waiting.
    fn receive(&mut self, burst: &mut Burst) {
        self.incoming.deal(burst);
        let count = if self.stopped { 0 } else { self.listeners.len() };
        self.more = false;
        for step in 0..count {
            let index = (self.turn + step) % count;
            if !self.incoming.arrivals.is_empty() || burst.is_full() || burst.pool.available() == 0 {
                // This one goes first next time.
                self.turn = index;
                return;
            }
            self.receive_from(index, burst);
        }
        self.turn = if count == 0 { 0 } else { (self.turn + 1) % count };
    }

    fn receive_from(&mut self, index: usize, burst: &mut Burst) {
        let listener = &self.listeners[index].listener;
        match self.incoming.receive(listener, index as u8, BURST_MAX - burst.rows.len()) {
            Ok(count) => {
                self.counts.receives += count as u64;
                self.more |= count >= MANY;
            }
            Err(libc::EAGAIN | libc::EINTR) => {}
            Err(_) => self.counts.errors += 1,
        }
        self.incoming.deal(burst);
    }

    /// Hands over the groups that are prepared, all of one listener; says what became of each datagram.
    fn flush(&mut self, pool: &mut FramePool, done: &mut Vec<Done>) {
        let Self { listeners, outbox, outgoing, counts, .. } = self;
        let Some(first) = outgoing.groups.first() else { return };
        let open = &mut listeners[usize::from(first.listener)];
        let fd = open.listener.socket.as_raw_fd();
        let mut at = 0;
        while at < outgoing.groups.len() {
            let group = outgoing.groups[at];
            if open.blocked {
                outbox.end(&group, -libc::EAGAIN, pool, done);
                at += 1;
                continue;
            }
            match outgoing.hand_over(fd, at) {
                Ok(sent) => {
                    for at in at..at + sent {
                        let taken = outgoing.headers[at].msg_len as i32;
                        outbox.end(&outgoing.groups[at], taken, pool, done);
                    }
                    at += sent;
                    counts.sends += sent as u64;
                }
                // The first of them could not be sent; those after it perhaps can.
                Err(libc::EINTR) => {}
                Err(errno) => {
                    open.blocked = errno == libc::EAGAIN;
                    if outbox.end(&group, -errno, pool, done) {
                        counts.groups_refused += 1;
                        counts.sends += send_singly(outbox, open, group, pool, done);
                    }
                    at += 1;
                }
            }
        }
        outgoing.clear();
    }

    /// Prepares a group to be handed over with others of its listener.
    fn post(&mut self, group: &Group, pool: &mut FramePool, done: &mut Vec<Done>) {
        let together = self.outgoing.groups.first().is_none_or(|first| first.listener == group.listener);
        if !together || !self.outgoing.prepare(&self.outbox, group) {
            self.flush(pool, done);
            let prepared = self.outgoing.prepare(&self.outbox, group);
            debug_assert!(prepared, "a group fits an empty staging");
        }
    }

    fn wait(&mut self, wait: Duration, receiving: bool) {
        let timeout = libc::timespec {
            tv_sec: wait.as_secs().min(1 << 31) as libc::time_t,
            tv_nsec: wait.subsec_nanos() as _,
        };
        let polled = if receiving { self.polls.len() } else { 0 };
        // SAFETY: `polls` holds at least `polled` entries and the timeout is valid; both outlive the
        // call. Its result does not matter: what is ready is found by receiving.
        unsafe {
            libc::ppoll(self.polls.as_mut_ptr(), polled as libc::nfds_t, &raw const timeout, ptr::null())
        };
    }
}

/// Sends the datagrams of a group that the kernel refused, each alone; how many of them it took.
fn send_singly(
    outbox: &mut Outbox,
    open: &mut Open,
    group: Group,
    pool: &mut FramePool,
    done: &mut Vec<Done>,
) -> u64 {
    let mut rest = group;
    let mut sent = 0;
    while let Some((alone, others)) = outbox.split_first(&rest) {
        rest = others;
        let result = match outbox.frames(&alone).next() {
            Some(_) if open.blocked => -libc::EAGAIN,
            Some(frame) => send_one(&open.listener, &alone, frame.bytes()),
            None => continue,
        };
        open.blocked |= result == -libc::EAGAIN;
        sent += u64::from(result >= 0);
        outbox.end(&alone, result, pool, done);
    }
    sent
}

/// Sends one datagram: the bytes that the kernel took, or an error number as a negative one.
fn send_one(listener: &Listener, to: &Group, bytes: &[u8]) -> i32 {
    let mut message = Outgoing::new();
    loop {
        // SAFETY: the message does not move before the call has returned, and the kernel keeps none of it.
        let sent = unsafe {
            let header = Outgoing::describe(&raw mut message, to.to, bytes, None);
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            libc::sendmsg(listener.socket.as_raw_fd(), &raw const header, flags)
        };
        match i32::try_from(sent) {
            Ok(sent @ 0..) => return sent,
            _ => match last_errno() {
                libc::EINTR => {}
                errno => return -errno,
            },
        }
    }
}

fn last_errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

impl Incoming {
    fn new(reserve: usize) -> Self {
        let part = Part {
            name: Name::ZERO,
            control: Control([0; Coalesced::BYTES]),
            iovec: libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 },
        };
        Self {
            landing: Landing::new(0),
            free: (0..BUFFERS as u16).rev().collect(),
            arrivals: Arrivals::new(reserve),
            headers: vec![libc::mmsghdr { msg_hdr: EMPTY, msg_len: 0 }; BATCH].into(),
            parts: vec![part; BATCH].into(),
        }
    }

    fn deal(&mut self, burst: &mut Burst) {
        let Self { landing, arrivals, free, .. } = self;
        arrivals.deal(landing, burst, |id| free.push(id));
    }

    /// Receives at most `want` times, without waiting; how often it did, or the error number.
    fn receive(&mut self, listener: &Listener, index: u8, want: usize) -> Result<usize, i32> {
        let want = want.min(BATCH).min(self.free.len());
        let Self { landing, free, arrivals, headers, parts } = self;
        // The last ones first, as they are taken from there.
        let first = free.len() - want;
        let parts = parts.as_mut_ptr();
        for slot in 0..want {
            let (base, bytes) = landing.buffer(free[first + slot]);
            let header = &mut headers[slot].msg_hdr;
            // SAFETY: slot < want <= BATCH, the number of parts.
            unsafe {
                let part = parts.add(slot);
                (*part).iovec = libc::iovec { iov_base: base.cast(), iov_len: bytes };
                header.msg_name = (&raw mut (*part).name).cast();
                header.msg_iov = &raw mut (*part).iovec;
                header.msg_control = (&raw mut (*part).control).cast();
            }
            (header.msg_namelen, header.msg_iovlen) = (Name::BYTES as libc::socklen_t, 1);
            header.msg_controllen = Coalesced::BYTES as _;
            header.msg_flags = 0;
        }
        // SAFETY: the first `want` headers point to a part each, these to a buffer that holds no arrival; all
        // of it outlives the call, and the kernel keeps none of it.
        let received = unsafe {
            let fd = listener.socket.as_raw_fd();
            libc::recvmmsg(fd, headers.as_mut_ptr(), want as _, libc::MSG_DONTWAIT as _, ptr::null_mut())
        };
        let received = usize::try_from(received).map_err(|_| last_errno())?;
        for (slot, buffer) in free.drain(first..first + received).enumerate() {
            let libc::mmsghdr { msg_hdr, msg_len } = headers[slot];
            // SAFETY: as above; the kernel has written name and control data.
            let part = unsafe { &*parts.add(slot) };
            let arrival = Arrival {
                buffer,
                start: 0,
                end: msg_len as usize,
                segment: Coalesced::segment(part.control.0.get(..msg_hdr.msg_controllen).unwrap_or_default()),
                from: part.name.read(),
                listener: index,
                truncated: msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            };
            // SAFETY: the call has returned; the buffer is free again when its arrival has been dealt.
            unsafe { arrivals.push(arrival) };
        }
        Ok(received)
    }
}

impl Outgoings {
    fn new() -> Self {
        Self {
            headers: vec![libc::mmsghdr { msg_hdr: EMPTY, msg_len: 0 }; BATCH].into(),
            messages: (0..BATCH).map(|_| Outgoing::new()).collect(),
            groups: Vec::with_capacity(BATCH),
            staging: Staging::new(),
        }
    }

    /// Makes the message of a group; false when there is no room before others are sent.
    fn prepare(&mut self, outbox: &Outbox, group: &Group) -> bool {
        let at = self.groups.len();
        if at == BATCH {
            return false;
        }
        let bytes = group.bytes as usize;
        let mut frames = outbox.frames(group).map(|frame| frame.bytes());
        let (start, segment) = if group.count > 1 {
            let Some(start) = self.staging.gather(bytes, frames) else { return false };
            (start, Some(group.segment as u16))
        } else {
            let Some(bytes) = frames.next() else { return true };
            (bytes.as_ptr(), None)
        };
        let datagrams = ptr::slice_from_raw_parts(start, bytes);
        // SAFETY: the messages are in a box that does not move, and are read by the call in `hand_over` only;
        // the datagrams stay until then, in the staging or in the outbox.
        let header = unsafe { Outgoing::describe(&raw mut self.messages[at], group.to, datagrams, segment) };
        self.headers[at].msg_hdr = header;
        self.groups.push(*group);
        true
    }

    /// Hands over the messages from `at` on; how many the kernel took, or its error number for the first.
    fn hand_over(&mut self, fd: i32, at: usize) -> Result<usize, i32> {
        let messages = &mut self.headers[at..self.groups.len()];
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: each header points to a message, this to datagrams; all of it outlives the call, the kernel
        // only reads it, but for the lengths in the headers, and keeps none of it.
        let sent = unsafe { libc::sendmmsg(fd, messages.as_mut_ptr(), messages.len() as _, flags as _) };
        usize::try_from(sent).map_err(|_| last_errno())
    }

    fn clear(&mut self) {
        self.groups.clear();
        // SAFETY: the kernel keeps nothing of a call that has returned.
        unsafe { self.staging.clear() };
    }
}

impl Port for Udp {
    fn recv(&mut self, burst: &mut Burst, wait: Duration) -> io::Result<()> {
        if self.closed {
            return Err(super::closed());
        }
        self.receive(burst);
        if burst.rows.is_empty() && burst.done.is_empty() && !wait.is_zero() {
            // Without a free frame there is nothing to do but wait for the caller's.
            self.wait(wait, !self.stopped && burst.pool.available() > 0);
            self.receive(burst);
        }
        Ok(())
    }

    fn more(&self) -> bool {
        self.more || !self.incoming.arrivals.is_empty()
    }

    fn send(&mut self, burst: &mut Burst) -> io::Result<()> {
        let Burst { pool, tx, done, .. } = burst;
        for open in &mut self.listeners {
            open.blocked = false;
        }
        let (closed, listeners) = (self.closed, self.listeners.len());
        self.outbox.load(tx, pool, done, |tx| match () {
            () if closed => Some(libc::ESHUTDOWN),
            () if usize::from(tx.listener) >= listeners => Some(libc::EINVAL),
            () => None,
        });
        for at in 0..self.outbox.len() {
            let mut group = self.outbox.group(at);
            if group.count > 1 && self.outbox.path(&group) == Path::Refused {
                while let Some((alone, rest)) = self.outbox.split_first(&group) {
                    self.post(&alone, pool, done);
                    group = rest;
                }
            } else if group.count > 0 {
                self.post(&group, pool, done);
            }
        }
        self.flush(pool, done);
        Ok(())
    }

    fn spread(&self) -> usize {
        self.outbox.spread()
    }

    fn counts(&self) -> Counts {
        self.counts
    }

    fn in_flight(&self) -> usize {
        0
    }

    fn kernel_drops(&mut self) -> u64 {
        let open = self.listeners.iter_mut().map(|open| open.drops.read(&open.listener.socket));
        self.dropped + open.sum::<u64>()
    }

    fn stop(&mut self, _burst: &mut Burst) -> io::Result<()> {
        self.stopped = true;
        Ok(())
    }

    fn close(&mut self, burst: &mut Burst) -> io::Result<()> {
        if self.closed {
            return Ok(());
        }
        self.incoming.deal(burst);
        // Received, but never by anybody: as good as dropped before.
        self.dropped = self.kernel_drops() + self.incoming.arrivals.discard();
        self.listeners.clear();
        self.polls.clear();
        self.closed = true;
        Ok(())
    }
}

impl fmt::Debug for Udp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Udp")
            .field("listeners", &self.listeners)
            .field("counts", &self.counts)
            .finish_non_exhaustive()
    }
}
