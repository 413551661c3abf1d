//! The port for kernels and containers that deny `io_uring`: `recvmmsg`, `sendmmsg` and `ppoll`.
//!
//! Cost: one system call for up to 64 datagrams received from one listener, one for each run of up to
//! 64 datagrams sent from one listener, and one to wait. 12 KiB of headers, made once.
//!
//! Sending ends within [`Port::send`], so nothing is ever in flight.

#![expect(
    unsafe_code,
    reason = "recvmmsg, sendmmsg and ppoll have no safe wrapper that takes prepared buffers"
)]

use std::io;
use std::os::fd::AsRawFd;
use std::ptr;
use std::time::Duration;

use super::Port;
use super::socket::{Drops, Listener, Name};
use crate::packet::{BURST_MAX, Burst, Done, Frame, FramePool, HEADROOM, Row, TAILROOM, Tx};

/// A port of plain sockets.
#[derive(Debug)]
pub struct Udp {
    listeners: Vec<Open>,
    polls: Vec<libc::pollfd>,
    /// Where the next receive starts, so that no listener starves another.
    turn: usize,
    reserve: usize,
    headers: Box<[libc::mmsghdr]>,
    iovecs: Box<[libc::iovec]>,
    names: Box<[Name]>,
    frames: Vec<Frame>,
    errors: u64,
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

// SAFETY: the pointers in the headers are written before each system call and read only by it; the
// boxes that they point to are the port's own and move with it.
unsafe impl Send for Udp {}

impl Udp {
    /// A port over these sockets, for frames of `burst.pool`.
    pub fn new(listeners: Vec<Listener>, burst: &Burst) -> Self {
        let polls = listeners
            .iter()
            .map(|listener| libc::pollfd {
                fd: listener.socket.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            })
            .collect();
        let header = libc::mmsghdr { msg_hdr: super::socket::EMPTY_HEADER, msg_len: 0 };
        Self {
            listeners: listeners
                .into_iter()
                .map(|listener| Open { listener, drops: Drops::default(), blocked: false })
                .collect(),
            polls,
            turn: 0,
            reserve: super::reserve(burst),
            headers: vec![header; BURST_MAX].into(),
            iovecs: vec![libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; BURST_MAX].into(),
            names: vec![Name::ZERO; BURST_MAX].into(),
            frames: Vec::with_capacity(BURST_MAX),
            errors: 0,
            closed: false,
            dropped: 0,
        }
    }

    /// Which features are in use, for the line that says that the server is ready.
    pub fn describe(&self) -> String {
        format!("plain sockets: recvmmsg and sendmmsg on {} sockets", self.listeners.len())
    }

    /// Errors of receiving that were survived, so far.
    pub fn receive_errors(&self) -> u64 {
        self.errors
    }

    /// Fills the free rows from every listener, none of them waiting.
    fn receive(&mut self, burst: &mut Burst) {
        let count = self.listeners.len();
        for step in 0..count {
            let index = (self.turn + step) % count;
            if burst.is_full() {
                // This one goes first next time.
                self.turn = index;
                return;
            }
            self.receive_from(index, burst);
        }
        self.turn = if count == 0 { 0 } else { (self.turn + 1) % count };
    }

    fn receive_from(&mut self, index: usize, burst: &mut Burst) {
        let available = burst.pool.available();
        let spare = available.saturating_sub(self.reserve).max(available.min(1));
        let want = spare.min(BURST_MAX - burst.rows.len());
        let max = burst.pool.datagram_max();
        for slot in 0..want {
            let Some(mut frame) = burst.pool.take() else { break };
            let (base, _) = frame.slot();
            self.iovecs[slot] = libc::iovec {
                // SAFETY: HEADROOM lies within the slot.
                iov_base: unsafe { base.add(HEADROOM) }.cast(),
                iov_len: max + TAILROOM,
            };
            self.frames.push(frame);
        }
        let want = self.frames.len();
        if want == 0 {
            return;
        }
        let names = self.names.as_mut_ptr();
        let iovecs = self.iovecs.as_mut_ptr();
        for slot in 0..want {
            let header = &mut self.headers[slot].msg_hdr;
            // SAFETY: slot < want <= BURST_MAX, the length of both arrays.
            (header.msg_name, header.msg_iov) = unsafe { (names.add(slot).cast(), iovecs.add(slot)) };
            (header.msg_namelen, header.msg_iovlen) = (Name::BYTES as libc::socklen_t, 1);
            header.msg_flags = 0;
        }
        // SAFETY: the first `want` headers point to a name and an iovec each, these to the slot of a
        // frame that this function owns, HEADROOM + max + TAILROOM bytes long; all of it outlives the
        // call, and the kernel keeps none of it.
        let received = unsafe {
            libc::recvmmsg(
                self.listeners[index].listener.socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                want as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        let received = usize::try_from(received).unwrap_or_else(|_| {
            let errno = io::Error::last_os_error().raw_os_error();
            if errno != Some(libc::EAGAIN) && errno != Some(libc::EINTR) {
                self.errors += 1;
            }
            0
        });
        for (slot, mut frame) in self.frames.drain(..).enumerate() {
            if slot >= received {
                burst.pool.put(frame);
                continue;
            }
            let header = &self.headers[slot];
            let len = header.msg_len as usize;
            let truncated = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 || len > max;
            let within = frame.set_window(HEADROOM, len.min(max));
            debug_assert!(within);
            let from = self.names[slot].read();
            burst.rows.push(Row { frame: Some(frame), from, listener: index as u8, truncated });
        }
    }

    /// Sends `tx[..]`, all of one listener and at most [`BURST_MAX`]; says what became of each.
    fn send_run(&mut self, tx: &[Tx], done: &mut Vec<Done>) {
        let report = |at: &Tx, errno: i32| Done { token: at.token, bytes: at.frame.len() as u32, errno };
        let Some(open) = self.listeners.get_mut(usize::from(tx[0].listener)) else {
            let errno = if self.closed { libc::ESHUTDOWN } else { libc::EINVAL };
            done.extend(tx.iter().map(|at| report(at, errno)));
            return;
        };
        let fd = open.listener.socket.as_raw_fd();
        let names = self.names.as_mut_ptr();
        let iovecs = self.iovecs.as_mut_ptr();
        for (slot, at) in tx.iter().enumerate() {
            let iov_base = at.frame.as_ptr().cast_mut().cast();
            self.iovecs[slot] = libc::iovec { iov_base, iov_len: at.frame.len() };
            let header = &mut self.headers[slot].msg_hdr;
            header.msg_namelen = self.names[slot].set(at.to);
            // SAFETY: slot < tx.len() <= BURST_MAX, the length of both arrays.
            (header.msg_name, header.msg_iov) = unsafe { (names.add(slot).cast(), iovecs.add(slot)) };
            header.msg_iovlen = 1;
        }
        let mut at = 0;
        while at < tx.len() {
            if open.blocked {
                done.extend(tx[at..].iter().map(|at| report(at, libc::EAGAIN)));
                return;
            }
            // SAFETY: the headers from `at` to `tx.len()` point to a name and an iovec each, these to
            // the bytes of frames that `tx` holds; all of it outlives the call, the kernel only reads
            // it and keeps none of it.
            let sent = unsafe {
                libc::sendmmsg(
                    fd,
                    self.headers.as_mut_ptr().add(at),
                    (tx.len() - at) as libc::c_uint,
                    (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
                )
            };
            if let Ok(sent @ 1..) = usize::try_from(sent) {
                done.extend(tx[at..at + sent].iter().map(|at| report(at, 0)));
                at += sent;
                continue;
            }
            // The first of them could not be sent; those after it perhaps can.
            match io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO) {
                libc::EINTR => {}
                libc::EAGAIN => open.blocked = true,
                errno => {
                    done.push(report(&tx[at], errno));
                    at += 1;
                }
            }
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

impl Port for Udp {
    fn recv(&mut self, burst: &mut Burst, wait: Duration) -> io::Result<()> {
        if self.closed {
            return Err(super::closed());
        }
        self.receive(burst);
        if burst.rows.is_empty() && burst.done.is_empty() && !wait.is_zero() {
            // Without a free frame there is nothing to do but wait for the caller's.
            self.wait(wait, burst.pool.available() > 0);
            self.receive(burst);
        }
        Ok(())
    }

    fn send(&mut self, burst: &mut Burst) -> io::Result<()> {
        for open in &mut self.listeners {
            open.blocked = false;
        }
        let Burst { pool, tx, done, .. } = burst;
        let mut rest = &tx[..];
        while let Some(first) = rest.first() {
            let run =
                rest.iter().take(BURST_MAX).take_while(|other| other.listener == first.listener).count();
            self.send_run(&rest[..run], done);
            rest = &rest[run..];
        }
        give_back(tx, pool);
        Ok(())
    }

    fn in_flight(&self) -> usize {
        0
    }

    fn kernel_drops(&mut self) -> u64 {
        let open = self.listeners.iter_mut().map(|open| open.drops.read(&open.listener.socket));
        self.dropped + open.sum::<u64>()
    }

    fn close(&mut self, _burst: &mut Burst) -> io::Result<()> {
        self.dropped = self.kernel_drops();
        self.listeners.clear();
        self.polls.clear();
        self.closed = true;
        Ok(())
    }
}

fn give_back(tx: &mut Vec<Tx>, pool: &mut FramePool) {
    for tx in tx.drain(..) {
        pool.put(tx.frame);
    }
}
