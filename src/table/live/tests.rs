use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;

use super::*;

fn at(text: &str) -> Endpoint {
    text.parse().unwrap()
}

const NOW: u64 = 5_000;

fn some_binding() -> impl Strategy<Value = Binding> {
    let private = prop_oneof![
        Just(None),
        (0..4u8, 1..3u16).prop_map(|(host, port)| Some(at(&format!("10.0.0.{host}:{port}")))),
        (0..4u8).prop_map(|host| Some(at(&format!("[fd00::ffff:0:{host}]:7")))),
    ];
    let nat = prop_oneof![
        Just(None),
        (1..4u16).prop_map(|port| Some(at(&format!("192.0.2.1:{port}")))),
        (1..4u16).prop_map(|port| Some(at(&format!("[2001:db8::1]:{port}")))),
    ];
    let imsi = prop_oneof![Just(None), Just(Some("460001234567890".parse().unwrap()))];
    let until =
        prop_oneof![Just(None), Just(Some(4_999)), Just(Some(NOW + 1)), Just(Some(1_767_225_600_123))];
    let serving = prop_oneof![3 => Just(None), 1 => Just(Some(at("[2001:db8::9]:17400")))];
    (0..6u128, 0..3u8, 0..2u32, (private, nat, imsi), until, serving, 0..4u8, 0..16u8).prop_map(
        |(user, device, realm, (private, nat, imsi), valid_until_ms, serving, listener, bearers)| Binding {
            user: PushId(user << 90 | user),
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

fn some_change() -> impl Strategy<Value = Change> {
    let id = || (0..6u128).prop_map(|user| PushId(user << 90 | user));
    prop_oneof![
        6 => some_binding().prop_map(|binding| Change::Bind { binding, heard_ms: 1 }),
        2 => (id(), 0..3u8).prop_map(|(user, device)| Change::End { user, device, heard_ms: 1 }),
        2 => (id(), 0..3u8).prop_map(|(user, device)| Change::Forget { user, device }),
        1 => (id(), id(), 0..3u8, 4_000..6_000u64)
            .prop_map(|(lent, user, device, until_ms)| Change::Lend { lent, user, device, until_ms }),
        1 => id().prop_map(|lent| Change::Unlend { lent }),
    ]
}

/// The plain version.
#[derive(Default)]
struct Oracle {
    /// None: a tombstone.
    devices: BTreeMap<(PushId, u8), Option<Binding>>,
    lent: BTreeMap<PushId, (PushId, u8, u64)>,
}

impl Oracle {
    fn apply(&mut self, change: &Change) {
        match *change {
            Change::Bind { binding, .. } => {
                for other in self.devices.values_mut() {
                    let shares = |own: Binding| {
                        own.user != binding.user
                            && addresses(&own).any(|at| addresses(&binding).any(|new| new == at))
                    };
                    if other.is_some_and(shares) {
                        *other = None;
                    }
                }
                self.devices.insert((binding.user, binding.device), Some(binding));
            }
            Change::End { user, device, .. } => drop(self.devices.insert((user, device), None)),
            Change::Forget { user, device } => drop(self.devices.remove(&(user, device))),
            Change::Lend { lent, user, device, until_ms } => {
                self.lent.insert(lent, (user, device, until_ms));
            }
            Change::Unlend { lent } => drop(self.lent.remove(&lent)),
            _ => {}
        }
    }

    fn slots(&self) -> usize {
        let extended = self.devices.values().flatten().filter(|binding| slot::is_extended(binding));
        self.devices.len() + self.lent.len() + extended.count()
    }
}

fn agree(oracle: &Oracle, live: &LiveBindings) {
    let mut found = Vec::new();
    for user in (0..6u128).map(|user| PushId(user << 90 | user)) {
        live.find(user, live.hash(user), |entry| found.push((user, entry)));
        let lent = oracle.lent.get(&user).filter(|lent| NOW < lent.2).map(|lent| (lent.0, lent.1));
        assert_eq!(live.alias(user, NOW), lent);
    }
    assert_eq!(found.len(), oracle.devices.len() + oracle.lent.len());
    for (user, entry) in found {
        match entry {
            Live::Bound(binding) => assert_eq!(oracle.devices[&(user, binding.device)], Some(binding)),
            Live::Ended { user: ended, device } => {
                assert_eq!((ended, oracle.devices[&(user, device)]), (user, None));
            }
            Live::Lent { user: to, device, until_ms } => {
                assert_eq!(oracle.lent[&user], (to, device, until_ms))
            }
        }
    }
    let bindings = || oracle.devices.values().flatten();
    assert_eq!((live.len(), live.used()), (bindings().count(), oracle.devices.len() + oracle.lent.len()));
    for binding in bindings() {
        let now = is_live(binding, NOW);
        let mut held = Vec::new();
        if let Some(private) = binding.private {
            held.push(live.owner(binding.realm, private.with_port(9), NOW));
        }
        if let Some(public) = binding.nat {
            held.push(live.public_owner(public, NOW));
        }
        for owner in held {
            assert!(!now || owner.is_some_and(|(user, _)| user == binding.user), "{binding:?} {owner:?}");
            assert!(owner.is_none_or(|(user, _)| user == binding.user));
        }
    }
}

proptest! {
    #[test]
    fn they_say_what_a_plain_map_says(changes in prop::collection::vec(some_change(), 1..80)) {
        let live = Arc::new(LiveBindings::new(48, 7));
        let mut writer = live.writer().unwrap();
        prop_assert!(live.writer().is_none(), "there is one writer");
        let mut oracle = Oracle::default();
        for change in changes {
            prop_assert_eq!(writer.apply(&change), Ok(()));
            oracle.apply(&change);
            agree(&oracle, &live);
            prop_assert_eq!(writer.room(), 48 - oracle.slots());
        }
    }

    #[test]
    fn a_slot_says_what_was_written(binding in some_binding()) {
        let more = slot::is_extended(&binding).then(|| slot::extension(&binding));
        let words = slot::bound(&binding, more.map(|_| 77));
        prop_assert_eq!(slot::extension_of(&words), more.map(|_| 77));
        prop_assert_eq!(LiveLine::new(words, more.as_ref()).decode(), Live::Bound(binding));
    }
}

fn binding(user: u128, device: u8, private: &str) -> Binding {
    Binding { private: Some(at(private)), ..Binding::new(PushId(user), device) }
}

fn bind(binding: Binding) -> Change {
    Change::Bind { binding, heard_ms: 0 }
}

#[test]
fn a_full_table_refuses_and_forgets_nothing() {
    let live = Arc::new(LiveBindings::new(10, 7));
    let mut writer = live.writer().unwrap();
    for user in 1..=10 {
        writer.apply(&bind(binding(user, 0, &format!("10.0.0.{user}:1")))).unwrap();
    }
    assert_eq!(writer.apply(&bind(binding(11, 0, "10.0.0.1:1"))), Err(Full));
    assert_eq!(live.owner(0, at("10.0.0.1:7"), 0), Some((PushId(1), 0)), "nothing was taken");
    assert_eq!(writer.apply(&Change::End { user: PushId(12), device: 0, heard_ms: 0 }), Err(Full));
    writer.apply(&bind(binding(1, 0, "10.0.0.99:1"))).unwrap();
    let forget = Change::Forget { user: PushId(2), device: 0 };
    writer.apply(&forget).unwrap();
    writer.apply(&forget).unwrap();
    writer.apply(&bind(binding(11, 0, "10.0.0.1:1"))).unwrap();
    assert_eq!((live.len(), writer.room()), (10, 0));
}

/// The user's number is in every part of a binding, so that parts of two show.
fn telling(user: u128, place: u16) -> Binding {
    let n = user as u16;
    Binding {
        private: Some(at(&format!("[fd00::{place:x}]:{n}"))),
        nat: Some(at(&format!("[2001:db8::{n:x}]:{n}"))),
        imsi: Some(format!("46000{n:010}").parse().unwrap()),
        valid_until_ms: Some(u64::from(n) * 1001),
        listener: n as u8,
        bearers: n as u8,
        realm: 5,
        ..binding(user, n as u8, "10.0.0.1:1")
    }
}

/// One writer, two readers: every binding read is one that was written.
#[test]
fn torture_every_binding_read_was_written() {
    let live = Arc::new(LiveBindings::new(64, 7));
    let mut writer = live.writer().unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut seen = 0;
                while !stop.load(Ordering::Relaxed) {
                    for user in 1..=12u128 {
                        live.find(PushId(user), live.hash(PushId(user)), |entry| match entry {
                            Live::Bound(found) => {
                                let place = u16::from_be_bytes([
                                    found.private.unwrap().octets()[14],
                                    found.private.unwrap().octets()[15],
                                ]);
                                assert_eq!(found, telling(user, place));
                                seen += 1;
                            }
                            Live::Ended { user: ended, device } => {
                                assert_eq!((ended, u128::from(device)), (PushId(user), user));
                            }
                            Live::Lent { .. } => panic!("nothing is lent"),
                        });
                    }
                }
                assert!(seen > 0);
            });
        }
        for n in 0..300_000u64 {
            let user = u128::from(n * 7 % 12 + 1);
            let change = match n % 5 {
                0..3 => bind(telling(user, (n / 3 % 4) as u16)),
                3 => Change::End { user: PushId(user), device: user as u8, heard_ms: 0 },
                _ => Change::Forget { user: PushId(user), device: user as u8 },
            };
            writer.apply(&change).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// One address goes from hand to hand: a reader that sees the first user's slot, then the second's, and then the
/// first's unchanged, never saw it with both. A third user keeps another address and is always found.
#[test]
fn no_address_has_two_owners() {
    let live = Arc::new(LiveBindings::new(16, 7));
    let mut writer = live.writer().unwrap();
    writer.apply(&bind(binding(3, 0, "10.0.0.3:1"))).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (first, second) in [(1, 2), (2, 1)] {
            let (live, stop) = (&live, &stop);
            scope.spawn(move || {
                let slot_of = |user: u128| loop {
                    if let Some(slot) = live.users.find(live.hash(PushId(user)), |_| true) {
                        return slot;
                    }
                };
                let (first, second) = (slot_of(first), slot_of(second));
                while !stop.load(Ordering::Relaxed) {
                    let (version, before) = live.slots[first].read_at();
                    let between = live.slots[second].read();
                    if live.slots[first].is_at(version) {
                        assert!(
                            !(slot::is_bound(&before) && slot::is_bound(&between)),
                            "two owners at one moment"
                        );
                    }
                    assert_eq!(
                        live.owner(0, at("10.0.0.3:5"), 0),
                        Some((PushId(3), 0)),
                        "nothing there is missed"
                    );
                    assert!(live.owner(0, at("10.0.0.1:1"), 0).is_none_or(|(user, _)| user.0 < 3));
                }
            });
        }
        for n in 0..300_000u32 {
            writer.apply(&bind(binding(u128::from(n % 2) + 1, 0, "10.0.0.1:1"))).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
}
