//! A shard allocates nothing once it runs: a counting allocator watches [`Shard::work`] over a port in
//! memory, with bursts that take every way through the plane: all tunnels and families, several
//! terminals, forwards, roaming, signed both ways, receipts, echoes, live bindings, requests for the controller,
//! every kind of rejection.

#[path = "common/counting.rs"]
mod counting;
#[path = "common/lab.rs"]
mod lab;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use counting::allocations;
use lab::*;
use pushplane::config::{Limits, Policy};
use pushplane::id::{Endpoint, PushId};
use pushplane::metrics::{Board, Counters};
use pushplane::net::Port;
use pushplane::packet::{BURST_MAX, Burst, Done, FramePool};
use pushplane::plane::Shared;
use pushplane::reason::Reason;
use pushplane::server::Shard;
use pushplane::table::publish::publish;
use pushplane::table::{Binding, Change};
use pushplane::wire::prp::{Kind, flag, option_type as ty};

/// A port in memory: receives the datagrams of a script and swallows what is sent.
struct Script {
    datagrams: std::vec::IntoIter<(Vec<u8>, Endpoint)>,
    sent: usize,
}

impl Port for Script {
    fn recv(&mut self, burst: &mut Burst, _: Duration) -> io::Result<()> {
        for (bytes, from) in self.datagrams.by_ref().take(BURST_MAX) {
            assert!(burst.push_copy(&bytes, from, u8::from(!from.is_ipv4())));
        }
        Ok(())
    }

    fn send(&mut self, burst: &mut Burst) -> io::Result<()> {
        let Burst { pool, tx, done, .. } = burst;
        self.sent += tx.len();
        for (at, tx) in tx.drain(..).enumerate() {
            // Some fail, so that the accounts take that way too.
            let errno = if at % 37 == 36 { libc::EPERM } else { 0 };
            done.push(Done { token: tx.token, bytes: tx.frame.len() as u32, errno });
            pool.put(tx.frame);
        }
        Ok(())
    }

    fn in_flight(&self) -> usize {
        0
    }

    fn stop(&mut self, _: &mut Burst) -> io::Result<()> {
        Ok(())
    }

    fn close(&mut self, _: &mut Burst) -> io::Result<()> {
        Ok(())
    }
}

/// Messages for every user of the lab by every application and sender, and everything that can be
/// wrong with them.
fn script() -> Vec<(Vec<u8>, Endpoint)> {
    let mut script = Vec::new();
    let mut take = |bytes: Vec<u8>, from: &str| script.push((bytes, at(from)));
    for n in 0..34 {
        let source = own(n);
        for app in 7..15 {
            take(push(n).app(app).flags(flag::RECEIPT).bytes(), SENDER);
        }
        let receipt = push(n).flags(flag::RECEIPT).option(100, b"unknown");
        let answer = msg(Kind::Receipt, ASKER, own(n)).id(receipt.header.message);
        take(receipt.bytes(), SENDER);
        take(answer.bytes(), "10.0.0.1:2948");
        let signed = push(n).app(app::KEYED).signed(APP_KEY);
        take(signed.bytes(), SENDER);
        take(signed.bytes(), SENDER);
        take(push(n).app(app::UNLISTED).bytes(), SENDER);
        take(push(n).flags(flag::GROUP).bytes(), SENDER);
        take(push_to(open(n)).hops(1).bytes(), SENDER);
        take(push(n).kind(14).bytes(), SENDER);
        take(push(n).kind(13).bytes(), SENDER);
        take(push(n).app(app::PRIORITY).payload(&[1; 1200]).bytes(), OPEN);
        take(push(n).app(app::MIN_DELAY).signed(ABROAD_KEY).flags(flag::ROAMED).bytes(), ABROAD);
        take(push_to(open(n)).source(source).bytes(), "10.0.0.29:2948");
        take(push_to(abroad(n)).source(source).source_address(STRANGER).bytes(), STRANGER);
        take(push(n).app(app::USERS).source(source).bytes(), "10.0.0.29:2948");
        take(msg(Kind::Echo, source, ASKER).option(ty::PAYLOAD_LENGTH, &[0, 1]).bytes(), SENDER);
        take(msg(Kind::Receipt, source, ASKER).bytes(), STRANGER);
        take(push(n).deadline(1).bytes(), STRANGER);
        take(push(n).signed(NOBODYS_KEY).bytes(), "[2001:db8:5::1]:5");
        take(push(n).version(2).bytes(), STRANGER);
        take(push(n).option(200, b"").bytes(), STRANGER);
        take(push(n).bytes()[..47].to_vec(), STRANGER);
        take(push(n).payload(&[0; 3000]).bytes(), STRANGER);
        take(push_to(PushId(n << 100)).bytes(), STRANGER);
        let full = (0..3).fold(push(n), |msg, _| msg.option(100, &[1; 255])).option(101, &[2; 190]);
        take(full.bytes(), SENDER);
    }
    // In another order, so that a burst is mixed.
    let len = script.len();
    (0..len).map(|at| script[at * 101 % len].clone()).collect()
}

/// Some users have registered elsewhere, taken another's address, been released or got a Push ID lent.
fn register(shared: &Shared) {
    let mut writer = shared.live_writer().unwrap();
    let bind = |n, device, private: &str, nat: Option<&str>| Change::Bind {
        binding: Binding { private: Some(at(private)), nat: nat.map(at), ..Binding::new(own(n), device) },
        heard_ms: 0,
    };
    for change in [
        bind(user::GTPU, 0, "10.2.0.1:2948", None),
        bind(user::BOTH, 5, "172.16.0.1:2948", Some("[2001:db8:9::29]:40026")),
        Change::End { user: own(user::PLAIN6), device: 0, heard_ms: 0 },
        Change::Lend { lent: own(25), user: own(user::GTPU), device: 0, until_ms: u64::MAX },
    ] {
        writer.apply(&change).unwrap();
    }
}

/// Runs the script and returns what was counted.
fn run(policy: Policy, registered: bool) -> Counters {
    // Few receipts can be owed, so that some PUSHes cannot be promised theirs.
    let limits = Limits { receipts: 256, ..LIMITS };
    let site = site(policy, 0, Arc::new(Shared::new(&limits, 1, 7)));
    if registered {
        register(&site.shared);
    }
    let (_publisher, mut readers) = publish(tables(&rib()), 1);
    let warm: Vec<_> = script().into_iter().take(BURST_MAX).collect();
    let measured: Vec<_> = (0..3).flat_map(|_| script()).collect();
    let expected = (warm.len() + measured.len()) as u64;
    let datagrams = [warm, measured].concat().into_iter();
    let burst = Burst::new(FramePool::new(LIMITS.frames, LIMITS.datagram_max));
    let board = Arc::new(Board::default());
    let port = Script { datagrams, sent: 0 };
    let mut shard = Shard::new(port, burst, site, readers.remove(0), Arc::clone(&board));
    let mut now = NOW;
    let mut bursts = 0;
    loop {
        shard.receive(Duration::ZERO).unwrap();
        let before = allocations();
        let worked = shard.work(now).unwrap();
        let made = allocations() - before;
        // The first burst is the warm-up.
        assert!(bursts == 0 || made == 0, "burst {bursts}: {made} allocations");
        if !worked {
            break;
        }
        bursts += 1;
        now = now.plus_ns(100_000_000);
    }
    let counters = board.read();
    assert_eq!((counters.rx, counters.unaccounted(), counters.in_flight), (expected, 0, 0));
    assert_eq!(counters.bursts, bursts);
    assert_eq!(counters.tx + counters.tx_failed, shard.port_mut().sent as u64);
    assert_eq!(shard.frames_free(), LIMITS.frames);
    counters
}

#[test]
fn a_shard_allocates_nothing_once_it_runs() {
    let mut counters = run(Policy::default(), false);
    counters.add(&run(Policy { known_sources: true, ..Policy::default() }, true));
    // Every way was taken, but for the reasons of what is punted.
    let unmet = Reason::ALL.iter().filter(|reason| counters.dropped[reason.index()] == 0);
    let expected = [Reason::UnknownGroup, Reason::NotPermitted, Reason::UnknownName, Reason::NoPeerAddress];
    assert!(unmet.copied().eq(expected), "{counters:?}");
    assert!(counters.delivered > 500 && counters.forwarded > 100 && counters.answered > 30, "{counters:?}");
}
