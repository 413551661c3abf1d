//! What `replay --json` and `bench --json` say alike (INTERFACE.md, "Answers that scripts read").

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

/// The longest that a histogram of [`histogram`] tells apart: an hour.
const LONGEST_NS: u64 = 3_600_000_000_000;

/// A histogram of nanoseconds: three digits, 180 KiB, never grows.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(LONGEST_NS, 3).expect("three digits are allowed")
}

/// Nanoseconds, of a distribution.
#[derive(Serialize, Default, Clone, Copy, Debug)]
pub(crate) struct Percentiles {
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    #[serde(rename = "p99.9")]
    pub(crate) p999: u64,
    pub(crate) max: u64,
}

impl Percentiles {
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: histogram.max() }
    }
}

/// What became of messages.
#[derive(Serialize, Default, Clone, Debug)]
pub(crate) struct Tally {
    /// Messages that the run was to send.
    pub(crate) planned: u64,
    /// Messages that it sent.
    pub(crate) sent: u64,
    pub(crate) delivered: u64,
    pub(crate) forwarded: u64,
    pub(crate) answered: u64,
    /// Messages by the name of the reason.
    pub(crate) dropped: BTreeMap<&'static str, u64>,
    /// Messages of which nothing more was heard in time.
    pub(crate) lost: u64,
    /// Behind the schedule.
    pub(crate) late: Percentiles,
    /// Until the answer or the delivery; where there is a schedule, from when it wanted the message sent.
    pub(crate) latency: Percentiles,
    /// Everything planned was sent and ended well, and every check held.
    pub(crate) valid: bool,
}

impl Tally {
    /// Whether every planned message was sent, and delivered, forwarded or answered.
    pub(crate) fn is_whole(&self) -> bool {
        self.planned == self.sent && self.sent == self.delivered + self.forwarded + self.answered
    }

    /// Adds the counts of another run; late and latency stay.
    pub(crate) fn add(&mut self, other: &Self) {
        self.planned += other.planned;
        self.sent += other.sent;
        self.delivered += other.delivered;
        self.forwarded += other.forwarded;
        self.answered += other.answered;
        self.lost += other.lost;
        for (reason, dropped) in &other.dropped {
            *self.dropped.entry(reason).or_default() += dropped;
        }
        self.valid &= other.valid;
    }
}
