//! `pushplane bench swap`: what pushes notice of tables that are replaced under them.
//!
//! A real `serve` with one shard gets PUSHes on a schedule to users that all its tables know, at a fixed rate and at half
//! of the most that it forwards. Meanwhile another image takes the place of its tables' file, by turns one with more users
//! and the first one again, and SIGHUP has it read. In the next turn, as long, nothing is replaced.
//!
//! A PUSH is late by what it waited from when it was due: a shard that paused for a millisecond would have kept all
//! that were due within it waiting, the first of them a millisecond. Those sent from SIGHUP on count, until the server has
//! said that the new tables serve and, a little later, has freed the old ones.

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::thread;
use std::time::Duration;

use hdrhistogram::Histogram;
use pushplane::id::Endpoint;
use rustix::process::{getpriority_process, setpriority_process};
use serde_json::json;

use super::forwarder::{self, Forwarder};
use super::load::{self, Load, Paced, Schedule};
use super::operator::{Form, Operator, Size, mix};
use super::sink::{Arrived, Sink};
use super::{Bed, Bench};
use crate::bench::report::{Figures, Report, Run};
use crate::bench::served::{Met, Served};
use crate::outcome::{Percentiles, Tally, histogram};
use crate::{Stop, common};

/// What pushes notice of tables that are replaced while a server serves, and what replacing them takes
///
/// Starts `serve` with a generated operator, pushes to it over loopback, and has it read other tables meanwhile. One
/// shard; the pushes and what they reach have the last CPU, and the thread that reads tables what these two leave.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  pushplane bench swap
  pushplane bench swap --users 10000000 --json | jq '.runs[].latency'")]
pub(crate) struct Args {
    /// Users of the first tables
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = common::number::<u64>(1..=1 << 24))]
    users: u64,
    /// So many more, of a hundred, have the others
    #[arg(long, value_name = "PERCENT", default_value_t = 10, value_parser = common::number::<u64>(1..=100))]
    more: u64,
    /// PUSHes a second; then as many as are half of the most
    #[arg(long, value_name = "N", default_value_t = 50_000, value_parser = common::number::<u64>(1..=1_000_000))]
    rate: u64,
    /// How often tables are replaced at each rate
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = common::number::<u32>(1..=1000))]
    swaps: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Next hops, and bytes behind the header of a PUSH.
const HOPS: u16 = 16;
const PAYLOAD_BYTES: usize = 128;

/// How long the flood is measured of which the second rate is half.
const FLOOD: Duration = Duration::from_millis(500);

/// So long after the new tables serve the old ones have been freed: a server looks ten times a second.
const FREED_NS: u64 = 300_000_000;

/// A server that has said nothing for so long has failed.
const PATIENCE_NS: u64 = 120_000_000_000;

/// A server shows what it counted a little later.
const SHOWN: Duration = Duration::from_millis(100);

/// The most users that PUSHes are made for at once.
const DRAWN: u64 = 1 << 18;

/// The files that take the place of the server's own in turn.
const FIRST: &str = "first.ppt";
const GROWN: &str = "grown.ppt";
const SERVED: &str = "pushplane.ppt";

pub(crate) fn run(args: &Args) -> Result<(), Stop> {
    let bed = Bed::new(None)?;
    let folder = bed.folder.path();
    let mut sink = Sink::open(Endpoint::new([127, 2, 0, 1].into(), 0), HOPS, bed.clock)?;
    let first_hop = sink.first();
    let operator_of = |users| {
        let size = Size { users, hops: HOPS, payload: PAYLOAD_BYTES };
        Operator::new(folder, size, Form::Vxlan, first_hop)
    };
    let progress = common::Progress::start("making an operator, and one that has grown");
    let mut operator = operator_of(args.users);
    let server = forwarder::serve(&mut operator, ("pushplane", "serve"), &[bed.first()], "", &bed)?;
    link(&folder.join(SERVED), &folder.join(FIRST))?;
    // One after the other: they are most of what this takes.
    drop(operator);
    let mut operator = operator_of(args.users + (args.users * args.more).div_ceil(100));
    operator.image("grown", server.address)?;
    operator.settle();
    drop(progress);
    let Some(served) = server.served() else { return Err(Stop::Failed("no server was started".to_owned())) };
    let mut runs = Vec::new();
    bed.on_last(|| {
        come_first();
        let load = Load::new(&operator, 1, bed.clock)?;
        let generators = [bed.last()];
        let bench =
            Bench { turn: FLOOD, operator: &operator, sink: &mut sink, load, generators: &generators };
        runs = Swaps { args, folder, server: &server, served, grown: false, bench }.measure()?;
        Ok(())
    })?;
    let settings = [
        ("users", json!(args.users)),
        ("more", json!(args.more)),
        ("rate", json!(args.rate)),
        ("swaps", json!(args.swaps)),
    ];
    Report::new("swap", settings, runs).say(args.json)
}

/// A pause of the sender's own would look like one of the server's: it goes before whoever shares its CPU, as far as the
/// system lets it.
fn come_first() {
    if let Ok(nice) = getpriority_process(None) {
        let _ = setpriority_process(None, nice - 20);
    }
}

/// A file by another name, too.
fn link(from: &Path, to: &Path) -> Result<(), Stop> {
    fs::hard_link(from, to).map_err(|error| Stop::file(to, error))
}

struct Swaps<'a> {
    args: &'a Args,
    folder: &'a Path,
    server: &'a Forwarder,
    served: &'a Served,
    /// Which tables serve.
    grown: bool,
    bench: Bench<'a>,
}

/// What was measured at one rate, in all turns with a swap or in all without.
struct Measured {
    tally: Tally,
    latency: Histogram<u64>,
    late: Histogram<u64>,
    /// What the shard met.
    met: Met,
    ns: u64,
    /// PUSHes that the server never got, and such that it forwarded and that never arrived.
    lost: [u64; 2],
    reloads_ns: Vec<u64>,
}

/// What the server had done by some moment.
struct Seen {
    received: u64,
    delivered: u64,
    /// Received, and neither delivered nor on its way.
    failed: u64,
    met: Met,
}

/// When a turn ends.
#[derive(Clone, Copy)]
enum Until {
    /// The other tables serve.
    Swapped,
    /// After so long; nothing is replaced.
    Ns(u64),
    /// So many PUSHes were sent; nothing is replaced.
    Sent(u64),
}

impl Swaps<'_> {
    fn measure(&mut self) -> Result<Vec<Run>, Stop> {
        let (known, all) = (self.args.users, self.bench.operator.size.users);
        let early = self.reach(known..all)?.tally;
        self.aim((0..known.min(DRAWN) as u32).map(|at| mix(at.into()) % known))?;
        let most = self.bench.flood(self.server, &mut Tally::default())?.rate_per_s;
        let mut runs = Vec::new();
        for (rate, names) in
            [(self.args.rate, ["swap", "quiet"]), ((most / 2.0) as u64, ["swap_half", "quiet_half"])]
        {
            runs.extend(self.at_rate(rate.max(1), names)?);
        }
        if !self.grown {
            self.turn(self.schedule(self.args.rate), Until::Swapped, &mut Measured::new())?;
        }
        runs.push(self.reached(early, [0..known, known..all])?);
        Ok(runs)
    }

    /// From now on PUSHes go to these users in turn.
    fn aim(&mut self, users: impl ExactSizeIterator<Item = u64> + Clone) -> Result<(), Stop> {
        self.bench.load = Load::to(users, self.bench.operator, 1, self.bench.sink.clock)?;
        self.bench.load.aim(self.server.address)
    }

    fn schedule(&self, rate: u64) -> Schedule {
        Schedule { rate, together: load::together(rate), each: true }
    }

    /// Turns in which tables are replaced, each followed by one as long in which nothing is.
    fn at_rate(&mut self, rate: u64, [swap, quiet]: [&'static str; 2]) -> Result<[Run; 2], Stop> {
        let schedule = self.schedule(rate);
        let (mut with, mut without) = (Measured::new(), Measured::new());
        let (memory, _) = self.served.memory();
        let progress = common::Progress::of("replacing tables", self.args.swaps.into());
        for turn in 0..self.args.swaps {
            let ns = self.turn(schedule, Until::Swapped, &mut with)?;
            self.turn(schedule, Until::Ns(ns), &mut without)?;
            progress.reach(u64::from(turn) + 1);
        }
        drop(progress);
        let mut figures = Figures::default();
        with.reloads_ns.sort_unstable();
        let ms = |ns: Option<&u64>| ns.map_or(f64::NAN, |ns| *ns as f64 / 1e6);
        let median = with.reloads_ns.get(with.reloads_ns.len() / 2);
        figures.add("reload_ms", "ms from SIGHUP until other tables serve, the median", ms(median));
        figures.add("reload_max_ms", "the longest", ms(with.reloads_ns.last()));
        figures.add("memory_bytes", "bytes of memory before", memory as f64);
        figures.add("memory_peak_bytes", "bytes of memory at the most", self.served.memory().1 as f64);
        let rate = format!("{} pushes a second", common::grouped(rate));
        let replaced = format!("{rate} while tables are replaced, {} times", self.args.swaps);
        Ok([
            with.into_run(swap, replaced, figures),
            without.into_run(quiet, format!("{rate} while nothing is replaced"), Figures::default()),
        ])
    }

    /// Pushes until then; for how long.
    fn turn(&mut self, schedule: Schedule, until: Until, measured: &mut Measured) -> Result<u64, Stop> {
        self.bench.begin(self.server);
        let before = self.seen()?;
        if matches!(until, Until::Swapped) {
            self.put_other()?;
        }
        let Self { served, bench: Bench { operator, sink, load, .. }, .. } = self;
        let start = sink.clock.now().mono_ns;
        if matches!(until, Until::Swapped) {
            served.reload()?;
        }
        let (mut calls, mut swapped) = (0, None);
        let goes_on = |now| {
            calls += 1;
            match until {
                Until::Ns(ns) => now < start + ns,
                Until::Sent(sent) => calls * (schedule.together as u64) < sent,
                Until::Swapped => {
                    swapped = Some(served.swapped_ns()).filter(|at| *at > start);
                    now < swapped.map_or(start + PATIENCE_NS, |at: u64| at + FREED_NS)
                }
            }
        };
        let paced = load.paced_while(schedule, sink, operator, goes_on);
        let arrived = sink.take(paced.sent);
        if matches!(until, Until::Swapped) {
            let at =
                swapped.ok_or_else(|| Stop::Failed("the server did not take the other tables".to_owned()))?;
            measured.reloads_ns.push(at - start);
        }
        let after = self.seen()?;
        measured.take(&paced, &arrived, &before, &after);
        Ok(paced.ns)
    }

    /// Puts the other tables where the server finds its own.
    fn put_other(&mut self) -> Result<(), Stop> {
        self.grown = !self.grown;
        let other = self.folder.join(if self.grown { GROWN } else { FIRST });
        let (new, place) = (self.folder.join("new.ppt"), self.folder.join(SERVED));
        link(&other, &new)?;
        fs::rename(&new, &place).map_err(|error| Stop::file(&place, error))
    }

    /// Pushes to these users, or to as many of them as can be made, evenly chosen: to each once.
    fn reach(&mut self, users: Range<u64>) -> Result<Measured, Stop> {
        let all = users.end - users.start;
        let many = all.min(DRAWN);
        self.aim((0..many as u32).map(|at| users.start + u64::from(at) * all / many))?;
        let mut measured = Measured::new();
        self.turn(self.schedule(self.args.rate), Until::Sent(many), &mut measured)?;
        Ok(measured)
    }

    /// Whom the grown tables lead to; `early` is what became of PUSHes to new users before.
    fn reached(&mut self, early: Tally, users: [Range<u64>; 2]) -> Result<Run, Stop> {
        let mut figures = Figures::default();
        figures.add(
            "early",
            "PUSHes reached new users before they were in the tables",
            early.delivered as f64,
        );
        let mut all = Measured::new();
        for users in users {
            let Measured { tally, ns, .. } = self.reach(users)?;
            all.ns += ns;
            all.tally.add(&tally);
        }
        all.tally.valid &= early.delivered == 0 && early.sent > 0;
        let what = "pushes to users of both tables, and to new ones, in the end".to_owned();
        Ok(Run { name: "reach", what, seconds: all.ns as f64 / 1e9, tally: all.tally, figures })
    }

    fn seen(&self) -> Result<Seen, Stop> {
        thread::sleep(SHOWN);
        let counts = self.served.counts()?;
        let names = ["rx_datagrams_total", "delivered_total", "in_flight"];
        let [received, delivered, in_flight] = names.map(|name| counts.of(name));
        if !counts.is_closed() {
            return Err(Stop::Failed("the server cannot account for every datagram".to_owned()));
        }
        let failed = received.saturating_sub(delivered + in_flight);
        Ok(Seen { received, delivered, failed, met: self.served.met("shard-") })
    }
}

impl Measured {
    fn new() -> Self {
        Self {
            tally: Tally { valid: true, ..Tally::default() },
            latency: histogram(),
            late: histogram(),
            met: Met::default(),
            ns: 0,
            lost: [0; 2],
            reloads_ns: Vec::new(),
        }
    }

    /// Adds a turn. What the server got it must deliver; what it did not get, a full socket lost.
    fn take(&mut self, paced: &Paced, arrived: &Arrived, before: &Seen, after: &Seen) {
        let (received, delivered) = (after.received - before.received, after.delivered - before.delivered);
        let lost = [paced.sent.saturating_sub(received), delivered.saturating_sub(arrived.datagrams)];
        for (all, lost) in self.lost.iter_mut().zip(lost) {
            *all += lost;
        }
        self.tally.planned += paced.sent;
        self.tally.sent += paced.sent;
        self.tally.delivered += arrived.datagrams;
        self.tally.lost += lost[0] + lost[1];
        self.tally.valid &= arrived.wrong == 0 && after.failed == before.failed;
        self.met.waited_ns += after.met.waited_ns - before.met.waited_ns;
        self.met.faults += after.met.faults - before.met.faults;
        self.ns += paced.ns;
        // Both have the same bounds.
        let _ = self.latency.add(&arrived.latency).and_then(|()| self.late.add(&paced.late));
    }

    fn into_run(self, name: &'static str, what: String, mut figures: Figures) -> Run {
        let Self { mut tally, latency, late, met, ns, lost, .. } = self;
        (tally.latency, tally.late) = (Percentiles::of(&latency), Percentiles::of(&late));
        figures.add(
            "lost_before",
            "were lost on the way to the server, whose socket was full",
            lost[0] as f64,
        );
        figures.add("lost_behind", "were lost on the way from it, and not by it", lost[1] as f64);
        figures.add(
            "shard_waited_ms",
            "ms for which the shard had work and no CPU",
            met.waited_ns as f64 / 1e6,
        );
        figures.add("shard_faults", "pages that the shard found missing", met.faults as f64);
        Run { name, what, seconds: ns as f64 / 1e9, tally, figures }
    }
}
