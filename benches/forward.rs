//! Forwarding over loopback: what a datagram costs the shard's core, in nanoseconds of CPU time of its
//! thread, with each of the real ports under a flood from another core.
//!
//! ```text
//! cargo bench --bench forward
//! ```
//!
//! A generator sends PUSHes of 148 bytes to random users of a table of 100 thousand, 64 in one call (UDP
//! segmentation offload), as fast as it can: more than the shard can take, so that it never waits. Each
//! leaves in a vxlan tunnel to a sink, which compares what it gets, as much as it can, with what it must
//! be. At the end all accounts must close: whatever was received was delivered.
//!
//! Beside it, in the same run, interleaved: the peer, a bare loop of `recvmmsg` and `sendmmsg` over plain
//! sockets, which looks nothing up and sends what it got. What a port costs above the peer is the plane
//! and the engine around it, on the plain port; `io_uring` may cost less.
//!
//! Needs two CPUs to say anything about a shard that has one to itself; with one it says so.

#![expect(unsafe_code, reason = "a thread's CPU time, and the peer's system calls")]

mod operator;

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use operator::*;
use pushplane::clock::Clock;
use pushplane::config::{Limits, Policy};
use pushplane::id::Endpoint;
use pushplane::metrics::Board;
use pushplane::net::{Listener, Port, Udp, Uring, allowed_cpus, bind_shards, pin};
use pushplane::packet::{Burst, FramePool};
use pushplane::plane::{Shared, Site};
use pushplane::server::Shard;
use pushplane::table::publish::{Publisher, Reader, publish};
use pushplane::table::{Image, Tables};

const USERS: u64 = 100_000;
/// Datagrams of one call of the generator.
const SEGMENTS: usize = 64;
/// Bytes of vxlan, Ethernet, IPv4 and UDP in front of what arrives in a tunnel.
const TUNNEL_BYTES: usize = 50;

/// Where a run stands: what the other threads look at.
struct Phase(AtomicU8);

impl Phase {
    const WARM: u8 = 0;
    const MEASURE: u8 = 1;
    const STOP: u8 = 2;

    fn is(&self, phase: u8) -> bool {
        self.0.load(Ordering::Relaxed) == phase
    }
}

/// What a run measured.
#[derive(Clone, Copy)]
struct Measured {
    datagrams: u64,
    cpu_ns: u64,
    wall_ns: u64,
    /// Datagrams that the sink compared.
    compared: u64,
}

impl Measured {
    fn each_ns(&self) -> f64 {
        self.cpu_ns as f64 / self.datagrams as f64
    }
}

/// CPU time of this thread.
fn cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists and the timespec outlives the call.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(failed, 0);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Reads CPU time and datagrams where the phase changes.
struct Meter<'a> {
    phase: &'a Phase,
    clock: Clock,
    start: Option<(u64, u64, u64)>,
}

impl<'a> Meter<'a> {
    fn new(phase: &'a Phase) -> Self {
        Self { phase, clock: Clock::start(), start: None }
    }

    /// Called once a burst with the datagrams so far; the result when the run is over.
    fn look(&mut self, datagrams: u64) -> Option<Measured> {
        match self.start {
            None if self.phase.is(Phase::MEASURE) => {
                self.start = Some((datagrams, cpu_ns(), self.clock.now().mono_ns));
            }
            Some((before, cpu, wall)) if self.phase.is(Phase::STOP) => {
                return Some(Measured {
                    datagrams: datagrams - before,
                    cpu_ns: cpu_ns() - cpu,
                    wall_ns: self.clock.now().mono_ns - wall,
                    compared: 0,
                });
            }
            _ => {}
        }
        None
    }
}

/// Floods `server` until the run is over; returns how many datagrams it sent.
fn flood(server: Endpoint, phase: &Phase) -> u64 {
    let socket = UdpSocket::bind((std::net::Ipv4Addr::from(GENERATOR), 0)).unwrap();
    socket.connect(SocketAddr::from(server)).unwrap();
    let length = push(0).len();
    let bytes: Vec<Vec<u8>> = (0..64)
        .map(|call| (0..SEGMENTS).flat_map(|at| push(even(call * SEGMENTS as u64 + at as u64))).collect())
        .collect();
    let size = length as libc::c_int;
    // SAFETY: the option's value is an int that outlives the call.
    let failed = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            (&raw const size).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    assert_eq!(failed, 0, "UDP segmentation offload: {}", io::Error::last_os_error());
    let mut sent = 0;
    for call in bytes.iter().cycle() {
        if phase.is(Phase::STOP) {
            break;
        }
        // A full buffer is no fault of anybody's.
        if socket.send(call).is_ok() {
            sent += SEGMENTS as u64;
        }
    }
    sent
}

/// The generator's address: in the application's `sources`, and on loopback.
const GENERATOR: [u8; 4] = [127, 0, 0, 1];

/// A user behind vxlan.
fn even(n: u64) -> u64 {
    mix(n) % (USERS / 2) * 2
}

/// Compares what arrives at the sink until the run is over; returns how many.
fn sink(socket: &UdpSocket, in_tunnel: bool, phase: &Phase) -> u64 {
    let mut buffer = [0; 2048];
    let mut compared = 0;
    while !phase.is(Phase::STOP) {
        let Ok(len) = socket.recv(&mut buffer) else { continue };
        let (outer, prp) = buffer[..len].split_at(if in_tunnel { TUNNEL_BYTES } else { 0 });
        let n = u64::from_be_bytes(prp[40..48].try_into().unwrap());
        assert_eq!(prp, push(n), "the PUSH to user {n}");
        if in_tunnel {
            assert_eq!(outer[4..7], [0, 0, VNI as u8]);
            assert_eq!(outer[8..14], MAC.0);
            let to = private(n);
            assert_eq!(outer[38..42], to.ipv4().unwrap());
            assert_eq!(outer[44..46], to.port().to_be_bytes());
        }
        compared += 1;
        // The generator needs the core more: a sample is enough.
        if compared % 64 == 0 {
            thread::sleep(Duration::from_micros(200));
        }
    }
    compared
}

/// How long a run warms up and measures.
#[derive(Clone, Copy)]
struct Lengths {
    warm: Duration,
    measure: Duration,
}

/// Runs `forward` on a core of its own under the flood.
fn run(
    lengths: Lengths,
    in_tunnel: bool,
    socket: &UdpSocket,
    forward: impl FnOnce(Listener, &Phase) -> Option<Measured> + Send,
) -> Option<Measured> {
    let mut bound = bind_shards(&[at("127.0.0.1:0")], 1, 1 << 20).unwrap();
    let listener = bound.shards.remove(0).remove(0);
    let server = listener.addr;
    let phase = &Phase(AtomicU8::new(Phase::WARM));
    let cpus = allowed_cpus();
    // What the run before left behind.
    socket.set_nonblocking(true).unwrap();
    while socket.recv(&mut [0; 16]).is_ok() {}
    socket.set_nonblocking(false).unwrap();
    thread::scope(|scope| {
        let other = cpus[cpus.len() - 1];
        let pinned = move |cpu| assert!(pin(cpu), "CPU {cpu} is ours");
        let shard = scope.spawn(move || {
            pinned(cpus[0]);
            forward(listener, phase)
        });
        scope.spawn(move || {
            pinned(other);
            assert!(flood(server, phase) > 0);
        });
        let sink = scope.spawn(move || {
            pinned(other);
            sink(socket, in_tunnel, phase)
        });
        thread::sleep(lengths.warm);
        phase.0.store(Phase::MEASURE, Ordering::Relaxed);
        thread::sleep(lengths.measure);
        phase.0.store(Phase::STOP, Ordering::Relaxed);
        let measured = shard.join().unwrap();
        let compared = sink.join().unwrap();
        measured.map(|measured| Measured { compared, ..measured })
    })
}

/// A shard over a port, until the run is over; then everything must be accounted for.
fn shard<P: Port>(
    port: P,
    burst: Burst,
    reader: Reader<Tables>,
    listen: Endpoint,
    phase: &Phase,
) -> Measured {
    let limits = Limits::default();
    let site = Site {
        policy: Policy::default(),
        listen: vec![listen],
        datagram_max: limits.datagram_max,
        shard: 0,
        shared: Arc::new(Shared::new(&limits, 1, 7)),
    };
    let board = Arc::new(Board::default());
    let frames = burst.pool.capacity();
    let mut shard = Shard::new(port, burst, site, reader, Arc::clone(&board));
    let mut meter = Meter::new(phase);
    let clock = Clock::start();
    let measured = loop {
        shard.receive(Duration::from_millis(1)).unwrap();
        shard.work(clock.now()).unwrap();
        if let Some(measured) = meter.look(board.read().rx) {
            break measured;
        }
    };
    // The flood is over: what it left in the socket's buffer is worked off.
    let mut quiet = 0;
    while quiet < 20 {
        shard.receive(Duration::from_millis(1)).unwrap();
        quiet = if shard.work(clock.now()).unwrap() { 0 } else { quiet + 1 };
    }
    shard.close(clock.now()).unwrap();
    let counters = board.read();
    assert_eq!((counters.unaccounted(), counters.in_flight, counters.rejects), (0, 0, 0), "{counters:?}");
    assert_eq!((counters.delivered, counters.tx, counters.dropped_total()), (counters.rx, counters.rx, 0));
    assert_eq!(shard.frames_free(), frames);
    measured
}

/// The peer: what arrives is sent on as it is.
fn bare(listener: &Listener, to: Endpoint, phase: &Phase) -> Measured {
    const BATCH: usize = 64;
    let SocketAddr::V4(to) = SocketAddr::from(to) else { panic!("IPv4") };
    let mut name = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(to.ip().octets()) },
        sin_zero: [0; 8],
    };
    let fd = listener.socket.as_raw_fd();
    let mut buffers = vec![[0u8; 2112]; BATCH];
    let mut senders = vec![name; BATCH];
    let mut iovecs: Vec<libc::iovec> = buffers
        .iter_mut()
        .map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: 2048 })
        .collect();
    let header = |name: *mut libc::sockaddr_in, iovec: *mut libc::iovec| libc::mmsghdr {
        msg_hdr: libc::msghdr {
            msg_name: name.cast(),
            msg_namelen: size_of::<libc::sockaddr_in>() as libc::socklen_t,
            msg_iov: iovec,
            msg_iovlen: 1,
            msg_control: std::ptr::null_mut(),
            msg_controllen: 0,
            msg_flags: 0,
        },
        msg_len: 0,
    };
    let pairs = senders.iter_mut().zip(&mut iovecs);
    let mut received: Vec<_> = pairs.map(|(sender, iovec)| header(sender, iovec)).collect();
    let mut sent: Vec<_> = iovecs.iter_mut().map(|iovec| header(&raw mut name, iovec)).collect();
    let mut meter = Meter::new(phase);
    let mut datagrams = 0;
    loop {
        for (header, iovec) in received.iter_mut().zip(&mut iovecs) {
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            iovec.iov_len = 2048;
        }
        // SAFETY: each header points to a name, an iovec and a buffer of 2048 bytes that outlive the call.
        let count = unsafe {
            libc::recvmmsg(
                fd,
                received.as_mut_ptr(),
                BATCH as _,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        if let Ok(count @ 1..) = usize::try_from(count) {
            for at in 0..count {
                iovecs[at].iov_len = received[at].msg_len as usize;
            }
            let mut done = 0;
            while done < count {
                // SAFETY: as above; the headers from `done` to `count` are within the vector.
                let now = unsafe {
                    libc::sendmmsg(
                        fd,
                        sent.as_mut_ptr().add(done),
                        (count - done) as _,
                        libc::MSG_DONTWAIT as _,
                    )
                };
                done += usize::try_from(now).unwrap_or(1);
            }
            datagrams += count as u64;
        } else {
            let mut wait = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
            // SAFETY: one entry, which outlives the call.
            unsafe { libc::poll(&raw mut wait, 1, 1) };
        }
        if let Some(measured) = meter.look(datagrams) {
            return measured;
        }
    }
}

/// Tables whose vxlan gateway is the sink.
fn tables(sink: Endpoint) -> (Publisher<Tables>, Vec<Reader<Tables>>) {
    let mut rib = rib(USERS, sink, at("10.255.0.3:17400"));
    rib.apps[0].sources = Some(vec![(GENERATOR.into(), 32)]);
    publish(Tables::new(Image::build(&rib).unwrap(), 1, "home", None), RUNS_MAX)
}

/// Readers made beforehand: one a run.
const RUNS_MAX: usize = 64;

fn main() {
    // Without --bench (as `cargo test --benches` calls this) only the answers matter.
    let measuring = std::env::args().any(|arg| arg == "--bench");
    let (rounds, lengths) = if measuring {
        (5, Lengths { warm: Duration::from_millis(200), measure: Duration::from_secs(1) })
    } else {
        (1, Lengths { warm: Duration::from_millis(20), measure: Duration::from_millis(50) })
    };
    if allowed_cpus().len() < 2 {
        println!("one CPU: the shard shares it with the flood, and the figures say little");
    }
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    let sink = Endpoint::from(socket.local_addr().unwrap());
    let (_publisher, mut readers) = tables(sink);
    let limits = Limits::default();
    let pool = || Burst::new(FramePool::new(limits.frames, limits.datagram_max));

    let names = ["bare recvmmsg + sendmmsg", "plain sockets", "io_uring"];
    let mut all: [Vec<Measured>; 3] = [const { Vec::new() }; 3];
    let refused = AtomicU64::new(0);
    for _ in 0..rounds {
        all[0].extend(run(lengths, false, &socket, |listener, phase| Some(bare(&listener, sink, phase))));
        let reader = readers.pop().expect("a reader for each run");
        all[1].extend(run(lengths, true, &socket, |listener, phase| {
            let (burst, listen) = (pool(), listener.addr);
            Some(shard(Udp::new(vec![listener], &burst), burst, reader, listen, phase))
        }));
        let reader = readers.pop().expect("a reader for each run");
        all[2].extend(run(lengths, true, &socket, |listener, phase| {
            let (mut burst, listen) = (pool(), listener.addr);
            match Uring::new(vec![listener], &mut burst) {
                Ok(port) => Some(shard(port, burst, reader, listen, phase)),
                Err(error) => {
                    if refused.fetch_add(1, Ordering::Relaxed) == 0 {
                        println!("SKIPPED: {error}");
                    }
                    None
                }
            }
        }));
    }
    let best = |runs: &[Measured]| runs.iter().map(Measured::each_ns).fold(f64::INFINITY, f64::min);
    let peer = best(&all[0]);
    println!("CPU time of the shard's thread, ns a datagram, {rounds} runs each, interleaved");
    for (name, runs) in names.iter().zip(&mut all).filter(|(_, runs)| !runs.is_empty()) {
        let best = best(runs);
        runs.sort_by(|a, b| a.each_ns().total_cmp(&b.each_ns()));
        let median = runs[runs.len() / 2];
        let rate = median.datagrams as f64 / median.wall_ns as f64 * 1e9;
        let busy = median.cpu_ns as f64 / median.wall_ns as f64 * 100.0;
        let compared: u64 = runs.iter().map(|run| run.compared).sum();
        assert!(median.datagrams > 0 && (compared > 0 || !measuring), "{name}: nothing arrived");
        println!(
            "{name:<25} best {best:6.0}  median {:6.0}  of the bare loop {:4.2}  {rate:9.0} a second at {busy:3.0} % of the CPU  {compared} compared",
            median.each_ns(),
            best / peer,
        );
    }
}
