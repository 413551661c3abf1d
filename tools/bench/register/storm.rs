//! Pushes without registrations and with as many as are answered beside, in turns, through the same shard.
//!
//! The shard's CPU time tells whether a push costs more for it: as many are on their way as fill bursts, for a shard
//! that is woken for each costs more by that alone. During a storm it works on requests, too: what these cost by
//! themselves is measured in each turn, and taken off. How long a push takes is measured at a steady rate.

use std::time::Duration;

use super::fleet::Mix;
use super::load::{Done, Plan, Pushes};
use super::{Bench, socket_failed};
use crate::bench::report::{Figures, Run};
use crate::outcome::Tally;
use crate::{Stop, common};

/// Turns; the best of each kind counts.
const TURNS: usize = 3;

/// PUSHes on their way at once.
const WINDOW: u64 = 256;

/// One part of a turn.
struct Part {
    done: Done,
    shard_ns: u64,
}

impl Bench<'_> {
    pub(super) fn storm(&mut self) -> Result<Run, Stop> {
        let progress = common::Progress::start("pushing beside registrations");
        let mut tally = Tally { valid: true, ..Tally::default() };
        let (mut alone, mut beside) = (Best::default(), Best::default());
        let mut seconds = 0.0;
        let steady = Pushes::Rate(self.args.pushes);
        for _ in 0..TURNS {
            let requests = self.part(Pushes::None, true, &progress)?;
            let each_ns = requests.shard_ns as f64 / requests.done.tally.answered as f64;
            let mut parts = vec![requests];
            for (best, is_storm) in [(&mut alone, false), (&mut beside, true)] {
                let many = self.part(Pushes::Window(WINDOW), is_storm, &progress)?;
                let few = self.part(steady, is_storm, &progress)?;
                best.take(&many, &few, each_ns);
                parts.extend([many, few]);
            }
            for part in parts {
                tally.add(&part.done.tally);
                seconds += part.done.ns as f64 / 1e9;
            }
        }
        let mut figures = Figures::default();
        figures.add("push_cpu_ns", "ns of CPU a push on the shard, alone", alone.cpu_ns);
        figures.add(
            "push_beside_cpu_ns",
            "the same beside registrations, without what these cost",
            beside.cpu_ns,
        );
        figures.add("push_cpu_ratio", "times as much", beside.cpu_ns / alone.cpu_ns);
        figures.add("pushes_per_s", "pushes a second, alone", alone.pushes_per_s);
        figures.add("pushes_beside_per_s", "pushes a second beside registrations", beside.pushes_per_s);
        figures.add("beside_per_s", "requests a second meanwhile", beside.requests_per_s);
        figures.add("push_p50_us", "us from sender to gateway, alone: p50", alone.p50_us);
        figures.add("push_p99_us", "p99", alone.p99_us);
        figures.add(
            "push_beside_p50_us",
            "us from sender to gateway, beside registrations: p50",
            beside.p50_us,
        );
        figures.add("push_beside_p99_us", "p99", beside.p99_us);
        Ok(Run { name: "storm", what: format!("best of {TURNS} turns"), seconds, tally, figures })
    }

    fn part(&mut self, pushes: Pushes, requests: bool, progress: &common::Progress) -> Result<Part, Stop> {
        let shard_ns = self.served.cpu_ns("shard-");
        let plan = Plan {
            mix: requests.then_some(Mix::Churn { releases: 0 }),
            pushes,
            rate: self.args.rate,
            outstanding: if requests { self.args.outstanding as usize } else { 0 },
            length: Some(Duration::from_secs(self.args.seconds.into()) / 5),
        };
        let done = self.load.run(&mut self.fleet, plan, progress).map_err(socket_failed)?;
        Ok(Part { done, shard_ns: self.served.cpu_ns("shard-").saturating_sub(shard_ns) })
    }
}

/// The best of several parts of a kind, each figure by itself.
struct Best {
    cpu_ns: f64,
    pushes_per_s: f64,
    requests_per_s: f64,
    p50_us: f64,
    p99_us: f64,
}

impl Default for Best {
    fn default() -> Self {
        let none = f64::INFINITY;
        Self { cpu_ns: none, pushes_per_s: 0.0, requests_per_s: 0.0, p50_us: none, p99_us: none }
    }
}

impl Best {
    fn take(&mut self, many: &Part, few: &Part, request_ns: f64) {
        let Done { pushed, tally, ns, .. } = &many.done;
        let seconds = *ns as f64 / 1e9;
        let requests_ns = request_ns * tally.answered as f64;
        self.cpu_ns = self.cpu_ns.min((many.shard_ns as f64 - requests_ns) / pushed.delivered as f64);
        self.pushes_per_s = self.pushes_per_s.max(pushed.delivered as f64 / seconds);
        self.requests_per_s = self.requests_per_s.max(tally.answered as f64 / seconds);
        let latency = few.done.pushed.latency;
        self.p50_us = self.p50_us.min(latency.p50 as f64 / 1e3);
        self.p99_us = self.p99_us.min(latency.p99 as f64 / 1e3);
    }
}
