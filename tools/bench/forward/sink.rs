//! The next hops: any number of addresses of this host, all of them one socket's.

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use hdrhistogram::Histogram;
use pushplane::clock::Clock;
use pushplane::id::Endpoint;

use super::operator::{Form, Operator, hop, is_inside};
use super::sockets;
use crate::Stop;
use crate::outcome::histogram;

/// What the kernel holds for it, as far as it may.
const BUFFER_BYTES: usize = 4 << 20;
/// One datagram of so many is compared in full: the sink shares its CPU with the generator.
const SAMPLE: u64 = 64;

/// So long nothing arrives once a forwarder has nothing more.
const QUIET: Duration = Duration::from_millis(30);

/// Receives what was forwarded.
pub(super) struct Sink {
    socket: UdpSocket,
    first: Endpoint,
    hops: u16,
    pub(super) clock: Clock,
    buffer: Vec<u8>,
    /// What arrived since [`Sink::begin`].
    pub(super) arrived: Arrived,
}

/// What arrived.
pub(super) struct Arrived {
    pub(super) datagrams: u64,
    /// Of the sample: not what was sent.
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
        // As far as the system allows.
        let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(BUFFER_BYTES);
        let port = socket.local_addr().map_err(failed)?.port();
        Ok(Self {
            socket,
            first: first.with_port(port),
            hops,
            clock,
            buffer: vec![0; 1 << 16],
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

    /// Waits until nothing arrives any more, and forgets what did.
    pub(super) fn begin(&mut self) {
        let mut last_ns = self.clock.now().mono_ns;
        while self.clock.now().mono_ns - last_ns < QUIET.as_nanos() as u64 {
            if self.socket.recv(&mut self.buffer).is_ok() {
                last_ns = self.clock.now().mono_ns;
            }
        }
        self.arrived = Arrived::new();
    }

    /// Takes what is there, some of it; false when there was nothing. Latency is of each datagram, or of a sample.
    pub(super) fn turn(&mut self, operator: &Operator, form: Form, each: bool) -> bool {
        let segment = operator.push_bytes() + Operator::added(form);
        for turn in 0..16 {
            let length = match self.socket.recv(&mut self.buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return turn > 0,
                Err(_) => continue,
            };
            let now = self.clock.now().mono_ns;
            for datagram in self.buffer[..length].chunks(segment) {
                self.arrived.datagrams += 1;
                if !each && !self.arrived.datagrams.is_multiple_of(SAMPLE) {
                    continue;
                }
                self.arrived.wrong += u64::from(!operator.is_right(form, datagram));
                if let Some(due) = operator.due_ns(datagram) {
                    self.arrived.latency.saturating_record(now.saturating_sub(due));
                }
            }
        }
        true
    }

    /// What arrived, for who keeps it.
    pub(super) fn take(&mut self) -> Arrived {
        std::mem::replace(&mut self.arrived, Arrived::new())
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
