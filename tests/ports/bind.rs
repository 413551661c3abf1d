//! Groups of sockets: one owner a port.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use pushplane::id::Endpoint;
use pushplane::net::{BindError, bind_shards};

use crate::harness::*;

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
fn sockets_are_never_shared_by_reuseaddr() {
    let bound = bind(&[LOOPBACK], 2);
    for listener in bound.shards.iter().flatten() {
        assert!(!listener.socket.reuse_address().unwrap());
        assert!(listener.socket.reuse_port().unwrap());
        assert!(listener.socket.as_raw_fd() >= 0);
    }
}
