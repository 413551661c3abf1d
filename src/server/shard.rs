//! One core's loop: take a burst, decide it, send it, count it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Now;
use crate::metrics::Board;
use crate::net::{Counts, Port};
use crate::packet::{Burst, Class, Tx};
use crate::plane::{NoTrace, Plane, Site};
use crate::table::Tables;
use crate::table::publish::Reader;

/// How many bursts pass between two looks at what the kernel dropped.
const DROPS_EVERY: u64 = 1024;

/// So many datagrams for each next hop leave without waiting for another burst. The kernel walks its stack once for all
/// that go to one, 64 at most: with 16 of them, 768 datagrams make groups of 48 and cost 228 ns each, 512 make groups of
/// 32 and cost 261. At 1024 every other group would be cut at 64 and the rest leave as a small one: 241. To a thousand
/// next hops 768 make groups of 1.4 and cost 2700 ns each, 3072 groups of 3.2 and 1450: there frames are the limit.
const TOGETHER_EACH: usize = 48;

/// So many leave without waiting, however few next hops there are.
const TOGETHER_MIN: usize = 768;

/// A shard over some port. Whoever owns it calls [`Shard::receive`] and [`Shard::work`] in turn: a
/// thread with a clock in a server, the simulator on virtual time.
pub struct Shard<P> {
    port: P,
    burst: Burst,
    plane: Plane,
    site: Site,
    tables: Reader<Tables>,
    board: Arc<Board>,
    /// What waits while datagrams of min-delay applications are handed over.
    later: Vec<Tx>,
}

impl<P: Port> Shard<P> {
    /// A shard; its first burst finds everything allocated.
    pub fn new(port: P, burst: Burst, site: Site, tables: Reader<Tables>, board: Arc<Board>) -> Self {
        let frames = burst.pool.capacity();
        Self {
            port,
            burst,
            plane: Plane::new(frames),
            site,
            tables,
            board,
            later: Vec::with_capacity(frames),
        }
    }

    /// Takes what has arrived, waiting at most `wait` for something.
    ///
    /// # Errors
    /// What the port cannot recover from.
    pub fn receive(&mut self, wait: Duration) -> io::Result<()> {
        self.port.recv(&mut self.burst, wait)
    }

    /// Whether [`Shard::receive`] took something.
    pub fn has_work(&self) -> bool {
        !self.burst.rows.is_empty() || !self.burst.done.is_empty()
    }

    /// Works on what [`Shard::receive`] took; true when that was something.
    ///
    /// # Errors
    /// What the port cannot recover from.
    pub fn work(&mut self, now: Now) -> io::Result<bool> {
        let before = self.plane.ledger().counters().punted;
        let worked = self.has_work();
        self.settle(now)?;
        if !self.burst.rows.is_empty() {
            let tables = self.tables.enter();
            loop {
                self.plane.process(&self.site, &tables, now, &mut self.burst, &mut NoTrace);
                self.plane.ledger_mut().counters_mut().bursts += 1;
                if !leaves_later(&self.port, &self.burst) {
                    break;
                }
                self.burst.clear_rows();
                self.port.recv(&mut self.burst, Duration::ZERO)?;
                if self.burst.rows.is_empty() {
                    break;
                }
            }
            send(&mut self.port, &mut self.burst, &mut self.later)?;
            // Only now have the bursts left: what follows a change waits for that.
            drop(tables);
            self.burst.clear_rows();
            self.settle(now)?;
        }
        let bursts = self.plane.ledger().counters().bursts;
        if !worked || bursts.is_multiple_of(DROPS_EVERY) {
            self.plane.ledger_mut().counters_mut().kernel_drops = self.port.kernel_drops();
        }
        self.count_port();
        self.board.show(self.plane.ledger().counters());
        let punted = self.plane.ledger().counters().punted;
        self.site.shared.punted(self.site.shard, punted, punted != before);
        Ok(worked)
    }

    fn count_port(&mut self) {
        let Counts { receives, sends, groups_refused, starved, interrupted, errors } = self.port.counts();
        let counters = self.plane.ledger_mut().counters_mut();
        (counters.receives, counters.sends, counters.groups_refused) = (receives, sends, groups_refused);
        (counters.rx_starved, counters.rx_interrupted, counters.rx_errors) = (starved, interrupted, errors);
    }

    /// Accounts for what was sent, and tells who sent what did not leave.
    fn settle(&mut self, now: Now) -> io::Result<()> {
        if self.plane.settle(&mut self.burst) {
            let tables = self.tables.enter();
            self.plane.tell_unsent(&self.site, &tables, now, &mut self.burst);
            self.port.send(&mut self.burst)?;
            drop(tables);
            // Nobody is told that a REJECT did not leave; what else ended meanwhile is told the next time.
            let _ = self.plane.settle(&mut self.burst);
        }
        Ok(())
    }

    /// Ends the shard: stops receiving, works on what had arrived, and closes the port once that has left.
    ///
    /// # Errors
    /// When the port does not end cleanly.
    pub fn close(&mut self, now: Now) -> io::Result<()> {
        self.port.stop(&mut self.burst)?;
        loop {
            self.port.recv(&mut self.burst, Duration::ZERO)?;
            if !self.work(now)? {
                break;
            }
        }
        self.port.close(&mut self.burst)?;
        while self.work(now)? {}
        Ok(())
    }

    /// The port.
    pub fn port_mut(&mut self) -> &mut P {
        &mut self.port
    }

    /// Frames that are neither in the burst nor with the port: all of them, at rest and closed.
    pub fn frames_free(&self) -> usize {
        self.burst.pool.available()
    }
}

/// Whether what is decided may leave with the next burst, which is there already: nothing waits for what may come, nor
/// with what is urgent, nor where frames are short.
fn leaves_later<P: Port>(port: &P, burst: &Burst) -> bool {
    port.more()
        && burst.tx.len() < (TOGETHER_EACH * port.spread()).max(TOGETHER_MIN)
        && burst.tx.first().is_none_or(|tx| tx.class == Class::Normal)
        && burst.pool.available() > burst.pool.capacity() / 4
}

/// Hands over what is decided, in its order; what must not wait goes alone and first.
pub(super) fn send<P: Port>(port: &mut P, burst: &mut Burst, later: &mut Vec<Tx>) -> io::Result<()> {
    let tx = &mut burst.tx;
    let urgent = tx.iter().take_while(|tx| tx.class == Class::MinDelay).count();
    if urgent > 0 && urgent < tx.len() {
        later.extend(tx.drain(urgent..));
        port.send(burst)?;
        burst.tx.append(later);
    }
    port.send(burst)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Endpoint;
    use crate::packet::FramePool;

    /// A port under a flood, whose last burst had so many next hops.
    struct Flooded(usize);

    impl Port for Flooded {
        fn recv(&mut self, _: &mut Burst, _: Duration) -> io::Result<()> {
            Ok(())
        }

        fn more(&self) -> bool {
            true
        }

        fn spread(&self) -> usize {
            self.0
        }

        fn send(&mut self, _: &mut Burst) -> io::Result<()> {
            Ok(())
        }

        fn in_flight(&self) -> usize {
            0
        }

        fn stop(&mut self, _: &mut Burst) -> io::Result<()> {
            Ok(())
        }

        fn close(&mut self, _: &mut Burst) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn more_leave_together_the_more_next_hops_there_are() {
        let left = |hops: usize, frames: usize| {
            let mut burst = Burst::new(FramePool::new(frames, 64));
            while leaves_later(&Flooded(hops), &burst) {
                let frame = burst.pool.take().unwrap();
                let token = burst.tx.len() as u32;
                let to = Endpoint::NONE;
                burst.tx.push(Tx { frame, to, listener: 0, class: Class::Normal, flow: 0, token });
            }
            burst.tx.len()
        };
        assert_eq!([0, 1, 16, 32].map(|hops| left(hops, 4096)), [768, 768, 768, 1536]);
        // A quarter of the frames is for what arrives meanwhile.
        assert_eq!([left(1000, 4096), left(1000, 8192), left(1, 512)], [3072, 6144, 384]);
    }
}
