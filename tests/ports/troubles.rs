//! What goes wrong on the way: each is one datagram's fate, named, and nobody else's.

use std::collections::HashSet;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pushplane::id::Endpoint;
use pushplane::net::bind_shards;

use crate::harness::*;

on_both_ports! {
    a_path_too_narrow_for_a_segment_gets_each_alone_and_in_order
    a_hop_where_nobody_listens_disturbs_no_other
    a_thousand_hops_are_served
    the_longest_datagrams_come_and_go
    a_flood_at_one_address_starves_no_other
}

fn a_path_too_narrow_for_a_segment_gets_each_alone_and_in_order(open: Open) {
    // On a thread of its own: its network is its own from then on.
    let run = std::thread::spawn(move || {
        if !own_network() || !ip("link set lo mtu 1280") {
            skip("a narrow path", "no network namespace of our own, or no \"ip\"");
            return;
        }
        let Some(mut shard) = Shard::new(open, &[LOOPBACK], 256) else { return };
        let peer = peer(shard.addrs[0]);
        let to = Endpoint::from(peer.local_addr().unwrap());
        let mut refused = 0;
        for round in 0..3 {
            // Two sizes, only one of which fits; each datagram is of one of four flows.
            for token in 0..60u32 {
                let size = if token % 3 == 0 { 300 } else { 1400 };
                let mut bytes = vec![round; size];
                bytes[..4].copy_from_slice(&token.to_be_bytes());
                shard.queue_in(&bytes, to, 0, token, token % 4);
            }
            let sends = shard.port.counts().sends;
            shard.port.send(&mut shard.burst).unwrap();
            let done = shard.done(60);
            assert!(done.iter().all(|done| done.errno == 0), "round {round}: {done:?}");
            // The kernel need not say it again; what fits goes together all the same.
            let now = shard.port.counts().groups_refused;
            assert!(now > 0 && (round == 0 || now == refused), "round {round}: {now} groups refused");
            refused = now;
            assert!(shard.port.counts().sends - sends < 60);
            let mut back = [0; 2048];
            let mut last = [None; 4];
            for _ in 0..60 {
                let len = peer.recv(&mut back).unwrap();
                let token = u32::from_be_bytes(back[..4].try_into().unwrap());
                assert_eq!((len, back[4]), (if token % 3 == 0 { 300 } else { 1400 }, round));
                let before = last[token as usize % 4].replace(token);
                assert!(before < Some(token), "{token} after {before:?}");
            }
        }
        shard.close();
    });
    run.join().unwrap();
}

fn a_hop_where_nobody_listens_disturbs_no_other(open: Open) {
    let Some(mut shard) = Shard::new(open, &[LOOPBACK], 512) else { return };
    let nobody = {
        let gone = UdpSocket::bind(LOOPBACK).unwrap();
        Endpoint::from(gone.local_addr().unwrap())
    };
    let peer = peer(shard.addrs[0]);
    let to = Endpoint::from(peer.local_addr().unwrap());
    for round in 0..10u32 {
        for token in 0..200 {
            let to = if token % 2 == 0 { nobody } else { to };
            shard.queue_in(&numbered(token), to, 0, token as u32, 0);
        }
        shard.port.send(&mut shard.burst).unwrap();
        // The kernel took them; that nobody was there it learns later and tells no unconnected socket.
        assert!(shard.done(200).iter().all(|done| done.errno == 0));
        let mut back = [0; 64];
        for token in (1..200).step_by(2) {
            peer.recv(&mut back).unwrap();
            assert_eq!(back, numbered(token), "round {round}");
        }
        peer.send(b"and it receives").unwrap();
        shard.rows();
        shard.burst.clear_rows();
    }
    assert_eq!(shard.port.counts().groups_refused, 0);
    shard.close();
}

fn a_thousand_hops_are_served(open: Open) {
    const HOPS: usize = 1000;
    let Some(mut shard) = Shard::new(open, &[LOOPBACK], 4 * HOPS) else { return };
    // Each of 127.1/16 is this host; what arrives is spread over eight sockets, whose buffers hold it.
    let sinks: Vec<_> = (0..8).map(|_| UdpSocket::bind("0.0.0.0:0").unwrap()).collect();
    let hop = |n: usize| {
        let port = sinks[n % 8].local_addr().unwrap().port();
        Endpoint::new([127, 1, (n >> 8) as u8, n as u8].into(), port)
    };
    for n in 0..2 * HOPS {
        shard.queue_in(&(n as u32).to_be_bytes(), hop(n % HOPS), 0, n as u32, 0);
    }
    let sends = shard.port.counts().sends;
    shard.port.send(&mut shard.burst).unwrap();
    let done = shard.done(2 * HOPS);
    // Where the kernel takes segments, both datagrams for a hop leave as one.
    let sends = (shard.port.counts().sends - sends) as usize;
    assert!([(HOPS, HOPS), (2 * HOPS, 0)].contains(&(sends, shard.port.spread())), "{sends} sends");
    assert!(done.iter().all(|done| done.errno == 0), "{done:?}");
    let mut seen = HashSet::new();
    for sink in &sinks {
        sink.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut bytes = [0; 8];
        for _ in 0..2 * HOPS / sinks.len() {
            assert_eq!(sink.recv(&mut bytes).unwrap(), 4);
            assert!(seen.insert(u32::from_be_bytes(bytes[..4].try_into().unwrap())));
        }
    }
    assert_eq!(seen.len(), 2 * HOPS);
    shard.close();
}

fn the_longest_datagrams_come_and_go(open: Open) {
    const LONGEST: usize = 65_507;
    let listeners = bind(&[LOOPBACK], 1).shards.remove(0);
    let Some(mut shard) = Shard::over(open, listeners, 16, LONGEST) else { return };
    let peer = peer(shard.addrs[0]);
    for size in [LONGEST, LONGEST - 1, 40_000, 20_000] {
        for number in 0..3u8 {
            peer.send(&vec![number; size]).unwrap();
        }
        let mut echoed = 0;
        while echoed < 3 {
            shard.rows();
            echoed += shard.echo();
        }
        assert!(shard.burst.done.iter().all(|done| done.errno == 0), "{:?}", shard.burst.done);
        let mut back = vec![0; LONGEST + 1];
        for number in 0..3 {
            assert_eq!(peer.recv(&mut back).unwrap(), size);
            assert!(back[..size].iter().all(|byte| *byte == number));
        }
    }
    shard.burst.done.clear();
    shard.close();
}

fn a_flood_at_one_address_starves_no_other(open: Open) {
    let listen = [endpoint(LOOPBACK), endpoint(LOOPBACK)];
    let bound = bind_shards(&listen, 1, 1 << 18).unwrap();
    let Some(mut shard) = Shard::over(open, { bound.shards }.remove(0), 128, 256) else { return };
    let addrs = shard.addrs.clone();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut sender = Shard::new(plain, &[LOOPBACK], 128).unwrap();
            while !stop.load(Ordering::Relaxed) {
                for token in 0..64 {
                    sender.queue(&[0; 100], addrs[0], 0, token);
                }
                sender.port.send(&mut sender.burst).unwrap();
                sender.burst.done.clear();
            }
            sender.close();
        });
        let other = peer(addrs[1]);
        for _ in 0..20 {
            other.send(b"one").unwrap();
            // As many as both sockets and every buffer hold would be some thousands.
            let mut before = 0;
            loop {
                shard.rows();
                let found = shard.burst.rows.iter().any(|row| row.listener == 1);
                before += shard.burst.rows.len();
                shard.burst.clear_rows();
                if found {
                    break;
                }
                assert!(before < 20_000, "the other address is starved");
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    shard.close();
}
