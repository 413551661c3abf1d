//! Replay at a live server: what was captured is sent again, on a schedule, and what comes back is matched.

mod answers;
pub(super) mod report;
pub(super) mod schedule;
mod sender;
mod source;

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use pushplane::clock::Clock;
use pushplane::id::Endpoint;
use pushplane::net::{self, Port, Udp, Uring};
use pushplane::packet::{Burst, FramePool};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use signal_hook::consts::{SIGINT, SIGTERM};

use self::answers::Answers;
use self::report::{Bounds, Report};
use self::schedule::{Schedule, Timing};
use self::sender::{Orders, Sender, Sent};
use self::source::{Plan, Prepared};
use super::messages::{Choice, Messages, World};
use super::offline;
use crate::client::GivenKey;
use crate::outcome::Percentiles;
use crate::{Stop, capture, common};

/// The longest UDP payload: whatever a capture holds can be sent.
const DATAGRAM_MAX: usize = 65_507;
/// Datagrams on their way into or out of the kernel.
const FRAMES: usize = 1024;
/// Bytes of the kernel's buffers, if it gives them.
const SOCKET_BYTES: usize = 4 << 20;
/// Addresses that are sent from besides the first.
const SOCKETS_MAX: usize = 255;

/// How to replay at a live server.
#[derive(clap::Args)]
pub(super) struct Orderly {
    /// How fast to send
    #[arg(long, value_enum, default_value_t = Timing::Original, requires = "server")]
    timing: Timing,
    /// How many times as fast as captured, or messages a second
    #[arg(long, value_name = "X", requires = "server")]
    speed: Option<f64>,
    /// Send the capture so often; 0: until --duration is over
    #[arg(long = "loop", value_name = "N", default_value_t = 1, requires = "server")]
    loops: u64,
    /// Seconds between two rounds
    #[arg(long, value_name = "S", default_value_t = 0.0, requires = "server", value_parser = seconds)]
    loop_delay: f64,
    /// Seconds after which nothing more is sent
    #[arg(long, value_name = "S", requires = "server", value_parser = seconds)]
    duration: Option<f64>,
    /// The longest time between two messages, as captured, in seconds: longer ones are shortened
    #[arg(long, value_name = "S", requires = "server", value_parser = seconds)]
    max_gap: Option<f64>,
    /// How late one message in a hundred may be, in milliseconds; later, the run is invalid
    #[arg(long, value_name = "MS", default_value_t = 1.0, requires = "server", value_parser = seconds)]
    max_lag: f64,
    /// Seconds that an answer is waited for
    #[arg(long, value_name = "S", default_value_t = 2.0, requires = "server", value_parser = seconds)]
    wait: f64,
    /// Message identifiers begin at a number made of this; the same seed sends the same bytes [default: by chance]
    #[arg(long, value_name = "N", requires = "server")]
    seed: Option<u64>,
    /// Sign every message with this key
    #[arg(long, value_name = "ID=HEX", requires = "server")]
    key: Option<GivenKey>,
    /// Send from this address; those that --map-addr gives are sent from besides
    #[arg(long, value_name = "ADDRESS", requires = "server")]
    bind: Option<Endpoint>,
    /// Keep the histograms of lateness and latency, as an HdrHistogram log
    #[arg(long, value_name = "FILE", requires = "server")]
    histograms: Option<PathBuf>,
}

impl Orderly {
    /// Once, with everything else as it is when nothing is said, and without waiting for what never comes.
    pub(super) fn of(timing: Timing, speed: Option<f64>) -> Self {
        Self {
            timing,
            speed,
            loops: 1,
            loop_delay: 0.0,
            duration: None,
            max_gap: None,
            max_lag: 1.0,
            wait: 0.0,
            seed: Some(1),
            key: None,
            bind: None,
            histograms: None,
        }
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.0..=1e9).contains(seconds));
    seconds.ok_or_else(|| "expected a number from 0 to 1 000 000 000".to_owned())
}

fn nanoseconds(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

pub(super) fn run(
    choice: &Choice,
    orderly: &Orderly,
    server: Endpoint,
    world: World,
    json: bool,
) -> Result<(), Stop> {
    let (report, _) = replay(choice, orderly, server, world)?;
    if json {
        common::print_json(&report)?;
    } else {
        common::print(|out| report.print(out))?;
    }
    if report.tally.valid { Ok(()) } else { Err(Stop::No) }
}

/// What became of it, and how late each message was, nanoseconds.
pub(super) fn replay(
    choice: &Choice,
    orderly: &Orderly,
    server: Endpoint,
    world: World,
) -> Result<(Report, Histogram<u64>), Stop> {
    let schedule = Schedule::new(
        orderly.timing,
        orderly.speed,
        orderly.max_gap.map(nanoseconds),
        nanoseconds(orderly.loop_delay),
    )
    .map_err(Stop::Wrong)?;
    if orderly.loops != 1 && capture::is_stdin(&choice.capture) {
        return Err(Stop::Wrong("--loop: standard input can be read once only; name a file".to_owned()));
    }
    if orderly.loops == 0 && orderly.duration.is_none() && choice.limit.is_none() {
        return Err(Stop::Wrong("--loop 0 needs --duration or --limit, or it never ends".to_owned()));
    }
    if let Some(path) = &orderly.histograms {
        // Told before an hour of sending, not after it.
        File::create(path).map_err(|error| common::fault(path, format!("cannot be written: {error}")))?;
    }
    let (sockets, addresses) = sockets(choice, orderly, server, &world)?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|error| Stop::Failed(format!("signals cannot be handled: {error}")))?;
    }
    let first_id = StdRng::seed_from_u64(orderly.seed.unwrap_or_else(crate::chance)).random();
    let mut answers = Answers::new(first_id, nanoseconds(orderly.wait));
    let duration_ns = orderly.duration.map(nanoseconds);
    let orders = Orders {
        server,
        timed: schedule.is_timed(),
        step: orderly.timing == Timing::Step,
        duration_ns,
        key: orderly.key.clone(),
    };
    let plan = Plan {
        choice: Choice { limit: None, ..choice.clone() },
        world,
        schedule,
        loops: orderly.loops,
        duration_ns: duration_ns.filter(|_| schedule.is_timed()),
        limit: choice.limit.unwrap_or(u64::MAX),
        key: orderly.key.clone(),
        sockets,
        is_over: false,
        unsigned: 0,
    };
    let bounds = Bounds { timed: schedule.is_timed(), max_lag_ns: nanoseconds(orderly.max_lag / 1e3) };
    let start_ms = Clock::start().now().unix_ms;
    let timed_out = duration_ns.is_some() && !bounds.timed;
    let (mut prepared, sent, port) = send(plan, &addresses, orders, &mut answers, &stop)?;
    if timed_out {
        // What was ready beyond the time was never due.
        prepared.planned = prepared.planned.min(sent.sent);
    }
    if prepared.planned == 0 {
        common::note(offline::nothing_to_replay(choice));
    }
    let (tally, invalid) = report::tally(&prepared, &sent, &answers, &bounds);
    let seconds = sent.took_ns as f64 / 1e9;
    if let Some(path) = &orderly.histograms {
        let histograms = [("late", &sent.late), ("latency", &answers.latency), ("service", &answers.service)];
        let start = SystemTime::UNIX_EPOCH + Duration::from_millis(start_ms);
        report::keep(path, start, seconds, &histograms)
            .map_err(|error| common::fault(path, format!("cannot be written: {error}")))?;
    }
    let report = Report {
        capture: capture::name(&choice.capture),
        server: server.to_string(),
        timing: orderly.timing,
        speed: orderly.speed,
        loops: prepared.loops,
        port,
        rate: tally.sent as f64 / seconds.max(1e-9),
        tally,
        silent: answers.counts.silent,
        more_answers: answers.counts.more,
        strange: answers.counts.strange,
        service: Percentiles::of(&answers.service),
        late_histogram: report::table(&sent.late),
        drift_ns: sent.last_late_ns,
        seconds,
        retried: sent.retried,
        failed: sent.failed,
        kernel_drops: sent.kernel_drops,
        skipped_answers: prepared.skipped_answers,
        invalid,
        contents: prepared.contents,
    };
    Ok((report, sent.late))
}

/// The capture is read on one thread, and sent on this one.
fn send(
    plan: Plan,
    addresses: &[Endpoint],
    orders: Orders,
    answers: &mut Answers,
    stop: &AtomicBool,
) -> Result<(Prepared, Sent, String), Stop> {
    let failed = |error: &dyn std::fmt::Display| Stop::Failed(format!("the replay cannot go on: {error}"));
    let mut bound = net::bind_shards(addresses, 1, SOCKET_BYTES)
        .map_err(|error| Stop::Wrong(format!("the sender cannot be bound: {error}")))?;
    for warning in &bound.warnings {
        common::note(format_args!("warning: {warning}"));
    }
    let mut burst = Burst::new(FramePool::new(FRAMES, DATAGRAM_MAX));
    let (port, described): (Box<dyn Port>, String) =
        match Uring::new(std::mem::take(&mut bound.shards[0]), &mut burst) {
            Ok(port) => {
                let described = port.describe();
                (Box::new(port), described)
            }
            Err(refused) => {
                let port = Udp::new(refused.listeners, &burst);
                let described = port.describe();
                (Box::new(port), described)
            }
        };
    let (to, batches) = source::channel();
    std::thread::scope(|scope| {
        let prepared = scope.spawn(move || source::prepare(plan, &to, stop));
        let sent = Sender::new(port, burst, &batches, answers, orders).run(stop);
        stop.store(true, Ordering::Relaxed);
        drop(batches);
        let prepared = prepared.join().map_err(|_| failed(&"its reader panicked"))??;
        Ok((prepared, sent.map_err(|error| failed(&error))?, described))
    })
}

/// Where to send from: the address that reaches the server, or the one asked for, and every one that a captured
/// sender's is mapped to.
fn sockets(
    choice: &Choice,
    orderly: &Orderly,
    server: Endpoint,
    world: &World,
) -> Result<(HashMap<Endpoint, u8>, Vec<Endpoint>), Stop> {
    let first = match orderly.bind {
        Some(bind) => bind,
        None => Endpoint::new(reaches(server)?, 0),
    };
    let mut addresses = vec![first];
    if choice.map_addr.is_empty() {
        return Ok((HashMap::new(), addresses));
    }
    if capture::is_stdin(&choice.capture) {
        return Err(Stop::Wrong(
            "--map-addr: the senders must be known before the first is sent for; name a file instead of standard \
             input"
                .to_owned(),
        ));
    }
    let mut senders = BTreeSet::new();
    let mut messages = Messages::open(choice, world)?;
    while let Some(message) = messages.next() {
        if message.mapped && senders.insert(message.from) && senders.len() > SOCKETS_MAX {
            return Err(Stop::Wrong(format!(
                "--map-addr: at most {SOCKETS_MAX} addresses can be sent from, the capture has more; --include \
                 chooses among its senders"
            )));
        }
    }
    addresses.extend(senders.iter().filter(|sender| **sender != first));
    let sockets = (0..).zip(&addresses).map(|(at, address)| (*address, at)).collect();
    Ok((sockets, addresses))
}

/// The address of this host that the kernel sends from to there.
fn reaches(server: Endpoint) -> Result<IpAddr, Stop> {
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let asked = UdpSocket::bind(any)
        .and_then(|socket| socket.connect(SocketAddr::from(server)).and_then(|()| socket.local_addr()));
    asked
        .map(|address| address.ip())
        .map_err(|error| Stop::Wrong(format!("--server {server} cannot be reached: {error}")))
}
