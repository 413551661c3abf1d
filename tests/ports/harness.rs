//! A port under test, its peers, and what every test does with them.

#![expect(unsafe_code, reason = "leaves the network namespace")]

use std::net::{SocketAddr, UdpSocket};
use std::sync::Once;
use std::time::Duration;

use pushplane::id::Endpoint;
use pushplane::net::{Bound, Listener, Port, Udp, Uring, bind_shards};
use pushplane::packet::{Burst, Class, Done, FramePool, Tx};

pub(crate) const SHORT: Duration = Duration::from_millis(20);
/// How many waits of [`SHORT`] a test makes before it gives up: 10 s.
pub(crate) const PATIENCE: usize = 500;

pub(crate) const LOOPBACK: &str = "127.0.0.1:0";
pub(crate) const LOOPBACK6: &str = "[::1]:0";

pub(crate) type Open = fn(Vec<Listener>, &mut Burst) -> Option<Box<dyn Port>>;

pub(crate) fn plain(listeners: Vec<Listener>, burst: &mut Burst) -> Option<Box<dyn Port>> {
    Some(Box::new(Udp::new(listeners, burst)))
}

pub(crate) fn uring(listeners: Vec<Listener>, burst: &mut Burst) -> Option<Box<dyn Port>> {
    static SAID: Once = Once::new();
    match Uring::new(listeners, burst) {
        Ok(port) => {
            SAID.call_once(|| eprintln!("{}", port.describe()));
            Some(Box::new(port))
        }
        Err(refused) => {
            eprintln!("SKIPPED: {refused}");
            None
        }
    }
}

macro_rules! on_both_ports {
    ($($test:ident)*) => {
        mod on_plain_sockets { $(#[test] fn $test() { super::$test($crate::harness::plain); })* }
        mod on_io_uring { $(#[test] fn $test() { super::$test($crate::harness::uring); })* }
    };
}
pub(crate) use on_both_ports;

pub(crate) fn endpoint(text: &str) -> Endpoint {
    text.parse().unwrap()
}

pub(crate) fn bind(listen: &[&str], shards: usize) -> Bound {
    let listen: Vec<_> = listen.iter().map(|text| endpoint(text)).collect();
    bind_shards(&listen, shards, 1 << 20).unwrap()
}

/// One shard's port and burst, and its addresses.
pub(crate) struct Shard {
    pub(crate) port: Box<dyn Port>,
    pub(crate) burst: Burst,
    pub(crate) addrs: Vec<Endpoint>,
}

impl Shard {
    pub(crate) fn over(
        open: Open,
        listeners: Vec<Listener>,
        frames: usize,
        datagram_max: usize,
    ) -> Option<Self> {
        let addrs = listeners.iter().map(|listener| listener.addr).collect();
        let mut burst = Burst::new(FramePool::new(frames, datagram_max));
        let port = open(listeners, &mut burst)?;
        Some(Self { port, burst, addrs })
    }

    pub(crate) fn new(open: Open, listen: &[&str], frames: usize) -> Option<Self> {
        Self::over(open, bind(listen, 1).shards.remove(0), frames, 2048)
    }

    /// Sends every row back to where it came from, in its own buffer.
    pub(crate) fn echo(&mut self) -> usize {
        let rows = self.burst.rows.len();
        for (token, row) in (0..).zip(self.burst.rows.drain(..)) {
            let frame = row.frame.unwrap();
            self.burst.tx.push(Tx {
                frame,
                to: row.from,
                listener: row.listener,
                class: Class::Normal,
                flow: 0,
                token,
            });
        }
        self.port.send(&mut self.burst).unwrap();
        assert!(self.burst.tx.is_empty());
        rows
    }

    /// Queues these bytes, all of one flow.
    pub(crate) fn queue(&mut self, bytes: &[u8], to: Endpoint, listener: u8, token: u32) {
        self.queue_in(bytes, to, listener, token, 0);
    }

    /// Queues these bytes of a flow.
    pub(crate) fn queue_in(&mut self, bytes: &[u8], to: Endpoint, listener: u8, token: u32, flow: u32) {
        let mut frame = self.burst.pool.take().expect("a frame is free");
        assert!(frame.fill(bytes));
        self.burst.tx.push(Tx { frame, to, listener, class: Class::Normal, flow, token });
    }

    /// Receives until there are rows.
    pub(crate) fn rows(&mut self) {
        for _ in 0..PATIENCE {
            self.port.recv(&mut self.burst, SHORT).unwrap();
            self.burst.done.clear();
            if !self.burst.rows.is_empty() {
                return;
            }
        }
        panic!("nothing arrived");
    }

    /// Takes what is done until `count` are.
    pub(crate) fn done(&mut self, count: usize) -> Vec<Done> {
        let mut done = Vec::new();
        for _ in 0..PATIENCE {
            done.append(&mut self.burst.done);
            if done.len() >= count {
                return done;
            }
            self.port.recv(&mut self.burst, SHORT).unwrap();
            self.burst.clear_rows();
        }
        panic!("{} of {count} done", done.len());
    }

    pub(crate) fn close(mut self) {
        self.port.close(&mut self.burst).unwrap();
        self.burst.clear_rows();
        assert_eq!(self.port.in_flight(), 0);
        assert_eq!(self.burst.pool.available(), self.burst.pool.capacity());
    }
}

pub(crate) fn peer(of: Endpoint) -> UdpSocket {
    let any = if of.is_ipv4() { LOOPBACK } else { LOOPBACK6 };
    let socket = UdpSocket::bind(any).unwrap();
    socket.connect(SocketAddr::from(of)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket
}

/// Receives until all of `count` numbered datagrams are accounted for; none may come twice.
pub(crate) fn account_for(shard: &mut Shard, count: usize, echo: bool) -> u64 {
    let mut seen = vec![false; count];
    let mut received = 0;
    let mut echoed = 0;
    let mut done = 0;
    let mut idle = 0;
    while idle < PATIENCE {
        let drops = shard.port.kernel_drops();
        if received + drops as usize >= count && done == echoed {
            assert_eq!(received + drops as usize, count);
            return drops;
        }
        shard.port.recv(&mut shard.burst, SHORT).unwrap();
        assert!(shard.burst.done.iter().all(|done| done.errno == 0), "{:?}", shard.burst.done);
        done += shard.burst.done.drain(..).len();
        idle = if shard.burst.rows.is_empty() { idle + 1 } else { 0 };
        for row in &shard.burst.rows {
            let bytes = row.frame.as_ref().unwrap().bytes();
            let number = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
            assert!(!std::mem::replace(&mut seen[number], true), "{number} came twice");
            assert!(!row.truncated);
            received += 1;
        }
        if echo {
            echoed += shard.echo();
            done += shard.burst.done.drain(..).len();
        } else {
            shard.burst.clear_rows();
        }
    }
    panic!("{received} of {count} received, {} dropped by the kernel", shard.port.kernel_drops());
}

pub(crate) fn numbered(number: usize) -> [u8; 64] {
    let mut bytes = [0; 64];
    bytes[..4].copy_from_slice(&(number as u32).to_be_bytes());
    bytes
}

/// Gives this thread a network with loopback and with 192.0.2.1/24 on a wire where nobody is.
pub(crate) fn own_network() -> bool {
    // SAFETY: takes no memory; concerns this thread alone.
    let left = unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0;
    left && ip("link set lo up")
        && ip("link add outer type veth peer name inner")
        && ip("addr add 192.0.2.1/24 dev outer")
        && ip("link set inner up")
        && ip("link set outer up")
}

pub(crate) fn ip(arguments: &str) -> bool {
    let status = std::process::Command::new("ip").args(arguments.split(' ')).status();
    status.is_ok_and(|status| status.success())
}

/// What a test calls that cannot run here: loud on a user's machine, a failure in CI.
pub(crate) fn skip(what: &str, why: &str) {
    assert!(std::env::var_os("CI").is_none(), "{what} must run under CI: {why}");
    eprintln!("SKIPPED: {what}: {why}");
}
