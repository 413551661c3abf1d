//! Tables that know by an overlay what is live, held to the same tables without one: whatever is registered, ended,
//! forgotten or lent, and whenever images come and go.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use pushplane::clock::Now;
use pushplane::config::Policy;
use pushplane::id::{Endpoint, PushId};
use pushplane::packet::BURST_MAX;
use pushplane::plane::{Known, Looks, Moment, Shared, Site};
use pushplane::table::rib::User;
use pushplane::table::{Binding, Change, Image, Rib, Tables};

use crate::lab::*;

/// Users 0 to 19 have rows, the others do not; of some there is another row, or two.
const USERS: u8 = 24;
const WITH_ROWS: u8 = 20;
/// Addresses of rows and others; the first of them are the users' own, in turn.
const ADDRESSES: u8 = 28;

fn user(n: u8) -> PushId {
    own(0x1_0000 + u128::from(n))
}

fn address(n: u8) -> Endpoint {
    match n % 7 {
        // No segment has it.
        6 => at(&format!("172.16.0.{n}:2948")),
        5 => at(&format!("[fd00::{n}]:2948")),
        // With the next one's address, on another port.
        4 => at(&format!("10.0.0.{}:4", n - 1)),
        _ => at(&format!("10.0.0.{n}:2948")),
    }
}

fn public(n: u8) -> Endpoint {
    at(&format!("203.0.113.{}:{}", n % 3, n % 5))
}

/// The lab's tables with other users; `variant` says with which rows.
fn rib_of(variant: u8) -> Rib {
    let row = |n: u8, device| User {
        private: (n % 5 != 3).then(|| address(n)),
        nat: (n % 5 > 1).then(|| public(n)),
        ..User::new(user(n), device)
    };
    let first = (0..WITH_ROWS).map(|n| row(n, if n % 6 == 5 { 1 } else { 0 }));
    let further = (0..WITH_ROWS).filter(|n| n % 4 == variant % 4).map(|n| User {
        private: Some(at(&format!("10.2.0.{n}:2948"))),
        nat: None,
        ..row(n, 2)
    });
    let mut users: Vec<User> = first.chain(further).filter(|row| row.push_id != user(variant)).collect();
    users.sort_by_key(|row| (row.push_id, row.device));
    let mut rib = Rib { users, keys: Vec::new(), ..rib() };
    // What the keys belong to is gone.
    rib.apps.iter_mut().for_each(|app| app.key = None);
    rib.servers.iter_mut().for_each(|server| server.key = None);
    if variant % 2 == 1 {
        rib.segments.retain(|segment| segment.len % 3 != 0);
    }
    rib
}

/// All that `each` says of these users, asked in one burst, whether it comes after one that met users who are live and have
/// no row, none of these, or nobody else. The columns are those of the bursts before, which had each user elsewhere.
fn all(site: &Site, tables: &Tables, now: Now, looks: &mut Looks) -> Vec<Vec<String>> {
    let said = said(site, tables, now, (looks, 0), 0);
    assert_eq!(said, self::said(site, tables, now, (looks, 1), 1));
    assert_eq!(said, self::said(site, tables, now, (looks, BURST_MAX), 2));
    said
}

fn said(
    site: &Site,
    tables: &Tables,
    now: Now,
    (looks, strangers): (&mut Looks, usize),
    turned: u8,
) -> Vec<Vec<String>> {
    let moment = Moment::new(site, tables, now);
    looks.expect_strangers(strangers);
    let place = |n: u8| usize::from((n + turned) % USERS);
    (0..USERS).for_each(|n| moment.look_for(looks, place(n), user(n)));
    moment.look(looks, usize::from(USERS));
    moment.look_closer(looks, usize::from(USERS));
    let say = |n: u8| {
        let mut terminals = Vec::new();
        let is_known = moment.each(looks, place(n), &mut |known: &dyn Known| {
            let gateway = moment.gateway(known);
            let (device, realm, private, nat) = (known.device(), known.realm(), known.private(), known.nat());
            let (imsi, serving, is_live) = (known.imsi(), known.serving(), known.is_live(now));
            terminals.push(format!(
                "{device} {realm} {private:?} {nat:?} {imsi:?} {serving:?} {is_live} {gateway:?}"
            ));
        });
        terminals.sort();
        terminals.push(is_known.to_string());
        terminals
    };
    (0..USERS).map(say).collect()
}

#[derive(Clone, Debug)]
enum Step {
    Change(Change),
    /// Another generation, which readers see from now on; the one before is still there.
    Swap(u8),
}

fn binding() -> impl Strategy<Value = Binding> {
    let endpoints = (0..ADDRESSES, any::<bool>(), 0..15u8, 0..4u8);
    (0..USERS, 0..3u8, endpoints, 0..3u8).prop_map(|(n, device, (a, v6, b, kinds), rest)| {
        let extended = v6.then(|| at(&format!("[2001:db8::{b}]:7")));
        Binding {
            private: (kinds != 0).then(|| address(a)),
            nat: (kinds > 1).then(|| extended.unwrap_or(public(b))),
            imsi: (rest == 1).then(|| "460001234567890".parse().unwrap()),
            serving: (kinds == 0 && rest > 0).then(|| at(ABROAD)),
            valid_until_ms: (rest == 2).then_some(NOW.unix_ms + 1),
            ..Binding::new(user(n), device)
        }
    })
}

fn step() -> impl Strategy<Value = Step> {
    let who = (0..USERS, 0..3u8);
    let change = prop_oneof![
        6 => binding().prop_map(|binding| Change::Bind { binding, heard_ms: 0 }),
        2 => who.clone().prop_map(|(n, device)| Change::End { user: user(n), device, heard_ms: 0 }),
        3 => who.clone().prop_map(|(n, device)| Change::Forget { user: user(n), device }),
        1 => (0..USERS, who).prop_map(|(lent, (n, device))| Change::Lend {
            lent: user(lent),
            user: user(n),
            device,
            until_ms: u64::MAX
        }),
        1 => (0..USERS).prop_map(|lent| Change::Unlend { lent: user(lent) }),
    ];
    prop_oneof![12 => change.prop_map(Step::Change), 1 => any::<u8>().prop_map(Step::Swap)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn says_what_asking_would_say(first in any::<u8>(), steps in proptest::collection::vec(step(), 1..80)) {
        let shared = Arc::new(Shared::new(&LIMITS, 1, 7));
        let mut writer = shared.live_writer().unwrap();
        let site = site(Policy::default(), 0, shared);
        let images: Vec<Arc<Image>> =
            (0..4).map(|variant| Arc::new(Image::build(&rib_of(variant)).unwrap())).collect();
        let open = |variant: u8| Tables::new(Arc::clone(&images[usize::from(variant % 4)]), 1, "home", None);
        let serve = |variant| (open(variant).beside(site.shared.live()), open(variant));
        let mut generations = vec![serve(first)];
        let mut looks = Looks::new();
        let later = Now { unix_ms: NOW.unix_ms + 10, ..NOW };
        for step in steps {
            match step {
                Step::Change(change) => writer.apply(&change).unwrap(),
                Step::Swap(variant) => {
                    generations.push(serve(variant));
                    if generations.len() > 2 {
                        generations.remove(0);
                    }
                }
            }
            for (overlaid, plain) in &generations {
                for now in [NOW, later] {
                    let expected = all(&site, plain, now, &mut looks);
                    prop_assert_eq!(all(&site, overlaid, now, &mut looks), expected);
                }
            }
        }
    }
}

/// Images come while the writer is at work: each overlay is true of all that came before it and since.
#[test]
fn is_true_of_what_changes_while_it_is_made() {
    let shared = Arc::new(Shared::new(&LIMITS, 1, 7));
    let mut writer = shared.live_writer().unwrap();
    let site = site(Policy::default(), 0, shared);
    let images: Vec<Arc<Image>> =
        (0..2).map(|variant| Arc::new(Image::build(&rib_of(variant)).unwrap())).collect();
    let open = |variant: usize| Tables::new(Arc::clone(&images[variant]), 1, "home", None);
    let bind = |n: u64| {
        let [a, b, c, ..] = (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 13).to_le_bytes();
        let binding =
            Binding { private: Some(address(c % ADDRESSES)), ..Binding::new(user(a % USERS), b % 2) };
        if b % 8 == 7 {
            Change::Forget { user: binding.user, device: binding.device }
        } else {
            Change::Bind { binding, heard_ms: 0 }
        }
    };
    // More than one chunk of slots, so that the writer gets its turns in between.
    for n in 0..1000 {
        let binding = Binding {
            private: Some(at(&format!("10.1.{}.{}:5", n / 250, n % 250))),
            ..Binding::new(own(0x5_0000 + n), 0)
        };
        writer.apply(&Change::Bind { binding, heard_ms: 0 }).unwrap();
    }
    let (mut n, mut looks) = (0, Looks::new());
    for round in 0..40 {
        let stop = AtomicBool::new(false);
        let overlaid = std::thread::scope(|scope| {
            let writer = &mut writer;
            let (stop, n) = (&stop, &mut n);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    *n += 1;
                    writer.apply(&bind(*n)).unwrap();
                }
            });
            let overlaid = open(round % 2).beside(site.shared.live());
            stop.store(true, Ordering::Relaxed);
            overlaid
        });
        let expected = all(&site, &open(round % 2), NOW, &mut looks);
        assert_eq!(all(&site, &overlaid, NOW, &mut looks), expected, "round {round}");
    }
}
