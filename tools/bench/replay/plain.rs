//! The plain versions of a replay: well-kept libraries in a loop. Offline with a map; at a server with one call of the
//! kernel a datagram and a sleep before each, as udpreplay and most of what is written for the purpose.

use std::collections::HashMap;
use std::fs::File;
use std::hint::black_box;
use std::net::{SocketAddr, UdpSocket};
use std::ops::ControlFlow;
use std::path::Path;
use std::thread;
use std::time::Duration;

use etherparse::{SlicedPacket, TransportSlice};
use hdrhistogram::Histogram;
use pcap_parser::traits::PcapReaderIterator;
use pcap_parser::{LegacyPcapReader, PcapBlockOwned, PcapError};
use pushplane::clock::Clock;
use pushplane::id::{Endpoint, PushId};
use pushplane::wire::prp;

use crate::outcome::histogram;
use crate::{Stop, common};

/// Where each user's terminal is.
pub(super) type Lookup = HashMap<PushId, Endpoint>;

/// Datagrams between two looks at the progress.
const SAY_EVERY: u64 = 1 << 10;

/// Hands on the payload of each UDP datagram of a capture, until there is none or it is enough.
fn each_payload(capture: &Path, mut take: impl FnMut(&[u8]) -> ControlFlow<()>) -> Result<(), Stop> {
    let failed = |error: &dyn std::fmt::Debug| Stop::Failed(format!("{}: {error:?}", capture.display()));
    let file = File::open(capture).map_err(|error| Stop::file(capture, error))?;
    let mut reader = LegacyPcapReader::new(1 << 20, file).map_err(|error| failed(&error))?;
    loop {
        match reader.next() {
            Ok((length, block)) => {
                if let PcapBlockOwned::Legacy(frame) = block
                    && let Ok(packet) = SlicedPacket::from_ethernet(frame.data)
                    && let Some(TransportSlice::Udp(udp)) = packet.transport
                    && take(udp.payload()).is_break()
                {
                    return Ok(());
                }
                reader.consume(length);
            }
            Err(PcapError::Incomplete(_)) => reader.refill().map_err(|error| failed(&error))?,
            Err(PcapError::Eof) => return Ok(()),
            Err(error) => return Err(failed(&error)),
        }
    }
}

/// What is counted offline.
#[derive(Default)]
pub(super) struct Found {
    pub(super) datagrams: u64,
    /// Of users that are in the map.
    pub(super) known: u64,
}

pub(super) fn replay(capture: &Path, lookup: &Lookup) -> Result<Found, Stop> {
    let mut found = Found::default();
    each_payload(capture, |payload| {
        if let Ok(message) = prp::parse(payload) {
            found.datagrams += 1;
            if let Some(terminal) = lookup.get(&message.header.destination) {
                found.known += 1;
                black_box(terminal);
            }
        }
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

/// What is waited for before a datagram is sent.
#[derive(Clone, Copy)]
pub(super) enum Pace {
    /// Nothing.
    Topspeed,
    /// The time when it is due at so many a second, counted from the first, asleep until then: udpreplay.
    Until(f64),
    /// As long as lies between two at so many a second, asleep. It takes longer than it should: what is not sent when
    /// all should be is left out.
    Sleeps(f64),
}

impl Pace {
    /// When a datagram is due, by its number: nanoseconds from the first.
    fn due_ns(self, number: u64) -> u64 {
        match self {
            Self::Topspeed => 0,
            Self::Until(rate) | Self::Sleeps(rate) => (number as f64 * 1e9 / rate) as u64,
        }
    }

    /// How long to sleep before a datagram, if at all.
    fn sleep(self, number: u64, since_ns: u64) -> Option<Duration> {
        let sleep_ns = match self {
            Self::Topspeed => 0,
            Self::Until(_) => self.due_ns(number).saturating_sub(since_ns),
            Self::Sleeps(_) if number == 0 => 0,
            Self::Sleeps(_) => self.due_ns(1),
        };
        (sleep_ns > 0).then(|| Duration::from_nanos(sleep_ns))
    }

    /// When there is no time left, whatever was sent by then.
    fn end_ns(self, datagrams: u64) -> Option<u64> {
        matches!(self, Self::Sleeps(_)).then(|| self.due_ns(datagrams))
    }
}

/// What was sent.
pub(super) struct Sent {
    pub(super) datagrams: u64,
    /// Behind the absolute schedule, whatever it was paced by; nothing where there is none.
    pub(super) late: Histogram<u64>,
    /// By how much the last one was late.
    pub(super) last_late_ns: u64,
    /// From the first to the last.
    pub(super) seconds: f64,
}

/// Sends the first datagrams of a capture.
pub(super) fn send(capture: &Path, to: SocketAddr, pace: Pace, datagrams: u64) -> Result<Sent, Stop> {
    let failed = |error| Stop::Failed(format!("a plain sender to {to}: {error}"));
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).map_err(failed)?;
    let progress = common::Progress::of("sending plainly", datagrams);
    let clock = Clock::start();
    let start_ns = clock.now().mono_ns;
    let since_ns = || clock.now().mono_ns - start_ns;
    let is_over = || pace.end_ns(datagrams).is_some_and(|end_ns| since_ns() > end_ns);
    let mut sent = Sent { datagrams: 0, late: histogram(), last_late_ns: 0, seconds: 0.0 };
    let mut refused = None;
    each_payload(capture, |payload| {
        let number = sent.datagrams;
        if number == datagrams || is_over() {
            return ControlFlow::Break(());
        }
        if let Some(sleep) = pace.sleep(number, since_ns()) {
            thread::sleep(sleep);
        }
        if let Err(error) = socket.send_to(payload, to) {
            refused = Some(error);
            return ControlFlow::Break(());
        }
        sent.datagrams += 1;
        if !matches!(pace, Pace::Topspeed) {
            sent.last_late_ns = since_ns().saturating_sub(pace.due_ns(number));
            sent.late.saturating_record(sent.last_late_ns);
        }
        if number.is_multiple_of(SAY_EVERY) {
            progress.reach(number);
        }
        ControlFlow::Continue(())
    })?;
    sent.seconds = since_ns() as f64 / 1e9;
    refused.map_or(Ok(sent), |error| Err(failed(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pace_holds_a_schedule_and_one_does_not_look_at_it() {
        let slept = |pace: Pace, number, since_us: u64| {
            pace.sleep(number, since_us * 1000).map_or(0, |sleep| sleep.as_micros())
        };
        // The hundredth at a thousand a second, which is due after 99 ms.
        for (since_us, until, sleeps) in [(0, 99_000, 1000), (98_900, 100, 1000), (99_001, 0, 1000)] {
            assert_eq!(slept(Pace::Until(1e3), 99, since_us), until);
            assert_eq!(slept(Pace::Sleeps(1e3), 99, since_us), sleeps);
            assert_eq!(slept(Pace::Topspeed, 99, since_us), 0);
        }
        assert_eq!(slept(Pace::Sleeps(1e3), 0, 0), 0, "the first is due at once");
        let ends = [Pace::Topspeed, Pace::Until(1e3), Pace::Sleeps(1e3)].map(|pace| pace.end_ns(5));
        assert_eq!(ends, [None, None, Some(5_000_000)]);
    }
}
