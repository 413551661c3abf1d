//! Whatever a caller does, in any order, by seeds; and none of it allocates.

use std::time::Duration;

use pushplane::packet::{Class, Tx};

use crate::counting::allocations;
use crate::harness::*;

on_both_ports! {
    whatever_the_caller_does_every_frame_and_token_comes_back_once
    receiving_and_sending_allocate_nothing
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
                        shard.burst.tx.push(Tx {
                            frame,
                            to,
                            listener,
                            class: Class::Normal,
                            flow: 0,
                            token: next,
                        });
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
