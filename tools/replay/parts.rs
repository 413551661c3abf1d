//! The parts of a replay for somebody who measures them: `bench replay`.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use pushplane::clock::Clock;
use pushplane::id::Endpoint;

use super::decision::Decision;
use super::engine::{Detail, Engine, Outcome, Watch};
use super::live::{self, Orderly};
use super::messages::{Choice, Messages, World};
use super::place::{self, Place};
use crate::outcome::Tally;
use crate::{Stop, common};

pub(crate) use super::live::report::Report as Live;
pub(crate) use super::live::schedule::Timing;

/// A server that is not running, and what a capture's messages are at it.
pub(crate) struct Offline {
    place: Place,
    world: World,
    choice: Choice,
}

/// Nobody looks.
struct Nobody;

impl<'t> Watch<'t> for Nobody {
    fn decided(&mut self, _: &Decision<'t>, _: Option<Detail<'_>>) -> io::Result<()> {
        Ok(())
    }
}

impl Offline {
    /// With these tables, as `app` pushes when the capture holds other traffic.
    pub(crate) fn open(capture: &Path, tables: &Path, as_push: Option<u32>) -> Result<Self, Stop> {
        let mut choice = Choice::all_of(capture);
        choice.as_push = as_push.is_some();
        choice.app = as_push;
        let (place, world) = place::of_tables(&choice, tables)?;
        Ok(Self { place, world, choice })
    }

    /// Reads the capture and does nothing with its messages; how many there are.
    pub(crate) fn read(&self) -> Result<u64, Stop> {
        let mut messages = Messages::open(&self.choice, &self.world)?;
        let mut read = 0;
        while messages.next().is_some() {
            read += 1;
        }
        Ok(read)
    }

    /// Replays it; what became of the messages, and the digest.
    pub(crate) fn replay(&self) -> Result<(Tally, String), Stop> {
        let mut messages = Messages::open(&self.choice, &self.world)?;
        let mut engine = Engine::new(&self.place.tables, &self.place.setup, false);
        let progress = messages.position.progress("replaying");
        let mut taken = 0_u64;
        let failed = |error: io::Error| Stop::Failed(format!("the replay cannot go on: {error}"));
        while let Some(message) = messages.next() {
            engine.take(&message, &mut Nobody).map_err(failed)?;
            taken += 1;
            if taken.is_multiple_of(1 << 14) {
                messages.position.show(&progress);
            }
        }
        engine.flush(&mut Nobody).map_err(failed)?;
        let Outcome {
            planned,
            sent,
            delivered,
            forwarded,
            answered,
            dropped,
            late,
            latency,
            valid,
            digest,
            ..
        } = engine.outcome();
        let tally =
            Tally { planned, sent, delivered, forwarded, answered, dropped, late, latency, valid, lost: 0 };
        Ok((tally, digest))
    }
}

/// Sends the first messages of a capture to a server that does not answer; how late they were, too.
pub(crate) fn live(
    capture: &Path,
    server: Endpoint,
    timing: Timing,
    speed: Option<f64>,
    limit: u64,
) -> Result<(Live, Histogram<u64>), Stop> {
    let choice = Choice { limit: Some(limit), ..Choice::all_of(capture) };
    live::replay(&choice, &Orderly::of(timing, speed), server, World::default())
}

/// Writes raw histograms of nanoseconds, by name.
pub(crate) fn keep(path: &Path, seconds: f64, histograms: &[(&str, &Histogram<u64>)]) -> Result<(), Stop> {
    let now = SystemTime::UNIX_EPOCH + Duration::from_millis(Clock::start().now().unix_ms);
    live::report::keep(path, now, seconds, histograms)
        .map_err(|error| common::fault(path, format!("cannot be written: {error}")))
}
