//! Kernels and containers that deny something, played by a filter of system calls.

#![expect(unsafe_code, reason = "denies itself system calls")]

use std::io;
use std::time::Duration;

use pushplane::id::Endpoint;
use pushplane::net::{Port, Udp, Uring, uring_refusal};
use pushplane::packet::{Burst, FramePool};

use crate::harness::*;

/// Runs a test on a thread of its own, where this system call fails with this error number, if its second argument is
/// the one given: what a thread denies itself stays denied.
fn where_denied(call: libc::c_long, second: Option<i32>, errno: i32, test: fn()) {
    let denied = std::thread::spawn(move || match deny(call, second, errno) {
        Ok(()) => test(),
        Err(error) => skip("a denied system call", &format!("no seccomp: {error}")),
    });
    denied.join().unwrap();
}

fn deny(call: libc::c_long, second: Option<i32>, errno: i32) -> io::Result<()> {
    // Offsets in `struct seccomp_data`: the number of the call, and the low half of its second argument.
    const NUMBER: u32 = 0;
    const SECOND: u32 = 24;
    let load = |at| instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, at);
    let skip_unless = |k: u32, skip| libc::sock_filter {
        jf: skip,
        ..instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, k)
    };
    let end = |k| instruction(libc::BPF_RET | libc::BPF_K, 0, k);
    let fail = end(libc::SECCOMP_RET_ERRNO | errno as u32);
    let mut program = match second {
        None => vec![load(NUMBER), skip_unless(call as u32, 1), fail],
        Some(second) => {
            vec![load(NUMBER), skip_unless(call as u32, 3), load(SECOND), skip_unless(second as u32, 1), fail]
        }
    };
    program.push(end(libc::SECCOMP_RET_ALLOW));
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: both calls change only what this thread may do; the program outlives the second one, and
    // the kernel copies it.
    let result = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            | libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn instruction(code: u32, jt: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf: 0, k }
}

#[test]
fn where_the_ring_is_denied_the_sockets_come_back() {
    where_denied(libc::SYS_io_uring_setup, None, libc::EPERM, || {
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
}

/// Echoes forty datagrams of one size; says how many sends that took.
fn echo_forty(shard: &mut Shard) -> u64 {
    let peer = peer(shard.addrs[0]);
    (0..40).for_each(|number| assert_eq!(peer.send(&numbered(number)).unwrap(), 64));
    let mut echoed = 0;
    while echoed < 40 {
        shard.rows();
        echoed += shard.echo();
    }
    assert!(shard.burst.done.drain(..).all(|done| done.errno == 0));
    let mut back = [0; 64];
    for number in 0..40 {
        peer.recv(&mut back).unwrap();
        assert_eq!(back, numbered(number));
    }
    shard.port.counts().sends
}

#[test]
fn a_kernel_without_coalescing_is_served_one_by_one() {
    where_denied(libc::SYS_setsockopt, Some(libc::SOL_UDP), libc::ENOPROTOOPT, || {
        let burst = Burst::new(FramePool::new(64, 256));
        let listeners = bind(&[LOOPBACK], 1).shards.remove(0);
        let said = Udp::new(listeners, &burst).describe();
        assert!(said.ends_with("datagrams received and sent one by one"), "{said}");
        for open in [plain, uring] as [Open; 2] {
            let Some(mut shard) = Shard::new(open, &[LOOPBACK], 64) else { return };
            assert_eq!(echo_forty(&mut shard), 40);
            shard.close();
        }
    });
}

#[test]
fn a_way_that_takes_no_segments_gets_each_alone() {
    // Only `sendmmsg` sends more than one: what it refuses is sent by `sendmsg`.
    where_denied(libc::SYS_sendmmsg, None, libc::EIO, || {
        let mut shard = Shard::new(plain, &[LOOPBACK], 64).unwrap();
        let peer = peer(shard.addrs[0]);
        let to = Endpoint::from(peer.local_addr().unwrap());
        (0..40).for_each(|number| shard.queue(&numbered(number), to, 0, number as u32));
        shard.port.send(&mut shard.burst).unwrap();
        let done = shard.done(40);
        assert!((0..40).eq(done.iter().map(|done| done.token)) && done.iter().all(|done| done.errno == 0));
        assert_eq!((shard.port.counts().groups_refused, shard.port.counts().sends), (1, 40));
        let mut back = [0; 64];
        for number in 0..40 {
            peer.recv(&mut back).unwrap();
            assert_eq!(back, numbered(number));
        }
        // What is no fault of the group's is not tried again.
        shard.queue(b"alone", to, 0, 9);
        shard.port.send(&mut shard.burst).unwrap();
        assert_eq!(shard.done(1)[0].errno, libc::EIO);
        shard.close();
    });
}
