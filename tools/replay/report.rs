//! What a replay says at its end.

use std::io::{self, Write};

use pushplane::capture::push::PushCounts;
use pushplane::capture::tunnel::TunnelCounts;
use pushplane::capture::{Counts, Damage};

use super::engine::Outcome;
use crate::common::grouped;

/// All of it; what is printed as JSON.
#[derive(serde::Serialize)]
pub(super) struct Report {
    pub(super) capture: String,
    /// Which server the tables were seen as.
    pub(super) server: String,
    /// The application of pushes that were made.
    pub(super) app: Option<u32>,
    #[serde(flatten)]
    pub(super) outcome: Outcome,
    /// PRP datagrams that this server had sent.
    pub(super) own: u64,
    /// What became of the capture's frames.
    pub(super) frames: Counts,
    /// What became of the datagrams in them, tunnels opened.
    pub(super) tunnels: TunnelCounts,
    /// What became of the datagrams in those.
    pub(super) datagrams: PushCounts,
    /// The first places where the capture is damaged.
    pub(super) damage: Vec<Damage>,
    /// How many there are.
    pub(super) damages: u64,
}

impl Report {
    /// For people.
    pub(super) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { outcome, frames, tunnels, datagrams, .. } = self;
        let mut count = |what: &str, count: u64| writeln!(out, "{:>12} {what}", grouped(count));
        count("messages planned", outcome.planned)?;
        count("sent through the engine", outcome.sent)?;
        count("delivered", outcome.delivered)?;
        count("forwarded", outcome.forwarded)?;
        count("answered", outcome.answered)?;
        for (reason, dropped) in &outcome.dropped {
            count(&format!("dropped: {reason}"), *dropped)?;
        }
        count("datagrams left", outcome.tx)?;
        for (what, left_out) in [
            ("frames: not IP", frames.not_ip),
            ("frames: not UDP", frames.not_udp),
            ("frames: fragments of others", frames.fragments),
            ("frames: cut by the capture program", frames.cut),
            ("frames: malformed", frames.malformed),
            ("frames: of an unknown link type", frames.unknown_link),
            ("tunnels: signalling", tunnels.signalling),
            ("tunnels: no IP packet", tunnels.no_packet),
            ("tunnels: not UDP", tunnels.not_udp),
            ("tunnels: fragments of others", tunnels.fragments),
            ("tunnels: malformed", tunnels.malformed),
            ("datagrams: from a user", datagrams.uplink),
            ("datagrams: of nobody known", datagrams.unowned),
            ("datagrams: too long to push", datagrams.too_long),
            ("datagrams: sent by this server", self.own),
        ] {
            if left_out > 0 {
                count(&format!("no message, {what}"), left_out)?;
            }
        }
        let latency = &outcome.latency;
        writeln!(
            out,
            "ns a datagram: p50 {}, p90 {}, p99 {}, p99.9 {}, max {}",
            grouped(latency.p50),
            grouped(latency.p90),
            grouped(latency.p99),
            grouped(latency.p999),
            grouped(latency.max)
        )?;
        writeln!(out, "digest {}", outcome.digest)?;
        writeln!(out, "{}", if outcome.valid { "valid" } else { "invalid: a message is in no counter" })
    }
}
