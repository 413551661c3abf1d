//! INTRODUCE through every pair of NATs: direct where RFC 4787's terms say that it can be, and through the
//! server where not.

use super::clients::{listen, send};
use super::internet::{Filtering, Internet, Mapping, Nat, PRIVATE_A, PUBLIC_A, PUBLIC_B};
use super::netns::http_get;
use super::{ALICE, BOB, internet};

/// What theory says. A packet gets in where the NAT asks at most for the sender's address, which the peer
/// was told; or where it asks for the port too, and the sender's mapping is the one that the server saw.
fn can_meet(one: Nat, other: Nat) -> bool {
    let gets_in = |from: Nat, to: Nat| {
        to.filtering() < Filtering::AddressAndPort || from.mapping() == Mapping::Independent
    };
    gets_in(one, other) && gets_in(other, one)
}

#[test]
fn theory_is_what_the_books_say() {
    for nat in Nat::ALL {
        assert!(can_meet(nat, Nat::FullCone) && can_meet(nat, Nat::Restricted));
        let port_restricted = !matches!(nat, Nat::Symmetric | Nat::AddressDependent);
        assert_eq!(can_meet(Nat::PortRestricted, nat), port_restricted, "{nat:?}");
        assert_eq!(can_meet(nat, Nat::Symmetric), nat.filtering() < Filtering::AddressAndPort, "{nat:?}");
    }
}

/// Messages that the server delivered so far.
fn delivered(internet: &Internet) -> u64 {
    let page = http_get(&internet.net, "core", "127.0.0.1:9400", "/metrics");
    let line = page.lines().find_map(|line| line.strip_prefix("pushplane_delivered_total "));
    line.unwrap_or_else(|| panic!("{page}")).parse().unwrap()
}

/// For each kind in front of bob: he registers, the server's push and his receipt pass. Then alice pushes to
/// him from behind each kind: directly, past the server, exactly where theory says so.
#[test]
fn every_pair_of_nats() {
    let Some((internet, server)) = internet("introductions through NATs") else { return };
    for (n, behind_bob) in Nat::ALL.into_iter().enumerate() {
        internet.nat("nat-b", behind_bob);
        let port = 4000 + n;
        let bob = listen(&internet, "b", BOB, &format!("--port {port}"));
        let seen = bob.seen();
        match (behind_bob, behind_bob.mapping()) {
            (Nat::None, _) => assert_eq!(seen.to_string(), format!("192.168.3.10:{port}")),
            (_, Mapping::Independent) => assert_eq!(seen.to_string(), format!("{PUBLIC_B}:{port}")),
            (_, Mapping::Dependent) => assert_eq!(seen.ip().to_string(), PUBLIC_B),
        }
        let answer = send(&internet, "core", &format!("--to {} --receipt from-outside", BOB.id));
        assert_eq!(answer["answer"], "receipt", "{behind_bob:?}: {answer}");
        assert_eq!(bob.line(), "from-outside");

        for (m, behind_alice) in Nat::ALL.into_iter().enumerate() {
            internet.nat("nat-a", behind_alice);
            // No port twice: connection tracking remembers.
            let first = 10_000 + 500 * (n * Nat::ALL.len() + m);
            let range = format!("{first} {}", first + 499);
            internet.set("a", "/proc/sys/net/ipv4/ip_local_port_range", &range).unwrap();

            let (before, text) = (delivered(&internet), format!("{behind_alice:?}-to-{behind_bob:?}"));
            let words = format!("--from {} --key {} --to {} --introduce {text}", ALICE.id, ALICE.key, BOB.id);
            let answer = send(&internet, "a", &words);
            let expected = can_meet(behind_alice, behind_bob);
            assert_eq!(answer["answer"], "receipt", "{text}: {answer}\n{}", bob.said());
            let way = if expected { "direct" } else { "server" };
            assert_eq!(answer["way"], way, "{text}: {answer}\n{}", bob.said());
            assert_eq!(delivered(&internet) - before, u64::from(!expected), "{text}");
            assert_eq!(bob.line(), text, "shown once, whichever way it came");
        }
        bob.end();
    }
    assert!(server.stop().success());
}

/// Both behind one public address: through it where the NAT turns round what is sent to it, by the private
/// address where both tell theirs, else through the server.
#[test]
fn both_behind_one_nat() {
    let Some((internet, server)) = internet("introductions behind one NAT") else { return };
    for (n, (hairpin, private, way)) in
        [(true, false, Some(PUBLIC_A)), (false, false, None), (false, true, Some(PRIVATE_A))]
            .into_iter()
            .enumerate()
    {
        internet.nat_for_two(hairpin);
        let port = 5000 + n;
        let inside = if private { "--private --realm 4" } else { "" };
        let bob = listen(&internet, "a", BOB, &format!("--port {port} {inside}"));
        assert_eq!(bob.seen().to_string(), format!("{PUBLIC_A}:{port}"));
        let words =
            format!("--from {} --key {} --to {} --introduce {inside} hello", ALICE.id, ALICE.key, BOB.id);
        let answer = send(&internet, "a2", &words);
        assert_eq!(answer["answer"], "receipt", "{answer}\n{}", bob.said());
        let at = way.map(|way| format!("{way}:{port}"));
        assert_eq!(answer["peer"].as_str(), at.as_deref(), "{answer}\n{}", bob.said());
        assert_eq!(bob.line(), "hello");
        bob.end();
    }
    assert!(server.stop().success());
}

/// A listener that answers no introduction gets everything through the server.
#[test]
fn who_does_not_want_to_be_met_is_not() {
    let Some((internet, _server)) = internet("a client without direct ways") else { return };
    let bob = listen(&internet, "b", BOB, "--no-direct");
    let words = format!("--from {} --key {} --to {} --introduce hello", ALICE.id, ALICE.key, BOB.id);
    let answer = send(&internet, "a", &words);
    assert_eq!((&answer["answer"], &answer["way"]), (&"receipt".into(), &"server".into()), "{answer}");
    assert_eq!(bob.line(), "hello");
    bob.end();
}
