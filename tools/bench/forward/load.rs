//! The generator: PUSHes made beforehand, sent as fast as it goes, or on a schedule.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use pushplane::clock::Clock;
use pushplane::id::Endpoint;

use super::operator::{Operator, mix};
use super::sink::Sink;
use super::sockets;
use crate::Stop;
use crate::outcome::histogram;

/// The most datagrams of one call of the generator.
const TOGETHER: usize = 64;
/// The most bytes of one: an IPv4 packet, less the headers of IP and UDP.
const BYTES_MAX: usize = 65_507;
/// The most PUSHes that are made: what they go to no longer fits any cache.
const PUSHES_MAX: u64 = 1 << 18;
/// How long the last ones may take.
const PATIENCE: Duration = Duration::from_millis(100);

/// Who sends.
pub(super) struct Load {
    senders: Vec<UdpSocket>,
    /// PUSHes to users without pattern, one after the other.
    pushes: Vec<u8>,
    push_bytes: usize,
    /// The most of them that one call can send.
    together: usize,
    clock: Clock,
}

/// A schedule.
#[derive(Clone, Copy)]
pub(super) struct Schedule {
    /// Datagrams a second.
    pub(super) rate: u64,
    /// How many leave together.
    pub(super) together: usize,
    /// Each that arrives is compared and timed, not a sample.
    pub(super) each: bool,
}

/// What a schedule brought.
pub(super) struct Paced {
    pub(super) sent: u64,
    /// Behind the schedule.
    pub(super) late: Histogram<u64>,
    pub(super) ns: u64,
}

impl Load {
    /// To users of all by chance.
    pub(super) fn new(operator: &Operator, senders: u16, clock: Clock) -> Result<Self, Stop> {
        let users = operator.size.users;
        Self::to((0..users.min(PUSHES_MAX) as u32).map(|at| mix(at.into()) % users), operator, senders, clock)
    }

    /// To these users in turn.
    pub(super) fn to(
        users: impl ExactSizeIterator<Item = u64> + Clone,
        operator: &Operator,
        senders: u16,
        clock: Clock,
    ) -> Result<Self, Stop> {
        let push_bytes = operator.push_bytes();
        let together = TOGETHER.min(BYTES_MAX / push_bytes);
        let count = users.len().next_multiple_of(together);
        let pushes = users.cycle().take(count).flat_map(|user| operator.push(user)).collect();
        let senders = (0..senders).map(|_| open(push_bytes)).collect::<Result<_, Stop>>()?;
        Ok(Self { senders, pushes, push_bytes, together, clock })
    }

    /// From now on everything goes to this forwarder.
    pub(super) fn aim(&mut self, to: Endpoint) -> Result<(), Stop> {
        let failed = |error| Stop::Failed(format!("{to} cannot be reached: {error}"));
        for sender in &mut self.senders {
            if sender.peer_addr().is_ok_and(|peer| Endpoint::from(peer) == to) {
                continue;
            }
            // A socket keeps the address of its own that its first way took.
            *sender = open(self.push_bytes)?;
            sender.connect(SocketAddr::from(to)).map_err(failed)?;
        }
        Ok(())
    }

    /// From now on everything is of this turn.
    pub(super) fn mark(&mut self, turn: u32) {
        for push in self.pushes.chunks_exact_mut(self.push_bytes) {
            Operator::mark(push, turn);
        }
    }

    /// Sends as fast as it goes until told to stop, as one of so many generators: each with senders of its own. A full
    /// buffer is no fault of anybody's.
    pub(super) fn flood(&self, (part, parts): (usize, usize), stop: &AtomicBool) {
        let together = self.pushes.chunks_exact(self.together * self.push_bytes).cycle();
        let own = self.senders.iter().skip(part).step_by(parts).cycle();
        for (pushes, sender) in together.zip(own) {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let _ = sender.send(pushes);
        }
    }

    /// Sends on a schedule, `together` at a time, and takes what arrives in between.
    pub(super) fn paced(
        &mut self,
        rate: u64,
        together: usize,
        length: Duration,
        sink: &mut Sink,
        operator: &Operator,
    ) -> Paced {
        let together = together.min(self.together);
        let schedule = Schedule { rate, together, each: together == 1 };
        let mut calls = (rate * length.as_nanos() as u64 / 1_000_000_000 / together as u64).max(1);
        let goes_on = |_| {
            calls = calls.saturating_sub(1);
            calls > 0
        };
        self.paced_while(schedule, sink, operator, goes_on)
    }

    /// As [`Load::paced`], as long as `goes_on`, which is asked after each call and told the time.
    pub(super) fn paced_while(
        &mut self,
        Schedule { rate, together, each }: Schedule,
        sink: &mut Sink,
        operator: &Operator,
        mut goes_on: impl FnMut(u64) -> bool,
    ) -> Paced {
        let between_ns = 1e9 * together as f64 / rate as f64;
        let start = self.clock.now().mono_ns;
        let (mut late, mut sent) = (histogram(), 0);
        let places = self.pushes.len() / self.push_bytes / together;
        for call in 0.. {
            let due = start + (call as f64 * between_ns) as u64;
            let mut now = self.clock.now().mono_ns;
            while now < due {
                sink.turn(operator, each);
                now = self.clock.now().mono_ns;
            }
            late.saturating_record(now - due);
            let at = call % places * together * self.push_bytes;
            let pushes = &mut self.pushes[at..at + together * self.push_bytes];
            for push in pushes.chunks_exact_mut(self.push_bytes) {
                Operator::stamp(push, due);
            }
            let sender = &self.senders[call % self.senders.len()];
            sent += sender.send(pushes).map_or(0, |_| together as u64);
            if !goes_on(now) {
                break;
            }
        }
        let ns = self.clock.now().mono_ns - start;
        let mut quiet_ns = self.clock.now().mono_ns;
        while self.clock.now().mono_ns - quiet_ns < PATIENCE.as_nanos() as u64
            && sink.arrived.datagrams < sent
        {
            if sink.turn(operator, each) {
                quiet_ns = self.clock.now().mono_ns;
            }
        }
        Paced { sent, late, ns }
    }
}

/// A sender of datagrams of so many bytes, by whatever way leads to where it will be aimed.
fn open(push_bytes: usize) -> Result<UdpSocket, Stop> {
    let failed = |error| Stop::Failed(format!("the generator's socket failed: {error}"));
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(failed)?;
    sockets::segment(&socket, push_bytes).map_err(failed)?;
    Ok(socket)
}

/// How many datagrams leave together at a rate: fifty microseconds' worth.
pub(super) fn together(rate: u64) -> usize {
    (rate / 20_000).clamp(1, TOGETHER as u64) as usize
}
