//! The world of `pushplane::sim::attach`: terminals that come, register, roam, release and go, servers that crash and
//! come back, from thousands of seeds; and that it notices what it is there to notice.
//!
//! Faults that were put into the code one at a time, and how many of the first 1500 to 2000 seeds noticed each:
//!
//! | fault | seeds |
//! |---|---|
//! | answers leave before the commit | 1000 |
//! | an end of a binding does not reach the live tables | 1300 |
//! | RELEASE is answered and ends nothing | 25 |
//! | RELEASE of nothing is not remembered | 3 |
//! | an older REGISTER takes the place of a newer one | 40 |
//! | an address is taken back by who signed before its new owner | 9 |
//! | an address is taken back by who waited for its home meanwhile | 6 |
//! | a binding leads on when its validity is over, until it is cleared | 15 |
//! | a former serving server is not told | 1 |
//! | what was ROAMED is forwarded again | 500 |
//! | a message goes back to the server it came from | 1070 |
//! | a signed message counts as often as it comes | 300 |
//! | ends are not replayed from the journal | 2 |
//! | a snapshot leaves out what has ended | 15 |
//! | REGISTER from an address that the network gave to somebody else is accepted | 9 |
//! | an accounting Start takes the address from nobody | 310 |
//! | an accounting Stop ends nothing | 390 |
//!
//! Not noticed, each for itself, are: a row of users.csv that is not held against the owner of its address, and a
//! REGISTER that does not end the bindings of others before it takes their address (the live tables and the engine
//! each see to it, and with both out of the way it is noticed); a home that is not told that a visitor left, that is told a repetition as if it were new, or is not
//! told again what holds. `tests/control` has tests of these.

#[path = "common/seeds.rs"]
mod seeds;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use pushplane::sim::attach::{Disks, Options, Summary, run_seed, run_with};

use self::seeds::{number, seeds};

/// Faults, then healing, then delivery is owed; what must hold is in `pushplane::sim::attach`.
#[test]
fn every_seed_holds() {
    let seeds = seeds(5000);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mut sum = Summary::default();
    thread::scope(|scope| {
        let run = |thread: usize| {
            let seeds = seeds.clone();
            scope.spawn(move || {
                let mut sum = Summary::default();
                seeds.skip(thread).step_by(threads).for_each(|seed| sum.add(&run_seed(seed)));
                sum
            })
        };
        for running in (0..threads).map(run).collect::<Vec<_>>() {
            sum.add(&running.join().expect("a seed failed; it is named above"));
        }
    });
    println!("{} seeds from {}: {sum:?}", seeds.end - seeds.start, seeds.start);
    if seeds.end - seeds.start < 1000 {
        return;
    }
    // That nothing failed says little unless everything happened.
    let happened = [
        sum.registered,
        sum.led,
        sum.overtaken,
        sum.ends,
        sum.torn,
        sum.refusing,
        sum.compactions,
        sum.remembered,
        sum.demanded as u64,
    ];
    assert!(happened.iter().all(|count| *count > 100), "{sum:?}");
}

/// A seed is a whole run: the same datagrams at the same times, to the last byte.
#[test]
fn a_seed_is_a_whole_run() {
    let first = number("PUSHPLANE_SEED", 0);
    let mut digests = std::collections::BTreeSet::new();
    for seed in first..first + 100 {
        let (one, two) = (run_seed(seed), run_seed(seed));
        assert_eq!(one, two, "seed {seed}");
        digests.insert(one.digest);
    }
    assert_eq!(digests.len(), 100, "different seeds are different runs");
}

/// What the first seed says that fails, of worlds in which something is wrong.
fn complaint(wrong: impl Fn(&mut Options)) -> String {
    let run = |seed| {
        let mut options = Options::of(seed);
        wrong(&mut options);
        catch_unwind(AssertUnwindSafe(|| run_with(seed, options))).err()
    };
    let panic = (0..3000).find_map(run).expect("no seed notices");
    panic.downcast_ref::<String>().cloned().unwrap_or_default()
}

/// A server that answers before every burst has left that may not have seen the change.
#[test]
fn an_answer_that_comes_too_early_is_noticed() {
    let complaint = complaint(|options| options.grace = false);
    assert!(complaint.contains("what is not for there"), "{complaint}");
}

/// A disk that does not keep what it said was durable.
#[test]
fn a_disk_that_forgets_is_noticed() {
    let complaint = complaint(|options| options.disks = Disks::Forgetful);
    assert!(complaint.contains("lost what it knew"), "{complaint}");
}
