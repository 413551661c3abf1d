//! Who forwards: a real `serve`, a bare forwarder, or a process that somebody else has started.

use std::fs;
use std::str::FromStr;

use pushplane::clock::Clock;
use pushplane::id::Endpoint;
use pushplane::net::{Uring, uring_refusal};

use super::bare::{Bare, Way};
use super::operator::{Form, Operator};
use super::sink::Sink;
use crate::bench::served::Served;
use crate::{Stop, common};

/// A forwarder that somebody else has started.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    name: String,
    address: Endpoint,
    process: u32,
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('=').and_then(|(name, rest)| Some((name, rest.rsplit_once('/')?)));
        let Some((name, (address, process))) = parts.filter(|(name, _)| !name.is_empty()) else {
            return Err("expected NAME=ADDRESS/PID, like nginx=127.0.0.1:18000/4711".to_owned());
        };
        let process: u32 = process.parse().map_err(|_| format!("expected a process, found {process:?}"))?;
        if fs::metadata(format!("/proc/{process}/task")).is_err() {
            return Err(format!("there is no process {process}"));
        }
        let address = address.parse().map_err(|_| format!("expected an address, found {address:?}"))?;
        Ok(Self { name: name.to_owned(), address, process })
    }
}

/// A forwarder that is measured.
pub(super) struct Forwarder {
    pub(super) name: &'static str,
    /// What it is, in words.
    pub(super) what: String,
    /// Where it listens.
    pub(super) address: Endpoint,
    /// How what it forwards looks.
    pub(super) form: Form,
    /// It is measured for latency only.
    pub(super) spins: bool,
    who: Who,
}

enum Who {
    Served(Served),
    Bare(Bare),
    Other(u32),
}

/// All of them whose names have `only` in them, each on this CPU but those that others started.
pub(super) fn all(
    operator: &mut Operator,
    sink: &Sink,
    others: &[Named],
    cpu: usize,
    clock: Clock,
    only: Option<&str>,
) -> Result<Vec<Forwarder>, Stop> {
    let refused = Uring::probe().err();
    if let Some(error) = &refused {
        common::note(format_args!("SKIPPED, all that use io_uring: {}", uring_refusal(error)));
    }
    let is_wanted = |name: &str| only.is_none_or(|only| name.contains(only));
    let mut all = Vec::new();
    for way in Way::ALL {
        if is_wanted(way.name()) && (way == Way::Batches || refused.is_none()) {
            all.push(bare(way, sink, cpu)?);
        }
    }
    for (name, lines, what) in [
        ("pushplane", "io = \"io_uring\"", "serve"),
        ("pushplane_send", ONE_BY_ONE, "serve, receiving one by one"),
        ("pushplane_sockets", "io = \"socket\"", "serve over plain sockets"),
        ("pushplane_spin", "io = \"io_uring\"\nspin = 1000000", "serve, spinning"),
    ] {
        if is_wanted(name) && (lines.contains("socket") || refused.is_none()) {
            all.push(serve(operator, (name, what), &[cpu], lines, clock)?);
        }
    }
    operator.settle();
    for Named { name, address, process } in others.iter().filter(|other| is_wanted(&other.name)) {
        // As long as the program runs: reports name runs by words that never change.
        let name: &'static str = name.clone().leak();
        let (what, who) = (format!("process {process}"), Who::Other(*process));
        all.push(Forwarder { name, what, address: *address, form: Form::Bare, spins: false, who });
    }
    Ok(all)
}

/// How `serve` receives where senders do not batch.
pub(super) const ONE_BY_ONE: &str = "coalesce = \"send\"";

/// A bare forwarder on this CPU.
pub(super) fn bare(way: Way, sink: &Sink, cpu: usize) -> Result<Forwarder, Stop> {
    let bare = Bare::start(way, &sink.hops(), cpu)?;
    let (name, what, address) = (way.name(), way.text().to_owned(), bare.address);
    Ok(Forwarder { name, what, address, form: Form::Bare, spins: false, who: Who::Bare(bare) })
}

/// `serve` under this name, which is so in words: a shard on each of these CPUs, and these lines in its configuration.
pub(super) fn serve(
    operator: &mut Operator,
    (name, what): (&'static str, &str),
    cpus: &[usize],
    lines: &str,
    clock: Clock,
) -> Result<Forwarder, Stop> {
    let address = super::free_address()?;
    let config = operator.configure(name, address, &format!("shards = {cpus:?}\n{lines}"))?;
    let who = Who::Served(Served::start(&config, clock)?);
    let (what, spins) = (what.to_owned(), name.ends_with("spin"));
    Ok(Forwarder { name, what, address, form: operator.form, spins, who })
}

impl Forwarder {
    /// CPU time of its threads so far, nanoseconds.
    pub(super) fn cpu_ns(&self) -> u64 {
        match &self.who {
            Who::Served(served) => served.cpu_ns("shard-"),
            Who::Bare(bare) => ran_ns(&format!("/proc/self/task/{}", bare.thread())),
            Who::Other(process) => {
                let tasks = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
                tasks.map(|task| ran_ns(&task.path().to_string_lossy())).sum()
            }
        }
    }

    /// How many datagrams it has forwarded, where it says so; else the next hops have to know.
    pub(super) fn forwarded(&self) -> Result<Option<u64>, Stop> {
        match &self.who {
            Who::Served(served) => served.counts().map(|counts| Some(counts.of("delivered_total"))),
            Who::Bare(bare) => Ok(Some(bare.forwarded())),
            Who::Other(_) => Ok(None),
        }
    }

    /// Datagrams that it dropped, and whether its accounts are closed.
    pub(super) fn accounts(&self) -> Result<(u64, bool), Stop> {
        let Who::Served(served) = &self.who else { return Ok((0, true)) };
        let counts = served.counts()?;
        let ended = counts.of("delivered_total") + counts.of("in_flight");
        Ok((counts.of("rx_datagrams_total").saturating_sub(ended), counts.is_closed()))
    }
}

/// Time on a CPU of a thread, by its folder in `/proc`.
fn ran_ns(thread: &str) -> u64 {
    let text = fs::read_to_string(format!("{thread}/schedstat")).unwrap_or_default();
    text.split(' ').next().and_then(|ran| ran.parse().ok()).unwrap_or(0)
}
