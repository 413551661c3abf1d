//! The world of `pushplane::sim::attach`: terminals that come, register, roam, release and go, servers that crash and
//! come back, from thousands of seeds; and that it notices what it is there to notice.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use pushplane::sim::attach::{Disks, Options, Summary, run_seed, run_with};

/// A number from the environment.
fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}: expected a number, found {text:?}")),
        Err(_) => default,
    }
}

/// How many seeds, and the first of them: fixed, so that a build is the same each time. Set
/// `PUSHPLANE_SEEDS` and `PUSHPLANE_SEED` for others; a failure says which seed to run alone.
fn seeds() -> std::ops::Range<u64> {
    let first = number("PUSHPLANE_SEED", 0);
    first..first + number("PUSHPLANE_SEEDS", 5000)
}

/// Faults, then healing, then delivery is owed; what must hold is in `pushplane::sim::attach`.
#[test]
fn every_seed_holds() {
    let seeds = seeds();
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
