use super::*;

#[test]
fn a_word_comes_back_as_it_went() {
    for op in [Op::Receive, Op::Send, Op::Cancel] {
        let word = Word { generation: u32::MAX - 1, op, index: 0x00AB_CDEF };
        assert_eq!(Word::unpack(word.pack()), Some(word));
    }
    assert_eq!(Word::unpack(0), None);
}

/// A ring over one loopback socket, and a socket that sends to it. `None`, said aloud, where
/// `io_uring` is denied.
fn ring(frames: usize, completions: usize, modes: &[Mode]) -> Option<(Uring, Burst, std::net::UdpSocket)> {
    let loopback = "127.0.0.1:0".parse().unwrap();
    let listeners = crate::net::bind_shards(&[loopback], 1, 1 << 20).unwrap().shards.remove(0);
    let peer = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    peer.connect(std::net::SocketAddr::from(listeners[0].addr)).unwrap();
    let mut burst = Burst::new(FramePool::new(frames, 256));
    match Uring::shaped(listeners, &mut burst, &Options::default(), completions, modes) {
        Ok(port) => Some((port, burst, peer)),
        Err(refused) => {
            eprintln!("SKIPPED: {refused}");
            None
        }
    }
}

fn receive(port: &mut Uring, burst: &mut Burst, count: usize) {
    let mut received = 0;
    let mut idle = 0;
    while received < count {
        port.recv(burst, Duration::from_millis(20)).unwrap();
        idle = if burst.rows.is_empty() { idle + 1 } else { 0 };
        assert!(idle < 500, "{received} of {count}: {port:?}");
        received += burst.rows.len();
        burst.clear_rows();
    }
    assert_eq!(received, count);
}

#[test]
fn a_full_completion_ring_ends_receives_and_they_are_armed_again() {
    let Some((mut port, mut burst, peer)) = ring(256, 8, &Mode::ALL) else { return };
    for _ in 0..20 {
        (0..200).for_each(|_| assert_eq!(peer.send(&[1; 32]).unwrap(), 32));
        receive(&mut port, &mut burst, 200);
    }
    assert!(port.counts().interrupted > 0, "{port:?}");
    port.close(&mut burst).unwrap();
    burst.clear_rows();
    assert_eq!(burst.pool.available(), 256);
}

#[test]
fn an_empty_buffer_ring_ends_receives_and_they_are_armed_again() {
    let Some((mut port, mut burst, peer)) = ring(8, 80, &Mode::ALL) else { return };
    (0..200).for_each(|_| assert_eq!(peer.send(&[1; 32]).unwrap(), 32));
    // One call brings half of what the buffers hold.
    (0..8).for_each(|_| port.enter(0, Duration::ZERO).unwrap());
    receive(&mut port, &mut burst, 200);
    assert!(port.counts().starved > 0, "{port:?}");
    port.close(&mut burst).unwrap();
    burst.clear_rows();
    assert_eq!(burst.pool.available(), 8);
}

#[test]
fn an_error_ends_no_port() {
    let Some((mut port, mut burst, peer)) = ring(16, 96, &Mode::ALL) else { return };
    for round in 1..=10 {
        // From outside, as a kernel would: the receive ends with ECANCELED.
        port.cancel(Some(CancelBuilder::any()));
        port.recv(&mut burst, Duration::ZERO).unwrap();
        peer.send(&[1; 32]).unwrap();
        receive(&mut port, &mut burst, 1);
        assert_eq!(port.counts().errors, round);
    }
    port.close(&mut burst).unwrap();
    burst.clear_rows();
    assert_eq!(burst.pool.available(), 16);
}

#[test]
fn a_stale_word_changes_nothing() {
    let Some((mut port, mut burst, peer)) = ring(8, 80, &Mode::ALL) else { return };
    // A completion of an earlier life: a request of no effect that carries its word.
    for op in [Op::Receive, Op::Send] {
        let stale = Word { generation: 7_000_000, op, index: 0 };
        let entry = opcode::Nop::new().build().user_data(stale.pack());
        assert!(port.push(&entry));
    }
    port.recv(&mut burst, Duration::ZERO).unwrap();
    assert!(port.listeners[0].armed.is_some());
    assert_eq!((burst.done.len(), port.counts()), (0, Counts::default()));
    peer.send(&[1; 32]).unwrap();
    receive(&mut port, &mut burst, 1);
    port.close(&mut burst).unwrap();
}

#[test]
fn lesser_rings_serve_as_well() {
    for mode in Mode::ALL {
        let Some((mut port, mut burst, peer)) = ring(16, 96, &[mode]) else { return };
        assert_eq!(port.mode, mode);
        (0..100).for_each(|_| assert_eq!(peer.send(&[1; 32]).unwrap(), 32));
        receive(&mut port, &mut burst, 100);
        port.close(&mut burst).unwrap();
        burst.clear_rows();
        assert_eq!(burst.pool.available(), 16);
    }
}
