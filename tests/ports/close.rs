//! Stopping and closing: nothing stays with the kernel.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pushplane::packet::Done;

use crate::harness::*;

on_both_ports! {
    closing_under_traffic_gives_every_frame_back
    a_closed_port_takes_nothing
    a_stopped_port_gives_what_had_arrived_and_nothing_after
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

fn a_stopped_port_gives_what_had_arrived_and_nothing_after(open: Open) {
    let Some(mut shard) = Shard::new(open, &[LOOPBACK, LOOPBACK6], 256) else { return };
    let mut sender = Shard::new(plain, &[LOOPBACK], 256).unwrap();
    for token in 0..200 {
        sender.queue(&numbered(token), shard.addrs[0], 0, token as u32);
    }
    sender.port.send(&mut sender.burst).unwrap();
    shard.rows();
    let mut given = shard.echo();
    shard.port.stop(&mut shard.burst).unwrap();
    peer(shard.addrs[1]).send(b"after the stop").unwrap();
    loop {
        shard.port.recv(&mut shard.burst, SHORT).unwrap();
        if shard.burst.rows.is_empty() {
            break;
        }
        assert!(shard.burst.rows.iter().all(|row| row.frame.as_ref().unwrap().len() == 64));
        given += shard.echo();
    }
    // They came as four; those of them that had been received are given in full, and all of it is sent.
    let received = shard.port.counts().receives;
    assert_eq!(given, [0, 64, 128, 192, 200][received as usize]);
    let mut back = 0;
    while back < given {
        sender.rows();
        back += sender.burst.rows.len();
        sender.burst.clear_rows();
    }
    assert!(shard.burst.done.iter().all(|done| done.errno == 0));
    sender.close();
    shard.close();
}
