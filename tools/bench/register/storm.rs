//! Pushes without registrations and with a storm of them beside, in turns, through the same shard.
//!
//! | part | what |
//! |---|---|
//! | many | as many PUSHes as arrive, so many on their way as fill bursts: for a shard that is woken for each costs more by that alone |
//! | half | half as many, at a steady rate: what a server is built to carry, whether it all arrives, and when |
//! | few | at a low rate: how long a lone PUSH takes |
//!
//! During a storm the shard works on requests, too: what these cost by themselves is measured in each turn, and taken
//! off. Ratios are of one turn's neighbours, and the median turn counts; other figures are the best of all turns.

use std::time::Duration;

use super::fleet::Mix;
use super::load::{Done, Plan, Pushes};
use super::{Bench, socket_failed};
use crate::bench::report::{Figures, Run};
use crate::outcome::Tally;
use crate::{Stop, common};

const TURNS: usize = 7;

/// PUSHes on their way at once.
const WINDOW: u64 = 256;

/// One part of a turn.
struct Part {
    done: Done,
    shard_ns: u64,
}

/// The parts of a turn of one kind.
struct Parts {
    many: Part,
    half: Part,
    few: Part,
}

impl Bench<'_> {
    pub(super) fn storm(&mut self) -> Result<Run, Stop> {
        let progress = common::Progress::start("pushing beside registrations");
        let mut tally = Tally { valid: true, ..Tally::default() };
        let mut seconds = 0.0;
        let (mut alone, mut beside, mut half) = (Turns::default(), Turns::default(), 0.0);
        for turn in 0..TURNS {
            progress.say(|| format!("pushing beside registrations, turn {} of {TURNS}", turn + 1));
            let requests = self.part(Pushes::None, true, &progress)?;
            let request_ns = requests.shard_ns as f64 / requests.done.tally.answered as f64;
            if turn == 0 {
                half = self.part(Pushes::Window(WINDOW), false, &progress)?.delivered_per_s() / 2.0;
            }
            // Who comes first changes: neither always has the warmer machine.
            let is_first = turn % 2 == 1;
            let (first, second) =
                (self.parts(half, is_first, &progress)?, self.parts(half, !is_first, &progress)?);
            let (quiet, stormy) = if is_first { (second, first) } else { (first, second) };
            alone.take(&quiet, 0.0);
            beside.take(&stormy, request_ns);
            for part in [requests, quiet.many, quiet.few, stormy.many, stormy.few] {
                tally.add(&part.done.tally);
                seconds += part.done.ns as f64 / 1e9;
            }
        }
        let what = format!("{TURNS} turns, {} requests a second beside", self.args.storm);
        let figures = figures(half, &alone, &beside);
        Ok(Run { name: "storm", what, seconds, tally, figures })
    }

    fn parts(&mut self, half: f64, requests: bool, progress: &common::Progress) -> Result<Parts, Stop> {
        Ok(Parts {
            many: self.part(Pushes::Window(WINDOW), requests, progress)?,
            half: self.part(Pushes::Rate(half), requests, progress)?,
            few: self.part(Pushes::Rate(self.args.pushes), requests, progress)?,
        })
    }

    fn part(&mut self, pushes: Pushes, requests: bool, progress: &common::Progress) -> Result<Part, Stop> {
        let shard_ns = self.served.cpu_ns("shard-");
        let plan = Plan {
            mix: requests.then_some(Mix::Churn { releases: 0 }),
            pushes,
            rate: Some(self.args.storm),
            outstanding: if requests { self.args.outstanding as usize } else { 0 },
            length: Some(Duration::from_secs(self.args.seconds.into()) / 10),
        };
        let done = self.load.run(&mut self.fleet, plan, progress).map_err(socket_failed)?;
        Ok(Part { done, shard_ns: self.served.cpu_ns("shard-").saturating_sub(shard_ns) })
    }
}

impl Part {
    fn delivered_per_s(&self) -> f64 {
        self.done.pushed.delivered as f64 / (self.done.ns as f64 / 1e9)
    }
}

/// What the turns of a kind brought.
#[derive(Default)]
struct Turns {
    /// ns of the shard's CPU a PUSH, of many.
    cpu_ns: Vec<f64>,
    /// PUSHes a second of the shard's CPU, of many: the requests beside them are paid from it, too.
    per_cpu_s: Vec<f64>,
    /// Of many.
    per_s: Vec<f64>,
    requests_per_s: Vec<f64>,
    /// Of half as many: those that left, those that came, and seconds.
    sent: f64,
    came: f64,
    seconds: f64,
    half_us: Latency,
    few_us: Latency,
}

/// p50 and p99 of each turn, us.
#[derive(Default)]
struct Latency {
    p50: Vec<f64>,
    p99: Vec<f64>,
}

impl Latency {
    fn take(&mut self, part: &Part) {
        let latency = part.done.pushed.latency;
        self.p50.push(latency.p50 as f64 / 1e3);
        self.p99.push(latency.p99 as f64 / 1e3);
    }
}

impl Turns {
    fn take(&mut self, parts: &Parts, request_ns: f64) {
        let Parts { many, half, few } = parts;
        let answered = many.done.tally.answered as f64;
        self.cpu_ns.push((many.shard_ns as f64 - request_ns * answered) / many.done.pushed.delivered as f64);
        self.per_cpu_s.push(many.done.pushed.delivered as f64 / (many.shard_ns as f64 / 1e9));
        self.per_s.push(many.delivered_per_s());
        self.requests_per_s.push(answered / (many.done.ns as f64 / 1e9));
        self.sent += half.done.pushed.sent as f64;
        self.seconds += half.done.ns as f64 / 1e9;
        self.came += half.done.pushed.delivered as f64;
        self.half_us.take(half);
        self.few_us.take(few);
    }
}

fn figures(half: f64, alone: &Turns, beside: &Turns) -> Figures {
    let mut figures = Figures::default();
    let mut add = |name, what, value| figures.add(name, what, value);
    add("beside_per_s", "requests a second beside", most(&beside.requests_per_s));
    add("push_cpu_ns", "ns of CPU a push on the shard, alone", least(&alone.cpu_ns));
    add("push_beside_cpu_ns", "the same beside requests, without what these cost", least(&beside.cpu_ns));
    add("push_cpu_ratio", "times as much, the median turn", ratio(&beside.cpu_ns, &alone.cpu_ns));
    add(
        "core_ratio",
        "times as many pushes for a second of the shard's CPU, with what requests cost, the median turn",
        ratio(&beside.per_cpu_s, &alone.per_cpu_s),
    );
    add("pushes_per_s", "pushes a second at the most, alone", most(&alone.per_s));
    add("pushes_beside_per_s", "the same beside requests", most(&beside.per_s));
    add("pushes_ratio", "times as many, the median turn", ratio(&beside.per_s, &alone.per_s));
    add("half_per_s", "pushes a second are half as many", half);
    add("half_sent_per_s", "were sent, alone", alone.sent / alone.seconds);
    add("half_came", "of a hundred of them arrived", 100.0 * alone.came / alone.sent);
    add("half_beside_sent_per_s", "were sent beside requests", beside.sent / beside.seconds);
    add("half_beside_came", "of a hundred of them arrived", 100.0 * beside.came / beside.sent);
    add("half_p50_us", "us from sender to gateway at that rate, alone: p50", least(&alone.half_us.p50));
    add("half_p99_us", "p99", least(&alone.half_us.p99));
    add("half_beside_p50_us", "the same beside requests: p50", least(&beside.half_us.p50));
    add("half_beside_p99_us", "p99", least(&beside.half_us.p99));
    add("push_p50_us", "us from sender to gateway at a low rate, alone: p50", least(&alone.few_us.p50));
    add("push_p99_us", "p99", least(&alone.few_us.p99));
    add("push_beside_p50_us", "the same beside requests: p50", least(&beside.few_us.p50));
    add("push_beside_p99_us", "p99", least(&beside.few_us.p99));
    figures
}

fn most(turns: &[f64]) -> f64 {
    turns.iter().copied().fold(0.0, f64::max)
}

fn least(turns: &[f64]) -> f64 {
    turns.iter().copied().fold(f64::INFINITY, f64::min)
}

/// Of each turn, what one is of the other; the median.
fn ratio(of: &[f64], to: &[f64]) -> f64 {
    let mut ratios: Vec<f64> = of.iter().zip(to).map(|(of, to)| of / to).collect();
    ratios.sort_by(f64::total_cmp);
    ratios[ratios.len() / 2]
}
