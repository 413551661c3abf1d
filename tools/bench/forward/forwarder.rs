//! Who forwards: a real `serve`, a bare forwarder, or a process that somebody else has started.

use std::fs;
use std::str::FromStr;

use pushplane::id::Endpoint;
use pushplane::net::{Uring, uring_refusal};

use super::Bed;
use super::bare::{Bare, Way};
use super::operator::{Expected, Form, Operator};
use super::place::{Place, busy_ns, came_by};
use super::sink::Sink;
use crate::bench::served::Served;
use crate::{Stop, common};

/// A forwarder that somebody else has started.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    name: String,
    address: Endpoint,
    by: By,
}

/// Who forwards for somebody else.
#[derive(Clone, Debug)]
enum By {
    Process(u32),
    /// The kernel: what it forwards comes back by this device.
    Kernel(String),
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('=').and_then(|(name, rest)| Some((name, rest.rsplit_once('/')?)));
        let Some((name, (address, by))) = parts.filter(|(name, _)| !name.is_empty()) else {
            return Err("expected NAME=ADDRESS/PID, like nginx=127.0.0.1:18000/4711, or NAME=ADDRESS/DEVICE"
                .to_owned());
        };
        let by = match by.parse() {
            Ok(process) if fs::metadata(format!("/proc/{process}/task")).is_ok() => By::Process(process),
            Ok(process) => return Err(format!("there is no process {process}")),
            Err(_) if came_by(by).is_some() => By::Kernel(by.to_owned()),
            Err(_) => return Err(format!("expected a process or a network device, found {by:?}")),
        };
        let address = address.parse().map_err(|_| format!("expected an address, found {address:?}"))?;
        Ok(Self { name: name.to_owned(), address, by })
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
    form: Form,
    /// It is measured for latency only.
    pub(super) spins: bool,
    who: Who,
    /// All that this CPU does is its CPU time, not only what its threads do.
    whole_cpu: Option<usize>,
}

enum Who {
    Served(Served, Place),
    Bare(Bare),
    Other(By),
}

/// All of them whose names have `only` in them, each on the first CPU but those that others started.
pub(super) fn all(
    operator: &mut Operator,
    sink: &Sink,
    bed: &Bed,
    others: &[Named],
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
            all.push(bare(way, sink, bed)?);
        }
    }
    for (name, lines, what) in [
        ("pushplane", "io = \"io_uring\"", "serve"),
        ("pushplane_send", ONE_BY_ONE, "serve, receiving one by one"),
        ("pushplane_sockets", "io = \"socket\"", "serve over plain sockets"),
        ("pushplane_spin", "io = \"io_uring\"\nspin = 1000000", "serve, spinning"),
    ] {
        // A spinning one would be busy in the others' turns too, which shows where all that the CPU does is counted.
        let disturbs = bed.place.is_apart() && lines.contains("spin");
        if is_wanted(name) && !disturbs && (lines.contains("socket") || refused.is_none()) {
            all.push(serve(operator, (name, what), &[bed.first()], lines, bed)?);
        }
    }
    operator.settle();
    for Named { name, address, by } in others.iter().filter(|other| is_wanted(&other.name)) {
        let what = match by {
            By::Process(process) => format!("process {process}"),
            By::Kernel(_) if !bed.place.is_apart() => {
                return Err(Stop::Wrong(format!(
                    "--peer {name}: what the kernel does is no process's CPU time; expected --namespace with it"
                )));
            }
            By::Kernel(device) => format!("the kernel, seen from {device}"),
        };
        // As long as the program runs: reports name runs by words that never change.
        let name: &'static str = name.clone().leak();
        let (who, address, whole_cpu) = (Who::Other(by.clone()), *address, bed.whole_cpu());
        all.push(Forwarder { name, what, address, form: Form::Bare, spins: false, who, whole_cpu });
    }
    Ok(all)
}

/// How `serve` receives where senders do not batch.
pub(super) const ONE_BY_ONE: &str = "coalesce = \"send\"";

/// A bare forwarder on the first CPU.
pub(super) fn bare(way: Way, sink: &Sink, bed: &Bed) -> Result<Forwarder, Stop> {
    let (hops, cpu) = (sink.hops(), bed.first());
    let socket = bed.place.socket()?;
    let bare = Bare::start(way, socket, &hops, cpu)?;
    let (name, what, address, whole_cpu) = (way.name(), way.text().to_owned(), bare.address, bed.whole_cpu());
    Ok(Forwarder { name, what, address, form: Form::Bare, spins: false, who: Who::Bare(bare), whole_cpu })
}

/// `serve` under this name, which is so in words: a shard on each of these CPUs, and these lines in its configuration.
pub(super) fn serve(
    operator: &mut Operator,
    (name, what): (&'static str, &str),
    cpus: &[usize],
    lines: &str,
    bed: &Bed,
) -> Result<Forwarder, Stop> {
    let address = bed.place.free_address()?;
    let config = operator.configure(name, address, &format!("shards = {cpus:?}\n{lines}"))?;
    let served = bed.place.inside(|| Served::start(&config, bed.clock))?;
    let (who, whole_cpu) = (Who::Served(served, bed.place.clone()), bed.whole_cpu());
    let (what, form, spins) = (what.to_owned(), operator.form, name.ends_with("spin"));
    Ok(Forwarder { name, what, address, form, spins, who, whole_cpu })
}

impl Forwarder {
    /// What must become of the operator's PUSHes, in some turn: others choose next hops by themselves.
    pub(super) fn expected(&self, operator: &Operator) -> Expected {
        let hop_is_said = !matches!(self.who, Who::Other(_));
        Expected { form: self.form, payload: operator.size.payload, hop_is_said, turn: 0 }
    }

    /// The server that it is, if it is one.
    pub(super) const fn served(&self) -> Option<&Served> {
        match &self.who {
            Who::Served(served, _) => Some(served),
            Who::Bare(_) | Who::Other(_) => None,
        }
    }

    /// CPU time that it took so far, nanoseconds.
    pub(super) fn cpu_ns(&self) -> u64 {
        if let Some(cpu) = self.whole_cpu {
            return busy_ns(cpu);
        }
        match &self.who {
            Who::Served(served, _) => served.cpu_ns("shard-"),
            Who::Bare(bare) => ran_ns(&format!("/proc/self/task/{}", bare.thread())),
            Who::Other(By::Process(process)) => {
                let tasks = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
                tasks.map(|task| ran_ns(&task.path().to_string_lossy())).sum()
            }
            // No thread's.
            Who::Other(By::Kernel(_)) => 0,
        }
    }

    /// How many datagrams it has forwarded, where that is known; else the next hops have to know.
    pub(super) fn forwarded(&self) -> Result<Option<u64>, Stop> {
        match &self.who {
            Who::Served(served, place) => Ok(Some(place.inside(|| served.counts())?.of("delivered_total"))),
            Who::Bare(bare) => Ok(Some(bare.forwarded())),
            Who::Other(By::Process(_)) => Ok(None),
            Who::Other(By::Kernel(device)) => Ok(came_by(device)),
        }
    }

    /// Datagrams that it dropped, and whether its accounts are closed.
    pub(super) fn accounts(&self) -> Result<(u64, bool), Stop> {
        let Who::Served(served, place) = &self.who else { return Ok((0, true)) };
        let counts = place.inside(|| served.counts())?;
        let ended = counts.of("delivered_total") + counts.of("in_flight");
        Ok((counts.of("rx_datagrams_total").saturating_sub(ended), counts.is_closed()))
    }
}

/// Time on a CPU of a thread, by its folder in `/proc`.
fn ran_ns(thread: &str) -> u64 {
    let text = fs::read_to_string(format!("{thread}/schedstat")).unwrap_or_default();
    text.split(' ').next().and_then(|ran| ran.parse().ok()).unwrap_or(0)
}
