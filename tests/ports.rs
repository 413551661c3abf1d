//! Both ports, held to the same behaviour over loopback. Where `io_uring` is denied its half says so
//! and passes.

#![expect(unsafe_code, reason = "denies itself a system call")]

#[path = "common/counting.rs"]
mod counting;

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;

use counting::allocations;
use pushplane::id::Endpoint;
use pushplane::net::{BindError, Bound, Listener, Port, Udp, Uring, bind_shards, uring_refusal};
use pushplane::packet::{Burst, Class, Done, FramePool, HEADROOM, Tx};

const SHORT: Duration = Duration::from_millis(20);
/// How many waits of [`SHORT`] a test makes before it gives up: 10 s.
const PATIENCE: usize = 500;

const LOOPBACK: &str = "127.0.0.1:0";
const LOOPBACK6: &str = "[::1]:0";

type Open = fn(Vec<Listener>, &mut Burst) -> Option<Box<dyn Port>>;

fn plain(listeners: Vec<Listener>, burst: &mut Burst) -> Option<Box<dyn Port>> {
    Some(Box::new(Udp::new(listeners, burst)))
}

fn uring(listeners: Vec<Listener>, burst: &mut Burst) -> Option<Box<dyn Port>> {
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
        mod on_plain_sockets { $(#[test] fn $test() { super::$test(super::plain); })* }
        mod on_io_uring { $(#[test] fn $test() { super::$test(super::uring); })* }
    };
}

on_both_ports! {
    every_size_is_echoed_from_the_buffer_that_received_it
    longer_datagrams_are_cut_and_marked
    nothing_is_lost_silently_with_few_frames
    nothing_is_lost_when_nobody_reaps
    many_sends_at_once_are_all_done
    refused_sends_name_their_error_and_disturb_no_other
    closing_under_traffic_gives_every_frame_back
    two_listeners_are_told_apart
    each_shard_receives_its_users
    a_port_without_traffic_waits_and_returns_nothing
    a_listener_that_does_not_exist_is_an_error_of_that_datagram
    a_caller_that_keeps_every_frame_gets_more_after_giving_them_back
    a_closed_port_takes_nothing
    receiving_and_sending_allocate_nothing
    what_is_appended_in_front_leaves_too
    a_full_send_buffer_is_an_error_and_no_wait
    whatever_the_caller_does_every_frame_and_token_comes_back_once
}

fn endpoint(text: &str) -> Endpoint {
    text.parse().unwrap()
}

fn bind(listen: &[&str], shards: usize) -> Bound {
    let listen: Vec<_> = listen.iter().map(|text| endpoint(text)).collect();
    bind_shards(&listen, shards, 1 << 20).unwrap()
}

/// One shard's port and burst, and its addresses.
struct Shard {
    port: Box<dyn Port>,
    burst: Burst,
    addrs: Vec<Endpoint>,
}

impl Shard {
    fn over(open: Open, listeners: Vec<Listener>, frames: usize, datagram_max: usize) -> Option<Self> {
        let addrs = listeners.iter().map(|listener| listener.addr).collect();
        let mut burst = Burst::new(FramePool::new(frames, datagram_max));
        let port = open(listeners, &mut burst)?;
        Some(Self { port, burst, addrs })
    }

    fn new(open: Open, listen: &[&str], frames: usize) -> Option<Self> {
        Self::over(open, bind(listen, 1).shards.remove(0), frames, 2048)
    }

    /// Sends every row back to where it came from, in its own buffer.
    fn echo(&mut self) -> usize {
        let rows = self.burst.rows.len();
        for (token, row) in (0..).zip(self.burst.rows.drain(..)) {
            let frame = row.frame.unwrap();
            self.burst.tx.push(Tx {
                frame,
                to: row.from,
                listener: row.listener,
                class: Class::Normal,
                token,
            });
        }
        self.port.send(&mut self.burst).unwrap();
        assert!(self.burst.tx.is_empty());
        rows
    }

    /// Queues these bytes.
    fn queue(&mut self, bytes: &[u8], to: Endpoint, listener: u8, token: u32) {
        let mut frame = self.burst.pool.take().expect("a frame is free");
        assert!(frame.fill(bytes));
        self.burst.tx.push(Tx { frame, to, listener, class: Class::Normal, token });
    }

    /// Receives until there are rows.
    fn rows(&mut self) {
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
    fn done(&mut self, count: usize) -> Vec<Done> {
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

    fn close(mut self) {
        self.port.close(&mut self.burst).unwrap();
        self.burst.clear_rows();
        assert_eq!(self.port.in_flight(), 0);
        assert_eq!(self.burst.pool.available(), self.burst.pool.capacity());
    }
}

fn peer(of: Endpoint) -> UdpSocket {
    let any = if of.is_ipv4() { LOOPBACK } else { LOOPBACK6 };
    let socket = UdpSocket::bind(any).unwrap();
    socket.connect(SocketAddr::from(of)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket
}

fn every_size_is_echoed_from_the_buffer_that_received_it(open: Open) {
    for listen in [LOOPBACK, LOOPBACK6] {
        let Some(mut shard) = Shard::new(open, &[listen], 8) else { return };
        let peer = peer(shard.addrs[0]);
        let me = Endpoint::from(peer.local_addr().unwrap());
        for round in 0..3 {
            for size in [0, 1, 47, 48, 1472, 2048] {
                let sent: Vec<u8> = (0..size).map(|at| (at * 7 + round) as u8).collect();
                peer.send(&sent).unwrap();
                shard.rows();
                let row = &shard.burst.rows[0];
                let frame = row.frame.as_ref().unwrap();
                assert_eq!(frame.bytes(), sent, "size {size}");
                assert_eq!(frame.headroom(), HEADROOM);
                assert_eq!((row.from, row.listener, row.truncated), (me, 0, false));
                shard.echo();
                let mut back = vec![0; 4096];
                let len = peer.recv(&mut back).unwrap();
                assert_eq!(&back[..len], sent, "size {size}");
                let done = shard.done(1);
                assert_eq!(done, [Done { token: 0, bytes: size as u32, errno: 0 }]);
            }
        }
        shard.close();
    }
}

fn longer_datagrams_are_cut_and_marked(open: Open) {
    let Some(mut shard) = Shard::new(open, &[LOOPBACK], 8) else { return };
    let max = shard.burst.pool.datagram_max();
    let peer = peer(shard.addrs[0]);
    for size in [max, max + 1, max + 2, 9000, 65_507] {
        let sent: Vec<u8> = (0..size).map(|at| at as u8).collect();
        peer.send(&sent).unwrap();
        shard.rows();
        let row = &shard.burst.rows[0];
        assert_eq!(row.truncated, size > max, "size {size}");
        assert_eq!(row.frame.as_ref().unwrap().bytes(), &sent[..size.min(max)]);
        shard.burst.clear_rows();
    }
    shard.close();
}

/// Receives until all of `count` numbered datagrams are accounted for; none may come twice.
fn account_for(shard: &mut Shard, count: usize, echo: bool) -> u64 {
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

fn numbered(number: usize) -> [u8; 64] {
    let mut bytes = [0; 64];
    bytes[..4].copy_from_slice(&(number as u32).to_be_bytes());
    bytes
}

fn nothing_is_lost_silently_with_few_frames(open: Open) {
    const COUNT: usize = 10_000;
    for frames in [1, 2, 8, 64] {
        let listen = endpoint(LOOPBACK);
        let bound = bind_shards(&[listen], 1, 1 << 14).unwrap();
        let Some(mut shard) = Shard::over(open, { bound.shards }.remove(0), frames, 256) else { return };
        let peer = peer(shard.addrs[0]);
        let sender = std::thread::spawn(move || {
            for number in 0..COUNT {
                peer.send(&numbered(number)).unwrap();
            }
            peer
        });
        account_for(&mut shard, COUNT, true);
        sender.join().unwrap();
        shard.close();
    }
}

fn nothing_is_lost_when_nobody_reaps(open: Open) {
    // The socket holds all of it; with `io_uring` the kernel fills every frame at one call, so as many
    // completions as there are frames lie in the ring.
    const COUNT: usize = 1000;
    for frames in [16, 600, 2048] {
        let Some(mut shard) = Shard::new(open, &[LOOPBACK], frames) else { return };
        let peer = peer(shard.addrs[0]);
        for number in 0..COUNT {
            peer.send(&numbered(number)).unwrap();
        }
        account_for(&mut shard, COUNT, false);
        shard.close();
    }
}

fn many_sends_at_once_are_all_done(open: Open) {
    // More than the submission ring holds.
    const COUNT: usize = 700;
    let Some(mut shard) = Shard::new(open, &[LOOPBACK], 4096) else { return };
    let sink = bind(&[LOOPBACK], 1).shards.remove(0).remove(0);
    for token in 0..COUNT {
        shard.queue(&numbered(token), sink.addr, 0, token as u32);
    }
    shard.port.send(&mut shard.burst).unwrap();
    let done = shard.done(COUNT);
    let expected = (0..COUNT as u32).map(|token| Done { token, bytes: 64, errno: 0 });
    assert!(done.iter().copied().eq(expected), "{done:?}");
    let Some(mut receiver) = Shard::over(open, vec![sink], 1024, 256) else { return };
    assert_eq!(account_for(&mut receiver, COUNT, false), 0);
    receiver.close();
    shard.close();
}

fn refused_sends_name_their_error_and_disturb_no_other(open: Open) {
    let Some(mut shard) = Shard::over(open, bind(&[LOOPBACK, LOOPBACK6], 1).shards.remove(0), 32, 65_535)
    else {
        return;
    };
    let peer = peer(shard.addrs[0]);
    let there = Endpoint::from(peer.local_addr().unwrap());
    // Nobody listens there: the kernel learns it, and nobody is told.
    let nobody = there.with_port(9);
    let long = vec![1; 65_508];
    let cases: [(&[u8], Endpoint, u8, &[i32]); 8] = [
        (b"one", there, 0, &[0]),
        (&long, there, 0, &[libc::EMSGSIZE]),
        (b"nobody", nobody, 0, &[0]),
        (b"broadcast", endpoint("255.255.255.255:9"), 0, &[libc::EACCES]),
        (b"other family", endpoint("[::1]:9"), 0, &[libc::EAFNOSUPPORT, libc::ENETUNREACH, libc::EINVAL]),
        (b"other family", there, 1, &[libc::ENETUNREACH, libc::EAFNOSUPPORT]),
        (b"port 0", there.with_port(0), 0, &[libc::EINVAL]),
        (b"two", there, 0, &[0]),
    ];
    for round in 0..3 {
        for (token, (bytes, to, listener, _)) in (0..).zip(&cases) {
            shard.queue(bytes, *to, *listener, token);
        }
        shard.port.send(&mut shard.burst).unwrap();
        let mut done = shard.done(cases.len());
        done.sort_by_key(|done| done.token);
        for (done, (bytes, to, _, errnos)) in done.iter().zip(&cases) {
            assert!(errnos.contains(&done.errno), "round {round}, to {to}: {done:?}");
            assert_eq!(done.bytes as usize, bytes.len());
        }
        let mut back = [0; 16];
        for text in [b"one", b"two"] {
            let len = peer.recv(&mut back).unwrap();
            assert_eq!(&back[..len], text);
        }
        // And it still receives.
        peer.send(b"hello").unwrap();
        shard.rows();
        shard.burst.clear_rows();
    }
    assert_eq!(shard.port.in_flight(), 0);
    shard.close();
}

fn closing_under_traffic_gives_every_frame_back(open: Open) {
    for rounds in 0..6 {
        let Some(mut shard) = Shard::new(open, &[LOOPBACK, LOOPBACK6], 128) else { return };
        let peers = [peer(shard.addrs[0]), peer(shard.addrs[1])];
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let sender = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // After the close the kernel may say that nobody is there.
                peers.iter().for_each(|peer| drop(peer.send(&[1; 200])));
            }
        });
        for _ in 0..rounds {
            shard.rows();
            shard.echo();
        }
        let addrs = shard.addrs.clone();
        shard.close();
        stop.store(true, Ordering::Relaxed);
        sender.join().unwrap();
        // The address is free at once.
        for addr in addrs {
            UdpSocket::bind(SocketAddr::from(addr)).unwrap();
        }
    }
}

fn two_listeners_are_told_apart(open: Open) {
    let Some(mut shard) = Shard::new(open, &[LOOPBACK, LOOPBACK6, LOOPBACK], 32) else { return };
    let peers: Vec<_> = shard.addrs.iter().map(|addr| peer(*addr)).collect();
    for round in 0..20u8 {
        for (index, peer) in peers.iter().enumerate() {
            peer.send(&[index as u8, round]).unwrap();
        }
        let mut left = peers.len();
        while left > 0 {
            shard.rows();
            for row in &shard.burst.rows {
                assert_eq!(row.frame.as_ref().unwrap().bytes(), [row.listener, round]);
                left -= 1;
            }
            shard.echo();
        }
        for (index, peer) in peers.iter().enumerate() {
            let mut back = [0; 16];
            // Connected: only what leaves from the address that was asked comes here.
            let len = peer.recv(&mut back).unwrap();
            assert_eq!(back[..len], [index as u8, round]);
        }
    }
    shard.close();
}

fn each_shard_receives_its_users(open: Open) {
    const SHARDS: usize = 4;
    for listen in [LOOPBACK, LOOPBACK6] {
        let bound = bind(&[listen], SHARDS);
        if !bound.steered {
            eprintln!("SKIPPED: {:?}", bound.warnings);
            return;
        }
        let mut shards = Vec::new();
        for listeners in bound.shards {
            let Some(shard) = Shard::over(open, listeners, 256, 256) else { return };
            shards.push(shard);
        }
        assert!(shards.iter().all(|shard| shard.addrs == shards[0].addrs));
        let peer = peer(shards[0].addrs[0]);
        for user in 0..200u32 {
            let mut datagram = [0; 48];
            datagram[20..24].copy_from_slice(&(user * 0x0101_0101).to_be_bytes());
            peer.send(&datagram).unwrap();
        }
        // Too short to be steered.
        peer.send(&[0; 23]).unwrap();
        let mut received = 0;
        for (index, shard) in shards.iter_mut().enumerate() {
            let expected = 50 + usize::from(index == 0);
            let mut here = 0;
            while here < expected {
                shard.rows();
                for row in &shard.burst.rows {
                    let bytes = row.frame.as_ref().unwrap().bytes();
                    let steer = bytes.get(20..24).map_or(0, |at| u32::from_be_bytes(at.try_into().unwrap()));
                    assert_eq!(steer as usize % SHARDS, index);
                    here += 1;
                }
                shard.burst.clear_rows();
            }
            received += here;
        }
        assert_eq!(received, 201);
        shards.into_iter().for_each(Shard::close);
    }
}

fn a_port_without_traffic_waits_and_returns_nothing(open: Open) {
    let Some(mut shard) = Shard::new(open, &[LOOPBACK], 8) else { return };
    for wait in [Duration::ZERO, Duration::from_micros(1), SHORT] {
        shard.port.recv(&mut shard.burst, wait).unwrap();
        assert!(shard.burst.rows.is_empty() && shard.burst.done.is_empty());
    }
    shard.port.send(&mut shard.burst).unwrap();
    assert_eq!(shard.port.kernel_drops(), 0);
    shard.close();
}

fn a_listener_that_does_not_exist_is_an_error_of_that_datagram(open: Open) {
    let Some(mut shard) = Shard::new(open, &[LOOPBACK], 8) else { return };
    shard.queue(b"x", shard.addrs[0], 7, 1);
    shard.queue(b"x", shard.addrs[0], 0, 2);
    shard.port.send(&mut shard.burst).unwrap();
    let mut done = shard.done(2);
    done.sort_by_key(|done| done.token);
    assert_eq!([done[0].errno, done[1].errno], [libc::EINVAL, 0]);
    shard.close();
}

fn a_caller_that_keeps_every_frame_gets_more_after_giving_them_back(open: Open) {
    let Some(mut shard) = Shard::new(open, &[LOOPBACK], 4) else { return };
    let peer = peer(shard.addrs[0]);
    for number in 0..100 {
        peer.send(&numbered(number)).unwrap();
    }
    let mut kept = Vec::new();
    for _ in 0..20 {
        shard.port.recv(&mut shard.burst, Duration::from_millis(1)).unwrap();
        kept.extend(shard.burst.rows.drain(..).map(|row| row.frame.unwrap()));
    }
    assert_eq!(kept.len(), 4);
    for frame in kept {
        shard.burst.pool.put(frame);
    }
    let mut received = 4;
    while received < 100 {
        shard.rows();
        received += shard.burst.rows.len();
        shard.burst.clear_rows();
    }
    assert_eq!(received, 100);
    shard.close();
}

fn a_closed_port_takes_nothing(open: Open) {
    let Some(mut shard) = Shard::new(open, &[LOOPBACK], 8) else { return };
    shard.port.close(&mut shard.burst).unwrap();
    shard.port.close(&mut shard.burst).unwrap();
    assert_eq!(shard.port.recv(&mut shard.burst, SHORT).unwrap_err().kind(), io::ErrorKind::NotConnected);
    shard.queue(b"late", shard.addrs[0], 0, 5);
    shard.port.send(&mut shard.burst).unwrap();
    assert_eq!(shard.burst.done, [Done { token: 5, bytes: 4, errno: libc::ESHUTDOWN }]);
    assert_eq!(shard.burst.pool.available(), shard.burst.pool.capacity());
}

fn what_is_appended_in_front_leaves_too(open: Open) {
    let Some(mut shard) = Shard::new(open, &[LOOPBACK], 8) else { return };
    let peer = peer(shard.addrs[0]);
    peer.send(b"payload").unwrap();
    shard.rows();
    let frame = shard.burst.rows[0].frame.as_mut().unwrap();
    assert!(frame.grow_front(HEADROOM));
    frame.bytes_mut()[..HEADROOM].fill(b'h');
    shard.echo();
    let mut back = vec![0; 4096];
    let len = peer.recv(&mut back).unwrap();
    assert_eq!(len, HEADROOM + 7);
    assert_eq!(&back[HEADROOM..len], b"payload");
    assert!(back[..HEADROOM].iter().all(|byte| *byte == b'h'));
    shard.done(1);
    shard.close();
}

fn a_full_send_buffer_is_an_error_and_no_wait(open: Open) {
    // Loopback never fills a send buffer. A neighbour that does not answer does: what is sent to it
    // waits for its Ethernet address. On a thread of its own: its network is its own from then on.
    let sent = std::thread::spawn(move || {
        if !own_network() {
            eprintln!("SKIPPED: no network namespace of our own, or no \"ip\"");
            return;
        }
        let listen = [endpoint("192.0.2.1:2948"), endpoint("127.0.0.1:2948")];
        let bound = bind_shards(&listen, 1, 1 << 13).unwrap();
        let Some(mut shard) = Shard::over(open, { bound.shards }.remove(0), 256, 2048) else { return };
        let silent = endpoint("192.0.2.2:9");
        let peer = peer(listen[1]);
        let here = Endpoint::from(peer.local_addr().unwrap());
        for token in 0..40 {
            shard.queue(&[0; 1024], silent, 0, token);
            if token % 10 == 9 {
                shard.queue(b"other listener", here, 1, 100 + token);
            }
        }
        shard.port.send(&mut shard.burst).unwrap();
        let done = shard.done(44);
        let of =
            |errno| done.iter().filter(|done| done.errno == errno).map(|done| done.token).collect::<Vec<_>>();
        let (sent, full) = (of(0), of(libc::EAGAIN));
        assert_eq!(sent.len() + full.len(), 44, "{done:?}");
        assert!(sent.starts_with(&[0, 1]) && full.ends_with(&[38, 39]), "{done:?}");
        assert!([109, 119, 129, 139].iter().all(|token| sent.contains(token)), "{done:?}");
        assert_eq!(shard.port.in_flight(), 0);
        // It answers at last, and there is room again.
        assert!(ip("neigh replace 192.0.2.2 lladdr 02:00:00:00:00:02 dev outer"));
        shard.queue(b"later", silent, 0, 200);
        shard.port.send(&mut shard.burst).unwrap();
        assert_eq!(shard.done(1)[0].errno, 0);
        shard.close();
    });
    sent.join().unwrap();
}

/// Gives this thread a network with loopback and with 192.0.2.1/24 on a wire where nobody is.
fn own_network() -> bool {
    // SAFETY: takes no memory; concerns this thread alone.
    let left = unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0;
    left && ip("link set lo up")
        && ip("link add outer type veth peer name inner")
        && ip("addr add 192.0.2.1/24 dev outer")
        && ip("link set inner up")
        && ip("link set outer up")
}

fn ip(arguments: &str) -> bool {
    let status = std::process::Command::new("ip").args(arguments.split(' ')).status();
    status.is_ok_and(|status| status.success())
}

fn whatever_the_caller_does_every_frame_and_token_comes_back_once(open: Open) {
    for seed in 1..=30u64 {
        // Numbers to act by: xorshift.
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut below = move |limit: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) % limit
        };
        let frames = 1 + below(40) as usize;
        let Some(mut shard) = Shard::new(open, &[LOOPBACK, LOOPBACK6], frames) else { return };
        let peers = [peer(shard.addrs[0]), peer(shard.addrs[1])];
        let unreachable = endpoint("255.255.255.255:9");
        let mut kept = Vec::new();
        let (mut sent, mut received, mut next) = (0, 0, 0);
        let mut open_tokens = std::collections::HashSet::new();
        for _ in 0..300 {
            match below(8) {
                0 | 1 => {
                    for _ in 0..below(30) {
                        let peer = &peers[below(2) as usize];
                        peer.send(&vec![3; below(300) as usize]).unwrap();
                        sent += 1;
                    }
                }
                2 | 3 => {
                    let before = shard.burst.rows.len();
                    shard.port.recv(&mut shard.burst, Duration::from_micros(below(50))).unwrap();
                    received += shard.burst.rows.len() - before;
                }
                4 | 5 => {
                    for row in shard.burst.rows.drain(..) {
                        let frame = row.frame.unwrap();
                        let to = if below(10) == 0 { unreachable } else { row.from };
                        let listener = if below(20) == 0 { 9 } else { row.listener };
                        open_tokens.insert(next);
                        shard.burst.tx.push(Tx { frame, to, listener, class: Class::Normal, token: next });
                        next += 1;
                    }
                    shard.port.send(&mut shard.burst).unwrap();
                }
                6 => {
                    kept.extend(shard.burst.rows.drain(..).map(|row| row.frame.unwrap()));
                    kept.extend(shard.burst.pool.take());
                }
                _ => kept.drain(..).for_each(|frame| shard.burst.pool.put(frame)),
            }
            for done in shard.burst.done.drain(..) {
                assert!(open_tokens.remove(&done.token), "seed {seed}: {done:?}");
            }
        }
        kept.drain(..).for_each(|frame| shard.burst.pool.put(frame));
        shard.burst.clear_rows();
        for _ in 0..PATIENCE {
            if received + shard.port.kernel_drops() as usize == sent && open_tokens.is_empty() {
                break;
            }
            shard.port.recv(&mut shard.burst, SHORT).unwrap();
            received += shard.burst.rows.len();
            shard.burst.clear_rows();
            shard.burst.done.drain(..).for_each(|done| assert!(open_tokens.remove(&done.token)));
        }
        assert_eq!(received + shard.port.kernel_drops() as usize, sent, "seed {seed}");
        assert!(open_tokens.is_empty(), "seed {seed}: {open_tokens:?}");
        shard.close();
    }
}

fn receiving_and_sending_allocate_nothing(open: Open) {
    let Some(mut shard) = Shard::new(open, &[LOOPBACK, LOOPBACK6], 256) else { return };
    let peers = [peer(shard.addrs[0]), peer(shard.addrs[1])];
    let mut back = [0; 64];
    for round in 0..50 {
        for peer in &peers {
            (0..100).for_each(|_| assert_eq!(peer.send(&[0; 64]).unwrap(), 64));
        }
        let before = allocations();
        let mut left = 200;
        while left > 0 {
            shard.rows();
            left -= shard.echo();
            shard.burst.done.clear();
        }
        shard.port.kernel_drops();
        shard.port.recv(&mut shard.burst, Duration::from_micros(1)).unwrap();
        assert_eq!(allocations(), before, "round {round}");
        for peer in &peers {
            (0..100).for_each(|_| assert_eq!(peer.recv(&mut back).unwrap(), 64));
        }
        shard.burst.done.clear();
    }
    shard.close();
}

#[test]
fn a_second_server_on_the_same_port_is_refused() {
    for shards in [1, 2] {
        for listen in [LOOPBACK, LOOPBACK6] {
            let bound = bind(&[listen], shards);
            let addr = bound.shards[0][0].addr;
            let refused = bind_shards(&[addr], shards, 1 << 16).unwrap_err();
            assert!(matches!(refused, BindError::InUse(at) if at == addr));
            assert!(refused.to_string().starts_with(&format!("{addr} is in use by another socket")));
            drop(bound);
            assert_eq!(bind_shards(&[addr], shards, 1 << 16).unwrap().shards.len(), shards);
        }
    }
}

#[test]
fn another_group_on_the_same_port_is_refused() {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    let addr = Endpoint::from(socket.local_addr().unwrap().as_socket().unwrap());
    assert!(matches!(bind_shards(&[addr], 2, 1 << 16), Err(BindError::InUse(_))));
}

#[test]
fn a_port_that_becomes_free_soon_is_waited_for() {
    let holder = UdpSocket::bind(LOOPBACK).unwrap();
    let addr = Endpoint::from(holder.local_addr().unwrap());
    let later = std::thread::spawn(move || {
        std::thread::sleep(SHORT);
        drop(holder);
    });
    assert!(bind_shards(&[addr], 2, 1 << 16).is_ok());
    later.join().unwrap();
}

#[test]
fn a_ring_that_is_dropped_without_closing_frees_its_port() {
    let bound = bind(&[LOOPBACK], 2);
    let addr = bound.shards[0][0].addr;
    for listeners in bound.shards {
        let Some(shard) = Shard::over(uring, listeners, 64, 256) else { return };
        peer(addr).send(b"on its way").unwrap();
        drop(shard);
    }
    UdpSocket::bind(SocketAddr::from(addr)).unwrap();
}

#[test]
fn where_the_ring_is_denied_the_sockets_come_back() {
    // On a thread of its own: what it denies itself stays denied.
    let denied = std::thread::spawn(|| {
        if let Err(error) = deny_io_uring() {
            eprintln!("SKIPPED: no seccomp here: {error}");
            return;
        }
        let probed = Uring::probe().unwrap_err();
        assert_eq!(probed.raw_os_error(), Some(libc::EPERM));
        let mut burst = Burst::new(FramePool::new(8, 256));
        let listeners = bind(&[LOOPBACK], 1).shards.remove(0);
        let refused = Uring::new(listeners, &mut burst).unwrap_err();
        assert_eq!(burst.pool.available(), 8);
        let sentence = refused.to_string();
        assert_eq!(sentence, uring_refusal(&probed));
        assert!(sentence.contains("seccomp") || sentence.contains("io_uring_disabled"), "{sentence}");
        let addr = refused.listeners[0].addr;
        let mut port = Udp::new(refused.listeners, &burst);
        peer(addr).send(b"still served").unwrap();
        port.recv(&mut burst, Duration::from_secs(10)).unwrap();
        assert_eq!(burst.rows[0].frame.as_ref().unwrap().bytes(), b"still served");
        burst.clear_rows();
    });
    denied.join().unwrap();
}

/// Makes `io_uring_setup` fail with EPERM on this thread, as container runtimes do.
fn deny_io_uring() -> io::Result<()> {
    let instruction = |code: u32, jt: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf: 0, k };
    let mut program = [
        // The number of the system call is the first word of what the filter sees.
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, libc::SYS_io_uring_setup as u32),
        instruction(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
        instruction(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: both calls change only what this thread may do; the program outlives the second one, and
    // the kernel copies it.
    let result = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            | libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[test]
fn closing_one_shard_leaves_the_others_served() {
    let bound = bind(&[LOOPBACK], 2);
    let mut shards = Vec::new();
    for listeners in bound.shards {
        let Some(shard) = Shard::over(uring, listeners, 64, 256) else { return };
        shards.push(shard);
    }
    let last = shards.remove(1);
    let addr = last.addrs[0];
    last.close();
    // Whatever the filter said, one socket is left and receives everything.
    for user in 0..4u32 {
        let mut datagram = [0; 48];
        datagram[20..24].copy_from_slice(&user.to_be_bytes());
        peer(addr).send(&datagram).unwrap();
    }
    let mut received = 0;
    while received < 4 {
        shards[0].rows();
        received += shards[0].burst.rows.len();
        shards[0].burst.clear_rows();
    }
    shards.remove(0).close();
}

#[test]
fn sockets_are_never_shared_by_reuseaddr() {
    let bound = bind(&[LOOPBACK], 2);
    for listener in bound.shards.iter().flatten() {
        assert!(!listener.socket.reuse_address().unwrap());
        assert!(listener.socket.reuse_port().unwrap());
        assert!(listener.socket.as_raw_fd() >= 0);
    }
}
