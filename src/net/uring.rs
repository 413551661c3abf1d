//! The port of a shard: one `io_uring`, a receive that stays armed for each listener, sends in batches.
//!
//! Cost: one system call for a burst of sends, which brings what has arrived meanwhile, and one to wait. A copy of
//! each datagram on its way in, from the buffer that it arrived in with others (`UDP_GRO`) to a frame of its own, and
//! one on its way out, to where its group lies in one piece (`UDP_SEGMENT`); one that leaves alone is sent from its
//! frame. 4 MiB of addresses to receive into, 300 KiB to send from, 160 KiB to know next hops by, 180 bytes for each
//! frame of the pool.
//!
//! What was measured and is not used: registered buffers serve `SEND_ZC` only, which is slower below 10 KiB;
//! so are bundles than a message of segments; a connected socket for each next hop saves a tenth of a send alone, and
//! would take the next hop's own datagrams away from its shard.
//!
//! What the kernel does and this file answers to (each measured on Linux 6.18):
//!
//! - Any completion can end a multishot receive: the buffer ring ran empty, the completion ring filled
//!   (the last completion is then a *successful* one), a datagram of no bytes. So whether to arm
//!   again is decided by one thing, the flag `MORE` being absent, whatever the result.
//! - A receive armed over an empty buffer ring fails at once: buffers first, then the receive.
//! - Closing a socket does not stop an armed receive; the socket would keep its share of the group
//!   and its port. So: cancel, reap, unregister, then close.
//! - A file's number is used again by the next file: sockets are registered, and the word that comes
//!   back with a completion carries a generation.
//! - With deferred task work nothing completes by looking at the ring; only the thread that made the
//!   ring may enter it. So [`Uring`] is not `Send`: make it on the shard's thread.
//! - Incremental buffer consumption cuts datagrams at a buffer's end: never used.
//! - One call brings at most 32 receives: [`Port::more`] says when there are likely others.
//! - A group that the kernel refuses fails beside what was submitted with it. So the first group to a next hop
//!   is submitted alone, and what follows to there only once that is known to go.

#![expect(unsafe_code, reason = "shares buffers, headers and rings with the kernel")]

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

use super::groups::Group;
use super::outbox::{Outbox, Path};
use super::socket::{self, Drops, Listener};
use super::{Counts, Options, Port};
use crate::id::Endpoint;
use crate::packet::{Burst, Done, FramePool};

mod receive;
mod refusal;
mod send;
mod setup;
mod shared;

use receive::{Receiving, Taken};
pub use refusal::{Refused, uring_refusal};
use send::Sending;
use setup::{Mode, busy_polls, completions, prepare};
use shared::GROUP;

/// `IORING_ENTER_GETEVENTS` and `IORING_ENTER_EXT_ARG`.
const ENTER_GETEVENTS: u32 = 1;
const ENTER_EXT_ARG: u32 = 1 << 3;

/// How long [`Port::close`] waits: so many rounds of 10 ms.
const CLOSE_ROUNDS: usize = 200;
const CLOSE_ROUND: Duration = Duration::from_millis(10);

/// As many receives in one call say that the kernel has more: it brings at most 32.
const MANY: usize = 16;

/// A port over one `io_uring`. Must be made, used and dropped on one thread.
///
/// Dropping it without [`Port::close`] stops it too, but frames that are being sent are lost to their pool.
pub struct Uring {
    ring: IoUring,
    mode: Mode,
    listeners: Vec<Listening>,
    receiving: Receiving,
    sending: Sending,
    /// The listener that is armed first the next time.
    first_armed: usize,
    /// Receives that the last call brought.
    brought: usize,
    generation: u32,
    coalesced: bool,
    /// The kernel polls network cards before a wait sleeps.
    polls: bool,
    counts: Counts,
    dropped: u64,
    /// No receive is to be armed any more.
    stopped: bool,
    closed: bool,
    _one_thread: PhantomData<*mut ()>,
}

#[derive(Debug)]
struct Listening {
    listener: Listener,
    drops: Drops,
    /// The generation of its armed receive.
    armed: Option<u32>,
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
    /// A port over these sockets, as well as the kernel can.
    ///
    /// # Errors
    /// What the kernel says, with the sockets as they were.
    pub fn new(listeners: Vec<Listener>, burst: &mut Burst) -> Result<Self, Refused> {
        Self::with(listeners, burst, &Options::default())
    }

    /// As [`Uring::new`], with these options.
    ///
    /// # Errors
    /// As there.
    pub fn with(listeners: Vec<Listener>, burst: &mut Burst, options: &Options) -> Result<Self, Refused> {
        let completions = completions(listeners.len());
        Self::shaped(listeners, burst, options, completions, &Mode::ALL)
    }

    /// As [`Uring::new`], in the first of these modes that there is, with a completion ring of at least
    /// so many entries.
    fn shaped(
        listeners: Vec<Listener>,
        burst: &mut Burst,
        options: &Options,
        completions: usize,
        modes: &[Mode],
    ) -> Result<Self, Refused> {
        let (ring, mode, buffers) = match prepare(&listeners, completions, modes) {
            Ok(prepared) => prepared,
            Err(error) => return Err(Refused { error, listeners }),
        };
        let polls = busy_polls(&ring, options.busy_poll);
        let coalesced = options.coalesce.receives() && socket::coalesce(&listeners);
        let segments = options.coalesce.sends() && socket::takes_segments(&listeners);
        let outbox = Outbox::new(burst.pool.capacity(), segments);
        let mut port = Self {
            ring,
            mode,
            listeners: listeners
                .into_iter()
                .map(|listener| Listening { listener, drops: Drops::default(), armed: None })
                .collect(),
            receiving: Receiving::new(buffers, super::reserve(burst)),
            sending: Sending::new(outbox),
            first_armed: 0,
            brought: 0,
            generation: 0,
            coalesced,
            polls,
            counts: Counts::default(),
            dropped: 0,
            stopped: false,
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

    /// Whether this kernel and container give what [`Uring::new`] needs, tried with a ring and a
    /// socket of its own on 127.0.0.1.
    ///
    /// # Errors
    /// What the kernel says; [`uring_refusal`] puts it into words.
    pub fn probe() -> io::Result<()> {
        let (ring, _, mut buffers) = prepare(&[], 64, &Mode::ALL)?;
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
        let coalesced = super::describe_coalescing(self.coalesced, self.sending.outbox.has_segments());
        let (sockets, mode) = (self.listeners.len(), self.mode.name());
        let polls = if self.polls { ", busy polling of network cards" } else { "" };
        format!("io_uring: multishot receive on {sockets} registered sockets, {coalesced}, {mode}{polls}")
    }

    /// Arms every receive for the first time. A kernel without multishot receive says so only now.
    fn first_arm(&mut self, burst: &mut Burst) -> io::Result<()> {
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

    /// Arms every receive that is not, unless the kernel has too few buffers for it. Returns whether there
    /// is something to submit. What is armed first may take all the buffers: each listener is it in turn.
    fn arm(&mut self) -> bool {
        if self.stopped || self.receiving.is_starved() {
            return false;
        }
        let mut queued = false;
        let count = self.listeners.len();
        for step in 0..count {
            let index = (self.first_armed + step) % count;
            if self.listeners[index].armed.is_some() {
                continue;
            }
            let generation = self.next_generation();
            let word = Word { generation, op: Op::Receive, index: index as u32 };
            let entry = opcode::RecvMsgMulti::new(Fixed(index as u32), self.sending.receive_header(), GROUP)
                .build()
                .user_data(word.pack());
            if self.push(&entry) {
                self.listeners[index].armed = Some(generation);
                queued = true;
            }
        }
        if queued {
            self.first_armed = (self.first_armed + 1) % count;
        }
        queued
    }

    fn next_generation(&mut self) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        self.generation
    }

    /// Queues a request, submitting what is queued if there is no room. False when there is none even
    /// then.
    fn push(&mut self, entry: &squeue::Entry) -> bool {
        for attempt in 0..2 {
            // SAFETY: what the entry points to (the receive header, or a send header and the datagrams that it
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
        self.brought = 0;
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

    /// Whether a call would bring nothing, as far as can be known without one.
    fn is_quiet(&mut self) -> bool {
        let submission = self.ring.submission();
        self.mode == Mode::Deferred
            && submission.is_empty()
            && !submission.taskrun()
            && !submission.cq_overflow()
    }

    /// Takes every completion that there is. `failed` is told the error of each receive that ended
    /// with one.
    fn reap(&mut self, pool: &mut FramePool, done: &mut Vec<Done>, mut failed: impl FnMut(i32)) {
        let Self { ring, listeners, receiving, sending, brought, counts, dropped, stopped, .. } = self;
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
                            _ if *stopped => {}
                            0.. => counts.interrupted += 1,
                            _ if result == -libc::ENOBUFS => counts.starved += 1,
                            _ => counts.errors += 1,
                        }
                    }
                    if result < 0 {
                        failed(-result);
                    }
                    *brought += 1;
                    match receiving.take(result, flags, index as u8) {
                        Taken::Arrival => counts.receives += 1,
                        Taken::Nothing => {}
                        Taken::Unreadable => *dropped += 1,
                    }
                }
                Op::Send => sending.complete(word, result, pool, done),
                Op::Cancel => {}
            }
        }
    }

    /// One round of reaping, recycling, arming and delivering.
    fn turn(&mut self, burst: &mut Burst) -> io::Result<()> {
        self.reap(&mut burst.pool, &mut burst.done, |_| {});
        self.receiving.deal(burst);
        if self.arm() {
            // An error shows here, at once: the wait that may follow is not cut short by it again and
            // again.
            self.enter(0, Duration::ZERO)?;
            self.reap(&mut burst.pool, &mut burst.done, |_| {});
            self.receiving.deal(burst);
        }
        Ok(())
    }

    /// Sends what is queued and takes what is done; groups that the kernel refused leave one by one.
    fn flush(&mut self, pool: &mut FramePool, done: &mut Vec<Done>) -> io::Result<()> {
        self.enter(0, Duration::ZERO)?;
        self.reap(pool, done, |_| {});
        let mut refused = false;
        while let Some(group) = self.sending.again() {
            self.post_singly(group, pool, done)?;
            refused = true;
        }
        if refused { self.flush(pool, done) } else { Ok(()) }
    }

    /// Queues a group, or a datagram alone.
    fn post(&mut self, group: &Group, pool: &mut FramePool, done: &mut Vec<Done>) -> io::Result<()> {
        for attempt in 0..2 {
            let generation = self.next_generation();
            if let Some(entry) = self.sending.prepare(group, generation) {
                if self.push(&entry) {
                    return Ok(());
                }
                self.sending.unprepare(&entry);
            }
            if attempt == 0 {
                self.flush(pool, done)?;
            }
        }
        self.sending.outbox.end(group, -libc::ENOBUFS, pool, done);
        Ok(())
    }

    /// Queues the datagrams of a group, each alone.
    fn post_singly(
        &mut self,
        mut group: Group,
        pool: &mut FramePool,
        done: &mut Vec<Done>,
    ) -> io::Result<()> {
        while let Some((alone, rest)) = self.sending.outbox.split_first(&group) {
            self.post(&alone, pool, done)?;
            group = rest;
        }
        Ok(())
    }

    /// Cancels the receives and waits until none is armed and, for `sends`, nothing is being sent. False when
    /// something still is after all rounds.
    fn wind_down(&mut self, sends: bool, mut reap: impl FnMut(&mut Self)) -> io::Result<bool> {
        self.stopped = true;
        for round in 0..CLOSE_ROUNDS {
            let idle = self.listeners.iter().all(|at| at.armed.is_none());
            if idle && (!sends || self.sending.is_idle()) {
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
            reap(self);
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

    /// As `reap`, when the port is dropped: frames are lost to their pool.
    fn reap_without_pool(&mut self) {
        let Self { ring, listeners, sending, .. } = self;
        for completion in ring.completion() {
            let Some(word) = Word::unpack(completion.user_data()) else { continue };
            match word.op {
                Op::Receive if !cqueue::more(completion.flags()) => {
                    if let Some(listening) = listeners.get_mut(word.index as usize) {
                        listening.armed = None;
                    }
                }
                Op::Send => sending.forget(word),
                _ => {}
            }
        }
    }

    /// Takes the ring's hold off the buffers and the sockets.
    fn let_go(&mut self) -> io::Result<Vec<Listener>> {
        self.receiving.unregister(&self.ring)?;
        // Synchronous, whereas the end of the ring is not: the port's address is free when this returns.
        self.ring.submitter().unregister_files()?;
        self.dropped = self.kernel_drops();
        self.closed = true;
        Ok(self.listeners.drain(..).map(|at| at.listener).collect())
    }

    /// Ends everything, gives every frame back, and the sockets to the caller.
    fn shut(&mut self, burst: &mut Burst) -> io::Result<Vec<Listener>> {
        let Burst { pool, done, .. } = burst;
        let stopped = self.wind_down(true, |port| port.reap(pool, done, |_| {}))?;
        if !stopped {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the kernel did not give every frame back"));
        }
        let listeners = self.let_go()?;
        self.receiving.deal(burst);
        // Received, but never by anybody: as good as dropped before.
        self.dropped += self.receiving.discard();
        Ok(listeners)
    }
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
        if wait.is_zero() && self.is_quiet() {
            return Ok(());
        }
        // Nothing in the ring: let the kernel bring what it has, and if that is nothing, wait.
        let want = u32::from(burst.done.is_empty() && !wait.is_zero());
        self.enter(want, wait)?;
        self.turn(burst)
    }

    fn more(&self) -> bool {
        self.receiving.has_arrivals() || self.brought >= MANY
    }

    fn send(&mut self, burst: &mut Burst) -> io::Result<()> {
        if burst.tx.is_empty() {
            return Ok(());
        }
        let Burst { pool, tx, done, .. } = burst;
        let (closed, listeners) = (self.closed, self.listeners.len());
        self.sending.outbox.load(tx, pool, done, |tx| match () {
            () if closed => Some(libc::ESHUTDOWN),
            () if usize::from(tx.listener) >= listeners => Some(libc::EINVAL),
            () => None,
        });
        for at in 0..self.sending.outbox.len() {
            let group = self.sending.outbox.group(at);
            let path = if group.count > 1 { self.sending.outbox.path(&group) } else { Path::Proven };
            match path {
                _ if group.count == 0 => {}
                Path::Proven => self.post(&group, pool, done)?,
                Path::Unknown => {
                    self.post(&group, pool, done)?;
                    self.flush(pool, done)?;
                }
                Path::Refused => self.post_singly(group, pool, done)?,
            }
        }
        self.flush(pool, done)
    }

    fn spread(&self) -> usize {
        self.sending.outbox.spread()
    }

    fn counts(&self) -> Counts {
        let Sending { sends, groups_refused, .. } = self.sending;
        Counts { sends, groups_refused, ..self.counts }
    }

    fn in_flight(&self) -> usize {
        self.sending.outbox.count()
    }

    fn kernel_drops(&mut self) -> u64 {
        let open = self.listeners.iter_mut().map(|at| at.drops.read(&at.listener.socket));
        self.dropped + open.sum::<u64>()
    }

    fn stop(&mut self, burst: &mut Burst) -> io::Result<()> {
        let Burst { pool, done, .. } = burst;
        self.wind_down(false, |port| port.reap(pool, done, |_| {})).map(drop)
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
        let stopped = self.wind_down(true, Self::reap_without_pool).unwrap_or(false);
        if !stopped || self.let_go().is_err() {
            // Something may still be with the kernel: it stays where it is for ever. Frames that are dropped
            // leak their memory by themselves, and so does a registered buffer ring.
            self.receiving.leak();
            self.sending.leak();
        }
    }
}

impl fmt::Debug for Uring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uring")
            .field("mode", &self.mode)
            .field("sending", &self.sending.outbox.count())
            .field("counts", &self.counts)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
