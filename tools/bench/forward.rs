//! `pushplane bench forward`: what forwarding a datagram costs a core, how many it forwards without losing one, and
//! how long each takes, beside bare forwarders that look nothing up and whatever other forwarder is named.
//!
//! ```text
//!  generator (last CPU) ──► forwarder (first CPU) ──► next hops: addresses of one socket (last CPU)
//! ```
//!
//! Each forwarder gets the same PUSHes, to random users; what arrives is compared with what was sent. A real `serve`
//! does everything that a PUSH needs and puts a tunnel around it.
//!
//! In the words of RFC 2544 and of FD.io's CSIT: under a flood the maximum receive rate (MRR) and the CPU time; by
//! trials the no-drop rate (NDR) and the partial-drop rate (PDR, at most 0.5 percent); latency at 10, 50 and 90 percent of
//! the PDR, from when each datagram was due.

mod bare;
mod forwarder;
mod load;
mod matrix;
mod operator;
mod place;
mod scale;
mod search;
mod sink;
mod sockets;
pub(super) mod swap;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use hdrhistogram::Histogram;
use pushplane::clock::Clock;
use pushplane::id::Endpoint;
use pushplane::net::{allowed_cpus, pin};
use serde_json::json;
use tempfile::TempDir;

use self::forwarder::{Forwarder, Named};
use self::load::{Load, Paced};
use self::operator::{Form, Operator, Size};
use self::place::Place;
use self::search::Search;
use self::sink::{Arrived, Sink};
use super::plot::{self, Curve, Plot};
use super::report::{Figures, Report, Run};
use crate::outcome::{Percentiles, Tally, histogram};
use crate::replay::parts::keep;
use crate::{Stop, common};

/// What forwarding a datagram costs, how many a core forwards, and how long each takes
///
/// Starts `serve` with a generated operator, floods it over loopback, and beside it bare forwarders that look nothing
/// up. Each takes its turn in every round. CPU time is that of the forwarder's threads; figures of a machine with less
/// than two CPUs to itself say little.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  pushplane bench forward
  pushplane bench forward --rounds 10 --turn 1000                  # what is to be published
  pushplane bench forward --hops 1000 --payload 256 --senders 64 --tunnel plain
  pushplane bench forward --matrix --rounds 2                      # every size, shape and tunnel, in two minutes
  pushplane bench forward --shards 1,2,4,8                         # by the number of cores
  pushplane bench forward --sink 127.2.0.1:19000 --peer nginx=127.0.0.1:18000/4711     # tools/peers/forward.sh does so")]
pub(crate) struct Args {
    /// Users of the tables
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = common::number::<u64>(1..=1 << 24))]
    users: u64,
    /// Bytes of each PUSH behind its header
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = common::number::<u16>(8..=1200))]
    payload: u16,
    /// Next hops: gateways
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = common::number::<u16>(1..=4096))]
    hops: u16,
    /// Senders, each with a port of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = common::number::<u16>(1..=256))]
    senders: u16,
    /// What is put around each PUSH: vxlan or plain
    #[arg(long, value_enum, default_value_t = Form::Vxlan)]
    tunnel: Form,
    /// Rounds, in each of which every forwarder has its turn; the best counts
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = common::number::<u32>(1..=100))]
    rounds: u32,
    /// How long each turn is measured, milliseconds; trials take half of it, turns of --matrix a quarter
    #[arg(long, value_name = "MS", default_value_t = 500, value_parser = common::number::<u64>(10..=60_000))]
    turn: u64,
    /// Datagrams a second at which latency is measured
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = common::number::<u64>(1..=1_000_000))]
    rate: u64,
    /// Where the first next hop stands: others must know it beforehand [default: a free port]
    #[arg(long, value_name = "ADDRESS", default_value = "127.2.0.1:0")]
    sink: Endpoint,
    /// Another forwarder: its name, where it listens, and its process; or, where the kernel itself forwards, the network
    /// device by which that comes back
    #[arg(long, value_name = "NAME=ADDRESS/PID")]
    peer: Vec<Named>,
    /// Forwarders stand in this network namespace and listen at this address: what they forward crosses whatever lies in
    /// between. CPU time is then all that their CPU does, interrupts included
    #[arg(long, value_name = "NAME=ADDRESS")]
    namespace: Option<Place>,
    /// Measure only forwarders whose names have this in them
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Instead: CPU time for payloads of 64 and 256 bytes, 1, 16 and 1000 next hops, 1 and 64 senders, vxlan and plain
    #[arg(long, conflicts_with_all = ["peer", "namespace", "only", "plots", "shards", "payload", "hops", "senders", "tunnel"])]
    matrix: bool,
    /// Instead: CPU time and rate of a server with so many shards, a CPU each, like 1,2,4
    #[arg(long, value_name = "N,N", value_delimiter = ',', value_parser = shards)]
    #[arg(conflicts_with_all = ["peer", "namespace", "only", "plots"])]
    shards: Vec<u16>,
    /// Draw the part that was lost by the rate as loss.svg and the latency by percentile as latency.svg in this
    /// directory, and keep the raw histograms as latency.hlog
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// So many shards.
fn shards(text: &str) -> Result<u16, String> {
    let number = text.parse().ok().filter(|shards| (1..=1024).contains(shards));
    number.ok_or_else(|| "expected numbers of shards from 1 to 1024, like 1,2,4".to_owned())
}

pub(crate) fn run(args: &Args) -> Result<(), Stop> {
    if let Some(plots) = &args.plots {
        plot::folder(plots)?;
    }
    let bed = Bed::new(args.namespace.clone())?;
    match () {
        () if args.matrix => matrix::run(args, &bed),
        () if !args.shards.is_empty() => scale::run(args, &bed),
        () => side_by_side(args, &bed),
    }
}

/// What every measurement stands on.
struct Bed {
    clock: Clock,
    /// That this process may use, at least one.
    cpus: &'static [usize],
    /// Where servers have their files.
    folder: TempDir,
    /// Where forwarders stand.
    place: Place,
}

impl Bed {
    fn new(namespace: Option<Place>) -> Result<Self, Stop> {
        let cpus = allowed_cpus();
        if cpus.is_empty() {
            return Err(Stop::Failed("no CPU is allowed to this process".to_owned()));
        }
        let folder =
            tempfile::tempdir().map_err(|error| Stop::Failed(format!("no temporary folder: {error}")))?;
        Ok(Self { clock: Clock::start(), cpus, folder, place: namespace.unwrap_or(Place::LOOPBACK) })
    }

    /// Where the forwarder runs.
    fn first(&self) -> usize {
        self.cpus[0]
    }

    /// The CPU that is a forwarder's as a whole, where it is.
    fn whole_cpu(&self) -> Option<usize> {
        self.place.is_apart().then(|| self.first())
    }

    /// Where generator and sink run.
    fn last(&self) -> usize {
        self.cpus[self.cpus.len() - 1]
    }

    /// Runs this on a thread of the last CPU: servers that are started later inherit nothing of that.
    fn on_last(&self, run: impl FnOnce() -> Result<(), Stop> + Send) -> Result<(), Stop> {
        let pinned = || {
            let _ = pin(self.last());
            run()
        };
        let ended = thread::scope(|scope| scope.spawn(pinned).join());
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Every forwarder with one load.
fn side_by_side(args: &Args, bed: &Bed) -> Result<(), Stop> {
    let clock = bed.clock;
    let mut sink = Sink::open(args.sink, args.hops, clock)?;
    let size = Size { users: args.users, hops: args.hops, payload: args.payload.into() };
    let mut operator = Operator::new(bed.folder.path(), size, args.tunnel, sink.first());
    let forwarders = forwarder::all(&mut operator, &sink, bed, &args.peer, args.only.as_deref())?;
    if forwarders.is_empty() {
        return Err(Stop::Wrong("--only: no forwarder has a name like that".to_owned()));
    }
    // Threads that were started so far have their own CPU; this one and the generator share the last.
    let generators = [bed.last()];
    let _ = pin(bed.last());
    let load = Load::new(&operator, args.senders, clock)?;
    let turn = Duration::from_millis(args.turn);
    let (operator, sink, generators) = (&operator, &mut sink, &generators);
    let mut bench = Bench { turn, operator, sink, load, generators };
    let mut measured: Vec<Measured> = forwarders.iter().map(|_| Measured::default()).collect();
    let turns = u64::from(args.rounds) * forwarders.len() as u64;
    let progress = common::Progress::of("forwarding", turns);
    for turn in 0..turns {
        let at = (turn % forwarders.len() as u64) as usize;
        bench.turn(&forwarders[at], args.rate, &mut measured[at])?;
        progress.reach(turn + 1);
    }
    drop(progress);
    let progress = common::Progress::of("looking for rates without loss", forwarders.len() as u64);
    for (at, (forwarder, measured)) in forwarders.iter().zip(&mut measured).enumerate() {
        if !forwarder.spins {
            bench.limits(forwarder, measured)?;
        }
        progress.reach(at as u64 + 1);
    }
    drop(progress);
    let plainest = forwarders.iter().zip(&measured).find(|(forwarder, _)| forwarder.name == PLAINEST);
    let plainest = plainest.map_or(f64::NAN, |(_, measured)| measured.cheapest().cpu_ns);
    if let Some(plots) = &args.plots {
        draw(plots, &forwarders, &measured)?;
    }
    let runs = forwarders.iter().zip(measured);
    let runs = runs.map(|(forwarder, measured)| measured.into_run(forwarder, plainest));
    let runs = runs.collect::<Result<Vec<Run>, Stop>>()?;
    let settings = [
        ("users", json!(args.users)),
        ("payload", json!(args.payload)),
        ("hops", json!(args.hops)),
        ("senders", json!(args.senders)),
        ("tunnel", json!(args.tunnel)),
        ("rounds", json!(args.rounds)),
        ("turn", json!(args.turn)),
        ("rate", json!(args.rate)),
    ];
    let table = table(&runs);
    let said = Report::new("forward", settings, runs).say(args.json);
    if !args.json {
        common::print(|out| write!(out, "\n{table}"))?;
    }
    said
}

/// What was lost is drawn from a millionth on.
const LOSS_DRAWN: f64 = 1e-6;

fn draw(folder: &Path, forwarders: &[Forwarder], measured: &[Measured]) -> Result<(), Stop> {
    let each = || forwarders.iter().map(|forwarder| forwarder.name).zip(measured);
    let losses = each().filter(|(_, measured)| !measured.trials.is_empty());
    let loss = Plot {
        title: "Lost by rate".to_owned(),
        along: "datagrams a second",
        up: "part that was lost; 1e-6: none",
        curves: losses
            .map(|(name, Measured { trials, .. })| Curve {
                name: name.to_owned(),
                points: trials.iter().map(|(rate, loss)| (*rate, loss.max(LOSS_DRAWN))).collect(),
            })
            .collect(),
    };
    loss.write(&folder.join("loss.svg"))?;
    let latency = Plot {
        title: "Latency on the schedule".to_owned(),
        along: "1 / (1 - quantile): 100 is p99",
        up: "microseconds",
        curves: each().map(|(name, measured)| Curve::of(name, &measured.latency)).collect(),
    };
    latency.write(&folder.join("latency.svg"))?;
    let histograms: Vec<_> = each().map(|(name, measured)| (name, &measured.latency)).collect();
    let seconds = measured.iter().map(|measured| measured.seconds).fold(0.0, f64::max);
    keep(&folder.join("latency.hlog"), seconds, &histograms)
}

/// All of them side by side.
fn table(runs: &[Run]) -> String {
    let mut text = format!(
        "{:<22} {:>9} {:>7} {:>6} {:>9} {:>11} {:>11} {:>11} {:>10} {:>10}\n",
        "", "CPU ns", "ratio", "busy", "at 90 %", "MRR /s", "PDR /s", "NDR /s", "p50 us", "p99 us"
    );
    for Run { name, tally, figures, .. } in runs {
        let figure = |name, digits: usize| match figures.get(name).filter(|value| value.is_finite()) {
            Some(value) => format!("{value:.digits$}"),
            None => "-".to_owned(),
        };
        let us = |ns: u64| format!("{:.1}", ns as f64 / 1e3);
        text += &format!(
            "{name:<22} {:>9} {:>7} {:>6} {:>9} {:>11} {:>11} {:>11} {:>10} {:>10}\n",
            figure("cpu_ns", 0),
            figure("cpu_ratio", 3),
            figure("busy_ratio", 2),
            figure("cpu_at_90_ns", 0),
            figure("mrr_per_s", 0),
            figure("pdr_per_s", 0),
            figure("ndr_per_s", 0),
            us(tally.latency.p50),
            us(tally.latency.p99),
        );
    }
    text
}

/// What the others are held against.
const PLAINEST: &str = "recvmmsg_sendmmsg";

/// How long a flood goes on before it is measured: caches, and a forwarder that slept.
const WARM: Duration = Duration::from_millis(100);

/// A forwarder that has forwarded nothing for so long under a flood forwards nothing; for less it may have had no CPU.
const STALLED_NS: u64 = 10_000_000_000;

struct Bench<'a> {
    turn: Duration,
    operator: &'a Operator,
    sink: &'a mut Sink,
    load: Load,
    /// The CPUs that send.
    generators: &'a [usize],
}

/// The parts of the partial-drop rate at which latency is measured.
const LOADS: [LoadLevel; 3] = [
    LoadLevel {
        part: 0.1,
        cpu: ("cpu_at_10_ns", "ns of CPU a datagram at 10 percent of the PDR, where none is lost"),
        p50: ("p50_at_10_ns", "ns latency at 10 percent of the PDR, p50"),
        p99: ("p99_at_10_ns", "the same, p99"),
    },
    LoadLevel {
        part: 0.5,
        cpu: ("cpu_at_50_ns", "ns of CPU a datagram at 50 percent of the PDR, where none is lost"),
        p50: ("p50_at_50_ns", "ns latency at 50 percent of the PDR, p50"),
        p99: ("p99_at_50_ns", "the same, p99"),
    },
    LoadLevel {
        part: 0.9,
        cpu: ("cpu_at_90_ns", "ns of CPU a datagram at 90 percent of the PDR, where none is lost"),
        p50: ("p50_at_90_ns", "ns latency at 90 percent of the PDR, p50"),
        p99: ("p99_at_90_ns", "the same, p99"),
    },
];

/// What the partial-drop rate may lose.
const LOSS_MAX: f64 = 0.005;
/// Trials to find both rates.
const TRIALS: usize = 12;

/// A load, and the names of what is measured there.
struct LoadLevel {
    part: f64,
    cpu: (&'static str, &'static str),
    p50: (&'static str, &'static str),
    p99: (&'static str, &'static str),
}

/// What a flood cost.
#[derive(Clone, Copy)]
struct Flood {
    /// CPU time a datagram.
    cpu_ns: f64,
    /// Forwarded.
    rate_per_s: f64,
}

/// What a datagram takes at some load.
struct Loaded {
    cpu_ns: f64,
    latency: Percentiles,
}

/// What was measured of one forwarder: the best of all rounds.
struct Measured {
    /// Of each round.
    floods: Vec<Flood>,
    ndr_per_s: f64,
    pdr_per_s: f64,
    /// At each of [`LOADS`].
    loaded: Vec<Loaded>,
    /// Rates that were tried, and the part that each lost.
    trials: Vec<(f64, f64)>,
    /// On the schedule: that round with the least p99.
    tally: Tally,
    latency: Histogram<u64>,
    seconds: f64,
}

impl Default for Measured {
    fn default() -> Self {
        let tally = Tally { valid: true, ..Tally::default() };
        Self {
            floods: Vec::new(),
            ndr_per_s: f64::NAN,
            pdr_per_s: f64::NAN,
            loaded: Vec::new(),
            trials: Vec::new(),
            tally,
            latency: histogram(),
            seconds: 0.0,
        }
    }
}

impl Bench<'_> {
    /// A forwarder's turn of a round.
    fn turn(&mut self, forwarder: &Forwarder, rate: u64, measured: &mut Measured) -> Result<(), Stop> {
        if !forwarder.spins {
            let flood = self.flood(forwarder, &mut measured.tally)?;
            measured.floods.push(flood);
        }
        self.load.aim(forwarder.address)?;
        let (paced, arrived) = self.paced(forwarder, rate, 1, self.turn);
        let latency = Percentiles::of(&arrived.latency);
        let tally = &mut measured.tally;
        tally.planned += paced.sent;
        tally.sent += paced.sent;
        tally.delivered += arrived.datagrams;
        tally.lost += paced.sent.saturating_sub(arrived.datagrams);
        tally.valid &= arrived.wrong == 0;
        if tally.latency.p99 == 0 || latency.p99 < tally.latency.p99 {
            (tally.latency, tally.late) = (latency, Percentiles::of(&paced.late));
            measured.latency = arrived.latency;
        }
        measured.seconds += paced.ns as f64 / 1e9;
        Ok(())
    }

    /// Begins a turn of its own number: what is sent from now on carries it.
    fn begin(&mut self, forwarder: &Forwarder) {
        let turn = self.sink.begin(forwarder.expected(self.operator));
        self.load.mark(turn);
    }

    /// What a flood costs.
    fn flood(&mut self, forwarder: &Forwarder, tally: &mut Tally) -> Result<Flood, Stop> {
        self.load.aim(forwarder.address)?;
        self.begin(forwarder);
        let Self { turn, operator, sink, load, generators } = self;
        let stop = AtomicBool::new(false);
        let result = thread::scope(|scope| {
            for (part, &cpu) in generators.iter().enumerate() {
                let (load, stop, parts) = (&*load, &stop, generators.len());
                scope.spawn(move || {
                    let _ = pin(cpu);
                    load.flood((part, parts), stop)
                });
            }
            let mut watch = |length: Duration| -> Result<Seen, Stop> {
                let end = sink.clock.now().mono_ns + length.as_nanos() as u64;
                while sink.clock.now().mono_ns < end {
                    if !sink.turn(operator, false) {
                        thread::yield_now();
                    }
                }
                let at_hops = sink.arrived.datagrams + sink.kernel_drops();
                let forwarded = forwarder.forwarded()?.unwrap_or(at_hops);
                Ok(Seen { forwarded, cpu_ns: forwarder.cpu_ns(), ns: sink.clock.now().mono_ns })
            };
            let mut measure = || -> Result<(Seen, Seen), Stop> {
                let before = watch(WARM)?;
                loop {
                    // What a datagram costs is told by one at least: until then the turn goes on.
                    let after = watch(*turn)?;
                    if after.forwarded > before.forwarded || after.ns - before.ns > STALLED_NS {
                        return Ok((before, after));
                    }
                }
            };
            let seen = measure();
            stop.store(true, Ordering::Relaxed);
            seen
        });
        let (before, after) = result?;
        tally.valid &= sink.arrived.wrong == 0;
        let forwarded = after.forwarded.saturating_sub(before.forwarded) as f64;
        let cpu_ns = after.cpu_ns.saturating_sub(before.cpu_ns) as f64 / forwarded;
        Ok(Flood { cpu_ns, rate_per_s: forwarded / ((after.ns - before.ns) as f64 / 1e9) })
    }

    /// What arrives of a schedule.
    fn paced(
        &mut self,
        forwarder: &Forwarder,
        rate: u64,
        together: usize,
        length: Duration,
    ) -> (Paced, Arrived) {
        self.begin(forwarder);
        let Self { operator, sink, load, .. } = self;
        let paced = load.paced(rate, together, length, sink, operator);
        let arrived = sink.take(paced.sent);
        (paced, arrived)
    }

    /// The highest rates with no loss and with little, sought between a hundredth of what was forwarded under the flood
    /// and twice that; and latency below.
    fn limits(&mut self, forwarder: &Forwarder, measured: &mut Measured) -> Result<(), Stop> {
        self.load.aim(forwarder.address)?;
        let rate_per_s = measured.most_per_s();
        let mut search = Search::between(rate_per_s / 100.0, rate_per_s * 2.0, TRIALS);
        for loss_max in [LOSS_MAX, 0.0] {
            while let Some(rate) = search.next(loss_max) {
                let together = load::together(rate as u64);
                let (paced, arrived) = self.paced(forwarder, rate as u64, together, self.turn / 2);
                let lost = paced.sent.saturating_sub(arrived.datagrams) as f64 / paced.sent.max(1) as f64;
                measured.tally.valid &= arrived.wrong == 0;
                search.tried(rate, paced.sent as f64 / (paced.ns as f64 / 1e9), lost);
            }
        }
        (measured.pdr_per_s, measured.ndr_per_s) = (search.best(LOSS_MAX), search.best(0.0));
        measured.trials = search.into_trials();
        for LoadLevel { part, .. } in &LOADS {
            let rate = (measured.pdr_per_s * part) as u64;
            if rate > 0 {
                let before = forwarder.cpu_ns();
                let (_, arrived) = self.paced(forwarder, rate, load::together(rate), self.turn);
                measured.tally.valid &= arrived.wrong == 0;
                let cpu_ns = forwarder.cpu_ns().saturating_sub(before) as f64 / arrived.datagrams as f64;
                measured.loaded.push(Loaded { cpu_ns, latency: Percentiles::of(&arrived.latency) });
            }
        }
        Ok(())
    }
}

/// How far a forwarder was at some moment.
struct Seen {
    forwarded: u64,
    cpu_ns: u64,
    ns: u64,
}

impl Measured {
    /// The round in which a datagram took least.
    fn cheapest(&self) -> Flood {
        let least = self.floods.iter().min_by(|one, other| one.cpu_ns.total_cmp(&other.cpu_ns));
        least.copied().unwrap_or(Flood { cpu_ns: f64::NAN, rate_per_s: f64::NAN })
    }

    /// Of all rounds.
    fn most_per_s(&self) -> f64 {
        self.floods.iter().map(|flood| flood.rate_per_s).fold(0.0, f64::max)
    }

    fn into_run(self, forwarder: &Forwarder, plainest: f64) -> Result<Run, Stop> {
        let (Flood { cpu_ns, rate_per_s }, most_per_s) = (self.cheapest(), self.most_per_s());
        let Self { mut tally, seconds, .. } = self;
        let mut figures = Figures::default();
        if !forwarder.spins {
            figures.add("cpu_ns", "ns of CPU a datagram under a flood, the best round", cpu_ns);
            figures.add(
                "cpu_median_ns",
                "the median of the rounds",
                median(self.floods.iter().map(|flood| flood.cpu_ns).collect()),
            );
            figures.add("busy_ratio", "of a CPU's time, in the best round", cpu_ns * rate_per_s / 1e9);
            figures.add("cpu_ratio", "of what the bare recvmmsg and sendmmsg needs", cpu_ns / plainest);
            figures.add("core_per_s", "a second, for a core to itself", 1e9 / cpu_ns);
            figures.add("mrr_per_s", "forwarded a second under the flood (MRR)", most_per_s);
            figures.add("pdr_per_s", "a second losing at most 0.5 percent (PDR)", self.pdr_per_s);
            figures.add("ndr_per_s", "a second without losing one (NDR)", self.ndr_per_s);
            for (load, of) in LOADS.iter().zip(&self.loaded) {
                figures.add(load.cpu.0, load.cpu.1, of.cpu_ns);
                figures.add(load.p50.0, load.p50.1, of.latency.p50 as f64);
                figures.add(load.p99.0, load.p99.1, of.latency.p99 as f64);
            }
        }
        let (dropped, closed) = forwarder.accounts()?;
        tally.valid &= closed && dropped == 0;
        let what = forwarder.what.clone();
        Ok(Run { name: forwarder.name, what, seconds, tally, figures })
    }
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of.get(of.len() / 2).copied().unwrap_or(f64::NAN)
}
