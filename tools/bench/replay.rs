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

use self::traffic::{APP, Form, Traffic};
use super::host::kib;
use super::plot::{self, Curve, Plot};
use super::report::{Figures, Report, Run};
use crate::outcome::Tally;
use crate::replay::parts::{self, Offline, Timing};
use crate::{Stop, common};

/// How fast captures are replayed, offline and at a server
///
/// Makes an operator and captures of pushes to its users in a temporary folder, and replays them: through the engine,
/// beside a plain loop that reads and looks up; and at a socket on loopback that nobody reads, as fast as it goes and
/// at a fixed rate.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  pushplane bench replay
  pushplane bench replay --datagrams 1000000 --users 10000 --plots plots --json")]
pub(crate) struct Args {
    /// Datagrams of each capture
    #[arg(long, value_name = "N", default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1..=1 << 32))]
    datagrams: u64,
    /// Users of the operator
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(100..=1 << 26))]
    users: u64,
    /// Bytes of payload
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(..=1400))]
    payload: u16,
    /// Messages a second of the run at a fixed rate
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// How long the run at a fixed rate takes, in seconds
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Where the temporary folder is made: each capture has 16 bytes and a frame a datagram [default: the system's]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Keep the folder, with prp.pcap, plain.pcap and the tables bench.ppt
    #[arg(long)]
    keep: bool,
    /// Same seed, same captures
    #[arg(long, value_name = "S", default_value_t = 1)]
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
    let bench = Bench { args, folder: folder.path().to_owned(), traffic };
    let prp = bench.offline(Form::Prp, "prp", "PRP as it is")?;
    let plain = bench.plain(&prp)?;
    let (live, late) = bench.live()?;
    let as_push = bench.offline(Form::Plain, "as-push", "plain UDP to users' addresses, made pushes")?;
    let mut runs = vec![prp, plain, as_push];
    runs.extend(live);
    if let Some(plots) = &args.plots {
        draw(plots, &late, args.seconds)?;
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
    Report::new("replay", settings, runs).say(args.json)
}

struct Bench<'a> {
    args: &'a Args,
    folder: PathBuf,
    traffic: Traffic,
}

/// What a part took.
struct Took {
    seconds: f64,
    /// Of this thread on a CPU.
    cpu_ns: f64,
}

fn timed<T>(part: impl FnOnce() -> Result<T, Stop>) -> Result<(T, Took), Stop> {
    let clock = Clock::start();
    let (start, before) = (clock.now().mono_ns, thread_cpu_ns());
    let done = part()?;
    let cpu_ns = thread_cpu_ns().saturating_sub(before) as f64;
    let seconds = (clock.now().mono_ns - start) as f64 / 1e9;
    Ok((done, Took { seconds, cpu_ns }))
}

/// CPU time of this thread so far.
fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    (time.tv_sec * 1_000_000_000 + time.tv_nsec).cast_unsigned()
}

fn memory_peak() -> u64 {
    kib("/proc/self/status", "VmHWM")
}

impl Bench<'_> {
    fn capture(&self, form: Form) -> PathBuf {
        self.folder.join(match form {
            Form::Prp => "prp.pcap",
            Form::Plain => "plain.pcap",
        })
    }

    /// Reading alone, and the whole replay.
    fn offline(&self, form: Form, name: &'static str, what: &str) -> Result<Run, Stop> {
        let capture = self.capture(form);
        self.traffic.write(&capture, form, self.args.datagrams)?;
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
    fn plain(&self, whole: &Run) -> Result<Run, Stop> {
        let lookup = self.traffic.lookup();
        let (found, took) = timed(|| plain::replay(&self.capture(Form::Prp), &lookup))?;
        let read = found.datagrams.max(1) as f64;
        let mut figures = Figures::default();
        figures.add("datagrams_per_s", "datagrams a second, one core", read * 1e9 / took.cpu_ns);
        figures.add("cpu_ns", "ns of CPU a datagram", took.cpu_ns / read);
        if let Some(ours) = whole.figures.get("cpu_ns") {
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
        Ok(Run { name: "plain", what, seconds: took.seconds, tally, figures })
    }

    /// At a socket that nobody reads: as fast as it goes, and at a rate.
    fn live(&self) -> Result<(Vec<Run>, Histogram<u64>), Stop> {
        let failed = |error| Stop::Failed(format!("loopback cannot be bound: {error}"));
        let sink = UdpSocket::bind("127.0.0.1:0").map_err(failed)?;
        let server = Endpoint::from(sink.local_addr().map_err(failed)?);
        let capture = self.capture(Form::Prp);
        let send = |timing, speed, limit: u64| parts::live(&capture, server, timing, speed, limit);
        let rate = f64::from(self.args.rate);
        let seconds = u64::from(self.args.seconds);
        let (topspeed, _) = send(Timing::Topspeed, None, self.args.datagrams)?;
        let (fixed, late) = send(Timing::Pps, Some(rate), u64::from(self.args.rate) * seconds)?;
        let run = |name, what: String, report: parts::Live| {
            let mut figures = Figures::default();
            figures.add("datagrams_per_s", "datagrams a second", report.rate);
            figures.add("drift_us", "us that the last one was late", report.drift_ns as f64 / 1e3);
            figures.add("retried", "sends that the kernel had no room for at first", report.retried as f64);
            let seconds = report.seconds;
            // Nobody was to answer.
            let mut tally = report.tally;
            (tally.lost, tally.answered) = (0, tally.sent);
            Run { name, what, seconds, tally, figures }
        };
        let runs = vec![
            run("topspeed", "sent as fast as it goes".to_owned(), topspeed),
            run("rate", format!("sent at {rate} a second"), fixed),
        ];
        Ok((runs, late))
    }
}

fn draw(folder: &Path, late: &Histogram<u64>, seconds: u32) -> Result<(), Stop> {
    let plot = Plot {
        title: "Behind the schedule".to_owned(),
        along: "1 / (1 - quantile): 100 is p99",
        up: "microseconds",
        curves: vec![Curve::of("late", late)],
    };
    plot.write(&folder.join("late.svg"))?;
    parts::keep(&folder.join("late.hlog"), seconds.into(), &[("late", late)])
}
