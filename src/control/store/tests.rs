//! The store beside a plain map, grown beyond what it was made for, and cut while it changes.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

type Known = BTreeMap<(PushId, u8), Change>;

fn at(text: &str) -> Endpoint {
    text.parse().unwrap()
}

fn user(n: u8) -> PushId {
    PushId(u128::from(n) << 100 | u128::from(n))
}

fn some_binding() -> impl Strategy<Value = Binding> {
    let private = prop_oneof![
        1 => Just(None),
        6 => (0..12u8, 1..3u16).prop_map(|(host, port)| Some(at(&format!("10.0.0.{host}:{port}")))),
        1 => (0..3u8).prop_map(|host| Some(at(&format!("[fd00::{host}]:7")))),
    ];
    let nat = prop_oneof![
        3 => Just(None),
        1 => (1..4u16).prop_map(|port| Some(at(&format!("192.0.2.1:{port}")))),
    ];
    let imsi = prop_oneof![Just(None), Just(Some("460001234567890".parse().unwrap()))];
    let serving = prop_oneof![4 => Just(None), 1 => Just(Some(at("[2001:db8::9]:17400")))];
    let until = prop_oneof![Just(None), (0..9u64).prop_map(Some)];
    (0..20u8, 0..3u8, 0..2u32, private, nat, imsi, serving, until, any::<(u8, u8)>()).prop_map(
        |(n, device, realm, private, nat, imsi, serving, valid_until_ms, (bearers, listener))| Binding {
            user: user(n),
            device,
            realm,
            private: private.filter(|_| serving.is_none()),
            nat: nat.filter(|_| serving.is_none()),
            imsi,
            bearers,
            serving,
            valid_until_ms,
            listener,
        },
    )
}

#[derive(Clone, Debug)]
enum Op {
    Bind(Binding),
    End(u8, u8),
    Forget(u8, u8),
    BeginCut,
    CutSome(u32),
    EndCut,
}

fn some_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => some_binding().prop_map(Op::Bind),
        3 => (0..20u8, 0..3u8).prop_map(|(n, device)| Op::End(n, device)),
        5 => (0..20u8, 0..3u8).prop_map(|(n, device)| Op::Forget(n, device)),
        1 => Just(Op::BeginCut),
        6 => (0..9u32).prop_map(Op::CutSome),
        1 => Just(Op::EndCut),
    ]
}

fn key(change: &Change) -> (PushId, u8) {
    match change {
        Change::Bind { binding, .. } | Change::Assign { binding, .. } => (binding.user, binding.device),
        Change::End { user, device, .. } => (*user, *device),
        other => panic!("{other:?}"),
    }
}

/// As the store does it, by looking at everything.
fn bind(known: &mut Known, binding: &Binding, heard_ms: u64, assigned: bool) {
    for other in known.values_mut() {
        let (Change::Bind { binding: own, heard_ms } | Change::Assign { binding: own, heard_ms }) = *other
        else {
            continue;
        };
        let shares = addresses(&own).any(|at| addresses(binding).any(|new| new == at));
        if own.user != binding.user && shares {
            *other = Change::End { user: own.user, device: own.device, heard_ms };
        }
    }
    let binding = *binding;
    let change = match assigned {
        true => Change::Assign { binding, heard_ms },
        false => Change::Bind { binding, heard_ms },
    };
    known.insert((binding.user, binding.device), change);
}

fn agree(store: &Store, known: &Known) {
    let told: Known = store.changes().map(|change| (key(&change), change)).collect();
    assert_eq!(&told, known);
    let bound = |known: &Known| known.values().filter(|change| !matches!(change, Change::End { .. })).count();
    assert_eq!((store.len(), store.bound()), (known.len(), bound(known)));
    for n in 0..20 {
        let mut devices: Vec<u8> = store.of_user(user(n)).map(|(_, entry)| entry.device()).collect();
        devices.sort_unstable();
        let known: Vec<u8> =
            known.keys().filter(|(of, _)| *of == user(n)).map(|(_, device)| *device).collect();
        assert_eq!(devices, known);
    }
    for change in known.values() {
        let (Change::Bind { binding, .. } | Change::Assign { binding, .. }) = change else { continue };
        for (_, holder) in store.holders(binding) {
            assert_eq!(holder.user(), binding.user);
        }
        let is_held = addresses(binding).next().is_none() || store.holders(binding).next().is_some();
        assert!(is_held, "{binding:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_says_what_a_plain_map_says_and_a_cut_what_it_said_then(
        ops in prop::collection::vec(some_op(), 1..250),
    ) {
        // Made for sixteen: it grows.
        let mut store = Store::new(0, 7);
        let mut known = Known::new();
        let mut cut: Option<(Known, Vec<Change>)> = None;
        for (heard_ms, op) in (0..).zip(ops) {
            match op {
                Op::Bind(binding) => {
                    let assigned = heard_ms % 3 == 0;
                    store.bind(&binding, heard_ms, assigned);
                    bind(&mut known, &binding, heard_ms, assigned);
                }
                Op::End(n, device) => {
                    store.end(user(n), device, heard_ms);
                    known.insert((user(n), device), Change::End { user: user(n), device, heard_ms });
                }
                Op::Forget(n, device) => {
                    store.forget(user(n), device);
                    known.remove(&(user(n), device));
                }
                Op::BeginCut => {
                    store.begin_cut();
                    cut = Some((known.clone(), Vec::new()));
                }
                Op::CutSome(places) => match (store.cut_some(places), &mut cut) {
                    (Some(part), Some((_, told))) => told.extend(part),
                    (None, Some((then, told))) => {
                        let count = told.len();
                        let told: Known = told.drain(..).map(|change| (key(&change), change)).collect();
                        prop_assert_eq!((told.len(), &told), (count, &*then), "each once, as it was");
                        cut = None;
                    }
                    (part, None) => prop_assert!(part.is_none()),
                },
                Op::EndCut => {
                    store.end_cut();
                    cut = None;
                }
            }
            agree(&store, &known);
        }
    }

    #[test]
    fn an_entry_is_the_binding_that_it_was_given(binding in some_binding()) {
        let mut store = Store::new(0, 7);
        let at = store.bind(&binding, 5, false);
        prop_assert_eq!(store.get(at).unwrap().binding(), binding);
        store.end(binding.user, binding.device, 6);
        prop_assert_eq!(store.get(at).unwrap().binding(), nothing(binding.user, binding.device));
    }
}
