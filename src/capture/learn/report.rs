//! What learning found, for people and for programs.

use std::collections::BTreeMap;
use std::fmt;

use super::{AccountingCounts, Backwards, ControlCounts, Counts, Damage, RegistrationCounts, TunnelCounts};

/// Examples that are kept of each finding.
const MAX_EXAMPLES: usize = 5;

/// What learning found.
#[derive(Clone, PartialEq, Debug, serde::Serialize)]
pub struct Report {
    /// Each capture file.
    pub files: Vec<FileReport>,
    /// What tunnels held.
    pub tunnels: TunnelCounts,
    /// GTP-C messages.
    pub control: ControlCounts,
    /// RADIUS accounting.
    pub accounting: AccountingCounts,
    /// Datagrams that were PRP already.
    pub prp: u64,
    /// Of these, what was said of bindings.
    pub registrations: RegistrationCounts,
    /// The users.
    pub users: UserCounts,
    /// Gateways, "direct" included.
    pub gateways: u64,
    /// Segments.
    pub segments: u64,
    /// Realms.
    pub realms: u64,
    /// Applications: 1, and those of PUSHes.
    pub applications: u64,
    /// Names: MSISDNs.
    pub names: u64,
    /// Contradictions and what was not used, by their text.
    pub findings: Vec<Finding>,
}

/// One capture file.
#[derive(Clone, PartialEq, Debug, serde::Serialize)]
pub struct FileReport {
    /// Its name.
    pub file: String,
    /// What became of its frames.
    pub frames: Counts,
    /// The first places where it is damaged.
    pub damage: Vec<Damage>,
    /// How many there are.
    pub damages: u64,
    /// Where and how far its times run backwards.
    pub backwards: Option<Backwards>,
}

/// Rows of `users.csv` by where they come from, `total` in all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct UserCounts {
    /// All rows.
    pub total: u64,
    /// Addresses from GTP-C.
    pub gtp_control: u64,
    /// Addresses from RADIUS accounting.
    pub accounting: u64,
    /// Terminals that registered, of which nothing else is known.
    pub registered: u64,
    /// Addresses from GTP-U alone.
    pub gtp_user: u64,
    /// Addresses from VXLAN.
    pub vxlan: u64,
    /// Addresses from plain UDP.
    pub plain: u64,
    /// Users whose every address went to others, or was released.
    pub without_address: u64,
    /// Of `gtp_control` and `accounting`, those whose last context or session ended within the capture.
    pub ended: u64,
}

/// Something that contradicts the rest, or could not be used.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Finding {
    /// What.
    pub what: &'static str,
    /// How often.
    pub count: u64,
    /// The first few.
    pub examples: Vec<String>,
}

/// Findings while they are made.
#[derive(Default, Debug)]
pub(super) struct Findings(BTreeMap<&'static str, (u64, Vec<String>)>);

impl Findings {
    /// Notes one. `example` is only made when it will be kept.
    pub(super) fn note(&mut self, what: &'static str, example: impl FnOnce() -> String) {
        let (count, examples) = self.0.entry(what).or_default();
        *count += 1;
        if examples.len() < MAX_EXAMPLES {
            let example = example();
            if !examples.contains(&example) {
                examples.push(example);
            }
        }
    }

    pub(super) fn into_list(self) -> Vec<Finding> {
        let finding = |(what, (count, examples))| Finding { what, count, examples };
        self.0.into_iter().map(finding).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for file in &self.files {
            let frames = &file.frames;
            writeln!(f, "{}: {} frames, {} UDP datagrams", file.file, frames.frames, frames.datagrams)?;
            let others = [
                ("put together from fragments", frames.reassembled),
                ("fragments", frames.fragments),
                ("datagrams with fragments missing", frames.incomplete),
                ("not IP", frames.not_ip),
                ("not UDP", frames.not_udp),
                ("cut by the capture program", frames.cut),
                ("malformed", frames.malformed),
                ("of an unknown link type", frames.unknown_link),
                ("without a time", frames.without_time),
                ("earlier than the frame before", frames.backwards),
            ];
            for (what, count) in others.iter().filter(|(_, count)| *count > 0) {
                writeln!(f, "    {count} {what}")?;
            }
            if let Some(Backwards { first_frame, longest_ns }) = file.backwards {
                let longest_s = longest_ns as f64 / 1e9;
                writeln!(f, "    first at frame {first_frame}, by up to {longest_s:.6} s")?;
            }
            for damage in &file.damage {
                writeln!(f, "    damaged at {damage}")?;
            }
            if file.damages > file.damage.len() as u64 {
                writeln!(f, "    damaged at {} more places", file.damages - file.damage.len() as u64)?;
            }
        }
        let (control, tunnels, users) = (&self.control, &self.tunnels, &self.users);
        writeln!(
            f,
            "GTP-C: {} contexts created, {} refused, {} unanswered, {} updated, {} deleted; {} other messages",
            control.created,
            control.refused,
            control.unanswered,
            control.updated,
            control.deleted,
            control.other
        )?;
        let unread = [
            ("of GTPv0", control.version_0),
            ("of GTPv2", control.version_2),
            ("of GTP'", control.prime),
            ("malformed", control.malformed),
        ];
        for (what, count) in unread.iter().filter(|(_, count)| *count > 0) {
            writeln!(f, "    {count} messages {what}, left out")?;
        }
        let accounting = &self.accounting;
        writeln!(
            f,
            "RADIUS accounting: {} sessions started, {} reports of them, {} stopped, {} ended by On or Off",
            accounting.started, accounting.continued, accounting.stopped, accounting.swept
        )?;
        let unread = [
            ("of a session that had ended", accounting.late),
            ("that say nothing of a session", accounting.other),
            ("with another secret", accounting.forged),
            ("malformed", accounting.malformed),
        ];
        for (what, count) in unread.iter().filter(|(_, count)| *count > 0) {
            writeln!(f, "    {count} packets {what}, left out")?;
        }
        let registrations = &self.registrations;
        writeln!(
            f,
            "PRP: {} messages; {} registered, {} released, {} rejected, {} unanswered",
            self.prp,
            registrations.registered,
            registrations.released,
            registrations.rejected,
            registrations.unanswered
        )?;
        if registrations.roaming > 0 {
            writeln!(f, "    {} registrations by other servers, left out", registrations.roaming)?;
        }
        writeln!(
            f,
            "tunnels: {} inner UDP datagrams, {} packets of other protocols, {} malformed",
            tunnels.datagrams, tunnels.not_udp, tunnels.malformed
        )?;
        writeln!(
            f,
            "users: {} = {} from GTP-C + {} from RADIUS + {} registered + {} from GTP-U alone + {} from VXLAN + {} from \
             plain UDP + {} without an address any more; {} contexts and sessions ended",
            users.total,
            users.gtp_control,
            users.accounting,
            users.registered,
            users.gtp_user,
            users.vxlan,
            users.plain,
            users.without_address,
            users.ended
        )?;
        writeln!(
            f,
            "{} gateways, {} segments in {} realms, {} applications, {} names",
            self.gateways, self.segments, self.realms, self.applications, self.names
        )?;
        for finding in &self.findings {
            writeln!(f, "{}: {}", finding.what, finding.count)?;
            for example in &finding.examples {
                writeln!(f, "    {example}")?;
            }
        }
        Ok(())
    }
}
