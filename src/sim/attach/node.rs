//! A Push server that lives, dies and lives again over one disk: the engine's own shards, controller, journal and
//! live tables, joined as a server joins them.

use std::path::Path;
use std::sync::Arc;

use super::accounting::Arrived;
use super::options::Disks;
use crate::clock::Now;
use crate::config::{Limits, Radius};
use crate::control;
use crate::id::Endpoint;
use crate::journal::{Failure, Recovery, Simulated};
use crate::metrics::Counters;
use crate::server::{Compaction, Controller};
use crate::sim::dataplane::{Dataplane, compile};
use crate::sim::operator::{START_UNIX_S, Site};
use crate::sim::port::{PortLimits, Waiting};

/// A server: what outlives its process, and the process.
pub(super) struct Node {
    pub(super) disk: Simulated,
    /// How far its wall clock is off.
    pub(super) skew_ms: i64,
    /// How often it was started.
    pub(super) lives: u32,
    pub(super) life: Option<Life>,
    /// Where it hears RADIUS accounting, if it does.
    pub(super) radius: Option<Radius>,
}

/// A process.
pub(super) struct Life {
    born_ns: u64,
    pub(super) dataplane: Dataplane,
    pub(super) controller: Controller<Simulated>,
    pub(super) compaction: Option<Compaction<Simulated>>,
    /// The disk was told to lose its power.
    pub(super) power_fails: bool,
    /// The disk was told to have an error, which the controller need not have met yet.
    pub(super) disk_fails: bool,
    /// Requests that shards handed to the controller and that it has not taken yet.
    pub(super) handed: Vec<Waiting>,
    /// Reports that it has not taken.
    pub(super) reports: Vec<Arrived>,
    /// When the controller turns next, if it is to.
    pub(super) turn_at: Option<u64>,
    /// Until when it waits for the disk and for bursts.
    pub(super) busy_until: u64,
    /// When the last burst has left that began by now.
    pub(super) bursts_until: u64,
}

/// A datagram that leaves a server.
#[derive(Debug)]
pub(super) struct Leaving {
    pub(super) from: Endpoint,
    pub(super) to: Endpoint,
    pub(super) bytes: Vec<u8>,
    /// When it was decided.
    pub(super) decided: Now,
    /// A shard made it, not the controller.
    pub(super) by_shard: bool,
}

/// How a process ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// SIGTERM.
    Stop,
    /// SIGKILL.
    Kill,
    /// A loss of power.
    Power,
}

/// The monotonic clock of a process begins here.
const BORN_NS: u64 = 1_000_000_000;

impl Node {
    pub(super) fn new(seed: u64, skew_ms: i64, radius: Option<Radius>) -> Self {
        Self { disk: Simulated::new(seed), skew_ms, lives: 0, life: None, radius }
    }

    /// The server's wall clock.
    fn unix_ms(&self, world_ns: u64) -> u64 {
        unix_ms(world_ns, self.skew_ms)
    }

    /// Both clocks of the server; only the wall clock counts while it is down.
    pub(super) fn clock(&self, world_ns: u64) -> Now {
        let born_ns = self.life.as_ref().map_or(world_ns, |life| life.born_ns);
        Now { mono_ns: world_ns - born_ns + BORN_NS, unix_ms: self.unix_ms(world_ns) }
    }

    /// Starts a process on what the disk holds; returns what that was. Its first turn is for the caller to take.
    ///
    /// # Errors
    /// As a server would say.
    pub(super) fn start(
        &mut self,
        site: &Site,
        limits: &Limits,
        (shards, seed): (usize, u64),
        world_ns: u64,
    ) -> Result<Recovery, String> {
        let port = PortLimits { burst_max: 64, room: usize::MAX, mtu: 65_507, inbox: 4096, lag: false };
        let dataplane = Dataplane::new(site, compile(site, 1, None)?, limits, shards, port, seed);
        let own = control::Site { listen: site.listen.clone(), policy: site.policy, limits: *limits, seed };
        let shared = Arc::clone(&dataplane.shared);
        let disk = self.disk.clone();
        let (controller, recovery) =
            Controller::recover_listening(disk, Path::new("/state"), own, self.radius.clone(), shared)
                .map_err(|error| error.to_string())?;
        self.lives += 1;
        self.life = Some(Life {
            born_ns: world_ns,
            dataplane,
            controller,
            compaction: None,
            power_fails: false,
            disk_fails: false,
            handed: Vec::new(),
            reports: Vec::new(),
            turn_at: None,
            busy_until: world_ns,
            bursts_until: world_ns,
        });
        Ok(recovery)
    }

    /// Ends the process; returns what it had counted.
    pub(super) fn end(&mut self, how: End, disks: Disks) -> Option<Counters> {
        let life = self.life.take()?;
        // What it would write at its end would not reach the disk.
        let how = if life.power_fails { End::Power } else { how };
        let mut counters = life.counters();
        match how {
            End::Stop => {
                let (closed, _) = life.controller.close();
                counters = life.dataplane.counters();
                counters.add(&closed);
                self.disk.kill();
            }
            End::Kill => self.disk.kill(),
            End::Power => {
                // What a process does as it is dropped does not reach the disk any more.
                self.disk.fail_at(self.disk.operations(), Failure::Power);
                drop(life);
                self.disk.lose_power();
            }
        }
        if disks == Disks::Forgetful {
            self.disk = Simulated::new(0);
        }
        Some(counters)
    }
}

impl Life {
    /// When this instant of the process's monotonic clock is, in the world's time.
    pub(super) fn world_ns(&self, mono_ns: u64) -> u64 {
        (mono_ns - BORN_NS.min(mono_ns)).saturating_add(self.born_ns)
    }

    /// What shards and controller counted.
    pub(super) fn counters(&self) -> Counters {
        let mut sum = self.dataplane.counters();
        sum.add(self.controller.counters());
        sum
    }
}

/// A wall clock that is off by so much.
pub(super) fn unix_ms(world_ns: u64, skew_ms: i64) -> u64 {
    (START_UNIX_S * 1000 + (world_ns - BORN_NS) / 1_000_000).saturating_add_signed(skew_ms)
}
