//! `pushplane bench register`: how many registrations become durable a second, and what they cost.
//!
//! A real `serve`, as its own process, with a generated operator and its state on a real disk; terminals that no
//! table knows register through a gateway, all from one thread.

mod fleet;
mod load;
mod operator;

use std::path::{Path, PathBuf};
use std::time::Duration;

use pushplane::clock::Clock;
use pushplane::net::{allowed_cpus, bind_shards, pin};
use serde_json::json;

use self::fleet::{Fleet, Mix};
use self::load::{Done, Load, Plan};
use self::operator::{Operator, Size};
use super::report::{Figures, Report, Run};
use super::served::{Counts, Served};
use crate::outcome::Tally;
use crate::{Stop, common};

/// How many registrations become durable a second, what they cost, and how long they take to recover after a kill
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
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    users: u64,
    /// Users that users.csv has besides
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    rows: u64,
    /// Requests on their way at once
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    outstanding: u32,
    /// Registrations a second [default: as many as are answered]
    #[arg(long, value_name = "N", value_parser = positive)]
    rate: Option<f64>,
    /// How long each part with a time takes
    #[arg(long, value_name = "S", default_value_t = 10)]
    seconds: u32,
    /// Of a hundred requests of a terminal that is bound: so many release, the others renew
    #[arg(long, value_name = "PERCENT", default_value_t = 10, value_parser = clap::value_parser!(u32).range(..=100))]
    releases: u32,
    /// Where the temporary folder is made: its disk is measured [default: the system's]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Same seed, same operator and same order
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A rate that time can be divided by.
fn positive(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| rate.is_finite() && *rate > 0.0);
    rate.ok_or_else(|| "expected a number above 0".to_owned())
}

pub(crate) fn run(args: &Args) -> Result<(), Stop> {
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
    let bound = bind_shards(&[operator::requests_from()], 1, 4 << 20);
    let mut bound = bound.map_err(|error| Stop::Wrong(error.to_string()))?;
    let listener = bound.shards.remove(0).remove(0);
    let mut bench = Bench {
        args,
        folder: folder.path(),
        fleet: Fleet::new(&operator, args.users, args.seed),
        load: Load::new(listener, operator.server, clock),
        served,
    };
    let runs = vec![bench.register()?, bench.churn()?, bench.recover(&operator, clock)?];
    let settings = [
        ("users", json!(args.users)),
        ("rows", json!(args.rows)),
        ("outstanding", json!(args.outstanding)),
        ("rate", json!(args.rate)),
        ("seconds", json!(args.seconds)),
        ("releases", json!(args.releases)),
        ("seed", json!(args.seed)),
        ("folder", json!(parent)),
    ];
    Report::new("register", settings, runs).say(args.json)
}

struct Bench<'a> {
    args: &'a Args,
    folder: &'a Path,
    fleet: Fleet<'a>,
    load: Load,
    served: Served,
}

/// What the server had done at some moment.
struct Snapshot {
    counts: Counts,
    controller_ns: u64,
    shard_ns: u64,
}

impl Bench<'_> {
    /// Every terminal, once.
    fn register(&mut self) -> Result<Run, Stop> {
        let Args { users, rate, outstanding, .. } = *self.args;
        let (memory, _) = self.served.memory();
        let plan = Plan { mix: Mix::New, rate, outstanding: outstanding as usize, length: None };
        let progress = common::Progress::of("registering", users);
        let (done, mut figures) = self.measured(plan, &progress)?;
        let (now, _) = self.served.memory();
        let bytes = folder_bytes(&self.folder.join("state/journal"));
        let each = |bytes: u64| bytes as f64 / done.tally.answered as f64;
        figures.add("disk_bytes", "bytes on disk a binding", each(bytes));
        figures.add(
            "memory_bytes",
            "bytes of memory a binding, all of them",
            each(now.saturating_sub(memory)),
        );
        Ok(a_run("register", "every terminal once".to_owned(), done, figures))
    }

    /// Terminals by chance: they renew, release and come back.
    fn churn(&mut self) -> Result<Run, Stop> {
        let Args { rate, outstanding, seconds, releases, .. } = *self.args;
        let length = Some(Duration::from_secs(seconds.into()));
        let plan = Plan { mix: Mix::Churn { releases }, rate, outstanding: outstanding as usize, length };
        let progress = common::Progress::start("renewing and releasing");
        let (done, figures) = self.measured(plan, &progress)?;
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
        let mut tally = Tally { planned: expected, sent: expected, answered: found, ..Tally::default() };
        tally.valid = found.abs_diff(expected) <= doubt;
        let done = Done { tally, ns: self.served.start_ns };
        Ok(a_run("recover", "SIGKILL, and started again".to_owned(), done, figures))
    }

    /// A run of requests, and what it cost the server.
    fn measured(&mut self, plan: Plan, progress: &common::Progress) -> Result<(Done, Figures), Stop> {
        let before = self.snapshot()?;
        let failed = |error| Stop::Failed(format!("the load's socket failed: {error}"));
        let mut done = self.load.run(&mut self.fleet, plan, progress).map_err(failed)?;
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
        figures.add("shard_cpu_ns", "ns of CPU a request on the shard", cpu(before.shard_ns, after.shard_ns));
        Ok((done, figures))
    }

    fn snapshot(&self) -> Result<Snapshot, Stop> {
        let counts = self.served.counts()?;
        let (controller_ns, shard_ns) = (self.served.cpu_ns("controller"), self.served.cpu_ns("shard-"));
        Ok(Snapshot { counts, controller_ns, shard_ns })
    }
}

fn a_run(name: &'static str, what: String, done: Done, figures: Figures) -> Run {
    Run { name, what, seconds: done.ns as f64 / 1e9, tally: done.tally, figures }
}

/// Bytes of the files of a folder.
fn folder_bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some(entry.metadata().ok()?.len())).sum()
}
