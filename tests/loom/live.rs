//! The live tables themselves, small ones: their writer makes a change that shards could see half of, beside a reader that
//! looks for the users and for the owner of the address, as the plane does.
//!
//! The writer is the thread that begins: of a word that a thread has loaded, loom forgets who loaded it before, so a reader
//! that came first would be held against few of a writer's stores, which begin with a load.
//!
//! Slots are read as in the plane, so a reader waits for a writer between two stores; buckets have one entry (`index.rs`),
//! so what collides spills.

use std::sync::Arc;

use loom::thread;
use pushplane::id::{Endpoint, PushId};
use pushplane::table::live::Hint;
use pushplane::table::{Binding, Change, Live, LiveBindings, LiveWriter};

const NOW: u64 = 1_000;
const REALM: u32 = 3;
const U: PushId = PushId(1 << 100 | 1);
const V: PushId = PushId(2 << 100 | 2);

fn private(host: u8) -> Endpoint {
    Endpoint::new([10, 0, 0, host].into(), 2948)
}

/// A binding to host number `host`: no two have more in common than they must. With host 3 goes a public IPv6 address,
/// which takes a second slot.
fn binding(user: PushId, host: u8) -> Binding {
    Binding {
        user,
        device: 0,
        realm: REALM,
        private: Some(private(host)),
        nat: (host == 3).then(|| Endpoint::new([0x2001, 0xDB8, 0, 0, 0, 0, 0, 9].into(), 77)),
        imsi: None,
        bearers: host,
        serving: None,
        valid_until_ms: Some(NOW + u64::from(host)),
        listener: host,
    }
}

fn bind(user: PushId, host: u8) -> Change {
    Change::Bind { binding: binding(user, host), heard_ms: NOW }
}

/// Tables in which U is bound to host 1, and their writer.
fn tables() -> (Arc<LiveBindings>, LiveWriter) {
    let live = Arc::new(LiveBindings::new(4, 7));
    let mut writer = live.writer().unwrap();
    writer.apply(&bind(U, 1)).unwrap();
    (live, writer)
}

/// As the other models, with at most so many preemptions in one execution. Each change leaves two versions of a slot at
/// most: a reader's seven words are then any of each, and three would be seventeen times as many executions.
fn model(preemptions: usize, check: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(check);
}

/// What is found of a user, at most one thing.
fn find(live: &LiveBindings, user: PushId) -> Option<Live> {
    let mut found = None;
    live.find(user, live.hash(user), |line| assert!(found.replace(line).is_none(), "{user} has two entries"));
    found
}

fn owner(live: &LiveBindings, host: u8) -> Option<PushId> {
    live.owner(REALM, private(host), NOW).map(|(user, _)| user)
}

/// Makes the changes while `look` looks on a thread of its own; afterwards this is found of U and of V.
fn beside(
    preemptions: usize,
    changes: fn() -> Vec<Change>,
    look: fn(&LiveBindings),
    left: fn() -> [Option<Live>; 2],
) {
    model(preemptions, move || {
        let (live, mut writer) = tables();
        let seen = Arc::clone(&live);
        let reader = thread::spawn(move || look(&seen));
        changes().iter().for_each(|change| writer.apply(change).unwrap());
        reader.join().unwrap();
        assert_eq!([find(&live, U), find(&live, V)], left());
    });
}

fn bound(user: PushId, host: u8) -> Option<Live> {
    Some(Live::Bound(binding(user, host)))
}

fn ended(user: PushId) -> Option<Live> {
    Some(Live::Ended { user, device: 0 })
}

/// An address passes from U to V: at every moment it is one's, and who has seen V with it does not see U with it.
#[test]
fn an_address_passes_on_whole() {
    beside(
        1,
        || vec![bind(V, 1)],
        |live| {
            let before = owner(live, 1);
            let after = find(live, U);
            assert!(before == Some(U) || before == Some(V), "nobody's");
            assert!(after == bound(U, 1) || after == ended(U), "half an entry, or none: {after:?}");
            assert!(before == Some(U) || after == ended(U), "both have it");
        },
        || [ended(U), bound(V, 1)],
    );
}

/// The same by the new owner's own entry.
#[test]
fn a_new_owner_is_the_only_one() {
    beside(
        2,
        || vec![bind(V, 1)],
        |live| {
            let new = find(live, V);
            let old = find(live, U);
            assert!(new.is_none() || new == bound(V, 1), "half an entry: {new:?}");
            assert!(new.is_none() || old == ended(U), "both have it");
        },
        || [ended(U), bound(V, 1)],
    );
}

/// U comes again from another address: it is known all the time, and as a whole.
#[test]
fn who_moves_is_never_missed() {
    beside(
        2,
        || vec![bind(U, 2)],
        |live| {
            let found = find(live, U);
            assert!(found == bound(U, 1) || found == bound(U, 2), "half an entry, or none: {found:?}");
        },
        || [bound(U, 2), None],
    );
}

/// The same with more to say than fits one slot: what is behind belongs to what names it.
#[test]
fn what_takes_two_slots_is_whole() {
    beside(
        1,
        || vec![bind(U, 3)],
        |live| {
            let found = find(live, U);
            assert!(found == bound(U, 1) || found == bound(U, 3), "half an entry, or none: {found:?}");
        },
        || [bound(U, 3), None],
    );
}

/// U's slot has become V's: who still has a hint to it finds nothing of V's there.
#[test]
fn a_slot_that_changes_hands_is_nobody_elses() {
    model(2, || {
        let (live, mut writer) = tables();
        let hint = live.hint(live.hash(U));
        assert!(matches!(hint, Hint::One(_)));
        writer.apply(&Change::Forget { user: U, device: 0 }).unwrap();
        let seen = Arc::clone(&live);
        let reader = thread::spawn(move || {
            seen.lines(U, seen.hash(U), hint, |line| panic!("{:?}", line.decode()));
        });
        writer.apply(&bind(V, 2)).unwrap();
        reader.join().unwrap();
        assert_eq!([find(&live, U), find(&live, V)], [None, bound(V, 2)]);
    });
}
