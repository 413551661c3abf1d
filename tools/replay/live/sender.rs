//! Sends what is due when it is due, and takes what comes back, on one thread over one port.
//!
//! The clock is read before and after each batch of sends. What is due by then goes with it; a message counts as
//! late by when the batch it left with was handed to the kernel. Until the next is due the port waits, the last
//! [`SPIN_NS`] of it without sleeping, since a sleep ends some 60 µs late.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam::channel::TryRecvError;
use hdrhistogram::Histogram;
use pushplane::clock::{Clock, Now};
use pushplane::id::Endpoint;
use pushplane::net::Port;
use pushplane::packet::{BURST_MAX, Burst, Class, Done, Tx};
use pushplane::wire::prp::{Kind, parse};

use super::answers::Answers;
use super::source::{Batch, Batches};
use crate::client::GivenKey;
use crate::outcome::histogram;

/// The last of a wait, without sleeping.
const SPIN_NS: u64 = 100_000;
/// The longest wait before it looks whether it should end.
const LOOK: Duration = Duration::from_millis(50);
/// Before the first message is due: so long the capture is read ahead.
const LEAD_NS: u64 = 20_000_000;
/// How long rejections of what wants no answer are waited for at the end.
const REJECTS_NS: u64 = 100_000_000;
/// Where a message's identifier and its time of signing, from the head's end, stand.
const ID: std::ops::Range<usize> = 40..48;
const SIGNED_AT: usize = 26;

/// How it sends.
pub(crate) struct Orders {
    pub(crate) server: Endpoint,
    pub(crate) timed: bool,
    /// The next one only when the one before is answered, or given up.
    pub(crate) step: bool,
    /// After this time nothing more is sent.
    pub(crate) duration_ns: Option<u64>,
    pub(crate) key: Option<GivenKey>,
}

/// What was sent.
pub(crate) struct Sent {
    pub(crate) sent: u64,
    pub(crate) bytes: u64,
    /// Sends that the kernel had no room for, tried again.
    pub(crate) retried: u64,
    /// Messages that the kernel refused, and the first reason.
    pub(crate) failed: u64,
    pub(crate) first_error: Option<i32>,
    /// Behind the schedule, nanoseconds; without one nothing.
    pub(crate) late: Histogram<u64>,
    /// By how much the last message was late.
    pub(crate) last_late_ns: u64,
    /// From when the first was due, or sent, until the last was sent.
    pub(crate) took_ns: u64,
    /// Datagrams that came back, and those that the kernel had no room for.
    pub(crate) received: u64,
    pub(crate) kernel_drops: u64,
}

/// A message on its way through the kernel.
struct Flight {
    batch: Arc<Batch>,
    at: usize,
    number: u64,
}

pub(crate) struct Sender<'a, P> {
    port: P,
    burst: Burst,
    batches: &'a Batches,
    batch: Option<(Arc<Batch>, usize)>,
    orders: Orders,
    clock: Clock,
    answers: &'a mut Answers,
    flights: Vec<Option<Flight>>,
    free: Vec<u32>,
    again: Vec<Flight>,
    /// Of the batch that is handed over: when each was due.
    due: Vec<(u64, bool)>,
    out: Sent,
}

impl<'a, P: Port> Sender<'a, P> {
    pub(crate) fn new(
        port: P,
        burst: Burst,
        batches: &'a Batches,
        answers: &'a mut Answers,
        orders: Orders,
    ) -> Self {
        let frames = burst.pool.capacity() as u32;
        Self {
            port,
            burst,
            batches,
            batch: None,
            orders,
            clock: Clock::start(),
            answers,
            flights: (0..frames).map(|_| None).collect(),
            free: (0..frames).rev().collect(),
            again: Vec::new(),
            due: Vec::with_capacity(BURST_MAX),
            out: Sent {
                sent: 0,
                bytes: 0,
                retried: 0,
                failed: 0,
                first_error: None,
                late: histogram(),
                last_late_ns: 0,
                took_ns: 0,
                received: 0,
                kernel_drops: 0,
            },
        }
    }

    /// Sends everything, and waits for the answers.
    pub(crate) fn run(mut self, stop: &AtomicBool) -> io::Result<Sent> {
        let start_ns = self.clock.now().mono_ns + LEAD_NS;
        let mut more = true;
        while more && !stop.load(Ordering::Relaxed) {
            let now = self.clock.now();
            let is_over = |duration_ns| now.mono_ns > start_ns + duration_ns;
            if !self.orders.timed && self.orders.duration_ns.is_some_and(is_over) {
                break;
            }
            more = self.gather(start_ns, now);
            if self.burst.tx.is_empty() {
                self.receive(self.pause(start_ns, now))?;
            } else {
                self.hand_over(start_ns)?;
                self.receive(Duration::ZERO)?;
            }
        }
        while !self.flights.iter().all(Option::is_none) || !self.again.is_empty() {
            self.send_again();
            self.port.send(&mut self.burst)?;
            self.receive(LOOK)?;
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
        while !self.answers.is_quiet() && !stop.load(Ordering::Relaxed) {
            self.receive(LOOK)?;
        }
        // What wants no answer may still be rejected.
        let until_ns = self.clock.now().mono_ns + REJECTS_NS;
        while self.clock.now().mono_ns < until_ns {
            self.receive(LOOK)?;
        }
        self.out.kernel_drops = self.port.kernel_drops();
        self.port.close(&mut self.burst)?;
        self.take();
        self.answers.finish();
        Ok(self.out)
    }

    /// Fills `tx` with what is due; false when nothing will be any more.
    fn gather(&mut self, start_ns: u64, now: Now) -> bool {
        self.send_again();
        if self.orders.step && !self.answers.is_quiet() {
            return true;
        }
        let room = if self.orders.step { 1 } else { BURST_MAX };
        while self.burst.tx.len() < room {
            let Some((batch, at)) = self.batch.take() else {
                match self.batches.try_recv() {
                    Ok(batch) => self.batch = Some((batch, 0)),
                    Err(TryRecvError::Empty) => return true,
                    Err(TryRecvError::Disconnected) => return false,
                }
                continue;
            };
            let Some(item) = batch.item(at) else { continue };
            let due_ns = start_ns + item.due_ns;
            if due_ns > now.mono_ns || !self.write(&batch, at, self.out.sent, now) {
                self.batch = Some((batch, at));
                return true;
            }
            self.out.sent += 1;
            self.out.bytes += batch.bytes(item).len() as u64;
            self.due.push((due_ns, item.wants));
            self.batch = Some((batch, at + 1));
        }
        true
    }

    /// Puts a message into `tx`; false when there is no frame for it.
    fn write(&mut self, batch: &Arc<Batch>, at: usize, number: u64, now: Now) -> bool {
        let Some(item) = batch.item(at) else { return false };
        let Some(mut frame) = self.burst.pool.take() else { return false };
        let Some(token) = self.free.pop() else {
            self.burst.pool.put(frame);
            return false;
        };
        let bytes = batch.bytes(item);
        if frame.fill(bytes) {
            let datagram = frame.bytes_mut();
            if let Some(id) = datagram.get_mut(ID) {
                id.copy_from_slice(&self.answers.id(number).to_be_bytes());
            }
            if let (Some(key), Some(end)) = (&self.orders.key, item.sign) {
                let end = usize::from(end);
                datagram[end - SIGNED_AT..][..8].copy_from_slice(&now.unix_ms.to_be_bytes());
                key.sign(datagram, end);
            }
        }
        // One flow: what was captured keeps its order, whoever it is for.
        let (to, listener) = (self.orders.server, item.listener);
        let tx = Tx { frame, to, listener, class: Class::Normal, flow: 0, token };
        self.burst.tx.push(tx);
        self.flights[token as usize] = Some(Flight { batch: Arc::clone(batch), at, number });
        true
    }

    fn send_again(&mut self) {
        let now = self.clock.now();
        while self.burst.tx.len() < BURST_MAX
            && let Some(flight) = self.again.pop()
        {
            let Flight { batch, at, number } = &flight;
            if !self.write(batch, *at, *number, now) {
                self.again.push(flight);
                return;
            }
        }
    }

    /// Hands `tx` to the kernel, and writes down how late that was.
    fn hand_over(&mut self, start_ns: u64) -> io::Result<()> {
        self.port.send(&mut self.burst)?;
        let sent_ns = self.clock.now().mono_ns;
        for (due_ns, wants) in self.due.drain(..) {
            let late_ns = sent_ns.saturating_sub(due_ns);
            // Without a schedule a message is due when it is sent.
            let due_ns = if self.orders.timed { due_ns } else { sent_ns };
            if self.orders.timed {
                self.out.late.saturating_record(late_ns);
                self.out.last_late_ns = late_ns;
            }
            self.answers.sent(due_ns, sent_ns, wants);
        }
        self.out.took_ns = sent_ns.saturating_sub(start_ns);
        Ok(())
    }

    /// How long there is nothing to send.
    fn pause(&self, start_ns: u64, now: Now) -> Duration {
        if self.orders.step && !self.answers.is_quiet() {
            return LOOK;
        }
        let next = self.batch.as_ref().and_then(|(batch, at)| batch.item(*at));
        let left = next.map_or(0, |item| (start_ns + item.due_ns).saturating_sub(now.mono_ns));
        Duration::from_nanos(left.saturating_sub(SPIN_NS)).min(LOOK)
    }

    fn receive(&mut self, wait: Duration) -> io::Result<()> {
        self.port.recv(&mut self.burst, wait)?;
        self.take();
        Ok(())
    }

    /// What came, and what the kernel says of what was sent.
    fn take(&mut self) {
        let now = self.clock.now();
        for row in &self.burst.rows {
            let bytes = row.frame.as_ref().map_or(&[][..], |frame| frame.bytes());
            self.out.received += 1;
            match parse(bytes) {
                Ok(message) if message.kind.is_answer() || message.kind == Kind::Introduce => {
                    self.answers.received(&message, bytes, now.mono_ns);
                }
                _ => self.answers.received_other(),
            }
        }
        self.burst.clear_rows();
        self.answers.expire(now.mono_ns);
        for Done { token, errno, .. } in self.burst.done.drain(..) {
            let flight = self.flights[token as usize].take();
            self.free.push(token);
            match (errno, flight) {
                (libc::EAGAIN | libc::ENOBUFS, Some(flight)) => {
                    self.out.retried += 1;
                    self.again.push(flight);
                }
                (0, _) | (_, None) => {}
                (errno, _) => {
                    self.out.failed += 1;
                    self.out.first_error.get_or_insert(errno);
                }
            }
        }
    }
}
