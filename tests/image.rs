//! Images: what goes in comes out, and nothing that is damaged or contradicts itself is served.

use proptest::prelude::*;
use pushplane::id::{Endpoint, PushId};
use pushplane::table::rib::{App, Gateway, Key, Rule, Segment, Server, Tunnel, User};
use pushplane::table::{Image, Rib};

fn sorted(mut rib: Rib) -> Rib {
    rib.users.sort_by_key(|user| (user.push_id, user.device));
    rib.apps.sort_by_key(|app| app.id);
    rib.names.sort();
    rib.groups.sort();
    rib.keys.sort_by_key(|key| key.id);
    rib
}

fn rib() -> Rib {
    let user = |id: u128, device| User::new(PushId(id), device);
    let at = |text: &str| Some(text.parse::<Endpoint>().unwrap());
    sorted(Rib {
        servers: vec![
            Server {
                name: "a".into(),
                prefixes: vec!["00".parse().unwrap(), "0x8000/16".parse().unwrap()],
                address: at("192.0.2.1:17400").unwrap(),
                key: Some(3),
            },
            Server {
                name: "b".into(),
                prefixes: vec!["0001".parse().unwrap()],
                address: at("[2001:db8::1]:1").unwrap(),
                key: None,
            },
        ],
        gateways: vec![
            Gateway {
                name: "g".into(),
                address: at("10.255.0.1:4789").unwrap(),
                tunnel: Tunnel::Vxlan { vni: 100, mac: "02:00:00:00:00:01".parse().unwrap() },
                source_v4: at("10.255.0.254:17400"),
                source_v6: at("[fd00::1]:17400"),
            },
            Gateway {
                name: "h".into(),
                address: at("10.255.0.2:2152").unwrap(),
                tunnel: Tunnel::Gtpu { teid: 7 },
                source_v4: at("10.255.0.254:17400"),
                source_v6: None,
            },
            Gateway {
                name: "p".into(),
                address: at("10.255.0.3:17400").unwrap(),
                tunnel: Tunnel::Plain,
                source_v4: None,
                source_v6: None,
            },
        ],
        segments: vec![
            Segment { realm: 0, ip: "10.0.0.0".parse().unwrap(), len: 8, gateway: 0 },
            Segment { realm: 0, ip: "10.1.0.0".parse().unwrap(), len: 16, gateway: 1 },
            Segment { realm: 9, ip: "fd00::".parse().unwrap(), len: 64, gateway: 2 },
        ],
        apps: vec![
            App {
                id: 7,
                name: "mail".into(),
                sources: Some(vec![("192.0.2.0".parse().unwrap(), 24), ("2001:db8::".parse().unwrap(), 32)]),
                users: true,
                rule: Rule::Priority,
                rate: Some(5),
                key: Some(3),
            },
            App {
                id: 0,
                name: "any".into(),
                sources: None,
                users: false,
                rule: Rule::MinDelay,
                rate: None,
                key: None,
            },
        ],
        users: vec![
            User {
                private: at("10.1.2.3:2948"),
                nat: at("[2001:db8::2]:77"),
                imsi: Some("460001234567890".parse().unwrap()),
                ..user(5, 1)
            },
            User {
                private: at("10.1.2.3:2949"),
                nat: at("198.51.100.7:77"),
                valid_until: Some(2_000_000_000),
                ..user(5, 0)
            },
            User { private: at("[fd00::7]:1"), realm: 9, bearers: 1, ..user(6, 0) },
            User { serving: at("192.0.2.1:17400"), ..user(1 << 124, 255) },
        ],
        names: vec![("+8613800138000".into(), PushId(5)), ("anna".into(), PushId(6))],
        groups: vec![(PushId(99), PushId(5)), (PushId(99), PushId(6)), (PushId(98), PushId(5))],
        keys: vec![
            Key { id: 12, value: [1; 16], user: Some(PushId(6)) },
            Key { id: 3, value: [2; 16], user: None },
        ],
    })
}

#[test]
fn what_goes_in_comes_out() {
    let image = Image::build(&rib()).unwrap();
    assert_eq!(image.to_rib(), rib());
    let again = Image::from_bytes(image.bytes()).unwrap();
    assert_eq!(again.to_rib(), rib());
    assert_eq!(again.digest(), image.digest());
}

#[test]
fn the_same_tables_make_the_same_image() {
    let mut shuffled = rib();
    shuffled.users.reverse();
    shuffled.groups.reverse();
    assert_eq!(Image::build(&rib()).unwrap().bytes(), Image::build(&shuffled).unwrap().bytes());
}

#[test]
fn empty_tables_are_an_image() {
    assert_eq!(Image::build(&Rib::default()).unwrap().to_rib(), Rib::default());
}

#[test]
fn an_image_is_written_whole_and_only_for_its_owner() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lab.ppt");
    let image = Image::build(&rib()).unwrap();
    image.write(&path).unwrap();
    image.write(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(Image::open(&path).unwrap().to_rib(), rib());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    assert!(Image::open(&folder.path().join("absent")).is_err());
}

#[test]
fn a_damaged_image_is_refused() {
    let image = Image::build(&rib()).unwrap();
    let whole = image.bytes();
    for len in (0..whole.len()).step_by(7) {
        assert!(Image::from_bytes(&whole[..len]).is_err(), "cut at {len}");
    }
    for at in 0..whole.len() {
        let mut bytes = whole.to_vec();
        bytes[at] ^= 0x10;
        assert!(Image::from_bytes(&bytes).is_err(), "bit turned in byte {at}");
    }
}

/// One address in several realms, and one of several terminals on several ports: each leads to its own lines. Realms
/// and the first half of an IPv6 address are alike enough here that a hash of both must keep them apart.
#[test]
fn every_private_address_leads_to_its_lines_alone() {
    let addresses = (0..8u32).flat_map(|realm| {
        let v6 = (0..8u16).map(move |n| (realm, format!("[fd00:{n:x}::1]:7")));
        let v4 = (0..8u16).flat_map(move |n| (1..=n).map(move |port| (realm, format!("10.0.0.{n}:{port}"))));
        v6.chain(v4)
    });
    let row = User { nat: None, ..rib().users[0] };
    let user = |(id, (realm, own)): (u128, (u32, String))| User {
        push_id: PushId(id),
        private: Some(own.parse().unwrap()),
        realm,
        ..row
    };
    let users: Vec<User> = (1..).zip(addresses).map(user).collect();
    let image = Image::build(&Rib { users: users.clone(), ..rib() }).unwrap();
    for row in &users {
        let private = row.private.unwrap();
        let mut expected: Vec<PushId> = users
            .iter()
            .filter(|other| other.realm == row.realm && other.private.unwrap().ip() == private.ip())
            .map(|other| other.push_id)
            .collect();
        let mut found: Vec<PushId> =
            image.arrays().owners(row.realm, private).map(|line| line.user()).collect();
        expected.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, expected, "{private} in realm {}", row.realm);
    }
    assert_eq!(image.arrays().owners(9, users[0].private.unwrap()).count(), 0);
}

/// As an earlier version wrote it: the user is told what to do, whatever else is in the file.
#[test]
fn an_image_of_another_format_is_refused_by_name() {
    let image = Image::build(&rib()).unwrap();
    for format in [2u32, 4] {
        let mut bytes = image.bytes().to_vec();
        bytes[8..12].copy_from_slice(&format.to_le_bytes());
        let refused = Image::from_bytes(&with_right_checksum(bytes)).unwrap_err().to_string();
        let expected = format!(
            "the image has format {format}, this build reads 3; build it again from its sources with `pushplane \
             tables build`"
        );
        assert_eq!(refused, expected);
    }
    let mut bytes = image.bytes().to_vec();
    bytes[12..16].reverse();
    let refused = Image::from_bytes(&with_right_checksum(bytes)).unwrap_err().to_string();
    assert!(refused.contains("byte order"), "{refused}");
}

/// The checksum does not protect from someone who computes it: what is inside must be proven.
fn with_right_checksum(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[32..48].fill(0);
    let digest = xxhash_rust::xxh3::xxh3_128(&bytes);
    bytes[32..48].copy_from_slice(&digest.to_le_bytes());
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_forged_image_is_refused_or_harmless(turns in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4), keys in proptest::collection::vec(any::<u128>(), 8)) {
        let image = Image::build(&rib()).unwrap();
        let mut bytes = image.bytes().to_vec();
        for (at, value) in turns {
            let at = 64 + at.index(bytes.len() - 64);
            bytes[at] = value;
        }
        if let Ok(image) = Image::from_bytes(&with_right_checksum(bytes)) {
            let arrays = image.arrays();
            for key in keys {
                arrays.bindings().find(PushId(key));
                arrays.bindings().of(PushId(key)).count();
                arrays.group(PushId(key % 100));
            }
            arrays.name("anna");
            let _ = image.to_rib();
        }
    }

    #[test]
    fn every_user_is_found_and_nobody_else(ids in proptest::collection::btree_set(1u128..10_000, 0..500)) {
        let users = ids.iter().map(|id| User { push_id: PushId(*id), ..rib().users[0] });
        let users = users.enumerate().map(|(n, user)| User { private: Some(Endpoint::new([10, 2, (n >> 8) as u8, n as u8].into(), 1)), ..user });
        let image = Image::build(&Rib { users: users.collect(), ..rib() }).unwrap();
        for id in 0..10_000 {
            let found = image.arrays().bindings().find(PushId(id)).map(|(line, _)| line.user());
            prop_assert_eq!(found, ids.contains(&id).then_some(PushId(id)));
        }
    }
}
