//! What `pushplane show` tells of a running server, as the control socket answers it in JSON. The figures are those of
//! `/metrics` and of the "ready" line: read by the same functions. Nothing of it comes from a datagram.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::id::Endpoint;
use crate::metrics::Counters;
use crate::reason::Reason;
use crate::server::State;
use crate::table::memory::Pages;

/// All that is shown; of one part, that part.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Shown {
    /// Who serves, and whether.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<ShownServer>,
    /// What it serves from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tables: Option<ShownTables>,
    /// What came, and what became of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shards: Option<ShownShards>,
}

/// Who serves, and whether.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ShownServer {
    /// `server.name`.
    pub name: String,
    /// Of pushplane.
    pub version: String,
    /// The process.
    pub pid: u32,
    /// `starting`, `ready`, `draining`; `degraded`: the journal cannot be written, registrations are refused and pushes go
    /// on; `failed`: a shard has ended.
    pub state: String,
    /// When it started, RFC 3339.
    pub started: String,
    /// Seconds since.
    pub uptime_s: u64,
    /// Where it receives.
    pub listen: Vec<String>,
    /// Where it listens to RADIUS accounting.
    pub radius: Vec<String>,
    /// Where `/metrics` is.
    pub metrics: Option<String>,
    /// The control socket.
    pub control: String,
}

/// What it serves from.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ShownTables {
    /// Which one serves, from 1.
    pub generation: u64,
    /// The image's checksum.
    pub digest: String,
    /// The image, or the directory of sources, that they were read from.
    pub source: String,
    /// Since when they serve, RFC 3339.
    pub loaded: String,
    /// Bytes of all that this generation takes: the image and what is made of it.
    pub bytes: usize,
    /// Bytes of the image.
    pub image_bytes: usize,
    /// Old generations that somebody still reads.
    pub generations_retired: usize,
    /// Each table, and what tables share; the live ones last.
    pub tables: Vec<ShownTable>,
    /// What lies on which pages.
    pub memory: Vec<ShownMemory>,
    /// What terminals registered.
    pub live: ShownLive,
}

/// A table, or what tables share.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ShownTable {
    /// Its name.
    pub table: String,
    /// Its rows, if it has any.
    pub entries: Option<usize>,
    /// What it takes, the live ones by now.
    pub bytes: usize,
}

/// Memory of the tables.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ShownMemory {
    /// Of what.
    pub what: String,
    /// How much of it lies on which pages.
    #[serde(flatten)]
    pub pages: Pages,
    /// The same in words.
    pub on: String,
}

/// What terminals registered.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ShownLive {
    /// Terminals that are registered.
    pub bindings: usize,
    /// `limits.bindings`: how many may be, or may have been within ten minutes.
    pub bindings_max: usize,
    /// Entries in use: bindings, those that ended of late, Push IDs that are lent.
    pub used: usize,
    /// Entries that there is room for.
    pub slots: usize,
}

/// What came, and what became of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ShownShards {
    /// Each shard.
    pub shards: Vec<ShownShard>,
    /// The controller, which takes what is rarer than a PUSH.
    pub controller: ShownCounters,
    /// The fan-out, which takes messages for groups.
    pub fanout: ShownCounters,
    /// All of them together.
    pub all: ShownCounters,
    /// What was dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Datagrams that the kernel dropped before they were received.
    pub kernel_rx_drops: u64,
}

/// A shard.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ShownShard {
    /// Its number.
    pub shard: usize,
    /// Where it runs.
    pub cpu: usize,
    /// What it receives and sends over; none until it serves.
    pub io: Option<String>,
    /// What it counted.
    #[serde(flatten)]
    pub counters: ShownCounters,
}

/// What one thread counted, or all did: received + taken = delivered + forwarded + answered + dropped + handed on + in
/// flight, and the rest is unaccounted. Of all together, what is on its way between two threads is in flight.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct ShownCounters {
    /// Datagrams received.
    pub received: u64,
    /// Messages taken from another thread.
    pub taken: u64,
    /// Datagrams that the kernel took, copies and REJECTs included.
    pub sent: u64,
    /// Messages sent to at least one terminal.
    pub delivered: u64,
    /// Messages sent to another Push server only.
    pub forwarded: u64,
    /// Messages answered by this server.
    pub answered: u64,
    /// Messages dropped.
    pub dropped: u64,
    /// Messages handed to another thread.
    pub handed_on: u64,
    /// Messages on their way.
    pub in_flight: u64,
    /// Messages in no counter: always 0.
    pub unaccounted: i64,
}

/// What does not change while a server serves.
#[derive(Debug)]
pub(in crate::server) struct About {
    name: String,
    listen: Vec<String>,
    radius: Vec<String>,
    metrics: Option<String>,
    control: String,
    bindings_max: usize,
}

impl About {
    /// Of this server, whose admin page is there.
    pub(super) fn new(config: &Config, page: Option<Endpoint>) -> Self {
        let all = |listen: &[Endpoint]| listen.iter().map(ToString::to_string).collect();
        Self {
            name: config.name.clone(),
            listen: all(&config.listen),
            radius: config.radius.as_ref().map_or_else(Vec::new, |radius| all(&radius.listen)),
            metrics: page.map(|at| format!("http://{at}/metrics")),
            control: whole(&config.control),
            bindings_max: config.limits.bindings,
        }
    }
}

/// A path that means the same in every folder.
fn whole(path: &std::path::Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

fn rfc3339(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms / 1000).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
    time.map_or_else(String::new, |time| time.to_string())
}

impl Shown {
    /// What is asked for by this path, if anything is.
    pub(super) fn of(path: &str, about: &About, state: &State) -> Option<Self> {
        let all = path == "/show";
        let is = |part| all || path.strip_prefix("/show/") == Some(part);
        let shown = Self {
            server: is("server").then(|| ShownServer::of(about, state)),
            tables: is("tables").then(|| ShownTables::of(about, state)),
            shards: is("shards").then(|| ShownShards::of(state)),
        };
        (shown != Self::default()).then_some(shown)
    }
}

impl ShownServer {
    fn of(about: &About, state: &State) -> Self {
        let now = state.clock.now();
        let is = |flag: &std::sync::atomic::AtomicBool| flag.load(Ordering::SeqCst);
        let said = match () {
            () if is(&state.failed) => "failed",
            () if is(&state.stop) => "draining",
            () if is(&state.poisoned) => "degraded",
            () if is(&state.ready) => "ready",
            () => "starting",
        };
        Self {
            name: about.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            state: said.to_owned(),
            started: rfc3339(state.started.unix_ms),
            uptime_s: now.mono_ns.saturating_sub(state.started.mono_ns) / 1_000_000_000,
            listen: about.listen.clone(),
            radius: about.radius.clone(),
            metrics: about.metrics.clone(),
            control: about.control.clone(),
        }
    }
}

impl ShownTables {
    fn of(about: &About, state: &State) -> Self {
        let (facts, memory) = state.measure();
        let [bindings, used, slots] = state.live();
        // Whatever the generation does not have is the live tables'.
        let of_live = |(what, _): &&(&str, Pages)| facts.extents.iter().all(|(own, _)| own != what);
        let live_bytes = memory.iter().filter(of_live).map(|(_, pages)| pages.taken_bytes()).sum();
        let table = |(table, entries, bytes): &(&str, Option<usize>, usize)| ShownTable {
            table: (*table).to_owned(),
            entries: *entries,
            bytes: *bytes,
        };
        let each = |(what, pages): (&str, Pages)| ShownMemory {
            what: what.to_owned(),
            pages,
            on: pages.to_string(),
        };
        Self {
            generation: facts.generation,
            digest: format!("{:032x}", facts.digest),
            source: whole(&facts.source),
            loaded: rfc3339(facts.loaded_ms),
            bytes: facts.bytes,
            image_bytes: facts.image_bytes,
            generations_retired: facts.retired,
            tables: facts.tables.iter().chain(&[("live", Some(bindings), live_bytes)]).map(table).collect(),
            memory: memory.into_iter().map(each).collect(),
            live: ShownLive { bindings, bindings_max: about.bindings_max, used, slots },
        }
    }
}

impl ShownShards {
    fn of(state: &State) -> Self {
        let counted = state.counted();
        let ports = state.ports.get();
        let shard = |(shard, (cpu, counters)): (usize, (&usize, &Counters))| ShownShard {
            shard,
            cpu: *cpu,
            io: ports.map(|ports| ports[shard].clone()),
            counters: counters.into(),
        };
        let all = counted.sum();
        let reasons = Reason::ALL.iter();
        Self {
            shards: state.shard_cpus.iter().zip(&counted.shards).enumerate().map(shard).collect(),
            controller: (&counted.controller).into(),
            fanout: (&counted.fanout).into(),
            dropped: reasons.map(|why| (why.name().to_owned(), all.dropped[why.index()])).collect(),
            kernel_rx_drops: all.kernel_drops,
            all: ShownCounters { in_flight: all.under_way(), ..(&all).into() },
        }
    }
}

impl From<&Counters> for ShownCounters {
    fn from(counters: &Counters) -> Self {
        Self {
            received: counters.rx,
            taken: counters.taken,
            sent: counters.tx,
            delivered: counters.delivered,
            forwarded: counters.forwarded,
            answered: counters.answered,
            dropped: counters.dropped_total(),
            handed_on: counters.punted,
            in_flight: counters.in_flight,
            unaccounted: counters.unaccounted(),
        }
    }
}
