//! The federation of `pushplane::sim`: thousands of seeds, then scenarios with fixed steps.

use pushplane::sim::{Summary, run_seed};

/// How many seeds, and the first of them: fixed, so that a build is the same each time; set
/// `PUSHPLANE_SEEDS` and `PUSHPLANE_SEED` for others.
fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str, default: u64| match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text:?}")),
        Err(_) => default,
    };
    let first = number("PUSHPLANE_SEED", 0);
    first..first + number("PUSHPLANE_SEEDS", 200)
}

#[test]
fn every_seed_holds() {
    let mut sum = Summary::default();
    for seed in seeds() {
        let run = run_seed(seed);
        sum.received += run.received;
        sum.corrupted += run.corrupted;
        sum.overtaken += run.overtaken;
        for at in 0..2 {
            sum.delivered[at] += run.delivered[at];
            sum.receipts[at] += run.receipts[at];
            sum.rejects[at] += run.rejects[at];
        }
    }
    println!("{sum:?}");
}
