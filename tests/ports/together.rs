//! Datagrams that come as one and leave as one: each is a datagram of its own to everybody.

use std::collections::HashMap;
use std::net::UdpSocket;
use std::time::Duration;

use pushplane::config::Coalesce;
use pushplane::id::Endpoint;
use pushplane::net::{Counts, Listener, Options, Port, Udp, Uring};
use pushplane::packet::{BURST_MAX, Burst, Class, Done, FramePool, HEADROOM, Tx};

use crate::harness::*;

on_both_ports! {
    what_came_as_one_is_a_row_each
    a_row_of_many_is_its_own_to_change
    what_came_as_one_waits_for_frames
    what_came_as_one_is_cut_one_by_one
    a_burst_to_one_hop_leaves_as_one
    sizes_and_hops_mix_and_flows_keep_their_order
    where_coalescing_is_off_nothing_is_coalesced
    a_lone_datagram_waits_for_no_company
    large_and_small_come_in_turns
}

/// Sends datagrams of these sizes, numbered, as few times as can be; says how often.
fn send(sender: &mut Shard, to: Endpoint, sizes: &[usize]) -> u64 {
    let before = sender.port.counts().sends;
    for (token, size) in (0u32..).zip(sizes) {
        let bytes: Vec<u8> = token.to_be_bytes().into_iter().cycle().take(*size).collect();
        sender.queue(&bytes, to, 0, token);
    }
    sender.port.send(&mut sender.burst).unwrap();
    assert!(sender.done(sizes.len()).iter().all(|done| done.errno == 0));
    sender.port.counts().sends - before
}

fn number(bytes: &[u8]) -> usize {
    u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize
}

fn what_came_as_one_is_a_row_each(open: Open) {
    let Some(mut shard) = Shard::new(open, &[LOOPBACK], 256) else { return };
    let mut sender = Shard::new(plain, &[LOOPBACK], 256).unwrap();
    let sizes = [vec![148; 150], vec![20]].concat();
    assert_eq!(send(&mut sender, shard.addrs[0], &sizes), 3);
    let mut next = 0;
    while next < sizes.len() {
        shard.rows();
        assert!(shard.burst.rows.len() <= BURST_MAX);
        for row in &shard.burst.rows {
            let frame = row.frame.as_ref().unwrap();
            assert_eq!((number(frame.bytes()), frame.len(), frame.headroom()), (next, sizes[next], HEADROOM));
            assert_eq!((row.from, row.listener, row.truncated), (sender.addrs[0], 0, false));
            next += 1;
        }
        shard.burst.clear_rows();
    }
    assert_eq!(shard.port.counts().receives, 3);
    sender.close();
    shard.close();
}

/// A port that says that there is more has its shard wait for it.
fn a_lone_datagram_waits_for_no_company(open: Open) {
    let Some(mut shard) = Shard::new(open, &[LOOPBACK], 256) else { return };
    let sender = peer(shard.addrs[0]);
    for _ in 0..3 {
        sender.send(b"alone").unwrap();
        shard.rows();
        assert!(!shard.port.more());
        assert_eq!(shard.echo(), 1);
        let mut answer = [0; 16];
        assert_eq!(sender.recv(&mut answer).unwrap(), 5);
    }
    shard.close();
}

/// How much is lent to the kernel follows what comes.
fn large_and_small_come_in_turns(open: Open) {
    let Some(mut shard) = Shard::new(open, &[LOOPBACK], 256) else { return };
    let mut sender = Shard::new(plain, &[LOOPBACK], 256).unwrap();
    let to = shard.addrs[0];
    for _ in 0..8 {
        // Three of 57 600 bytes, then each alone.
        let large = send(&mut sender, to, &[900; 3 * 64]);
        let small = (1..=20).map(|size| send(&mut sender, to, &[size + 4])).sum::<u64>();
        assert_eq!((large, small), (3, 20));
        let mut received = 0;
        while received < 3 * 64 + 20 {
            shard.rows();
            received += shard.burst.rows.len();
            shard.burst.clear_rows();
        }
        assert_eq!(received, 3 * 64 + 20);
    }
    sender.close();
    shard.close();
}

fn a_row_of_many_is_its_own_to_change(open: Open) {
    let Some(mut shard) = Shard::new(open, &[LOOPBACK], 256) else { return };
    let mut sender = Shard::new(plain, &[LOOPBACK], 256).unwrap();
    send(&mut sender, shard.addrs[0], &[100; 40]);
    shard.rows();
    assert_eq!(shard.burst.rows.len(), 40);
    for at in (0..40).rev() {
        let frame = shard.burst.rows[at].frame.as_mut().unwrap();
        assert_eq!(number(frame.bytes()), at);
        assert!(frame.grow_front(HEADROOM));
        frame.bytes_mut().fill(at as u8);
    }
    shard.echo();
    sender.rows();
    for at in 0..40 {
        let frame = sender.burst.rows[at].frame.as_ref().unwrap();
        assert_eq!(frame.bytes(), [at as u8; HEADROOM + 100]);
    }
    sender.burst.clear_rows();
    shard.done(40);
    sender.close();
    shard.close();
}

fn what_came_as_one_waits_for_frames(open: Open) {
    for frames in [1, 2, 5] {
        let Some(mut shard) = Shard::new(open, &[LOOPBACK], frames) else { return };
        let mut sender = Shard::new(plain, &[LOOPBACK], 256).unwrap();
        send(&mut sender, shard.addrs[0], &[64; 100]);
        for next in 0..100 {
            // One is kept while the next is asked for.
            if next == 0 {
                shard.rows();
            }
            let row = shard.burst.rows.remove(0);
            let frame = row.frame.unwrap();
            assert_eq!(number(frame.bytes()), next);
            shard.burst.pool.put(frame);
            if shard.burst.rows.is_empty() && next < 99 {
                shard.rows();
            }
        }
        sender.close();
        shard.close();
    }
}

fn what_came_as_one_is_cut_one_by_one(open: Open) {
    let Some(mut shard) = Shard::over(open, bind(&[LOOPBACK], 1).shards.remove(0), 64, 200) else { return };
    let max = shard.burst.pool.datagram_max();
    let mut sender = Shard::new(plain, &[LOOPBACK], 64).unwrap();
    let sizes = [vec![max + 1; 10], vec![max]].concat();
    assert_eq!(send(&mut sender, shard.addrs[0], &sizes), 1);
    shard.rows();
    let cut: Vec<bool> = shard.burst.rows.iter().map(|row| row.truncated).collect();
    assert_eq!(cut, [vec![true; 10], vec![false]].concat());
    assert!(shard.burst.rows.iter().all(|row| row.frame.as_ref().unwrap().len() == max));
    shard.burst.clear_rows();
    sender.close();
    shard.close();
}

fn a_burst_to_one_hop_leaves_as_one(open: Open) {
    let Some(mut shard) = Shard::new(open, &[LOOPBACK], 256) else { return };
    let peer = peer(shard.addrs[0]);
    let to = Endpoint::from(peer.local_addr().unwrap());
    // A peer that knows nothing of it gets one by one what left as one.
    for (sizes, sends) in
        [(vec![148; 64], 1), (vec![148; 65], 2), (vec![148, 148, 20], 1), (vec![20, 148], 2), (vec![0, 0], 2)]
    {
        assert_eq!(send(&mut shard, to, &sizes), sends, "{sizes:?}");
        let mut back = [0; 256];
        for (at, size) in sizes.iter().enumerate() {
            let len = peer.recv(&mut back).unwrap();
            assert_eq!((len, len == 0 || number(&back) == at), (*size, true));
        }
    }
    assert_eq!(shard.port.counts().groups_refused, 0);
    shard.close();
}

fn sizes_and_hops_mix_and_flows_keep_their_order(open: Open) {
    let Some(mut shard) = Shard::new(open, &[LOOPBACK, LOOPBACK6], 512) else { return };
    let peers: Vec<UdpSocket> = (0..4).map(|at| peer(shard.addrs[at % 2])).collect();
    let mut state = 1u64;
    let mut below = |limit: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) % limit
    };
    let mut token = 0;
    for round in 0..40 {
        let count = below(300) as usize;
        let mut expected: HashMap<(usize, u32), Vec<(u32, usize)>> = HashMap::new();
        let mut to_peer = [0; 4];
        for _ in 0..count {
            let (at, flow) = (below(4) as usize, below(20) as u32);
            let size = [40, 41, 148, 300, 1400][below(5) as usize];
            // Its number, its flow, and filled to its size.
            let mut bytes = vec![7; size];
            bytes[..4].copy_from_slice(&u32::to_be_bytes(token));
            bytes[4..8].copy_from_slice(&flow.to_be_bytes());
            let mut frame = shard.burst.pool.take().unwrap();
            assert!(frame.fill(&bytes));
            let to = Endpoint::from(peers[at].local_addr().unwrap());
            let listener = (at % 2) as u8;
            shard.burst.tx.push(Tx { frame, to, listener, class: Class::Normal, flow, token });
            expected.entry((at, flow)).or_default().push((token, size));
            to_peer[at] += 1;
            token += 1;
        }
        let sends = shard.port.counts().sends;
        shard.port.send(&mut shard.burst).unwrap();
        let mut done = shard.done(count);
        assert!(shard.port.counts().sends - sends <= count as u64);
        done.sort_by_key(|done| done.token);
        let first = token - count as u32;
        assert!(done.iter().zip(first..).all(|(done, token)| (done.token, done.errno) == (token, 0)));
        let mut arrived: HashMap<(usize, u32), Vec<(u32, usize)>> = HashMap::new();
        for (at, peer) in peers.iter().enumerate() {
            let mut back = [0; 2048];
            for _ in 0..to_peer[at] {
                let len = peer.recv(&mut back).unwrap();
                let flow = u32::from_be_bytes(back[4..8].try_into().unwrap());
                arrived.entry((at, flow)).or_default().push((number(&back) as u32, len));
            }
        }
        assert_eq!(arrived, expected, "round {round}");
    }
    shard.close();
}

fn where_coalescing_is_off_nothing_is_coalesced(open: Open) {
    for coalesce in [Coalesce::Neither, Coalesce::Receive, Coalesce::Send] {
        let options = Options { coalesce, busy_poll: Duration::ZERO };
        let listeners = bind(&[LOOPBACK], 1).shards.remove(0);
        let addr = listeners[0].addr;
        let mut burst = Burst::new(FramePool::new(256, 256));
        let Some((port, said)) = with(open, listeners, &mut burst, &options) else { return };
        assert_eq!(said.contains("UDP_GRO"), coalesce.receives(), "{said}");
        assert_eq!(said.contains("UDP_SEGMENT"), coalesce.sends(), "{said}");
        let mut shard = Shard { port, burst, addrs: vec![addr] };
        let mut sender = Shard::new(plain, &[LOOPBACK], 64).unwrap();
        send(&mut sender, addr, &[64; 20]);
        let mut received = 0;
        while received < 20 {
            shard.rows();
            received += shard.echo();
        }
        // The echo of what came at once, if it did, leaves at once.
        let Counts { receives, sends, .. } = shard.port.counts();
        assert_eq!(receives == 1, coalesce.receives(), "{coalesce:?}");
        assert_eq!(sends < 20, coalesce.sends(), "{coalesce:?}");
        sender.close();
        shard.burst.done.clear();
        shard.close();
    }
}

/// A port of the same kind as `open` makes, with options, and what it says of itself.
fn with(
    open: Open,
    listeners: Vec<Listener>,
    burst: &mut Burst,
    options: &Options,
) -> Option<(Box<dyn Port>, String)> {
    if std::ptr::fn_addr_eq(open, plain as Open) {
        let port = Udp::with(listeners, burst, options);
        let said = port.describe();
        return Some((Box::new(port), said));
    }
    let port = Uring::with(listeners, burst, options).ok()?;
    let said = port.describe();
    Some((Box::new(port), said))
}

#[test]
fn every_datagram_of_a_group_is_done_for_itself() {
    let mut shard = Shard::new(plain, &[LOOPBACK], 16).unwrap();
    let to = shard.addrs[0];
    for (token, size) in [(5, 64), (6, 64), (7, 3)] {
        shard.queue(&vec![1; size], to, 0, token);
    }
    shard.port.send(&mut shard.burst).unwrap();
    let done = |token, bytes| Done { token, bytes, errno: 0 };
    assert_eq!(shard.done(3), [done(5, 64), done(6, 64), done(7, 3)]);
    shard.close();
}
