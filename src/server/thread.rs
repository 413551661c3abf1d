//! A shard's thread: pins itself, takes the best port that the kernel gives, and turns until told to
//! stop.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::time::Duration;

use super::{IDLE, Shard, StartError, State};
use crate::clock::Clock;
use crate::config::{Io, Limits};
use crate::net::{self, Listener, Options, Port, Udp, Uring};
use crate::packet::{Burst, FramePool};
use crate::plane::Site;
use crate::table::Tables;
use crate::table::publish::Reader;

/// Everything that a shard's thread is given.
pub(super) struct Seat {
    pub(super) cpu: usize,
    pub(super) listeners: Vec<Listener>,
    pub(super) io: Io,
    pub(super) options: Options,
    pub(super) limits: Limits,
    pub(super) site: Site,
    pub(super) reader: Reader<Tables>,
    pub(super) clock: Clock,
    pub(super) state: Arc<State>,
}

/// How a shard started.
pub(super) struct Started {
    pub(super) port: String,
    pub(super) warnings: Vec<String>,
}

/// How long a shard works on what the kernel still holds for it after it was told to stop.
const DRAIN_NS: u64 = 2_000_000_000;

impl Seat {
    /// The thread's whole life. What it tells is how it started, once.
    pub(super) fn run(self, tell: &Sender<Result<Started, StartError>>) -> io::Result<()> {
        let Self { cpu, listeners, io, options, limits, site, reader, clock, state } = self;
        let mut warnings = Vec::new();
        if !net::pin(cpu) {
            warnings.push(format!("shard {} could not be pinned to CPU {cpu}", site.shard));
        }
        let mut burst = Burst::new(FramePool::new(limits.frames, limits.datagram_max));
        let (port, described) = match port(io, &options, listeners, &mut burst) {
            Ok((port, described, fallback)) => {
                warnings.extend(fallback);
                (port, described)
            }
            Err(error) => {
                let _ = tell.send(Err(error));
                return Ok(());
            }
        };
        let board = Arc::clone(&state.boards[site.shard]);
        let mut shard = Shard::new(port, burst, site, reader, board);
        let _ = tell.send(Ok(Started { port: described, warnings }));
        let ended = serve(&mut shard, options.busy_poll, clock, &state);
        if ended.is_err() {
            state.failed.store(true, Ordering::SeqCst);
        }
        ended
    }
}

type AnyPort = Box<dyn Port>;

/// The best port that the kernel gives, what it is, and why it is not a better one.
fn port(
    io: Io,
    options: &Options,
    listeners: Vec<Listener>,
    burst: &mut Burst,
) -> Result<(AnyPort, String, Option<String>), StartError> {
    let plain = |listeners, burst: &Burst, why| {
        let port = Udp::with(listeners, burst, options);
        let described = port.describe();
        (Box::new(port) as AnyPort, described, why)
    };
    if io == Io::Socket {
        return Ok(plain(listeners, burst, None));
    }
    match Uring::with(listeners, burst, options) {
        Ok(port) => {
            let described = port.describe();
            Ok((Box::new(port), described, None))
        }
        Err(refused) if io == Io::Auto && !refused.listeners.is_empty() => {
            let why = format!("{refused}; plain sockets are used instead");
            Ok(plain(refused.listeners, burst, Some(why)))
        }
        Err(refused) => Err(StartError(refused.to_string())),
    }
}

/// Turns until told to stop. Without work it goes on looking for some for `spin`, then it sleeps.
fn serve<P: Port>(shard: &mut Shard<P>, spin: Duration, clock: Clock, state: &State) -> io::Result<()> {
    let spin_ns = spin.as_nanos() as u64;
    let mut worked_ns = 0;
    let mut spins = spin_ns > 0;
    while !state.stop.load(Ordering::Relaxed) {
        shard.receive(if spins { Duration::ZERO } else { IDLE })?;
        let now = clock.now();
        // Looking alone has nothing to show or to count.
        if (!spins || shard.has_work()) && shard.work(now)? {
            worked_ns = now.mono_ns;
        }
        spins = now.mono_ns.saturating_sub(worked_ns) < spin_ns;
    }
    let until = clock.now().mono_ns + DRAIN_NS;
    loop {
        shard.receive(Duration::ZERO)?;
        let now = clock.now();
        if !shard.work(now)? || now.mono_ns > until {
            return shard.close(now);
        }
    }
}
