//! The port of a shard: one `io_uring`, a receive that stays armed for each listener, sends in batches.
//!
//! Cost: one system call for a burst of sends, none for a burst of received datagrams that is there
//! already, one to wait. For each frame of the pool 112 bytes of send header, 96 of bookkeeping and 16
//! of buffer ring; 64 bytes for each entry of the submission ring (at most 256), 16 for each of the
//! completion ring (at least two a frame and some).
//!
//! Frames travel: pool → buffer ring → (a datagram arrives) → row → tx → send header → (sent) → pool.
//! The datagram leaves from the buffer that received it; the kernel writes 44 bytes of its own, the
//! sender's address among them, in front of it into the headroom.
//!
//! What the kernel does and this file answers to (each measured on Linux 6.18):
//!
//! - Any completion can end a multishot receive: the buffer ring ran empty, the completion ring filled
//!   (the last completion is then a *successful* one), a datagram of no bytes. So whether to arm
//!   again is decided by one thing, the flag `MORE` being absent, whatever the result.
//! - A receive armed over an empty buffer ring fails at once: frames first, then the receive.
//! - Closing a socket does not stop an armed receive; the socket would keep its share of the group
//!   and its port. So: cancel, reap, unregister, then close.
//! - A file's number is used again by the next file: sockets are registered, and the word that comes
//!   back with a completion carries a generation.
//! - With deferred task work nothing completes by looking at the ring; only the thread that made the
//!   ring may enter it. So [`Uring`] is not `Send`: make it on the shard's thread.
//! - Incremental buffer consumption cuts datagrams at a buffer's end: never used.

#![expect(unsafe_code, reason = "shares buffers, headers and rings with the kernel")]

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::mem;
use std::os::fd::AsRawFd;
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

use super::Port;
use super::socket::{Drops, Listener, Name};
use crate::id::Endpoint;
use crate::packet::{Burst, Done, Frame, FramePool, HEADROOM, Row, TAILROOM, Tx};

mod refusal;
mod shared;

pub use refusal::{Refused, uring_refusal};
use shared::{BufferRing, GROUP, Headers};

/// What the kernel writes before a datagram: `io_uring_recvmsg_out` and the sender's address.
const OUT_BYTES: usize = 16;
const PREFIX: usize = OUT_BYTES + Name::BYTES;
/// Where in the slot the kernel starts, so that the datagram lies at [`HEADROOM`].
const START: usize = HEADROOM - PREFIX;

/// The most frames that a buffer ring takes, and so a pool may have.
const FRAMES_MAX: usize = 1 << 15;
const SUBMISSIONS_MAX: usize = 256;

/// `IORING_ENTER_GETEVENTS` and `IORING_ENTER_EXT_ARG`.
const ENTER_GETEVENTS: u32 = 1;
const ENTER_EXT_ARG: u32 = 1 << 3;

/// How long [`Port::close`] waits: so many rounds of 10 ms.
const CLOSE_ROUNDS: usize = 200;
const CLOSE_ROUND: Duration = Duration::from_millis(10);

/// A port over one `io_uring`. Must be made, used and dropped on one thread.
///
/// Dropping it without [`Port::close`] stops it too, but its frames are lost to their pool.
pub struct Uring {
    ring: IoUring,
    mode: Mode,
    listeners: Vec<Listening>,
    buffers: BufferRing,
    /// By frame index: the frames that are in the buffer ring.
    held: Box<[Option<Frame>]>,
    held_count: usize,
    /// By frame index: the frames being sent.
    sending: Box<[Option<Sending>]>,
    sending_count: usize,
    headers: Headers,
    /// Received, and not yet in a row.
    arrived: VecDeque<Arrived>,
    generation: u32,
    reserve: usize,
    datagram_max: usize,
    rearms: Rearms,
    dropped: u64,
    closing: bool,
    closed: bool,
    _one_thread: PhantomData<*mut ()>,
}

/// How the ring was set up, best first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Deferred,
    Cooperative,
    Plain,
}

impl Mode {
    const ALL: [Self; 3] = [Self::Deferred, Self::Cooperative, Self::Plain];
}

#[derive(Debug)]
struct Listening {
    listener: Listener,
    drops: Drops,
    /// The generation of its armed receive.
    armed: Option<u32>,
}

#[derive(Debug)]
struct Sending {
    frame: Frame,
    token: u32,
    generation: u32,
}

#[derive(Debug)]
struct Arrived {
    frame: Frame,
    bytes: usize,
    listener: u8,
}

/// How often a receive had to be armed again, so far, by the reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rearms {
    /// The buffer ring had run empty.
    pub empty: u64,
    /// A completion that was no error: the completion ring was full, or the datagram had no bytes.
    pub ended: u64,
    /// An error.
    pub error: u64,
}

/// What a completion is about, in the 64 bits that come back with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Word {
    generation: u32,
    op: Op,
    index: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Op {
    Receive = 1,
    Send = 2,
    Cancel = 3,
}

impl Word {
    fn pack(self) -> u64 {
        u64::from(self.generation) << 32 | (self.op as u64) << 24 | u64::from(self.index & 0xFF_FFFF)
    }

    fn unpack(word: u64) -> Option<Self> {
        let op = match word >> 24 & 0xFF {
            1 => Op::Receive,
            2 => Op::Send,
            3 => Op::Cancel,
            _ => return None,
        };
        Some(Self { generation: (word >> 32) as u32, op, index: (word & 0xFF_FFFF) as u32 })
    }
}

impl Uring {
    /// A port over these sockets, which takes most of the frames of `burst.pool` for receiving and
    /// leaves a quarter for copies.
    ///
    /// # Errors
    /// What the kernel says, with the sockets as they were and every frame in the pool.
    /// `InvalidInput` for a pool of more than 32 768 frames.
    pub fn new(listeners: Vec<Listener>, burst: &mut Burst) -> Result<Self, Refused> {
        // Each frame is in at most one request at a time and so in one completion; besides, each
        // receive can end and be cancelled, once before it is armed again.
        let completions = 2 * burst.pool.capacity() + 4 * listeners.len() + 64;
        Self::shaped(listeners, burst, completions, &Mode::ALL)
    }

    /// As [`Uring::new`], in the first of these modes that there is, with a completion ring of at least
    /// so many entries.
    fn shaped(
        listeners: Vec<Listener>,
        burst: &mut Burst,
        completions: usize,
        modes: &[Mode],
    ) -> Result<Self, Refused> {
        let (ring, mode, buffers) = match prepare(&listeners, burst.pool.capacity(), completions, modes) {
            Ok(prepared) => prepared,
            Err(error) => return Err(Refused { error, listeners }),
        };
        let frames = burst.pool.capacity();
        let mut port = Self {
            ring,
            mode,
            listeners: listeners
                .into_iter()
                .map(|listener| Listening { listener, drops: Drops::default(), armed: None })
                .collect(),
            buffers,
            held: (0..frames).map(|_| None).collect(),
            held_count: 0,
            sending: (0..frames).map(|_| None).collect(),
            sending_count: 0,
            headers: Headers::new(frames),
            arrived: VecDeque::with_capacity(frames),
            generation: 0,
            reserve: super::reserve(burst),
            datagram_max: burst.pool.datagram_max(),
            rearms: Rearms::default(),
            dropped: 0,
            closing: false,
            closed: false,
            _one_thread: PhantomData,
        };
        match port.first_arm(burst) {
            Ok(()) => Ok(port),
            Err(error) => {
                let listeners = port.shut(burst).unwrap_or_default();
                Err(Refused { error, listeners })
            }
        }
    }

    /// Whether this kernel and container give what [`Uring::new`] needs, tried with a small ring and a
    /// socket of its own on 127.0.0.1.
    ///
    /// # Errors
    /// What the kernel says; [`uring_refusal`] puts it into words.
    pub fn probe() -> io::Result<()> {
        let (ring, _, mut buffers) = prepare(&[], 8, 64, &Mode::ALL)?;
        buffers.unregister(&ring)?;
        let any = Endpoint::new([127, 0, 0, 1].into(), 0);
        let Ok(bound) = super::bind_shards(&[any], 1, 1 << 12) else {
            // No loopback to try it on: what was asked for is there.
            return Ok(());
        };
        let mut burst = Burst::new(FramePool::new(8, 64));
        let listeners = bound.shards.into_iter().flatten().collect();
        Self::new(listeners, &mut burst).map_err(|refused| refused.error)?.close(&mut burst)
    }

    /// Which features are in use, for the line that says that the server is ready.
    pub fn describe(&self) -> String {
        let mode = match self.mode {
            Mode::Deferred => "single issuer, deferred task work",
            Mode::Cooperative => "cooperative task work",
            Mode::Plain => "no task work flags",
        };
        format!(
            "io_uring: multishot receive on {} registered sockets, {mode}, {} frames of {} bytes, {} kept for copies",
            self.listeners.len(),
            self.held.len(),
            self.datagram_max,
            self.reserve
        )
    }

    /// How often, and why, a receive had to be armed again.
    pub fn rearms(&self) -> Rearms {
        self.rearms
    }

    /// Arms every receive for the first time. A kernel without multishot receive says so only now.
    fn first_arm(&mut self, burst: &mut Burst) -> io::Result<()> {
        self.refill(&mut burst.pool);
        self.arm();
        self.enter(0, Duration::ZERO)?;
        let mut refused = None;
        self.reap(&mut burst.pool, &mut burst.done, |errno| {
            if matches!(errno, libc::EINVAL | libc::EOPNOTSUPP) {
                refused = Some(errno);
            }
        });
        refused.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }

    /// Hands free frames to the kernel, all but the reserve, or one if it would have none.
    fn refill(&mut self, pool: &mut FramePool) {
        let before = self.held_count;
        while pool.available() > self.reserve || self.held_count == 0 {
            let Some(mut frame) = pool.take() else { break };
            let index = frame.index() as usize;
            let (slot, bytes) = frame.slot();
            let Some(place) = self.held.get_mut(index).filter(|place| place.is_none() && bytes > HEADROOM)
            else {
                // A frame of another pool than the one that this port was made for.
                pool.put(frame);
                break;
            };
            let room = (bytes - START).min(PREFIX + self.datagram_max + TAILROOM);
            // SAFETY: START lies within the slot, as HEADROOM does, and `room` ends within it. The frame
            // is kept in `held`, untouched, until its number comes back or the ring is unregistered; it
            // is there once, and the ring has an entry for each place in `held`.
            unsafe { self.buffers.add(slot.add(START), room, index as u16) };
            *place = Some(frame);
            self.held_count += 1;
        }
        if self.held_count != before {
            self.buffers.publish();
        }
    }

    /// Arms every receive that is not, unless the kernel has no frame for it. Returns whether there
    /// is something to submit.
    fn arm(&mut self) -> bool {
        if self.held_count == 0 || self.closing {
            return false;
        }
        let mut queued = false;
        for index in 0..self.listeners.len() {
            if self.listeners[index].armed.is_some() {
                continue;
            }
            self.generation = self.generation.wrapping_add(1);
            let generation = self.generation;
            let word = Word { generation, op: Op::Receive, index: index as u32 };
            let entry = opcode::RecvMsgMulti::new(Fixed(index as u32), self.headers.receive(), GROUP)
                .build()
                .user_data(word.pack());
            if self.push(&entry) {
                self.listeners[index].armed = Some(generation);
                queued = true;
            }
        }
        queued
    }

    /// Queues a request, submitting what is queued if there is no room. False when there is none even
    /// then.
    fn push(&mut self, entry: &squeue::Entry) -> bool {
        for attempt in 0..2 {
            // SAFETY: what the entry points to (the receive header, or the send header and the frame it
            // describes) is kept in `self` until the request's last completion, and leaked if that
            // never comes.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return true;
            }
            if attempt == 0 && self.enter(0, Duration::ZERO).is_err() {
                return false;
            }
        }
        false
    }

    /// Submits what is queued, lets the kernel do its deferred work, and waits at most `wait` for
    /// `want` completions.
    fn enter(&mut self, want: u32, wait: Duration) -> io::Result<()> {
        let queued = self.ring.submission().len() as u32;
        let timespec = Timespec::from(wait);
        let args = SubmitArgs::new().timespec(&timespec);
        let (flags, args) =
            if want == 0 { (ENTER_GETEVENTS, None) } else { (ENTER_GETEVENTS | ENTER_EXT_ARG, Some(&args)) };
        // SAFETY: `SubmitArgs` is `io_uring_getevents_arg` (transparent), which is what EXT_ARG announces;
        // it and the timespec outlive the call. What the queued requests point to: see `push`.
        let result = unsafe { self.ring.submitter().enter::<SubmitArgs<'_, '_>>(queued, want, flags, args) };
        match result.map_err(|error| (error.raw_os_error(), error)) {
            Ok(_) => Ok(()),
            // Time is up, a signal came, or the kernel wants completions reaped or memory freed first:
            // whatever is queued stays queued for the next time.
            Err((Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ENOMEM), _)) => Ok(()),
            Err((_, error)) => Err(error),
        }
    }

    /// Takes every completion that there is. `failed` is told the error of each receive that ended
    /// with one.
    fn reap(&mut self, pool: &mut FramePool, done: &mut Vec<Done>, mut failed: impl FnMut(i32)) {
        let Self {
            ring,
            listeners,
            held,
            held_count,
            sending,
            sending_count,
            arrived,
            rearms,
            dropped,
            closing,
            ..
        } = self;
        for completion in ring.completion() {
            let (result, flags) = (completion.result(), completion.flags());
            let Some(word) = Word::unpack(completion.user_data()) else { continue };
            let index = word.index as usize;
            match word.op {
                Op::Receive => {
                    if !cqueue::more(flags)
                        && let Some(listening) = listeners.get_mut(index)
                        && listening.armed == Some(word.generation)
                    {
                        listening.armed = None;
                        match result {
                            _ if *closing => {}
                            0.. => rearms.ended += 1,
                            _ if result == -libc::ENOBUFS => rearms.empty += 1,
                            _ => rearms.error += 1,
                        }
                    }
                    if result < 0 {
                        failed(-result);
                    }
                    let frame = cqueue::buffer_select(flags)
                        .and_then(|id| held.get_mut(usize::from(id)))
                        .and_then(Option::take);
                    if let Some(frame) = frame {
                        *held_count -= 1;
                        match usize::try_from(result) {
                            Ok(bytes) if bytes >= PREFIX => {
                                arrived.push_back(Arrived { frame, bytes, listener: index as u8 });
                            }
                            _ => {
                                *dropped += u64::from(result >= 0);
                                pool.put(frame);
                            }
                        }
                    }
                }
                Op::Send => {
                    let place = sending.get_mut(index).filter(
                        |place| matches!(place, Some(sending) if sending.generation == word.generation),
                    );
                    if let Some(Sending { frame, token, .. }) = place.and_then(Option::take) {
                        *sending_count -= 1;
                        done.push(Done { token, bytes: frame.len() as u32, errno: (-result).max(0) });
                        pool.put(frame);
                    }
                }
                Op::Cancel => {}
            }
        }
    }

    /// Moves what has arrived into the free rows.
    fn fill_rows(&mut self, burst: &mut Burst) {
        while !burst.is_full()
            && let Some(Arrived { mut frame, bytes, listener }) = self.arrived.pop_front()
        {
            let (from, truncated) = open(&mut frame, bytes, self.datagram_max);
            burst.rows.push(Row { frame: Some(frame), from, listener, truncated });
        }
    }

    /// One round of reaping, recycling, arming and delivering.
    fn turn(&mut self, burst: &mut Burst) -> io::Result<()> {
        self.reap(&mut burst.pool, &mut burst.done, |_| {});
        self.refill(&mut burst.pool);
        if self.arm() {
            // An error shows here, at once: the wait that may follow is not cut short by it again and
            // again.
            self.enter(0, Duration::ZERO)?;
            self.reap(&mut burst.pool, &mut burst.done, |_| {});
        }
        self.fill_rows(burst);
        Ok(())
    }

    /// Cancels the receives and waits until nothing is with the kernel. False when something still
    /// is after all rounds.
    fn stop(&mut self, pool: &mut Option<&mut FramePool>, done: &mut Vec<Done>) -> io::Result<bool> {
        self.closing = true;
        for round in 0..CLOSE_ROUNDS {
            let idle = self.sending_count == 0 && self.listeners.iter().all(|at| at.armed.is_none());
            if idle {
                return Ok(true);
            }
            // Receives are cancelled every tenth round in case a cancel found its receive at work;
            // sends, which do not wait, only when they take absurdly long.
            if round % 10 == 0 {
                let cancel = match round {
                    0..50 => None,
                    _ => Some(CancelBuilder::any()),
                };
                self.cancel(cancel);
            }
            self.enter(1, CLOSE_ROUND)?;
            match pool {
                Some(pool) => self.reap(pool, done, |_| {}),
                None => self.reap_without_pool(),
            }
        }
        Ok(false)
    }

    fn cancel(&mut self, everything: Option<CancelBuilder>) {
        let word = Word { generation: 0, op: Op::Cancel, index: 0 }.pack();
        if let Some(all) = everything {
            let entry = opcode::AsyncCancel2::new(all).build().user_data(word);
            self.push(&entry);
            return;
        }
        for index in 0..self.listeners.len() {
            if let Some(generation) = self.listeners[index].armed {
                let target = Word { generation, op: Op::Receive, index: index as u32 }.pack();
                let entry = opcode::AsyncCancel::new(target).build().user_data(word);
                self.push(&entry);
            }
        }
    }

    /// As `reap`, when the port is dropped: the frames are lost to their pool.
    fn reap_without_pool(&mut self) {
        for completion in self.ring.completion() {
            let Some(word) = Word::unpack(completion.user_data()) else { continue };
            let index = word.index as usize;
            match word.op {
                Op::Receive if !cqueue::more(completion.flags()) => {
                    if let Some(listening) = self.listeners.get_mut(index) {
                        listening.armed = None;
                    }
                }
                Op::Send => {
                    let sent = self.sending.get_mut(index).and_then(Option::take);
                    self.sending_count -= usize::from(sent.is_some());
                }
                _ => {}
            }
        }
    }

    /// Takes the ring's hold off the buffers and the sockets.
    fn let_go(&mut self) -> io::Result<Vec<Listener>> {
        self.buffers.unregister(&self.ring)?;
        // Synchronous, whereas the end of the ring is not: the port's address is free when this returns.
        self.ring.submitter().unregister_files()?;
        self.dropped = self.kernel_drops();
        self.closed = true;
        Ok(self.listeners.drain(..).map(|at| at.listener).collect())
    }

    /// Ends everything, gives every frame back, and the sockets to the caller.
    fn shut(&mut self, burst: &mut Burst) -> io::Result<Vec<Listener>> {
        let stopped = self.stop(&mut Some(&mut burst.pool), &mut burst.done)?;
        if !stopped {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the kernel did not give every frame back"));
        }
        let listeners = self.let_go()?;
        for place in &mut self.held {
            if let Some(frame) = place.take() {
                burst.pool.put(frame);
            }
        }
        self.held_count = 0;
        self.fill_rows(burst);
        // Received, but never by anybody: as good as dropped before.
        for Arrived { frame, .. } in self.arrived.drain(..) {
            burst.pool.put(frame);
            self.dropped += 1;
        }
        Ok(listeners)
    }
}

/// Reads what the kernel wrote before the datagram, and makes the frame hold the datagram. `bytes`,
/// at least [`PREFIX`], is how much it wrote in all.
fn open(frame: &mut Frame, bytes: usize, datagram_max: usize) -> (Endpoint, bool) {
    let within = frame.set_window(START, PREFIX);
    debug_assert!(within, "every slot has its headroom");
    let mut flags = 0;
    let mut from = Endpoint::NONE;
    if let Some((out, name)) = frame.bytes().split_first_chunk::<OUT_BYTES>()
        && let Ok(name) = name.try_into()
    {
        // struct io_uring_recvmsg_out: namelen, controllen, payloadlen, flags.
        let [n0, n1, n2, n3, .., f0, f1, f2, f3] = *out;
        flags = u32::from_ne_bytes([f0, f1, f2, f3]);
        if u32::from_ne_bytes([n0, n1, n2, n3]) > 0 {
            from = Name::parse(name);
        }
    }
    let len = bytes - PREFIX;
    let truncated = flags & libc::MSG_TRUNC as u32 != 0 || len > datagram_max;
    let within = frame.set_window(HEADROOM, len.min(datagram_max));
    debug_assert!(within, "the kernel was given no more than the slot");
    (from, truncated)
}

impl Port for Uring {
    fn recv(&mut self, burst: &mut Burst, wait: Duration) -> io::Result<()> {
        if self.closed {
            return Err(super::closed());
        }
        self.turn(burst)?;
        if !burst.rows.is_empty() {
            return Ok(());
        }
        // Nothing in the ring: let the kernel bring what it has, and if that is nothing, wait.
        let want = u32::from(burst.done.is_empty() && !wait.is_zero());
        self.enter(want, wait)?;
        self.turn(burst)
    }

    fn send(&mut self, burst: &mut Burst) -> io::Result<()> {
        if burst.tx.is_empty() {
            return Ok(());
        }
        let Burst { pool, tx, done, .. } = burst;
        for Tx { frame, to, listener, token, .. } in tx.drain(..) {
            let index = frame.index() as usize;
            let bytes = frame.len() as u32;
            let free = matches!(self.sending.get(index), Some(None));
            let errno = if self.closed || self.closing {
                libc::ESHUTDOWN
            } else if usize::from(listener) >= self.listeners.len() {
                libc::EINVAL
            } else if !free {
                libc::ENOBUFS
            } else {
                self.generation = self.generation.wrapping_add(1);
                let generation = self.generation;
                // SAFETY: no frame is in `sending[index]`, so no send with this header is under way.
                let header = unsafe { self.headers.describe(index, &frame, to) };
                let word = Word { generation, op: Op::Send, index: index as u32 };
                let entry = opcode::SendMsg::new(Fixed(u32::from(listener)), header)
                    .flags((libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as u32)
                    .build()
                    .user_data(word.pack());
                self.sending[index] = Some(Sending { frame, token, generation });
                self.sending_count += 1;
                if self.push(&entry) {
                    continue;
                }
                self.sending_count -= 1;
                if let Some(Sending { frame, .. }) = self.sending[index].take() {
                    pool.put(frame);
                }
                done.push(Done { token, bytes, errno: libc::ENOBUFS });
                continue;
            };
            done.push(Done { token, bytes, errno });
            pool.put(frame);
        }
        self.enter(0, Duration::ZERO)?;
        self.reap(pool, done, |_| {});
        Ok(())
    }

    fn in_flight(&self) -> usize {
        self.sending_count
    }

    fn kernel_drops(&mut self) -> u64 {
        let open = self.listeners.iter_mut().map(|at| at.drops.read(&at.listener.socket));
        self.dropped + open.sum::<u64>()
    }

    fn close(&mut self, burst: &mut Burst) -> io::Result<()> {
        if self.closed {
            return Ok(());
        }
        // The sockets close here: a port that can be bound again is free when this returns.
        self.shut(burst).map(drop)
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        if self.closed {
            return;
        }
        let stopped = self.stop(&mut None, &mut Vec::new()).unwrap_or(false);
        if !stopped || self.let_go().is_err() {
            // Something may still be with the kernel: its headers stay where they are for ever. Frames
            // that are dropped leak their memory by themselves, and so does a registered buffer ring.
            mem::forget(mem::replace(&mut self.headers, Headers::new(0)));
        }
    }
}

impl fmt::Debug for Uring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uring")
            .field("mode", &self.mode)
            .field("held", &self.held_count)
            .field("sending", &self.sending_count)
            .field("arrived", &self.arrived.len())
            .field("rearms", &self.rearms)
            .finish_non_exhaustive()
    }
}

/// A ring that knows these sockets and an empty ring of buffers for so many frames.
fn prepare(
    listeners: &[Listener],
    frames: usize,
    completions: usize,
    modes: &[Mode],
) -> io::Result<(IoUring, Mode, BufferRing)> {
    if frames > FRAMES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{frames} frames: io_uring takes at most {FRAMES_MAX} a shard, lower limits.frames"),
        ));
    }
    let submissions = (frames + 2 * listeners.len() + 2).clamp(8, SUBMISSIONS_MAX.min(completions));
    let (ring, mode) = set_up(submissions as u32, completions as u32, modes)?;
    if !ring.params().is_feature_ext_arg() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut buffers = BufferRing::new(frames.next_power_of_two() as u16)?;
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
            Mode::Deferred => builder.setup_submit_all().setup_single_issuer().setup_defer_taskrun(),
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

#[cfg(test)]
mod tests;
