//! Many clients at once, for load: counts instead of payloads.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use pushplane::clock::Clock;
use pushplane::reason::Reason;
use pushplane::wire::prp::flag;
use serde_json::json;

use super::drive::Audience;
use super::registration::News;
use super::terminal::Event;
use crate::Stop;
use crate::common::{grouped, note};

/// What is counted.
#[derive(Clone, Copy, Default)]
struct Counts {
    registered: u64,
    renewed: u64,
    moved: u64,
    rejected: u64,
    unheard: u64,
    released: u64,
    received: u64,
    repeated: u64,
    receipts: u64,
    direct: u64,
    dropped: u64,
}

/// What became of all.
pub(super) struct Tally {
    clock: Clock,
    begun_ns: u64,
    identities: u64,
    registers: bool,
    json: bool,
    /// After so many messages it is enough.
    count: Option<u64>,
    counts: Counts,
    /// As it was when the last line was printed.
    before: Counts,
    reasons: BTreeMap<&'static str, u64>,
    /// How long it took until all were registered, once they are.
    all_after_s: Option<f64>,
}

impl Tally {
    pub(super) fn new(args: &super::Args, identities: usize) -> Self {
        let clock = Clock::start();
        Self {
            clock,
            begun_ns: clock.now().mono_ns,
            identities: identities as u64,
            registers: !args.no_register,
            json: args.json,
            count: args.count,
            counts: Counts::default(),
            before: Counts::default(),
            reasons: BTreeMap::new(),
            all_after_s: None,
        }
    }

    /// Seconds since the start.
    fn elapsed_s(&self) -> f64 {
        (self.clock.now().mono_ns - self.begun_ns) as f64 / 1e9
    }

    fn registration(&mut self, news: &News) {
        let counts = &mut self.counts;
        match news {
            News::Registered(_) => {
                counts.registered += 1;
                if counts.registered == self.identities {
                    self.all_after_s = Some(self.elapsed_s());
                }
            }
            News::Renewed(_) => counts.renewed += 1,
            News::Again { moved_from, .. } => {
                counts.renewed += 1;
                counts.moved += u64::from(moved_from.is_some());
            }
            News::Rejected { reason, .. } => {
                counts.rejected += 1;
                *self.reasons.entry(reason.map_or("unknown", Reason::name)).or_default() += 1;
            }
            News::Unheard => counts.unheard += 1,
            News::Released => counts.released += 1,
        }
    }

    /// A line for the second that has passed, and what it notes of the whole.
    pub(super) fn second(&mut self) {
        let Counts { registered, renewed, rejected, unheard, received, receipts, .. } = self.counts;
        let before = std::mem::replace(&mut self.before, self.counts);
        note(format_args!(
            "{} of {} registered; this second {} registered, {} renewed, {} rejected, {} received, {} receipts; {} unheard",
            grouped(registered),
            grouped(self.identities),
            registered - before.registered,
            renewed - before.renewed,
            rejected - before.rejected,
            received - before.received,
            receipts - before.receipts,
            grouped(unheard),
        ));
    }

    /// The summary. An error when somebody was never registered who should have been.
    pub(super) fn finish(&self) -> Result<(), Stop> {
        let lasted_s = self.elapsed_s();
        let Counts { registered, renewed, moved, rejected, unheard, released, .. } = self.counts;
        let Counts { received, repeated, receipts, direct, dropped, .. } = self.counts;
        let never = self.identities - registered;
        if self.json {
            crate::say(&json!({
                "identities": self.identities, "registered": registered, "never_registered": never,
                "all_registered_s": self.all_after_s, "renewed": renewed, "moved": moved,
                "rejected": rejected, "rejected_reasons": self.reasons, "unheard": unheard, "released": released,
                "received": received, "repeated": repeated, "receipts": receipts, "direct": direct,
                "dropped": dropped, "seconds": lasted_s,
            }));
        } else {
            let reasons: Vec<String> = self.reasons.iter().map(|(name, n)| format!("{name} {n}")).collect();
            let reasons =
                if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) };
            crate::say(&format!(
                "{} identities, {} registered, {} renewals ({} to another mapping), {} rejections{reasons}, {} released\n\
                 {} messages received, {} came again, {} receipts, {} directly; {} datagrams dropped; {lasted_s:.1} s",
                grouped(self.identities),
                grouped(registered),
                grouped(renewed),
                grouped(moved),
                grouped(rejected),
                grouped(released),
                grouped(received),
                grouped(repeated),
                grouped(receipts),
                grouped(direct),
                grouped(dropped),
            ));
        }
        if self.registers && never > 0 { Err(Stop::No) } else { Ok(()) }
    }
}

impl Audience for Tally {
    fn hear(&mut self, event: Event<'_>) -> ControlFlow<()> {
        let counts = &mut self.counts;
        match event {
            Event::Registration(news) => self.registration(&news),
            Event::Arrived { arrival, again } => {
                counts.received += u64::from(!again);
                counts.repeated += u64::from(again);
                counts.receipts += u64::from(arrival.header.flags & flag::RECEIPT != 0);
                counts.direct += u64::from(arrival.direct.is_some());
            }
            Event::Introduced(_) | Event::Met { .. } => {}
            Event::Dropped(_) => counts.dropped += 1,
        }
        if self.count.is_some_and(|count| self.counts.received >= count) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}
