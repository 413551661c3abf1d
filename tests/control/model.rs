//! Random registrations and releases, held to a plain version that scans everything it ever saw.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use pushplane::id::{Endpoint, PushId};
use pushplane::reason::Reason;
use pushplane::table::{Binding, Change};
use pushplane::wire::prp::{Kind, option_type as ty};

use super::bench::*;
use super::lab::*;

#[derive(Clone, Debug)]
enum Op {
    Register { user: usize, device: u8, place: Place, validity: u32, skew_ms: Option<i64> },
    Release { user: usize, which: Which, skew_ms: Option<i64> },
    Pass(u64),
    Restart { from_snapshot: bool },
}

#[derive(Clone, Copy, Debug)]
struct Place {
    realm: u32,
    private: Option<Endpoint>,
    nat: Option<Endpoint>,
}

#[derive(Clone, Copy, Debug)]
enum Which {
    Device(u8),
    Address(u32, Endpoint),
}

/// Users with a key and a row of users.csv, and users with neither.
const USERS: [u128; 6] = [user::KEY_VXLAN, user::KEY_NAT, user::KEY_PLAIN, user::BOTH, 100, 101];

fn has_key(user: usize) -> bool {
    user < 4
}

fn places() -> impl Strategy<Value = Place> {
    let private = prop_oneof![
        (1u8..3, 1u16..3).prop_map(|(host, port)| Endpoint::new([10, 0, 7, host].into(), port)),
        Just(at("10.0.0.21:2948")),
        Just(at("10.0.0.29:7")),
    ];
    let nat = prop_oneof![
        (1u8..3, 1u16..3).prop_map(|(host, port)| Endpoint::new([203, 0, 113, host].into(), port)),
        Just(at("203.0.113.22:40022")),
        Just(at("203.0.113.29:40029")),
    ];
    let realm = prop_oneof![3 => Just(0u32), 1 => Just(9)];
    (realm, prop::option::of(private), prop::option::weighted(0.4, nat)).prop_map(|(realm, private, nat)| {
        // There must be something to register.
        let private = private.or_else(|| nat.is_none().then(|| at("10.0.7.1:1")));
        Place { realm, private, nat }
    })
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let user = 0..USERS.len();
    let skew = || prop::option::of(-20_000i64..20_000);
    let validity = prop_oneof![Just(0u32), 1u32..4, 1u32..2000];
    let register = (user.clone(), 0u8..3, places(), validity, skew()).prop_map(
        |(user, device, place, validity, skew_ms)| Op::Register { user, device, place, validity, skew_ms },
    );
    let which = prop_oneof![
        2 => (0u8..4).prop_map(Which::Device),
        1 => places().prop_map(|place| {
            Which::Address(place.realm, place.private.unwrap_or_else(|| at("10.0.7.2:9")))
        }),
    ];
    let release =
        (user, which, skew()).prop_map(|(user, which, skew_ms)| Op::Release { user, which, skew_ms });
    let pass = prop_oneof![3 => 0u64..3000, 2 => 0u64..60_000, 1 => 0u64..1_000_000];
    let op = prop_oneof![
        6 => register,
        2 => release,
        3 => pass.prop_map(Op::Pass),
        1 => any::<bool>().prop_map(|from_snapshot| Op::Restart { from_snapshot }),
    ];
    prop::collection::vec(op, 1..60)
}

/// What the plain version knows of a terminal.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Holds {
    place: (u32, Option<Endpoint>, Option<Endpoint>),
    until_ms: Option<u64>,
    heard_ms: u64,
}

#[derive(Default)]
struct Plain {
    now_ms: u64,
    holds: BTreeMap<(PushId, u8), Holds>,
    /// Every REGISTER and RELEASE accepted: whose, which device (none: all), its age; of a RELEASE, when.
    accepted: Vec<(PushId, Option<u8>, u64, Option<u64>)>,
}

impl Plain {
    fn new(now_ms: u64) -> Self {
        let mut plain = Self { now_ms, ..Self::default() };
        for row in rib().users {
            if row.serving.is_none() {
                let place = (row.realm, row.private, row.nat);
                let until_ms = row.valid_until.map(|until| until * 1000);
                plain.holds.insert((row.push_id, row.device), Holds { place, until_ms, heard_ms: 0 });
            }
        }
        plain.expire();
        plain
    }

    fn expire(&mut self) {
        self.holds.retain(|_, holds| holds.until_ms.is_none_or(|until| until > self.now_ms));
    }

    fn last_heard(&self, user: PushId, device: u8) -> u64 {
        let counts = |(who, which, age, released): &&(PushId, Option<u8>, u64, Option<u64>)| {
            *who == user
                && which.is_none_or(|which| which == device)
                && released.is_none_or(|at| self.now_ms < at + 60_000)
                && *age > 0
        };
        self.accepted.iter().filter(counts).map(|(_, _, age, _)| *age).max().unwrap_or(0)
    }

    fn conflict(a: &Holds, b: &Holds) -> bool {
        let address = |holds: &Holds| holds.place.1.map(|private| (holds.place.0, private.octets()));
        (address(a).is_some() && address(a) == address(b)) || (a.place.2.is_some() && a.place.2 == b.place.2)
    }

    fn register(
        &mut self,
        user: PushId,
        device: u8,
        place: Place,
        granted_s: u32,
        age: u64,
        signed: bool,
    ) -> Result<u32, Reason> {
        let until_ms = Some(self.now_ms + u64::from(granted_s) * 1000);
        let new = Holds { place: (place.realm, place.private, place.nat), until_ms, heard_ms: age };
        let others =
            |((who, _), holds): &(&(PushId, u8), &Holds)| *who != user && Self::conflict(holds, &new);
        let later = self.holds.iter().filter(others).any(|(_, holds)| holds.heard_ms > age);
        if age < self.last_heard(user, device) || (signed && later) {
            return Err(Reason::StaleOrReplayed);
        }
        self.holds.retain(|(who, _), holds| *who == user || !Self::conflict(holds, &new));
        self.holds.insert((user, device), new);
        self.accepted.push((user, Some(device), age, None));
        Ok(granted_s)
    }

    fn release(&mut self, user: PushId, which: Which, age: u64) -> Result<(), Reason> {
        let device = match which {
            Which::Device(device) if device != 0 => Some(device),
            _ => None,
        };
        let is_meant = |at: &(PushId, u8), holds: &Holds| {
            at.0 == user
                && match which {
                    Which::Device(device) => device == 0 || device == at.1,
                    Which::Address(realm, address) => {
                        holds.place.0 == realm
                            && holds.place.1.map(Endpoint::octets) == Some(address.octets())
                    }
                }
        };
        let meant: Vec<u8> =
            self.holds.iter().filter(|(at, holds)| is_meant(at, holds)).map(|(at, _)| at.1).collect();
        let asked: Vec<u8> = match which {
            Which::Device(0) => (0..=255).collect(),
            Which::Device(device) => vec![device],
            Which::Address(..) => meant.clone(),
        };
        // 255 is registered by nobody: what holds for it holds for all terminals.
        if asked.iter().chain(&[255]).any(|device| age < self.last_heard(user, *device)) {
            return Err(Reason::StaleOrReplayed);
        }
        for device in &meant {
            self.holds.remove(&(user, *device));
            self.accepted.push((user, Some(*device), age, Some(self.now_ms)));
        }
        if meant.is_empty() || matches!(which, Which::Device(_)) {
            self.accepted.push((user, device, age, Some(self.now_ms)));
        }
        Ok(())
    }
}

/// What a reader sees who applies the changes to users.csv: the live terminals, with addresses.
fn seen(bench: &Bench) -> BTreeMap<(PushId, u8), Holds> {
    let mut over: BTreeMap<(PushId, u8), Option<(Binding, u64)>> = BTreeMap::new();
    for change in &bench.journal {
        match *change {
            Change::Bind { binding, heard_ms } => {
                over.insert((binding.user, binding.device), Some((binding, heard_ms)));
            }
            Change::End { user, device, .. } => {
                over.insert((user, device), None);
            }
            Change::Forget { user, device } => {
                over.remove(&(user, device));
            }
            _ => {}
        }
    }
    let rows = Plain::new(bench.now.unix_ms).holds;
    let mut seen: BTreeMap<_, _> = rows.into_iter().filter(|(at, _)| !over.contains_key(at)).collect();
    for (at, bound) in over {
        if let Some((binding, heard_ms)) = bound {
            let place = (binding.realm, binding.private, binding.nat);
            seen.insert(at, Holds { place, until_ms: binding.valid_until_ms, heard_ms });
        }
    }
    seen
}

fn run(ops: &[Op]) {
    let mut bench = Bench::new(ANY);
    let mut plain = Plain::new(bench.now.unix_ms);
    for op in ops {
        let id = |user: usize| own(USERS[user]);
        let age = |user: usize, skew_ms: &Option<i64>| {
            let skew = skew_ms.filter(|_| has_key(user));
            (skew.map(|skew| bench.now.unix_ms.saturating_add_signed(skew)), bench.now.unix_ms)
        };
        let sign = |message: Msg, user: usize, signed: Option<u64>| match signed {
            Some(unix_ms) => message.signed_at(USERS[user] as u32, unix_ms),
            None => message,
        };
        match op {
            Op::Register { user, device, place, validity, skew_ms } => {
                let mut request = msg(Kind::Register, id(*user), PushId::NONE)
                    .device(*device)
                    .realm(place.realm)
                    .validity(*validity);
                if let Some(private) = place.private {
                    request = request.endpoint(ty::PRIVATE_ADDRESS, private);
                }
                let from = match place.nat {
                    // Only with ListenPort may PrivateAddress be absent.
                    Some(nat) if place.private.is_none() => {
                        request = request.option(ty::LISTEN_PORT, &[0, 0]);
                        nat
                    }
                    Some(nat) => {
                        request = request.endpoint(ty::NAT_ADDRESS, nat);
                        at(OUTSIDE)
                    }
                    None => at(OUTSIDE),
                };
                let (signed, now_ms) = age(*user, skew_ms);
                let granted = if *validity == 0 { 86_400 } else { *validity };
                let expected = plain.register(
                    id(*user),
                    *device,
                    *place,
                    granted,
                    signed.unwrap_or(now_ms),
                    signed.is_some(),
                );
                let said = bench.datagram(&sign(request, *user, signed).bytes(), from, 0);
                match expected {
                    Ok(granted) => assert_eq!(said.one(Kind::Registered).validity(), Some(granted)),
                    Err(reason) => assert_eq!(said.refused(), reason),
                }
            }
            Op::Release { user, which, skew_ms } => {
                let request = msg(Kind::Release, id(*user), PushId::NONE);
                let request = match *which {
                    Which::Device(device) => request.device(device),
                    Which::Address(realm, address) => {
                        request.endpoint(ty::PRIVATE_ADDRESS, address).realm(realm)
                    }
                };
                let (signed, now_ms) = age(*user, skew_ms);
                let expected = plain.release(id(*user), *which, signed.unwrap_or(now_ms));
                let said = bench.datagram(&sign(request, *user, signed).bytes(), at(OUTSIDE), 0);
                match expected {
                    Ok(()) => drop(said.one(Kind::Released)),
                    Err(reason) => assert_eq!(said.refused(), reason),
                }
            }
            Op::Pass(ms) => {
                bench.pass_ms(*ms);
                plain.now_ms = bench.now.unix_ms;
                plain.expire();
            }
            Op::Restart { from_snapshot } => {
                if *from_snapshot {
                    bench.journal = bench.engine.changes().collect();
                }
                // What is remembered for a minute may be remembered longer by then.
                let state = |bench: &Bench| -> BTreeSet<String> {
                    let changes = bench.engine.changes();
                    let lasting = changes.filter(|change| !matches!(change, Change::Released { .. }));
                    lasting.map(|change| format!("{change:?}")).collect()
                };
                let before = state(&bench);
                assert_eq!(bench.restart().changes, [], "timers had ended what was over");
                let after = state(&bench);
                assert_eq!(before, after, "restored is what was");
            }
        }
        let seen = seen(&bench);
        assert_eq!(seen, plain.holds, "after {op:?}");
        let all: Vec<_> = seen.iter().collect();
        for (n, ((user, _), holds)) in all.iter().enumerate() {
            let others = all[..n].iter().filter(|((other, _), _)| other != user);
            assert!(
                others.into_iter().all(|(_, other)| !Plain::conflict(holds, other)),
                "two users, one address"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn who_is_where_is_what_the_plain_version_says(ops in ops()) {
        run(&ops);
    }
}
