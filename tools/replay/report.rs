//! What a replay says at its end.

use std::io::{self, Write};

use pushplane::capture::Counts;
use pushplane::capture::push::PushCounts;
use pushplane::capture::tunnel::TunnelCounts;

use super::compare::Findings;
use super::engine::Outcome;
use crate::capture::Faults;
use crate::common::grouped;

/// All of an offline replay; what is printed as JSON.
#[derive(serde::Serialize)]
pub(super) struct Report {
    pub(super) capture: String,
    /// Which server the tables were seen as.
    pub(super) server: String,
    /// The application of pushes that were made.
    pub(super) app: Option<u32>,
    #[serde(flatten)]
    pub(super) outcome: Outcome,
    /// By the other tables.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) against: Option<Outcome>,
    /// What differs: by the other tables, or from an earlier run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) differences: Option<Findings>,
    #[serde(flatten)]
    pub(super) contents: Contents,
}

/// What the capture held besides messages.
#[derive(serde::Serialize, Clone)]
pub(crate) struct Contents {
    /// PRP datagrams that this server had sent.
    #[serde(rename = "own")]
    pub(super) sent_by_server: u64,
    /// Messages that were not asked for.
    pub(super) left_out: u64,
    /// Messages whose signature was taken off since it was wrong once they were mapped.
    pub(super) unsigned: u64,
    /// What became of the capture's frames.
    pub(super) frames: Counts,
    /// What became of the datagrams in them, tunnels opened.
    pub(super) tunnels: TunnelCounts,
    /// What became of the datagrams in those.
    pub(super) datagrams: PushCounts,
    #[serde(flatten)]
    pub(super) faults: Faults,
}

impl Report {
    /// For people.
    pub(super) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        self.outcome.print(out)?;
        if let Some(against) = &self.against {
            writeln!(out, "by the other tables:")?;
            against.print(out)?;
        }
        self.contents.print(out)?;
        let latency = &self.outcome.latency;
        writeln!(
            out,
            "ns a datagram: p50 {}, p90 {}, p99 {}, p99.9 {}, max {}",
            grouped(latency.p50),
            grouped(latency.p90),
            grouped(latency.p99),
            grouped(latency.p999),
            grouped(latency.max)
        )?;
        if let Some(differences) = &self.differences {
            differences.print(out)?;
        }
        writeln!(out, "digest {}", self.outcome.digest)?;
        let valid = self.outcome.valid;
        writeln!(out, "{}", if valid { "valid" } else { "invalid: a message is in no counter" })
    }

    /// For programs.
    pub(super) fn print_json(&self, out: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer(&mut *out, self)?;
        writeln!(out)
    }
}

/// A line with a count.
pub(super) fn count(out: &mut dyn Write, what: &str, count: u64) -> io::Result<()> {
    writeln!(out, "{:>12} {what}", grouped(count))
}

impl Outcome {
    fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        count(out, "messages planned", self.planned)?;
        count(out, "sent through the engine", self.sent)?;
        count(out, "delivered", self.delivered)?;
        count(out, "forwarded", self.forwarded)?;
        count(out, "answered", self.answered)?;
        for (reason, dropped) in &self.dropped {
            count(out, &format!("dropped: {reason}"), *dropped)?;
        }
        count(out, "datagrams left", self.tx)
    }
}

impl Contents {
    /// What was no message, and why.
    pub(super) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { frames, tunnels, datagrams, .. } = self;
        for (what, left_out) in [
            ("frames: not IP", frames.not_ip),
            ("frames: not UDP", frames.not_udp),
            ("frames: fragments but the last of a datagram", frames.fragments),
            ("frames: cut by the capture program", frames.cut),
            ("frames: malformed", frames.malformed),
            ("frames: of an unknown link type", frames.unknown_link),
            ("tunnels: signalling", tunnels.signalling),
            ("tunnels: no IP packet", tunnels.no_packet),
            ("tunnels: not UDP", tunnels.not_udp),
            ("tunnels: fragments but the last of a datagram", tunnels.fragments),
            ("tunnels: malformed", tunnels.malformed),
            ("datagrams: from a user", datagrams.uplink),
            ("datagrams: of nobody known", datagrams.unowned),
            ("datagrams: too long to push", datagrams.too_long),
            ("datagrams: sent by this server", self.sent_by_server),
            ("datagrams: not asked for", self.left_out),
        ] {
            if left_out > 0 {
                count(out, &format!("no message, {what}"), left_out)?;
            }
        }
        for (what, some) in [
            ("of them from SIP MESSAGE", datagrams.sip_messages),
            ("of them from WAP push", datagrams.wap_pushes),
            ("of them without their signature", self.unsigned),
            ("datagrams whose fragments are not all there", frames.incomplete + tunnels.incomplete),
        ] {
            if some > 0 {
                count(out, what, some)?;
            }
        }
        Ok(())
    }
}
