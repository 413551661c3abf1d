//! The federation of `pushplane::sim`: thousands of seeds, and scenarios with fixed steps.

#[path = "federation/scenarios.rs"]
mod scenarios;
#[path = "common/seeds.rs"]
mod seeds;

use pushplane::reason::Reason;
use pushplane::sim::{Summary, run_seed};

use self::seeds::{number, seeds};

/// What no server says in these worlds: their messages, tables and sizes give no occasion, or the
/// kinds of message are of later issues.
const NEVER: [Reason; 5] = [
    Reason::GatewayFailed,
    Reason::UnknownGroup,
    Reason::NotPermitted,
    Reason::UnknownName,
    Reason::NoPeerAddress,
];

/// Faults, then healing, then delivery is owed; what must hold is in `pushplane::sim`.
#[test]
fn every_seed_holds() {
    let mut sum = Summary::default();
    let seeds = seeds(10_000);
    for seed in seeds.clone() {
        sum.add(&run_seed(seed));
    }
    println!("{} seeds from {}: {sum:?}", seeds.end - seeds.start, seeds.start);
    if seeds.end - seeds.start < 1000 {
        return;
    }
    // That nothing failed says little unless everything happened.
    let said = |reason: &&Reason| sum.dropped[reason.index()] > 0;
    let silent: Vec<_> =
        Reason::ALL.iter().filter(|reason| !said(reason) && !NEVER.contains(reason)).collect();
    assert!(silent.is_empty(), "no world dropped a message as {silent:?}");
    assert!(sum.delivered.iter().chain(&sum.receipts).all(|count| *count > 1000));
    assert!(sum.corrupted > 1000 && sum.overtaken > 10);
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
