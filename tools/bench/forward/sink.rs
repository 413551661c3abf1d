//! The next hops: any number of addresses of this host, all of them one socket's.
//!
//! A forwarder that waited for a CPU may send on what is left of one turn when the next one has begun. What arrives is
//! told by the number of its turn, which every PUSH carries: that of an earlier turn is not counted, and must be what
//! was expected then; that of this turn must be what is expected now; anything else is wrong.

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use hdrhistogram::Histogram;
use pushplane::clock::Clock;
use pushplane::id::Endpoint;

use super::operator::{Expected, Operator, hop, is_inside};
use super::sockets;
use crate::Stop;
use crate::outcome::histogram;

/// What the kernel holds for it, as far as it may.
const BUFFER_BYTES: usize = 4 << 20;
/// One datagram of so many is compared in full: the sink shares its CPU with the generator.
const SAMPLE: u64 = 64;

/// So long nothing arrives once a forwarder has nothing more, if it had a CPU.
const QUIET: Duration = Duration::from_millis(30);

/// Receives what was forwarded.
pub(super) struct Sink {
    socket: UdpSocket,
    first: Endpoint,
    hops: u16,
    pub(super) clock: Clock,
    buffer: Vec<u8>,
    /// What is expected in each turn so far.
    turns: Vec<Expected>,
    /// What arrived of this turn.
    pub(super) arrived: Arrived,
}

/// What arrived.
pub(super) struct Arrived {
    pub(super) datagrams: u64,
    /// Not what was sent: of the sample, and of all that are not of this turn.
    pub(super) wrong: u64,
    /// From when each was due; of the sample, or of all.
    pub(super) latency: Histogram<u64>,
}

impl Sink {
    /// Opens it: `first` is the first next hop, with port 0 for any.
    pub(super) fn open(first: Endpoint, hops: u16, clock: Clock) -> Result<Self, Stop> {
        let wrong = |why: String| Stop::Wrong(format!("--sink {first}: {why}"));
        if !is_inside(first) || !is_inside(hop(first, hops)) {
            let expected =
                "expected addresses in 127.0.0.0/8 or 198.18.0.0/15, enough of them for all next hops";
            return Err(wrong(expected.to_owned()));
        }
        let failed = |error: std::io::Error| wrong(error.to_string());
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, first.port())).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        sockets::coalesce(&socket).map_err(failed)?;
        sockets::tell_address(&socket).map_err(failed)?;
        // As far as the system allows.
        let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(BUFFER_BYTES);
        let port = socket.local_addr().map_err(failed)?.port();
        Ok(Self {
            socket,
            first: first.with_port(port),
            hops,
            clock,
            buffer: vec![0; 1 << 16],
            turns: Vec::new(),
            arrived: Arrived::new(),
        })
    }

    /// The first next hop.
    pub(super) const fn first(&self) -> Endpoint {
        self.first
    }

    /// All next hops.
    pub(super) fn hops(&self) -> Vec<Endpoint> {
        (0..self.hops).map(|n| hop(self.first, n)).collect()
    }

    /// Waits until nothing arrives any more, and begins a turn in which this is expected: its number.
    pub(super) fn begin(&mut self, expected: Expected) -> u32 {
        let mut last_ns = self.clock.now().mono_ns;
        loop {
            // Before it looks: it may itself have waited for its CPU.
            let now_ns = self.clock.now().mono_ns;
            if self.socket.recv(&mut self.buffer).is_ok() {
                last_ns = self.clock.now().mono_ns;
            } else if now_ns - last_ns >= QUIET.as_nanos() as u64 {
                break;
            }
        }
        self.arrived = Arrived::new();
        let expected = expected.in_turn_after(self.turns.len());
        self.turns.push(expected);
        expected.turn
    }

    /// Takes what is there, some of it; false when there was nothing. Latency is of each datagram, or of a sample.
    pub(super) fn turn(&mut self, operator: &Operator, each: bool) -> bool {
        let Some((expected, earlier)) = self.turns.split_last() else { return false };
        for turn in 0..16 {
            let received = match sockets::receive(&self.socket, &mut self.buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return turn > 0,
                Err(_) => continue,
            };
            let now = self.clock.now().mono_ns;
            let at = Endpoint::new(received.to.into(), self.first.port());
            for datagram in self.buffer[..received.bytes].chunks(received.each) {
                if !expected.is_of_turn(datagram) {
                    let mut earlier = earlier.iter().rev();
                    let is_late = earlier.any(|expected| operator.is_right(*expected, at, datagram));
                    self.arrived.wrong += u64::from(!is_late);
                    continue;
                }
                self.arrived.datagrams += 1;
                if !each && !self.arrived.datagrams.is_multiple_of(SAMPLE) {
                    continue;
                }
                self.arrived.wrong += u64::from(!operator.is_right(*expected, at, datagram));
                if let Some(due) = expected.due_ns(datagram) {
                    self.arrived.latency.saturating_record(now.saturating_sub(due));
                }
            }
        }
        true
    }

    /// What arrived of so many that were sent, for who keeps it: if it is more, some came twice, which is wrong.
    pub(super) fn take(&mut self, sent: u64) -> Arrived {
        let mut arrived = std::mem::replace(&mut self.arrived, Arrived::new());
        arrived.wrong += arrived.datagrams.saturating_sub(sent);
        arrived
    }

    /// What the kernel dropped because the sink was too slow, so far; what came as one is one.
    pub(super) fn kernel_drops(&self) -> u64 {
        let page = fs::read_to_string("/proc/net/udp").unwrap_or_default();
        let own = format!(":{:04X}", self.first.port());
        let line = page.lines().find(|line| {
            let local = line.split_ascii_whitespace().nth(1);
            local.is_some_and(|local| local.ends_with(&own) && local.starts_with("00000000"))
        });
        line.and_then(|line| line.split_ascii_whitespace().last()?.parse().ok()).unwrap_or(0)
    }
}

impl Arrived {
    fn new() -> Self {
        Self { datagrams: 0, wrong: 0, latency: histogram() }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::path::Path;

    use super::super::operator::{Form, Size};
    use super::*;

    const HOPS: u16 = 4;

    /// Next hops, and an operator whose PUSHes are expected there.
    struct Ends {
        sink: Sink,
        operator: Operator,
        sender: UdpSocket,
    }

    impl Ends {
        fn new() -> Self {
            let first = Endpoint::new([127, 2, 0, 1].into(), 0);
            let sink = Sink::open(first, HOPS, Clock::start()).ok().unwrap();
            let size = Size { users: 100, hops: HOPS, payload: 0 };
            let operator = Operator::new(Path::new(""), size, Form::Bare, sink.first());
            Self { sink, operator, sender: UdpSocket::bind("127.0.0.1:0").unwrap() }
        }

        /// Begins a turn of PUSHes with so many bytes behind their headers, which no tunnel changes.
        fn begin(&mut self, payload: usize) -> u32 {
            self.operator.size.payload = payload;
            self.sink.begin(Expected { form: Form::Bare, payload, hop_is_said: true, turn: 0 })
        }

        /// Of this turn to this user, with the payload of now.
        fn push(&self, user: u64, turn: u32) -> Vec<u8> {
            let mut push = self.operator.push(user);
            Operator::mark(&mut push, turn);
            push
        }

        /// Has a datagram arrive at that next hop: what arrived of this turn so far, and what was wrong.
        fn arrive(&mut self, n: u16, datagram: &[u8]) -> (u64, u64) {
            self.sender.send_to(datagram, SocketAddr::from(hop(self.sink.first, n))).unwrap();
            while !self.sink.turn(&self.operator, true) {}
            (self.sink.arrived.datagrams, self.sink.arrived.wrong)
        }
    }

    /// As where a forwarder got no CPU while the sink waited for it.
    #[test]
    fn what_a_turn_left_behind_is_told_from_the_next_one() {
        let mut ends = Ends::new();
        let first = ends.begin(64);
        let (late, mut changed) = (ends.push(5, first), ends.push(6, first));
        let second = ends.begin(256);
        assert_eq!(ends.arrive(1, &late), (0, 0), "right in its turn, and not of this one");
        assert_eq!(ends.arrive(3, &ends.push(7, second)), (1, 0));
        let third = ends.begin(256);
        assert_eq!(ends.arrive(3, &ends.push(7, second)), (0, 0), "the same length makes no difference");
        assert_eq!(ends.arrive(1, &late), (0, 0), "nor does a turn in between");
        *changed.last_mut().unwrap() ^= 1;
        assert_eq!(ends.arrive(2, &changed), (0, 1), "late is no excuse for a payload that was changed");
        assert_eq!(ends.arrive(2, &late), (0, 2), "nor for another next hop");
        assert_eq!(ends.arrive(3, &ends.push(7, third + 1)), (0, 3), "and no turn was ever like that");
    }

    #[test]
    fn what_is_not_as_it_was_sent_is_wrong() {
        let mut ends = Ends::new();
        let turn = ends.begin(64);
        let push = ends.push(5, turn);
        assert_eq!(ends.arrive(1, &push), (1, 0));
        assert_eq!(ends.arrive(2, &push), (2, 1), "another next hop");
        let mut changed = push.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert_eq!(ends.arrive(1, &changed), (3, 2));
        assert_eq!(ends.arrive(1, &push[..push.len() - 1]), (3, 3), "shorter");
        assert_eq!(ends.arrive(1, &ends.operator.push(5)), (3, 4), "of no turn");
        let arrived = ends.sink.take(2);
        assert_eq!((arrived.datagrams, arrived.wrong), (3, 5), "one more than was sent");
    }

    /// They come as one and are told apart by their own length, not by what is expected.
    #[test]
    fn late_datagrams_that_come_together_are_compared_each() {
        let mut ends = Ends::new();
        let first = ends.begin(64);
        let mut together = [ends.push(5, first), ends.push(9, first), ends.push(13, first)].concat();
        sockets::segment(&ends.sender, ends.operator.push_bytes()).unwrap();
        ends.begin(256);
        assert_eq!(ends.arrive(1, &together), (0, 0));
        *together.last_mut().unwrap() ^= 1;
        assert_eq!(ends.arrive(1, &together), (0, 1));
    }
}
