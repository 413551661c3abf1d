//! A Push server's dataplane without a network: the engine's own shards over simulated ports, and the tables
//! that they read.

use std::sync::Arc;

use super::operator::Site;
use super::port::{PortLimits, SimPort};
use crate::config::Limits;
use crate::metrics::{Board, Counters};
use crate::packet::{Burst, FramePool};
use crate::plane::{Shared, Site as PlaneSite};
use crate::server::Shard;
use crate::table::publish::{Publisher, Reader, publish};
use crate::table::{Image, Tables};

/// Shards and all that they share.
pub(super) struct Dataplane {
    pub(super) shards: Vec<Shard<SimPort>>,
    pub(super) boards: Vec<Arc<Board>>,
    /// Shards that have been told that there is work.
    pub(super) awake: Vec<bool>,
    pub(super) publisher: Publisher<Tables>,
    pub(super) shared: Arc<Shared>,
    /// For a controller.
    pub(super) reader: Reader<Tables>,
}

/// A site's tables, as its rows say.
///
/// # Errors
/// What cannot be compiled.
pub(super) fn compile(site: &Site, generation: u64, before: Option<&Tables>) -> Result<Tables, String> {
    let image = Image::build(&site.rib).map_err(|error| format!("{}: {error}", site.name))?;
    Ok(Tables::new(image, generation, &site.name, before))
}

impl Dataplane {
    /// Shards at rest. Hashes follow from the seed.
    pub(super) fn new(
        site: &Site,
        tables: Tables,
        limits: &Limits,
        shards: usize,
        port: PortLimits,
        seed: u64,
    ) -> Self {
        let shared = Arc::new(Shared::new(limits, shards, seed));
        let (publisher, mut readers) = publish(tables.beside(shared.live()), shards + 1);
        let reader = readers.swap_remove(shards);
        let boards: Vec<Arc<Board>> = (0..shards).map(|_| Arc::new(Board::default())).collect();
        let shards = readers.into_iter().zip(&boards).enumerate().map(|(shard, (tables, board))| {
            let burst = Burst::new(FramePool::new(limits.frames, limits.datagram_max));
            let site = PlaneSite {
                policy: site.policy,
                listen: site.listen.clone(),
                datagram_max: limits.datagram_max,
                shard,
                shared: Arc::clone(&shared),
            };
            Shard::new(SimPort::new(port), burst, site, tables, Arc::clone(board))
        });
        Self { shards: shards.collect(), awake: vec![false; boards.len()], boards, publisher, shared, reader }
    }

    /// Replaces the tables.
    pub(super) fn publish(&mut self, tables: Tables) {
        self.publisher.publish(tables.beside(self.shared.live()));
    }

    /// What all shards counted.
    pub(super) fn counters(&self) -> Counters {
        let mut sum = Counters::default();
        self.boards.iter().for_each(|board| sum.add(&board.read()));
        sum
    }
}
