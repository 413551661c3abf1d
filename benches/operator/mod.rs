//! An operator for benchmarks, any number of users: who user number `n` is follows from `n`, so that
//! nothing needs to be kept beside the tables, and every answer can be checked.

#![allow(dead_code, reason = "each benchmark that includes this module uses a part of it")]

use pushplane::id::{Endpoint, Mac, PushId};
use pushplane::table::Rib;
use pushplane::table::rib::{App, Gateway, Rule, Segment, Server, Tunnel, User};
use pushplane::wire::prp::{HeadBuilder, Header, Kind};

pub(crate) const APP: u32 = 7;
pub(crate) const VNI: u32 = 100;
pub(crate) const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
pub(crate) const SENDER: [u8; 4] = [192, 0, 2, 50];
/// Payload of each PUSH.
pub(crate) const PAYLOAD: [u8; 100] = [0x5A; 100];
/// Realm of users behind the vxlan gateway; realm [`PLAIN`] is behind the plain one.
pub(crate) const VXLAN: u32 = 0;
pub(crate) const PLAIN: u32 = 1;

pub(crate) fn at(text: &str) -> Endpoint {
    text.parse().unwrap()
}

/// SplitMix64 (Steele, Lea, Flood 2014): a bijection that looks random.
pub(crate) const fn mix(n: u64) -> u64 {
    let z = n.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ z >> 31
}

/// User number `n`, under the prefix 0011.
pub(crate) const fn id(n: u64) -> PushId {
    let high = mix(n) >> 4 | 0x3 << 60;
    PushId((high as u128) << 64 | mix(n ^ u64::MAX) as u128)
}

/// Users that two realms have addresses for.
const REALM_USERS: u64 = 1 << 25;

/// Even users are behind vxlan, in even realms, odd ones behind plain.
pub(crate) const fn realm(n: u64) -> u32 {
    (n % 2 + n / REALM_USERS * 2) as u32
}

/// The private address of user number `n` in its realm.
pub(crate) fn private(n: u64) -> Endpoint {
    let [_, b, c, d] = ((n / 2) as u32).to_be_bytes();
    Endpoint::new([10, b, c, d].into(), 2948)
}

/// 64 segments a realm.
pub(crate) fn segments(users: u64) -> impl Iterator<Item = Segment> {
    let realms = (users / REALM_USERS + 1) as u32 * 2;
    (0..64 * realms).map(move |n| Segment {
        realm: n % realms,
        ip: [10, (n / realms * 4) as u8, 0, 0].into(),
        len: 14,
        gateway: n % 2,
    })
}

/// The tables; datagrams in vxlan go to `vxlan`, those to the plain gateway to `plain`.
pub(crate) fn rib(users: u64, vxlan: Endpoint, plain: Endpoint) -> Rib {
    Rib { users: rows(users).collect(), ..rib_without_users(users, vxlan, plain) }
}

/// The rows of so many users.
pub(crate) fn rows(users: u64) -> impl Iterator<Item = User> {
    (0..users).map(|n| User { realm: realm(n), private: Some(private(n)), ..User::new(id(n), 0) })
}

/// As [`rib`], without the rows of its users.
pub(crate) fn rib_without_users(users: u64, vxlan: Endpoint, plain: Endpoint) -> Rib {
    let servers = (0..16u64).map(|n| Server {
        name: if n == 3 { "home".into() } else { format!("server-{n}") },
        prefixes: vec![format!("{n:04b}").parse().unwrap()],
        address: Endpoint::new([198, 51, 100, n as u8].into(), 17400),
        key: None,
    });
    let gateway = |name: &str, address, tunnel| Gateway {
        name: name.into(),
        address,
        tunnel,
        source_v4: Some(at("10.255.0.254:17400")),
        source_v6: None,
    };
    let app = App {
        id: APP,
        name: "mail".into(),
        sources: Some(vec![([192, 0, 2, 0].into(), 24)]),
        users: false,
        rule: Rule::Normal,
        rate: None,
        key: None,
    };
    Rib {
        servers: servers.collect(),
        gateways: vec![
            gateway("v", vxlan, Tunnel::Vxlan { vni: VNI, mac: MAC }),
            gateway("p", plain, Tunnel::Plain),
        ],
        segments: segments(users).collect(),
        apps: vec![app],
        ..Rib::default()
    }
}

/// A PUSH to user number `n`.
pub(crate) fn push(n: u64) -> Vec<u8> {
    let header = Header { app: APP, ..Header::new(Kind::Push, id(n), PushId(0x1 << 124 | 77), n) };
    HeadBuilder::new(&header).datagram(&PAYLOAD).unwrap()
}
