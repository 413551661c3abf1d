//! `pushplane bench replay`: how fast captures are replayed, offline and at a server.

mod plain;
mod traffic;

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};

use hdrhistogram::Histogram;
use pushplane::clock::Clock;
use pushplane::id::Endpoint;
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;

use self::plain::Pace;
use self::traffic::{APP, Form, Traffic};
use super::host::kib;
use super::plot::{self, Curve, Plot};
use super::report::{Figures, Report, Run};
use crate::outcome::{Percentiles, Tally};
use crate::replay::parts::{self, Offline, Timing};
use crate::{Stop, common};

/// How fast captures are replayed, offline and at a server
///
/// Makes an operator and captures of pushes to its users in a temporary folder, and replays them: through the engine,
/// beside a plain loop that reads and looks up; and at a socket on loopback that nobody reads, as fast as it goes and
/// at a fixed rate, beside a plain sender that makes a call of the kernel a datagram and sleeps before each, once until
/// each is due and once for as long as lies between two.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  pushplane bench replay
  pushplane bench replay --datagrams 1000000 --users 10000 --plots plots --json
  pushplane bench replay --datagrams 1000000 --rate 100000 --only rate")]
pub(crate) struct Args {
    /// Datagrams of each capture
    #[arg(long, value_name = "N", default_value_t = 10_000_000, value_parser = common::number::<u64>(1..=1 << 32))]
    datagrams: u64,
    /// Users of the operator
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = common::number::<u64>(100..=1 << 26))]
    users: u64,
    /// Bytes of payload
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = common::number::<u16>(0..=1400))]
    payload: u16,
    /// Messages a second of the run at a fixed rate
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = common::number::<u32>(1..=u32::MAX))]
    rate: u32,
    /// How long the run at a fixed rate takes, in seconds
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = common::number::<u32>(1..=3600))]
    seconds: u32,
    /// Where the temporary folder is made: each capture has 16 bytes and a frame a datagram [default: the system's]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Where the live runs send to [default: a socket on loopback that nobody reads]
    #[arg(long, value_name = "ADDRESS")]
    sink: Option<Endpoint>,
    /// Measure only runs whose names have this in them: prp, plain, topspeed, plain-topspeed, rate, plain-rate,
    /// plain-sleeps, as-push
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Keep the folder, with prp.pcap, plain.pcap and the tables bench.ppt
    #[arg(long)]
    keep: bool,
    /// Same seed, same captures
    #[arg(long, value_name = "S", default_value_t = 1, value_parser = common::number::<u64>(0..=u64::MAX))]
    seed: u64,
    /// Draw how late messages left as late.svg in this directory, and keep the raw histograms as late.hlog
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Stop> {
    if let Some(plots) = &args.plots {
        plot::folder(plots)?;
    }
    let parent = args.folder.clone().unwrap_or_else(std::env::temp_dir);
    let folder = tempfile::tempdir_in(&parent).map_err(|error| Stop::file(&parent, error))?;
    let traffic = Traffic::make(folder.path(), args.users, args.payload, args.seed)?;
    let mut bench =
        Bench { args, folder: folder.path().to_owned(), traffic, runs: Vec::new(), late: Vec::new() };
    bench.measure()?;
    if let Some(plots) = &args.plots {
        draw(plots, &bench.late, args.seconds)?;
    }
    if args.keep {
        common::note(format_args!("kept: {}", folder.keep().display()));
    }
    let settings = [
        ("datagrams", json!(args.datagrams)),
        ("users", json!(args.users)),
        ("payload", json!(args.payload)),
        ("rate", json!(args.rate)),
        ("seconds", json!(args.seconds)),
        ("seed", json!(args.seed)),
        ("folder", json!(parent)),
    ];
    Report::new("replay", settings, bench.runs).say(args.json)
}

struct Bench<'a> {
    args: &'a Args,
    folder: PathBuf,
    traffic: Traffic,
    runs: Vec<Run>,
    /// How late messages left, by the run.
    late: Vec<(&'static str, Histogram<u64>)>,
}

/// What a part took.
struct Took {
    seconds: f64,
    /// Of the whole process on a CPU.
    cpu_ns: f64,
}

fn timed<T>(part: impl FnOnce() -> Result<T, Stop>) -> Result<(T, Took), Stop> {
    let clock = Clock::start();
    let (start, before) = (clock.now().mono_ns, cpu_ns());
    let done = part()?;
    let cpu_ns = cpu_ns().saturating_sub(before) as f64;
    let seconds = (clock.now().mono_ns - start) as f64 / 1e9;
    Ok((done, Took { seconds, cpu_ns }))
}

/// CPU time of the process so far: a live replay reads and sends on two threads.
fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    (time.tv_sec * 1_000_000_000 + time.tv_nsec).cast_unsigned()
}

fn memory_peak() -> u64 {
    kib("/proc/self/status", "VmHWM")
}

/// The names of the runs.
const PRP: &str = "prp";
const PLAIN: &str = "plain";
const TOPSPEED: &str = "topspeed";
const PLAIN_TOPSPEED: &str = "plain-topspeed";
const RATE: &str = "rate";
const PLAIN_RATE: &str = "plain-rate";
const PLAIN_SLEEPS: &str = "plain-sleeps";
const AS_PUSH: &str = "as-push";
const RUNS: [&str; 8] = [PRP, PLAIN, TOPSPEED, PLAIN_TOPSPEED, RATE, PLAIN_RATE, PLAIN_SLEEPS, AS_PUSH];

impl Bench<'_> {
    /// All runs that are asked for.
    fn measure(&mut self) -> Result<(), Stop> {
        let args = self.args;
        let only = args.only.as_deref().unwrap_or_default();
        let names: Vec<&str> = RUNS.into_iter().filter(|name| name.contains(only)).collect();
        if names.is_empty() {
            return Err(Stop::Wrong(format!(
                "--only {only}: no run has a name like that ({})",
                RUNS.join(", ")
            )));
        }
        if names != [AS_PUSH] {
            self.traffic.write(&self.capture(Form::Prp), Form::Prp, args.datagrams)?;
        }
        let failed = |error| Stop::Failed(format!("loopback cannot be bound: {error}"));
        let sink = UdpSocket::bind("127.0.0.1:0").map_err(failed)?;
        let sink = args.sink.map_or_else(|| sink.local_addr().map(Endpoint::from), Ok).map_err(failed)?;
        for name in names {
            self.one(name, sink)?;
        }
        Ok(())
    }

    fn one(&mut self, name: &'static str, sink: Endpoint) -> Result<(), Stop> {
        let rate = f64::from(self.args.rate);
        let run = match name {
            PRP => self.offline(Form::Prp, name, "PRP as it is")?,
            PLAIN => self.plain()?,
            TOPSPEED => self.live(name, sink, Timing::Topspeed)?,
            PLAIN_TOPSPEED => self.plain_live(name, sink, Pace::Topspeed)?,
            RATE => self.live(name, sink, Timing::Pps)?,
            PLAIN_RATE => self.plain_live(name, sink, Pace::Until(rate))?,
            PLAIN_SLEEPS => self.plain_live(name, sink, Pace::Sleeps(rate))?,
            _ => {
                self.traffic.write(&self.capture(Form::Plain), Form::Plain, self.args.datagrams)?;
                self.offline(Form::Plain, name, "plain UDP to users' addresses, made pushes")?
            }
        };
        self.runs.push(run);
        Ok(())
    }

    fn capture(&self, form: Form) -> PathBuf {
        self.folder.join(match form {
            Form::Prp => "prp.pcap",
            Form::Plain => "plain.pcap",
        })
    }

    /// Reading alone, and the whole replay.
    fn offline(&self, form: Form, name: &'static str, what: &str) -> Result<Run, Stop> {
        let capture = self.capture(form);
        let bytes = fs::metadata(&capture).map_or(0, |metadata| metadata.len());
        let offline =
            Offline::open(&capture, self.traffic.tables(), matches!(form, Form::Plain).then_some(APP))?;
        let before = memory_peak();
        let (read, reading) = timed(|| offline.read())?;
        let ((mut tally, digest), replaying) = timed(|| offline.replay())?;
        tally.valid &= tally.planned == self.args.datagrams && read == tally.planned;
        let each = |took: &Took| took.cpu_ns / read.max(1) as f64;
        let mut figures = Figures::default();
        figures.add("datagrams_per_s", "datagrams a second, one core", read as f64 * 1e9 / replaying.cpu_ns);
        figures.add("cpu_ns", "ns of CPU a datagram", each(&replaying));
        figures.add("read_cpu_ns", "ns of them for reading the capture", each(&reading));
        figures.add("engine_ns", "ns in the engine, the median", tally.latency.p50 as f64);
        figures.add("capture_bytes", "bytes of capture", bytes as f64);
        figures.add(
            "memory_bytes",
            "bytes of memory more than before the capture was read, at the most",
            memory_peak().saturating_sub(before) as f64,
        );
        let what = format!("{what}, digest {digest}");
        Ok(Run { name, what, seconds: replaying.seconds, tally, figures })
    }

    /// What somebody writes in an afternoon: reads, looks up, and counts.
    fn plain(&self) -> Result<Run, Stop> {
        let lookup = self.traffic.lookup();
        let (found, took) = timed(|| plain::replay(&self.capture(Form::Prp), &lookup))?;
        let read = found.datagrams.max(1) as f64;
        let mut figures = Figures::default();
        figures.add("datagrams_per_s", "datagrams a second, one core", read * 1e9 / took.cpu_ns);
        figures.add("cpu_ns", "ns of CPU a datagram", took.cpu_ns / read);
        let whole = self.runs.iter().find(|run| run.name == PRP);
        if let Some(ours) = whole.and_then(|run| run.figures.get("cpu_ns")) {
            figures.add("ratio", "of the CPU of the whole replay", took.cpu_ns / read / ours);
        }
        let tally = Tally {
            planned: self.args.datagrams,
            sent: found.datagrams,
            delivered: found.known,
            answered: found.datagrams - found.known,
            valid: found.datagrams == self.args.datagrams,
            ..Tally::default()
        };
        let what = "read and looked up in a HashMap, nothing checked, nothing sent".to_owned();
        Ok(Run { name: PLAIN, what, seconds: took.seconds, tally, figures })
    }

    /// Of a live run: how many datagrams, and what was asked for, in words.
    fn asked(&self, is_timed: bool) -> (u64, String) {
        let Args { datagrams, rate, seconds, .. } = self.args;
        if is_timed {
            (
                u64::from(*rate) * u64::from(*seconds),
                format!("at {} a second", common::grouped((*rate).into())),
            )
        } else {
            (*datagrams, "as fast as it goes".to_owned())
        }
    }

    /// Sent to a socket that nobody reads.
    fn live(&mut self, name: &'static str, sink: Endpoint, timing: Timing) -> Result<Run, Stop> {
        let is_timed = timing == Timing::Pps;
        let (limit, how) = self.asked(is_timed);
        let speed = is_timed.then_some(f64::from(self.args.rate));
        let ((report, late), took) =
            timed(|| parts::live(&self.capture(Form::Prp), sink, timing, speed, limit))?;
        let mut figures = sending(report.rate, took.cpu_ns / report.tally.sent.max(1) as f64);
        if is_timed {
            figures.add(DRIFT.0, DRIFT.1, report.drift_ns as f64 / 1e3);
            self.late.push((name, late));
        }
        figures.add("retried", "sends that the kernel had no room for at first", report.retried as f64);
        // Nobody was to answer.
        let mut tally = report.tally;
        (tally.lost, tally.answered) = (0, tally.sent);
        Ok(Run { name, what: format!("sent {how}"), seconds: report.seconds, tally, figures })
    }

    /// The same, by what somebody writes in an afternoon.
    fn plain_live(&mut self, name: &'static str, sink: Endpoint, pace: Pace) -> Result<Run, Stop> {
        let is_timed = !matches!(pace, Pace::Topspeed);
        let (limit, how) = self.asked(is_timed);
        let (sent, took) = timed(|| plain::send(&self.capture(Form::Prp), sink.into(), pace, limit))?;
        let plain::Sent { datagrams, late, last_late_ns, seconds } = sent;
        let mut figures = sending(datagrams as f64 / seconds, took.cpu_ns / datagrams.max(1) as f64);
        let ours = self.runs.iter().find(|run| run.name == TOPSPEED && !is_timed);
        if let Some(ours) = ours.and_then(|run| run.figures.get("datagrams_per_s")) {
            figures.add("ratio", "of the rate of replay --server", datagrams as f64 / seconds / ours);
        }
        let mut tally = Tally { planned: limit, sent: datagrams, answered: datagrams, ..Tally::default() };
        if is_timed {
            figures.add(DRIFT.0, DRIFT.1, last_late_ns as f64 / 1e3);
            tally.late = Percentiles::of(&late);
            self.late.push((name, late));
        }
        let paced = match pace {
            Pace::Topspeed => "",
            Pace::Until(_) => ", asleep until each is due",
            Pace::Sleeps(_) => {
                // What it had no time for is what this run shows, no fault.
                tally.planned = datagrams;
                figures.add("left_out", "not sent in this time", (limit - datagrams) as f64);
                ", asleep for as long as lies between two"
            }
        };
        tally.valid = tally.is_whole();
        let what = format!("sent {how} by one call of the kernel each{paced}");
        Ok(Run { name, what, seconds, tally, figures })
    }
}

const DRIFT: (&str, &str) = ("drift_us", "us that the last one was late");

/// What every live run is measured by.
fn sending(rate: f64, cpu_ns: f64) -> Figures {
    let mut figures = Figures::default();
    figures.add("datagrams_per_s", "datagrams a second", rate);
    figures.add("cpu_ns", "ns of CPU a datagram, waiting for its time included", cpu_ns);
    figures
}

fn draw(folder: &Path, late: &[(&'static str, Histogram<u64>)], seconds: u32) -> Result<(), Stop> {
    let plot = Plot {
        title: "Behind the schedule".to_owned(),
        along: "1 / (1 - quantile): 100 is p99",
        up: "microseconds",
        curves: late.iter().map(|(name, histogram)| Curve::of(name, histogram)).collect(),
    };
    plot.write(&folder.join("late.svg"))?;
    let histograms: Vec<_> = late.iter().map(|(name, histogram)| (*name, histogram)).collect();
    parts::keep(&folder.join("late.hlog"), seconds.into(), &histograms)
}
