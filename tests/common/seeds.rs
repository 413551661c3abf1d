//! Which seeds a simulation runs with.

use std::ops::Range;

/// So many seeds, and the first of them: fixed, so that a build is the same each time. Set `PUSHPLANE_SEEDS` and
/// `PUSHPLANE_SEED` for others; a failure says which seed to run alone.
pub(crate) fn seeds(many: u64) -> Range<u64> {
    let first = number("PUSHPLANE_SEED", 0);
    first..first + number("PUSHPLANE_SEEDS", many)
}

/// A number from the environment.
pub(crate) fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}: expected a number, found {text:?}")),
        Err(_) => default,
    }
}
