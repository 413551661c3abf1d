//! `pushplane bench register`: how many registrations become durable a second, and what they cost.
//!
//! A real `serve`, as its own process, with a generated operator and its state on a real disk; terminals that no
//! table knows register through a gateway, all from one thread, which also pushes and takes what gateways get.
//!
//! | run | what |
//! |---|---|
//! | register | every terminal once; answers while the journal is compacted are looked at apart, too |
//! | plain | a server of a map behind a lock and an fdatasync a request, from the same load ([`plain`]) |
//! | storm | pushes without and with registrations beside ([`storm`]) |
//! | churn | renewals and releases |
//! | recover | SIGKILL, start, count, and pushes to what was acknowledged |

mod fleet;
mod load;
mod operator;
mod plain;
mod storm;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use pushplane::clock::Clock;
use pushplane::id::Endpoint;
use pushplane::net::{Listener, allowed_cpus, bind_shards, pin};
use serde_json::json;

use self::fleet::{Fleet, Mix};
use self::load::{Done, Load, Plan, Pushes};
use self::operator::{Operator, Size};
use self::plain::Plain;
use super::plot::{self, Curve, Plot};
use super::report::{Figures, Report, Run};
use super::served::{Counts, Served};
use crate::outcome::Tally;
use crate::replay::parts::keep;
use crate::{Stop, common};

/// How many registrations become durable a second, what they cost, what pushes notice of them, and how long they take
/// to recover after a kill
///
/// Starts `serve` with a generated operator and its state in a temporary folder, registers terminals with it
/// over loopback, and compares what it says with what it was told.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  pushplane bench register
  pushplane bench register --users 10000000 --json | jq .runs[].figures
  pushplane bench register --rate 20000      # latency at a steady rate, without coordinated omission")]
pub(crate) struct Args {
    /// Terminals that register
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = common::number::<u64>(1..=1 << 30))]
    users: u64,
    /// Users that users.csv has besides
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = common::number::<u64>(0..=u64::MAX))]
    rows: u64,
    /// Requests on their way at once
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = common::number::<u32>(1..=1 << 20))]
    outstanding: u32,
    /// Registrations a second [default: as many as are answered]
    #[arg(long, value_name = "N", value_parser = positive)]
    rate: Option<f64>,
    /// How long each part with a time takes
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = common::number::<u32>(0..=u32::MAX))]
    seconds: u32,
    /// Of a hundred requests of a terminal that is bound: so many release, the others renew
    #[arg(long, value_name = "PERCENT", default_value_t = 10, value_parser = common::number::<u32>(0..=100))]
    releases: u32,
    /// Requests a second beside which PUSHes are measured: a hundred seconds for a million terminals
    #[arg(long, value_name = "N", default_value_t = 10_000.0, value_parser = positive)]
    storm: f64,
    /// PUSHes a second whose latency is measured, without and with requests beside
    #[arg(long, value_name = "N", default_value_t = 20_000.0, value_parser = positive)]
    pushes: f64,
    /// Where the temporary folder is made: its disk is measured [default: the system's]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Same seed, same operator and same order
    #[arg(long, value_name = "S", default_value_t = 1, value_parser = common::number::<u64>(0..=u64::MAX))]
    seed: u64,
    /// Draw how long answers took as latency.svg in this directory, and keep the raw histograms as latency.hlog
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A rate that time can be divided by.
fn positive(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| rate.is_finite() && *rate > 0.0);
    rate.ok_or_else(|| "expected a number above 0".to_owned())
}

/// What a terminal with one address costs the controller (`src/control/store.rs`) and the live tables
/// (`src/table/live.rs`).
const ENTRY_BYTES: u32 = 148;
const SLOT_BYTES: u32 = 92;

/// Requests on their way to the plain version: each waits for all before it, and they find room in its socket.
const PLAIN_OUTSTANDING: usize = 64;

/// PUSHes a second to what was recovered.
const SAMPLE_RATE: f64 = 10_000.0;

pub(crate) fn run(args: &Args) -> Result<(), Stop> {
    if let Some(plots) = &args.plots {
        plot::folder(plots)?;
    }
    let parent = args.folder.clone().unwrap_or_else(std::env::temp_dir);
    let folder = tempfile::tempdir_in(&parent).map_err(|error| Stop::file(&parent, error))?;
    let size = Size { rows: args.rows, users: args.users, outstanding: args.outstanding as usize };
    let operator = Operator::make(folder.path(), size, args.seed)?;
    let clock = Clock::start();
    let served = Served::start(&operator.config, clock)?;
    // The shard has the first CPU; with more than one, the load has the last.
    if let [_, .., last] = allowed_cpus() {
        let _ = pin(*last);
    }
    let compacts = Arc::new(AtomicBool::new(false));
    let _watch = Watch::start(folder.path().join("state/journal"), Arc::clone(&compacts));
    let addresses: Vec<Endpoint> =
        std::iter::once(operator::requests_from()).chain(operator.gateways.iter().copied()).collect();
    let mut bench = Bench {
        args,
        folder: folder.path(),
        fleet: Fleet::new(&operator, args.users, args.seed),
        load: Load::new(listeners(&addresses)?, operator.server, clock, compacts),
        served,
        latencies: Vec::new(),
    };
    let register = bench.register()?;
    let plain = bench.plain(&operator, clock, &register)?;
    let mut runs = vec![register, plain];
    runs.push(bench.storm()?);
    runs.push(bench.churn()?);
    if let Some(plots) = &args.plots {
        draw(plots, &bench.latencies, args.seconds)?;
    }
    runs.push(bench.recover(&operator, clock)?);
    let settings = [
        ("users", json!(args.users)),
        ("rows", json!(args.rows)),
        ("outstanding", json!(args.outstanding)),
        ("rate", json!(args.rate)),
        ("seconds", json!(args.seconds)),
        ("releases", json!(args.releases)),
        ("storm", json!(args.storm)),
        ("pushes", json!(args.pushes)),
        ("seed", json!(args.seed)),
        ("folder", json!(parent)),
    ];
    Report::new("register", settings, runs).say(args.json)
}

fn draw(folder: &Path, latencies: &[(&'static str, Histogram<u64>)], seconds: u32) -> Result<(), Stop> {
    let curves = latencies.iter().map(|(name, latency)| Curve::of(name, latency)).collect();
    let plot = Plot {
        title: "Durable and answered".to_owned(),
        along: "1 / (1 - quantile): 100 is p99",
        up: "microseconds",
        curves,
    };
    plot.write(&folder.join("latency.svg"))?;
    let named: Vec<_> = latencies.iter().map(|(name, latency)| (*name, latency)).collect();
    keep(&folder.join("latency.hlog"), seconds.into(), &named)
}

/// A socket at each of these addresses.
fn listeners(at: &[Endpoint]) -> Result<Vec<Listener>, Stop> {
    let bound = bind_shards(at, 1, 4 << 20).map_err(|error| Stop::Wrong(error.to_string()))?;
    Ok(bound.shards.into_iter().flatten().collect())
}

/// Looks every other millisecond whether a snapshot is being written: its file has no name yet.
struct Watch {
    stop: Arc<AtomicBool>,
}

impl Watch {
    fn start(journal: PathBuf, compacts: Arc<AtomicBool>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let files = std::fs::read_dir(&journal).into_iter().flatten().flatten();
                let is_one = |name: std::ffi::OsString| {
                    let name = name.to_string_lossy();
                    name.starts_with("snapshot-") && name.ends_with(".tmp")
                };
                let is_there = files.map(|file| file.file_name()).any(is_one);
                compacts.store(is_there, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Self { stop }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Bench<'a> {
    args: &'a Args,
    folder: &'a Path,
    fleet: Fleet<'a>,
    load: Load,
    served: Served,
    /// How long answers took, by the name of the run.
    latencies: Vec<(&'static str, Histogram<u64>)>,
}

/// What the server had done at some moment.
struct Snapshot {
    counts: Counts,
    controller_ns: u64,
    answers_ns: u64,
    shard_ns: u64,
}

impl Bench<'_> {
    /// Every terminal, once.
    fn register(&mut self) -> Result<Run, Stop> {
        let Args { users, rate, outstanding, .. } = *self.args;
        let (memory, _) = self.served.memory();
        let plan = Plan {
            mix: Some(Mix::New),
            pushes: Pushes::None,
            rate,
            outstanding: outstanding as usize,
            length: None,
        };
        let progress = common::Progress::of("registering", users);
        let (done, mut figures) = self.measured(plan, &progress)?;
        self.latencies.push(("register", done.latency.clone()));
        let (now, _) = self.served.memory();
        let bytes = folder_bytes(&self.folder.join("state/journal"));
        let each = |bytes: u64| bytes as f64 / done.tally.answered as f64;
        figures.add("disk_bytes", "bytes on disk a binding", each(bytes));
        figures.add(
            "memory_bytes",
            "bytes of memory a binding, all of them",
            each(now.saturating_sub(memory)),
        );
        figures.add(
            "memory_expected_bytes",
            "bytes a binding by arithmetic: 148 of the controller's, 92 of the live tables",
            f64::from(ENTRY_BYTES + SLOT_BYTES),
        );
        Ok(a_run("register", "every terminal once".to_owned(), done, figures))
    }

    /// An ordinary server, from the same load, as long as the other parts.
    fn plain(&self, operator: &Operator, clock: Clock, beside: &Run) -> Result<Run, Stop> {
        let Args { users, outstanding, seconds, seed, .. } = *self.args;
        let failed = |error| Stop::Failed(format!("the plain version cannot be had: {error}"));
        let plain = Plain::start(operator::SERVER, &self.folder.join("plain")).map_err(failed)?;
        let compacts = Arc::new(AtomicBool::new(false));
        let mut load = Load::new(listeners(&[operator::requests_from()])?, plain.at, clock, compacts);
        let mut fleet = Fleet::new(operator, users, seed);
        let outstanding = (outstanding as usize).min(PLAIN_OUTSTANDING);
        let length = Some(Duration::from_secs(seconds.into()));
        let plan = Plan { mix: Some(Mix::New), pushes: Pushes::None, rate: None, outstanding, length };
        let progress = common::Progress::start("registering with the plain version");
        let done = load.run(&mut fleet, plan, &progress).map_err(socket_failed)?;
        let rate = |answered: u64, seconds: f64| answered as f64 / seconds;
        let own = rate(done.tally.answered, done.ns as f64 / 1e9);
        let mut figures = Figures::default();
        figures.add("requests_per_s", "requests a second, durable and answered", own);
        let ratio = rate(beside.tally.answered, beside.seconds) / own;
        figures.add("ratio", "times as many are durable a second in \"register\"", ratio);
        Ok(a_run("plain", "a map behind a lock, and one fdatasync a request".to_owned(), done, figures))
    }

    /// Terminals by chance: they renew, release and come back.
    fn churn(&mut self) -> Result<Run, Stop> {
        let Args { rate, outstanding, seconds, releases, .. } = *self.args;
        let length = Some(Duration::from_secs(seconds.into()));
        let plan = Plan {
            mix: Some(Mix::Churn { releases }),
            pushes: Pushes::None,
            rate,
            outstanding: outstanding as usize,
            length,
        };
        let progress = common::Progress::start("renewing and releasing");
        let (done, figures) = self.measured(plan, &progress)?;
        self.latencies.push(("churn", done.latency.clone()));
        Ok(a_run("churn", format!("renewals, {releases} % releases"), done, figures))
    }

    /// SIGKILL, and the server again: everything that it acknowledged must be there.
    fn recover(mut self, operator: &Operator, clock: Clock) -> Result<Run, Stop> {
        let journal = folder_bytes(&self.folder.join("state/journal"));
        self.served.kill();
        let progress = common::Progress::start("recovering");
        self.served = Served::start(&operator.config, clock)?;
        drop(progress);
        let found = self.served.counts()?.of("table_entries{table=\"live\"}");
        let (expected, doubt) = (self.fleet.bound(), self.fleet.in_doubt());
        let (memory, most) = self.served.memory();
        let mut figures = Figures::default();
        let seconds = self.served.start_ns as f64 / 1e9;
        figures.add("recovered", "bindings that hold again", found as f64);
        figures.add("acknowledged", "bindings that were acknowledged", expected as f64);
        figures.add("in_doubt", "requests that were never answered", doubt as f64);
        figures.add("ready_s", "seconds from the start to \"ready\"", seconds);
        figures.add("binding_ns", "ns a binding", seconds * 1e9 / found as f64);
        figures.add("journal_bytes", "bytes of journal", journal as f64);
        figures.add("memory_bytes", "bytes of memory when ready", memory as f64);
        figures.add("memory_peak_bytes", "bytes of memory at the most", most as f64);
        // What was acknowledged is not only counted: messages reach it.
        let plan = Plan {
            mix: None,
            pushes: Pushes::Rate(SAMPLE_RATE),
            rate: None,
            outstanding: 0,
            length: Some(Duration::from_secs(2)),
        };
        let progress = common::Progress::start("pushing to what was recovered");
        let Done { pushed, .. } = self.load.run(&mut self.fleet, plan, &progress).map_err(socket_failed)?;
        figures.add("pushed", "messages to terminals that were acknowledged, by chance", pushed.sent as f64);
        figures.add("delivered", "of them delivered", pushed.delivered as f64);
        let mut tally = Tally { planned: expected, sent: expected, answered: found, ..Tally::default() };
        tally.valid = found.abs_diff(expected) <= doubt && pushed.sent == pushed.delivered;
        Ok(Run { name: "recover", what: "SIGKILL, and started again".to_owned(), seconds, tally, figures })
    }

    /// A run of requests, and what it cost the server.
    fn measured(&mut self, plan: Plan, progress: &common::Progress) -> Result<(Done, Figures), Stop> {
        let before = self.snapshot()?;
        let mut done = self.load.run(&mut self.fleet, plan, progress).map_err(socket_failed)?;
        // The page shows a moment that lies behind: what the last answers stand for is in it a little later.
        std::thread::sleep(Duration::from_millis(100));
        let after = self.snapshot()?;
        done.tally.valid &= after.counts.is_closed();
        let answered = done.tally.answered as f64;
        let grown = |name: &str| after.counts.of(name).saturating_sub(before.counts.of(name)) as f64;
        let (commits, records) = (grown("journal_commits_total"), grown("journal_records_total"));
        let mut figures = Figures::default();
        figures.add(
            "requests_per_s",
            "requests a second, durable and answered",
            answered / (done.ns as f64 / 1e9),
        );
        figures.add("commits_per_s", "commits (fsyncs) a second", commits / (done.ns as f64 / 1e9));
        figures.add("records_per_commit", "records a commit", records / commits);
        let cpu = |before: u64, after: u64| after.saturating_sub(before) as f64 / answered;
        let controller_ns = cpu(before.controller_ns, after.controller_ns);
        figures.add("controller_cpu_ns", "ns of CPU a request on the controller", controller_ns);
        let answers_ns = cpu(before.answers_ns, after.answers_ns);
        figures.add("answers_cpu_ns", "ns of CPU a request on the thread that sends answers", answers_ns);
        let shard_ns = cpu(before.shard_ns, after.shard_ns);
        figures.add("shard_cpu_ns", "ns of CPU a request on the shard", shard_ns);
        let all_ns = controller_ns + answers_ns + shard_ns;
        figures.add("cpu_ns", "ns of CPU a request on these three", all_ns);
        let (count, compacting) = done.compacting;
        figures.add("compacting", "requests answered while a snapshot was written", count as f64);
        figures.add("compacting_p99_us", "us, the p99 of these", compacting.p99 as f64 / 1e3);
        figures.add("compacting_max_us", "us, the longest of these", compacting.max as f64 / 1e3);
        Ok((done, figures))
    }

    fn snapshot(&self) -> Result<Snapshot, Stop> {
        let counts = self.served.counts()?;
        let cpu = |thread| self.served.cpu_ns(thread);
        Ok(Snapshot {
            counts,
            controller_ns: cpu("controller"),
            answers_ns: cpu("answers"),
            shard_ns: cpu("shard-"),
        })
    }
}

fn socket_failed(error: std::io::Error) -> Stop {
    Stop::Failed(format!("the load's socket failed: {error}"))
}

fn a_run(name: &'static str, what: String, done: Done, figures: Figures) -> Run {
    Run { name, what, seconds: done.ns as f64 / 1e9, tally: done.tally, figures }
}

/// Bytes of the files of a folder.
fn folder_bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some(entry.metadata().ok()?.len())).sum()
}
