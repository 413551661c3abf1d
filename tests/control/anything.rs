//! Whatever arrives, and whenever: no panic, every request ends once, everything stays bounded, what
//! was said is what is restored.

use std::collections::BTreeSet;

use proptest::prelude::*;
use pushplane::config::{Limits, RegisterPolicy};
use pushplane::id::{Endpoint, PushId};
use pushplane::table::{Change, Rib};
use pushplane::wire::prp::{Header, Kind, parse};

use super::bench::*;
use super::lab::*;

#[derive(Clone, Debug)]
enum Op {
    Send {
        kind: u8,
        ids: [PushId; 2],
        options: Vec<(u8, Vec<u8>)>,
        from: Endpoint,
        key: Option<u32>,
        message: u64,
    },
    /// An answer to what was sent to a server before.
    Answer {
        which: prop::sample::Index,
        kind: Kind,
        validity: u32,
        reason: u16,
    },
    Noise(Vec<u8>, Endpoint),
    Pass(u64),
    Restart,
    Tables(bool),
}

fn ids() -> impl Strategy<Value = PushId> {
    prop_oneof![
        (1u128..36).prop_map(own),
        (1u128..3).prop_map(abroad),
        (1u128..3).prop_map(open),
        (0xF000u128..0xF003).prop_map(own),
        Just(PushId::NONE),
        any::<u128>().prop_map(PushId),
    ]
}

fn addresses() -> impl Strategy<Value = Endpoint> {
    let known =
        [INSIDE, OUTSIDE, ABROAD, OPEN, NESTED, OVER6, VXLAN, PLAIN, LISTEN4, "10.0.0.1:2948", "[fd00::5]:9"];
    prop_oneof![
        6 => prop::sample::select(known.to_vec()).prop_map(at),
        1 => (any::<u128>(), any::<u16>()).prop_map(|(ip, port)| Endpoint::from_octets(ip.to_be_bytes(), port)),
        1 => (any::<u32>(), any::<u16>()).prop_map(|(ip, port)| Endpoint::new(std::net::Ipv4Addr::from_bits(ip).into(), port)),
    ]
}

fn wire(endpoint: Endpoint) -> Vec<u8> {
    let port = endpoint.port().to_be_bytes();
    match endpoint.ipv4() {
        Some(ip) => [&ip[..], &port].concat(),
        None => [&endpoint.octets()[..], &port].concat(),
    }
}

fn option() -> impl Strategy<Value = (u8, Vec<u8>)> {
    let small = prop_oneof![0u32..6, any::<u32>()];
    prop_oneof![
        (0u8..4).prop_map(|device| (2, vec![device])),
        (prop::sample::select(vec![3u8, 4, 12, 14, 15]), addresses()).prop_map(|(ty, at)| (ty, wire(at))),
        (prop::sample::select(vec![5u8, 7, 13, 18]), small)
            .prop_map(|(ty, n)| (ty, n.to_be_bytes().to_vec())),
        (1u8..8).prop_map(|request| (18, vec![request, 0, 0, 0])),
        (prop::sample::select(vec![8u8, 11]), ids()).prop_map(|(ty, id)| (ty, id.to_bytes().to_vec())),
        Just((6, vec![0x64, 0, 0x10, 0x32, 0x54, 0x76, 0x98, 0xF0])),
        any::<u16>().prop_map(|port| (16, port.to_be_bytes().to_vec())),
        Just((10, b"alice".to_vec())),
        (any::<u8>(), prop::collection::vec(any::<u8>(), 0..20)),
    ]
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let keys = vec![1, ABROAD_KEY, APP_KEY, user::KEY_VXLAN as u32, user::BOTH as u32];
    let send = (
        prop_oneof![4 => prop::sample::select(vec![4u8, 6, 8, 14, 10]), 1 => 0u8..16],
        [ids(), ids()],
        prop::collection::vec(option(), 0..6),
        addresses(),
        prop::option::of(prop::sample::select(keys)),
        any::<u64>(),
    )
        .prop_map(|(kind, ids, options, from, key, message)| Op::Send {
            kind,
            ids,
            options,
            from,
            key,
            message,
        });
    let kinds = prop::sample::select(vec![Kind::Registered, Kind::Released, Kind::Reject]);
    let answer = (any::<prop::sample::Index>(), kinds, 0u32..200, 0u16..30)
        .prop_map(|(which, kind, validity, reason)| Op::Answer { which, kind, validity, reason });
    let op = prop_oneof![
        12 => send,
        4 => answer,
        1 => (prop::collection::vec(any::<u8>(), 0..120), addresses()).prop_map(|(bytes, from)| Op::Noise(bytes, from)),
        3 => prop_oneof![0u64..6000, 0u64..1_000_000, Just(1 << 36)].prop_map(Op::Pass),
        1 => Just(Op::Restart),
        1 => any::<bool>().prop_map(Op::Tables),
    ];
    prop::collection::vec(op, 1..80)
}

fn tables(more: bool) -> Rib {
    let mut rib = Rib { names: vec![("alice".into(), own(1))], ..rib() };
    if more {
        rib.groups = vec![(own(0xF000), own(1)), (own(0xF000), own(2)), (own(0xF001), abroad(1))];
        rib.users.retain(|user| user.push_id.0 % 2 == 0);
    }
    rib
}

fn state(bench: &Bench) -> BTreeSet<String> {
    let changes = bench.engine.changes().filter(|change| !matches!(change, Change::Released { .. }));
    changes.map(|change| format!("{change:?}")).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_arrives_is_accounted_for(ops in ops(), register in prop::sample::select(vec![RegisterPolicy::Any, RegisterPolicy::Segment, RegisterPolicy::Signed])) {
        let limits = Limits { bindings: 12, groups: 3, group_members: 6, relays: 5, ..LIMITS };
        let mut bench = Bench::with(policy(register), limits, &tables(false));
        let mut asked: Vec<(Header, Endpoint)> = Vec::new();
        for op in ops {
            let said = match op {
                Op::Send { kind, ids: [to, source], options, from, key, message } => {
                    let mut request = msg(Kind::Echo, to, source).kind(kind).id(message);
                    for (ty, value) in options {
                        // One Auth only, and that at the end.
                        request = if ty == 128 { request } else { request.option(ty, &value) };
                    }
                    if let Some(key) = key {
                        request = request.signed_at(key, bench.now.unix_ms);
                    }
                    bench.datagram(&request.bytes(), from, 0)
                }
                Op::Answer { which, kind, validity, reason } if !asked.is_empty() => {
                    let (header, to) = *which.get(&asked);
                    let mut answer = msg(kind, header.source, header.destination).id(header.message).validity(validity);
                    answer = answer.option(9, &reason.to_be_bytes());
                    if to == at(ABROAD) {
                        answer = answer.signed_at(ABROAD_KEY, bench.now.unix_ms);
                    }
                    bench.datagram(&answer.bytes(), to, 0)
                }
                Op::Answer { .. } => continue,
                // A shard passes on only what is rightly signed.
                Op::Noise(bytes, from) if parse(&bytes).is_err() => bench.datagram(&bytes, from, 0),
                Op::Noise(..) => continue,
                Op::Pass(ms) => bench.pass_ms(ms),
                Op::Restart => {
                    let before = state(&bench);
                    let said = bench.restart();
                    prop_assert_eq!(&said.changes, &[]);
                    prop_assert_eq!(before, state(&bench));
                    said
                }
                Op::Tables(more) => bench.replace_tables(&tables(more)),
            };
            for reply in &said.replies {
                if let Ok(message) = parse(&reply.datagram)
                    && !message.kind.is_answer()
                {
                    asked.push((message.header, reply.to));
                }
            }
            let live = bench.engine.live();
            prop_assert!(live.bindings + live.lent <= 2 * 12 && live.groups <= 3 && live.group_members <= 6 && live.relays <= 5, "{live:?}");
        }
        // Without requests everything that has an end comes to it.
        bench.pass_ms(1 << 42);
        prop_assert_eq!(bench.engine.poll_timeout(), None);
        prop_assert_eq!((bench.engine.live().bindings, bench.engine.live().pending), (0, 0));
    }
}
