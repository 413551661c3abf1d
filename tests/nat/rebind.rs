//! A NAT changes its mapping: the binding follows with the next REGISTER, nothing goes to the old one, and
//! SourceAddress in a forward is the new one.

use std::net::SocketAddr;

use super::clients::{listen, send};
use super::internet::{Internet, Nat, PUBLIC_A, PUBLIC_B, SERVER};
use super::netns::{Datagram, REJECT, Server, nothing, receive};
use super::{ALICE, BOB, CAROL, CAROL_AT, internet};

/// The line of a NAT was down and is up again: connection tracking forgets what was masqueraded.
fn interrupt(internet: &Internet, nat: &str, way_out: &str) {
    internet.net.ip(nat, "link set wan down").unwrap();
    internet.net.ip(nat, "link set wan up").unwrap();
    internet.net.ip(nat, &format!("route add default via {way_out}")).unwrap();
}

#[test]
fn the_binding_follows_the_mapping() {
    let Some((internet, server)) = internet("a NAT that changes its mapping") else { return };
    internet.nat("nat-b", Nat::PortRestricted);
    let bob = listen(&internet, "b", BOB, "--port 4000 --renew 1");
    let first = bob.seen();
    assert_eq!(first.to_string(), format!("{PUBLIC_B}:4000"));
    let push = |text: &str| format!("--to {} --receipt {text}", BOB.id);
    assert_eq!(send(&internet, "core", &push("at-the-first"))["answer"], "receipt");
    assert_eq!(bob.line(), "at-the-first");

    // The next mapping is another, and the old one has a new owner.
    internet.nat_with_ports("50000-50999", 4000);
    interrupt(&internet, "nat-b", "203.0.113.1");
    bob.wait_for(&format!("the mapping was {first} before"));
    let next_owner = internet.net.udp("nat-b", &first.to_string());
    let second = bob.seen();
    assert_eq!(second.ip(), first.ip());
    assert!((50_000..51_000).contains(&second.port()), "{second}");
    for n in 0..5 {
        let text = format!("at-the-second-{n}");
        assert_eq!(send(&internet, "core", &push(&text))["answer"], "receipt");
        assert_eq!(bob.line(), text);
    }
    nothing(&next_owner, "the old mapping got what was for bob");

    // Nobody else moves it.
    let stranger = internet.net.udp("core", "192.0.2.9:4000");
    let register = Datagram {
        kind: 4,
        flags: 0,
        app: 0,
        to: u128::from_str_radix(BOB.id, 16).unwrap(),
        source: 0,
        message: 1,
        options: &[16, 2, 0, 0],
        payload: &[],
    };
    stranger.send_to(&register.encode(), SERVER).unwrap();
    assert_eq!(receive(&stranger, "rejection").0[0] & 15, REJECT);
    assert_eq!(send(&internet, "core", &push("still-at-the-second"))["answer"], "receipt");
    assert_eq!(bob.line(), "still-at-the-second");

    // The provider gives the NAT another address.
    internet.net.ip("nat-b", &format!("addr del {PUBLIC_B}/24 dev wan")).unwrap();
    internet.net.ip("nat-b", "addr add 203.0.113.3/24 dev wan").unwrap();
    internet.net.ip("nat-b", "route add default via 203.0.113.1").unwrap();
    bob.wait_for(&format!("the mapping was {second} before"));
    assert_eq!(bob.seen().ip().to_string(), "203.0.113.3");
    assert_eq!(send(&internet, "core", &push("at-the-third"))["answer"], "receipt");
    assert_eq!(bob.line(), "at-the-third");
    bob.end();
    assert!(server.stop().success());
}

/// The SourceAddress of a PUSH.
fn source_address(push: &[u8]) -> Option<SocketAddr> {
    let mut options = &push[48..usize::from(push[3]) * 4];
    while let [option, length, rest @ ..] = options {
        let value = &rest[..usize::from(*length)];
        if let (14, [a, b, c, d, p, q]) = (option, value) {
            return Some(([*a, *b, *c, *d], u16::from_be_bytes([*p, *q])).into());
        }
        options = &options[(2 + value.len()).next_multiple_of(4)..];
    }
    None
}

/// Ruling 14: where the source can be reached, which is the mapping of its registration and no other's,
/// as it is now; of who is not registered, the mapping that the message came by.
#[test]
fn a_forward_carries_the_public_mapping() {
    let Some((internet, _server)) = internet("a forward from behind a NAT") else { return };
    let _second = Server::start_with(&internet.net, "core", "second.toml");
    let carol = internet.net.udp("core", CAROL_AT);
    let shown = |host: &str, from: &str| {
        assert_eq!(send(&internet, host, &format!("--from {from} --to {CAROL} hello"))["answer"], "none");
        source_address(&receive(&carol, "the forwarded push").0).unwrap()
    };
    internet.nat("nat-a", Nat::Symmetric);
    internet.nat("nat-b", Nat::PortRestricted);
    let alice = listen(&internet, "a", ALICE, "--renew 1");
    let first = alice.seen();
    assert_eq!((first.ip().to_string(), shown("a", ALICE.id)), (PUBLIC_A.to_owned(), first));
    interrupt(&internet, "nat-a", "198.51.100.1");
    alice.wait_for(&format!("the mapping was {first} before"));
    assert_eq!(shown("a", ALICE.id), alice.seen());
    assert_eq!(shown("b", BOB.id).ip().to_string(), PUBLIC_B);
    alice.end();
}
