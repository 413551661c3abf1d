//! Receiving: every size, every listener, with any number of frames.

use std::time::Duration;

use pushplane::id::Endpoint;
use pushplane::net::{Port, bind_shards};
use pushplane::packet::{Done, HEADROOM};

use crate::harness::*;

on_both_ports! {
    every_size_is_echoed_from_the_buffer_that_received_it
    longer_datagrams_are_cut_and_marked
    nothing_is_lost_silently_with_few_frames
    nothing_is_lost_when_nobody_reaps
    two_listeners_are_told_apart
    each_shard_receives_its_users
    a_port_without_traffic_waits_and_returns_nothing
    a_caller_that_keeps_every_frame_gets_more_after_giving_them_back
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
