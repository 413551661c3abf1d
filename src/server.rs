//! Assembly: where the network and the plane meet.
//!
//! ```text
//!  socket ─► Shard (one pinned thread a core) ─► socket
//!               ▲ Tables, one generation a burst        │ Board: counters of one moment
//!               │                                       ▼
//!  Server (the one writer: publishes, frees) ◄── admin (HTTP: /metrics, /live, /ready; on the control socket /show too)
//!
//!  Shards ─► rings of what is rarer than a PUSH ─► Controller (one thread: engine, journal, live tables) ─► sockets
//!  RADIUS listeners ─► inboxes ──────────────────────►┘└─► Fanout (one thread: copies for groups) ─► sockets
//! ```
//!
//! A [`Shard`] is one core's loop over any port, a [`Controller`] the one writer over any disk; [`Server`] runs
//! shards over the kernel's ports and a controller over its files, each on a thread of its own, and replaces
//! their tables while they serve.

mod admin;
mod controller;
mod fanout;
mod radius;
mod shard;
mod thread;

use std::fmt;
use std::io;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use admin::socket::ControlSocket;
use fanout::{Desk, Fanout};

pub use admin::shown::{
    Shown, ShownCounters, ShownLive, ShownMemory, ShownServer, ShownShard, ShownShards, ShownTable,
    ShownTables,
};
pub use controller::thread::Recovered;
pub use controller::{Compaction, Controller, Decided, Told};
pub use shard::Shard;

use crate::clock::{Clock, Now};
use crate::config::{Config, Io};
use crate::id::Endpoint;
use crate::metrics::{Board, Counters, ReportCounters};
use crate::net::{self, AffinityError, BindError, Listener, Options, Placement, Udp};
use crate::packet::{Burst, FramePool};
use crate::plane::{PUNT_BYTES_MAX, Shared, Site};
use crate::table::memory::{Extent, Mapped, Pages};
use crate::table::publish::{Publisher, Reader, publish};
use crate::table::{Image, Tables};

/// Why a server does not start: a sentence that says what to do.
#[derive(Debug)]
pub struct StartError(pub String);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

impl From<BindError> for StartError {
    fn from(error: BindError) -> Self {
        Self(error.to_string())
    }
}

impl From<AffinityError> for StartError {
    fn from(error: AffinityError) -> Self {
        Self(error.to_string())
    }
}

/// What the shards' threads, the server and its admin page all see.
#[derive(Debug)]
struct State {
    clock: Clock,
    started: Now,
    /// Where the shards run.
    shard_cpus: Vec<usize>,
    /// What their ports are, once all of them serve.
    ports: OnceLock<Vec<String>>,
    boards: Vec<Arc<Board>>,
    /// The controller's, who counts what the shards handed to it.
    controller: Board,
    /// The fan-out's, who counts what the controller handed to it.
    fanout: Arc<Board>,
    /// Where the controller leaves messages for groups.
    desk: Arc<Desk>,
    journal: controller::Facts,
    shared: Arc<Shared>,
    /// What the RADIUS listeners hand to the controller.
    radius: radius::Inboxes,
    /// The shards and listeners should end.
    stop: AtomicBool,
    /// Set once every shard serves, cleared when the server drains.
    ready: AtomicBool,
    /// A shard has ended although nobody asked it to.
    failed: AtomicBool,
    /// Every shard and listener has ended: nothing more comes for the controller.
    shards_ended: AtomicBool,
    /// The controller has ended: nothing more comes for the fan-out.
    controller_ended: AtomicBool,
    /// What terminals register cannot be made durable any more.
    poisoned: AtomicBool,
    /// What an operator must hear of, and has not yet.
    troubles: std::sync::Mutex<Vec<String>>,
    /// The table facts that `/metrics` and `show` tell.
    facts: std::sync::Mutex<TableFacts>,
}

/// What is told about the generation that serves.
#[derive(Clone, Debug, Default)]
struct TableFacts {
    generation: u64,
    digest: u128,
    /// Where they were read from.
    source: PathBuf,
    /// Since when they serve.
    loaded_ms: u64,
    /// Of all that the generation takes, of the image in it, and where the most of it lies, the image first.
    bytes: usize,
    image_bytes: usize,
    extents: Vec<(&'static str, Extent)>,
    /// Which pages the image lies on, as measured last.
    pages: Pages,
    /// Name, rows if it has any, bytes.
    tables: Vec<(&'static str, Option<usize>, usize)>,
    retired: usize,
}

/// What each thread has counted.
#[derive(Debug)]
struct Counted {
    fanout: Counters,
    controller: Counters,
    shards: Vec<Counters>,
}

impl Counted {
    fn sum(&self) -> Counters {
        let mut sum = self.fanout;
        sum.add(&self.controller);
        self.shards.iter().for_each(|shard| sum.add(shard));
        sum
    }
}

impl State {
    /// All counters, each board's of one moment. Those first that take from others: what they took the givers have
    /// shown before.
    fn counted(&self) -> Counted {
        Counted {
            fanout: self.fanout.read(),
            controller: self.controller.read(),
            shards: self.boards.iter().map(|board| board.read()).collect(),
        }
    }

    fn counters(&self) -> Counters {
        self.counted().sum()
    }

    /// Bindings, and slots of the live tables in use and in all.
    fn live(&self) -> [usize; 3] {
        let live = self.shared.live();
        [live.len(), live.used(), live.slots()]
    }

    /// The facts of the generation that serves, and which pages its memory and that of the live tables lie on now.
    fn measure(&self) -> (TableFacts, Vec<(&'static str, Pages)>) {
        loop {
            let before = self.facts().clone();
            let mapped = Mapped::now();
            let live = self.shared.live().extents();
            let memory: Vec<_> =
                before.extents.iter().chain(&live).map(|(what, at)| (*what, mapped.pages(*at))).collect();
            let mut facts = self.facts();
            // Else that memory may have been given back meanwhile.
            if facts.generation == before.generation {
                facts.pages = memory.first().map_or(facts.pages, |(_, pages)| *pages);
                return (facts.clone(), memory);
            }
        }
    }

    fn is_ready(&self) -> bool {
        let flag = |flag: &AtomicBool| flag.load(Ordering::SeqCst);
        flag(&self.ready) && !flag(&self.failed) && !flag(&self.poisoned)
    }

    fn troubles(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.troubles.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn trouble(&self, sentence: String) {
        self.troubles().push(sentence);
    }

    fn facts(&self) -> std::sync::MutexGuard<'_, TableFacts> {
        self.facts.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A running Push server. Dropping it stops it.
pub struct Server {
    config: Config,
    state: Arc<State>,
    /// Ends before the tables go: it tells what pages they lie on.
    admin: admin::Admin,
    tables: Publisher<Tables>,
    threads: Vec<JoinHandle<io::Result<()>>>,
    listeners: Vec<JoinHandle<io::Result<()>>>,
    controller: Option<JoinHandle<io::Result<()>>>,
    fanout: Option<JoinHandle<io::Result<()>>>,
    recovered: Recovered,
    warnings: Vec<String>,
}

impl Server {
    /// Binds, starts the shards and waits until each of them serves.
    ///
    /// # Errors
    /// A port is in use, a CPU is not to be had, the kernel refuses what the configuration insists on,
    /// the state folder cannot be written, what it holds is damaged: nothing is left running.
    pub fn start(config: Config, image: Image, seed: u64) -> Result<Self, StartError> {
        prepare_state(&config, true)?;
        let mut warnings = Vec::new();
        let Placement { cpus, warnings: placed } = net::choose_cpus(&config.shards, net::allowed_cpus())?;
        warnings.extend(placed);
        let bound = net::bind_shards(&config.listen, cpus.len(), config.limits.receive_buffer)?;
        warnings.extend(bound.warnings);
        if !bound.steered && cpus.len() > 1 {
            warnings
                .push("the kernel does not steer by user here; correct, but caches are colder".to_owned());
        }
        let radius_sockets = radius::bind(config.radius.as_ref(), config.limits.receive_buffer)?;
        let control = ControlSocket::bind(&config.control)?;
        let tables = Tables::new(image, 1, &config.name, None);
        if tables.own().is_none() {
            return Err(StartError(format!(
                "servers.toml has no server named \"{}\"; add it or change server.name",
                config.name
            )));
        }
        let clock = Clock::start();
        let shared = Arc::new(Shared::new(&config.limits, cpus.len(), seed));
        let restored = facts(&tables, &config.tables, clock.now(), 0);
        // The last readers are the controller's and the fan-out's.
        let (mut publisher, mut readers) = publish(tables, cpus.len() + 2);
        let state = Arc::new(State {
            clock,
            started: clock.now(),
            ports: OnceLock::new(),
            shard_cpus: cpus.clone(),
            boards: cpus.iter().map(|_| Arc::new(Board::default())).collect(),
            controller: Board::default(),
            fanout: Arc::default(),
            desk: Arc::new(Desk::new()),
            journal: controller::Facts::default(),
            shared: Arc::clone(&shared),
            radius: radius::Inboxes::new(radius_sockets.len(), config.limits.reports),
            stop: AtomicBool::new(false),
            ready: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            shards_ended: AtomicBool::new(false),
            controller_ended: AtomicBool::new(false),
            poisoned: AtomicBool::new(false),
            troubles: std::sync::Mutex::default(),
            facts: std::sync::Mutex::new(restored),
        });
        let admin = admin::Admin::start(&config, control, Arc::clone(&state))?;
        let sockets = shared_sockets(&bound.shards[0])?.into_iter().map(|listener| listener.socket).collect();
        let radius = radius_sockets.iter().map(UdpSocket::try_clone).collect::<io::Result<_>>();
        let fanout_reader = readers.swap_remove(cpus.len() + 1);
        let mut reader = readers.swap_remove(cpus.len());
        let (controller, recovered) = controller::thread::Seat::recover(
            &config,
            seed,
            Arc::clone(&shared),
            (&mut reader, publisher.watch()),
            (sockets, radius.map_err(unshared)?),
            Arc::clone(&state),
            clock,
        )?;
        // Told of all that was restored at once: each by itself would wait for the rows that it says something of.
        let tables = publisher.current().again(&config.name).beside(shared.live());
        *state.facts() = facts(&tables, &config.tables, clock.now(), 0);
        publisher.publish(tables);
        publisher.reclaim();
        let fanout = fanout(&config, &state, shared_sockets(&bound.shards[0])?, fanout_reader);
        let mut server = Self {
            config,
            state,
            admin,
            tables: publisher,
            threads: Vec::new(),
            listeners: Vec::new(),
            controller: None,
            fanout: None,
            recovered,
            warnings,
        };
        let state = Arc::clone(&server.state);
        server.controller = Some(spawn("controller".to_owned(), move || {
            net::give_way(&state.shard_cpus);
            controller.run(reader)
        })?);
        let state = Arc::clone(&server.state);
        server.fanout = Some(spawn("fanout".to_owned(), move || {
            net::give_way(&state.shard_cpus);
            fanout::run(fanout, clock, &state).inspect_err(|_| state.failed.store(true, Ordering::SeqCst))
        })?);
        let mut starting = Vec::new();
        for (shard, ((cpu, listeners), reader)) in cpus.into_iter().zip(bound.shards).zip(readers).enumerate()
        {
            let site = site(&server.config, &shared, shard);
            let (tell, told) = mpsc::channel();
            let seat = thread::Seat {
                cpu,
                listeners,
                io: server.config.io,
                options: options(&server.config),
                limits: server.config.limits,
                site,
                reader,
                clock,
                state: Arc::clone(&server.state),
            };
            server.threads.push(spawn(format!("shard-{shard}"), move || seat.run(&tell))?);
            starting.push(told);
        }
        let mut ports = Vec::new();
        for told in starting {
            match told.recv() {
                Ok(Ok(started)) => {
                    for warning in started.warnings {
                        // Shards mostly have the same to say.
                        if !server.warnings.contains(&warning) {
                            server.warnings.push(warning);
                        }
                    }
                    ports.push(started.port);
                }
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(StartError("a shard ended while it started".to_owned())),
            }
        }
        let _ = server.state.ports.set(ports);
        server.listen_to_radius(radius_sockets)?;
        server.state.ready.store(true, Ordering::SeqCst);
        Ok(server)
    }

    fn listen_to_radius(&mut self, sockets: Vec<UdpSocket>) -> Result<(), StartError> {
        let Some(config) = self.config.radius.clone().map(Arc::new) else { return Ok(()) };
        for (number, socket) in sockets.into_iter().enumerate() {
            let listener =
                radius::Listener::new(socket, number, Arc::clone(&config), Arc::clone(&self.state));
            self.listeners.push(spawn(format!("radius-{number}"), move || listener.run())?);
        }
        Ok(())
    }

    /// Its configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How many shards serve.
    pub fn shards(&self) -> usize {
        self.threads.len()
    }

    /// Where they run.
    pub fn shard_cpus(&self) -> &[usize] {
        &self.state.shard_cpus
    }

    /// What each shard's port is.
    pub fn ports(&self) -> &[String] {
        self.state.ports.get().map_or(&[], Vec::as_slice)
    }

    /// What an operator should know about how it started.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// What was found of what terminals had registered.
    pub fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    /// What an operator should hear of that happened since this was last asked.
    pub fn take_troubles(&self) -> Vec<String> {
        std::mem::take(&mut *self.state.troubles())
    }

    /// Where `/metrics` is served.
    pub fn metrics(&self) -> Option<Endpoint> {
        self.admin.page()
    }

    /// Which pages the image lies on, as measured last.
    pub fn pages(&self) -> Pages {
        self.state.facts().pages
    }

    /// The tables that serve now.
    pub fn tables(&self) -> &Tables {
        self.tables.current()
    }

    /// The counters of all shards, each of one moment.
    pub fn counters(&self) -> Counters {
        self.state.counters()
    }

    /// The counters of RADIUS accounting, each of one moment.
    pub fn report_counters(&self) -> ReportCounters {
        self.state.radius.counters()
    }

    /// Replaces the tables by those that were read from `source`: every burst from now on sees the new ones, none is
    /// lost. Returns the generation.
    ///
    /// # Errors
    /// When the new tables no longer know this server: then nothing changes.
    pub fn replace(&mut self, image: Image, source: &Path) -> Result<u64, StartError> {
        let generation = self.tables().generation() + 1;
        let tables = Tables::new(image, generation, &self.config.name, Some(self.tables()));
        if tables.own().is_none() {
            return Err(StartError(format!("the new tables have no server named \"{}\"", self.config.name)));
        }
        let tables = tables.beside(self.state.shared.live());
        let mut new = facts(&tables, source, self.state.clock.now(), 0);
        // Until the new facts are there nobody takes the old ones, whose memory is given back meanwhile, for true.
        let mut facts = self.state.facts();
        self.tables.publish(tables);
        new.retired = self.tables.reclaim();
        *facts = new;
        drop(facts);
        Ok(generation)
    }

    /// What is to be done now and then: frees generations that every shard has left. False when a
    /// shard has ended although nobody asked it to.
    pub fn tend(&mut self) -> bool {
        let retired = self.tables.reclaim();
        self.state.facts().retired = retired;
        !self.state.failed.load(Ordering::SeqCst)
    }

    /// Stops taking work, works on what the kernel still holds for it, ends the shards.
    ///
    /// # Errors
    /// The first shard that did not end well.
    pub fn stop(mut self) -> io::Result<Counters> {
        self.halt()?;
        Ok(self.state.counters())
    }

    fn halt(&mut self) -> io::Result<()> {
        self.state.ready.store(false, Ordering::SeqCst);
        self.state.stop.store(true, Ordering::SeqCst);
        let mut result = Ok(());
        for thread in self.threads.drain(..) {
            let ended = thread.join().unwrap_or_else(|_| Err(io::Error::other("a shard panicked")));
            result = result.and(ended);
        }
        for thread in self.listeners.drain(..) {
            let ended = thread.join().unwrap_or_else(|_| Err(io::Error::other("a RADIUS listener panicked")));
            result = result.and(ended);
        }
        self.state.shards_ended.store(true, Ordering::Release);
        if let Some(controller) = self.controller.take() {
            controller.thread().unpark();
            let ended =
                controller.join().unwrap_or_else(|_| Err(io::Error::other("the controller panicked")));
            result = result.and(ended);
        }
        self.state.controller_ended.store(true, Ordering::Release);
        if let Some(fanout) = self.fanout.take() {
            self.state.desk.wake();
            let ended = fanout.join().unwrap_or_else(|_| Err(io::Error::other("the fan-out panicked")));
            result = result.and(ended);
        }
        result
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.halt();
    }
}

/// Who and where a shard is; the fan-out too, as a shard that takes nothing from the network.
fn site(config: &Config, shared: &Arc<Shared>, shard: usize) -> Site {
    Site {
        policy: config.policy,
        listen: config.listen.clone(),
        datagram_max: config.limits.datagram_max,
        shard,
        shared: Arc::clone(shared),
    }
}

/// How the ports of a server receive and send.
fn options(config: &Config) -> Options {
    Options { coalesce: config.coalesce, busy_poll: config.spin }
}

/// The sockets that another thread receives on, to send from.
fn shared_sockets(listeners: &[Listener]) -> Result<Vec<Listener>, StartError> {
    let clone =
        |listener: &Listener| Ok(Listener { socket: listener.socket.try_clone()?, addr: listener.addr });
    listeners.iter().map(clone).collect::<io::Result<_>>().map_err(unshared)
}

fn unshared(error: io::Error) -> StartError {
    StartError(format!("a socket cannot be shared: {error}; raise the limit on open files"))
}

fn fanout(
    config: &Config,
    state: &Arc<State>,
    sockets: Vec<Listener>,
    tables: Reader<Tables>,
) -> Fanout<Udp> {
    let limits = &config.limits;
    let datagram_max = limits.datagram_max.max(PUNT_BYTES_MAX + GROUP_ID_BYTES);
    let burst = Burst::new(FramePool::new(limits.frames, datagram_max));
    let site = Site { datagram_max, ..site(config, &state.shared, 0) };
    let port = Udp::with(sockets, &burst, &options(config));
    Fanout::new(port, burst, site, tables, Arc::clone(&state.fanout), Arc::clone(&state.desk))
}

/// What a copy for a member is longer than the message for the group.
const GROUP_ID_BYTES: usize = 20;

fn spawn(
    name: String,
    run: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> Result<JoinHandle<io::Result<()>>, StartError> {
    std::thread::Builder::new().name(name.clone()).spawn(run).map_err(|error| {
        StartError(format!("{name} cannot have a thread: {error}; raise the limit on processes"))
    })
}

fn facts(tables: &Tables, source: &Path, now: Now, retired: usize) -> TableFacts {
    TableFacts {
        generation: tables.generation(),
        digest: tables.image().digest(),
        source: source.to_owned(),
        loaded_ms: now.unix_ms,
        bytes: tables.bytes(),
        image_bytes: tables.image().bytes().len(),
        extents: tables.extents().collect(),
        pages: tables.image().pages(),
        tables: tables.by_table(),
        retired,
    }
}

/// Proves that the state folder can be written, or be made; makes it.
fn prepare_state(config: &Config, make: bool) -> Result<(), StartError> {
    let folder = &config.state;
    let wrong = |error: io::Error| {
        StartError(format!(
            "the state folder {} cannot be written: {error}; give the server's user the right or change server.state",
            folder.display()
        ))
    };
    if make {
        std::fs::create_dir_all(folder).map_err(wrong)?;
    }
    // A folder that is still to be made is made in the nearest one that is there.
    let there = folder.ancestors().find(|folder| folder.as_os_str().is_empty() || folder.exists());
    let there = there.filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    can_write(there).map_err(wrong)
}

/// Whether files can be made in a folder.
fn can_write(folder: &Path) -> io::Result<()> {
    tempfile::Builder::new().prefix(".probe").tempfile_in(folder).map(drop)
}

/// As [`check`], of the control socket: whether there can be one, not whether a server has it.
///
/// # Errors
/// As [`Server::start`].
pub fn check_control(config: &Config) -> Result<(), StartError> {
    admin::socket::check(&config.control)
}

/// Everything that [`Server::start`] refuses and that can be known without starting: the state folder
/// and the CPUs.
///
/// # Errors
/// As [`Server::start`].
pub fn check(config: &Config) -> Result<Vec<String>, StartError> {
    prepare_state(config, false)?;
    let mut warnings = net::choose_cpus(&config.shards, net::allowed_cpus())?.warnings;
    match (config.io, net::Uring::probe()) {
        (_, Ok(())) | (Io::Socket, _) => {}
        (Io::Auto, Err(error)) => warnings.push(net::uring_refusal(&error)),
        (Io::Uring, Err(error)) => return Err(StartError(net::uring_refusal(&error))),
    }
    Ok(warnings)
}

/// How long a shard waits for work before it looks whether it should end.
const IDLE: Duration = Duration::from_millis(50);
