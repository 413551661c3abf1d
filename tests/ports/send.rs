//! Sending: what leaves, what is refused, and what either does to others.

use pushplane::id::Endpoint;
use pushplane::net::bind_shards;
use pushplane::packet::{Done, HEADROOM};

use crate::harness::*;

on_both_ports! {
    many_sends_at_once_are_all_done
    refused_sends_name_their_error_and_disturb_no_other
    a_listener_that_does_not_exist_is_an_error_of_that_datagram
    what_is_appended_in_front_leaves_too
    a_full_send_buffer_is_an_error_and_no_wait
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
            skip("a full send buffer", "no network namespace of our own, or no \"ip\"");
            return;
        }
        let listen = [endpoint("192.0.2.1:2948"), endpoint("127.0.0.1:2948")];
        let bound = bind_shards(&listen, 1, 1 << 13).unwrap();
        let Some(mut shard) = Shard::over(open, { bound.shards }.remove(0), 256, 2048) else { return };
        let silent = endpoint("192.0.2.2:9");
        let peer = peer(listen[1]);
        let here = Endpoint::from(peer.local_addr().unwrap());
        for token in 0..40 {
            // Each longer than the one before, so that none leaves with another.
            shard.queue(&vec![0; 1024 + token as usize], silent, 0, token);
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
