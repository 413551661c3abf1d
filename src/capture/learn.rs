//! Source tables from captures: who has which private address behind which gateway.
//!
//! | from | a terminal is | its gateway is |
//! |---|---|---|
//! | GTP-C: Create PDP Context Request and an accepting Response | the end user address, with the request's IMSI | the GGSN's address for user traffic |
//! | RADIUS accounting: Start, Interim, Stop, On, Off | the framed address, with the IMSI | the GGSN's address, else of a mobile network the NAS's |
//! | PRP: REGISTER and its REGISTERED, RELEASE and its RELEASED | the address that registered, with its Push ID, device and NAT mapping | as the other rows say of that address |
//! | GTP-U without the GTP-C for it | the inner address on the terminal's side of the tunnel | the outer address on the other side |
//! | VXLAN | an inner UDP destination that is private | the outer destination |
//! | plain UDP | a destination that is private | "direct", without tunnel |
//!
//! Private means RFC 1918, RFC 6598, unique local (RFC 4193), link-local, loopback, or under one of
//! [`LearnOptions::segments`].
//!
//! **Which side of a GTP-U tunnel the terminal is on.** A tunnel (outer destination and TEID) carries
//! packets one way. The first rule that decides counts:
//!
//! 1. GTP-C gave the tunnel to a context.
//! 2. In one address family (IPv4, global IPv6 by /64, link-local IPv6) one side is always the same
//!    host and the other is not, multicast left aside: that host is the terminal. An always equal
//!    source that only sends to multicast is the terminal.
//! 3. One side, and not the other, holds an address that 1 or 2 found to be a terminal's.
//! 4. One side, and not the other, is private as above.
//! 5. Of the first packet between the two: who is at the port of at least 1024 when the other is
//!    below; else the sender, if its port is the higher one.
//! 6. One outer address, and not the other, is a gateway by the rules before, and nowhere the
//!    terminal's node.
//!
//! A link-local address is a user only where its tunnel shows no other of the terminal's.
//! A tunnel that none decides is reported and yields no terminal.
//!
//! **Who owns an address at the end.** Everybody who was a user at any time is one in the tables, so
//! that the whole capture can be replayed. An address belongs to who had it last; who lost it keeps a
//! row with the IMSI only. The same address behind two gateways, or in two APNs or VNIs of one
//! gateway, is two addresses: the later gateway gets a realm of its own.
//!
//! **Push IDs** are those that registered; an IMSI's other addresses are its further devices. Others are made from
//! what is known, in 32 hexadecimal digits, all under the prefix `0000`:
//!
//! ```text
//! 01 iiiiiiiiiiiiiii 0000000 jjjjjjjj    IMSI of up to 15 digits, filled with f; its last 8 digits
//! 04 rrrrrr 0000000000000000 aaaaaaaa    realm, IPv4 address
//! 06 hhhhhhhhhhhhhh ssssssssssssssss     56 bits of XXH3 over realm and /64, interface identifier
//! ```
//!
//! The last eight digits, which steer to a shard, differ between users. Several addresses of one IMSI
//! are its devices 0, 1, 2, … in the order in which they were seen. MSISDNs become names.
//!
//! Memory: about 200 bytes for each terminal, context and tunnel seen, whatever the capture's length.

use std::fmt;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::tunnel::{self, Form, Found, TunnelCounts, Tunnels};
use super::{Backwards, CaptureError, Counts, Damage, Datagram, Reader};
use crate::id::Endpoint;
use crate::table::rib::{Rib, Tunnel};
use crate::wire::{gtp, radius};

mod accounting;
mod contexts;
mod registrations;
mod report;
mod sides;
mod tables;

pub use accounting::AccountingCounts;
use accounting::Sessions;
use contexts::Contexts;
pub use contexts::ControlCounts;
pub use registrations::RegistrationCounts;
use registrations::Registrations;
use report::Findings;
pub use report::{FileReport, Finding, Report, UserCounts};
use sides::Sides;
use tables::Terminals;

/// Datagrams between two looks at how far a capture is read.
const WATCH_EVERY: u64 = 1 << 14;

/// How tables are learned.
#[derive(Clone, PartialEq, Debug)]
pub struct LearnOptions {
    /// Prefixes that are taken for private besides the usual ones.
    pub segments: Vec<(IpAddr, u8)>,
    /// Port of a terminal to which no UDP datagram went.
    pub port: u16,
    /// How the gateways that are found are reached.
    pub tunnel: Tunnel,
    /// Inner IPv4 source of `tunnel`, for vxlan and gtpu.
    pub source_v4: Option<Endpoint>,
    /// Inner IPv6 source of `tunnel`.
    pub source_v6: Option<Endpoint>,
    /// What is taken for a tunnel in the capture.
    pub tunnels: tunnel::Options,
    /// Take destinations of plain UDP datagrams for terminals.
    pub plain: bool,
    /// Datagrams from or to this port that look like PRP: registrations are read, others say nothing about
    /// terminals.
    pub prp_port: u16,
    /// The secret of RADIUS: requests that are not made with it are left out. None: all are believed.
    pub radius_secret: Option<String>,
    /// Address of the one server in the tables.
    pub server: Endpoint,
}

impl Default for LearnOptions {
    fn default() -> Self {
        Self {
            segments: Vec::new(),
            port: 17_400,
            tunnel: Tunnel::Plain,
            source_v4: None,
            source_v6: None,
            tunnels: tunnel::Options::default(),
            plain: true,
            prp_port: 17_400,
            radius_secret: None,
            server: Endpoint::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 17_400),
        }
    }
}

/// Why nothing was learned.
#[derive(Debug)]
pub struct LearnError {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub error: CaptureError,
}

impl fmt::Display for LearnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.error)
    }
}

impl std::error::Error for LearnError {}

/// Learns tables from capture files, read in the order given. The tables hold one server
/// ("learned", prefix `0000`) and applications that are open to anyone, 1 ("replay") and those of PUSHes in
/// the captures, so that they can be served as they are.
///
/// # Errors
/// When a file cannot be opened or is no capture. One that is damaged is used as far as it goes; the
/// report says so.
pub fn learn(captures: &[PathBuf], options: &LearnOptions) -> Result<(Rib, Report), LearnError> {
    let mut learner = Learner::new(options.clone());
    for file in captures {
        let named = |error| LearnError { file: file.clone(), error };
        let reader = Reader::open(file).map_err(named)?;
        learner.take(&file.display().to_string(), reader);
    }
    Ok(learner.finish())
}

/// Writes learned tables as source files; see [`crate::table::write`].
///
/// # Errors
/// When a file cannot be written.
pub fn write_sources(dir: &Path, rib: &Rib) -> std::io::Result<()> {
    crate::table::write::write(dir, rib)
}

/// Learns from captures that come one after the other.
pub struct Learner {
    options: LearnOptions,
    tunnels: Tunnels,
    contexts: Contexts,
    sessions: Sessions,
    registrations: Registrations,
    sides: Sides,
    terminals: Terminals,
    findings: Findings,
    files: Vec<FileReport>,
    prp: u64,
}

impl Learner {
    /// Nothing is known yet.
    pub fn new(options: LearnOptions) -> Self {
        Self {
            tunnels: Tunnels::new(options.tunnels),
            sessions: Sessions::new(options.radius_secret.clone()),
            options,
            registrations: Registrations::default(),
            contexts: Contexts::default(),
            sides: Sides::default(),
            terminals: Terminals::default(),
            findings: Findings::default(),
            files: Vec::new(),
            prp: 0,
        }
    }

    /// Takes a capture to its end. `name` is for the report.
    pub fn take<R: Read>(&mut self, name: &str, reader: Reader<R>) {
        self.take_watched(name, reader, || {});
    }

    /// As [`Learner::take`]; calls `watch` every few thousand datagrams.
    pub fn take_watched<R: Read>(&mut self, name: &str, mut reader: Reader<R>, mut watch: impl FnMut()) {
        let mut taken = 0_u64;
        while let Some(datagram) = reader.next_datagram() {
            self.datagram(&datagram);
            taken += 1;
            if taken.is_multiple_of(WATCH_EVERY) {
                watch();
            }
        }
        let (damage, damages) = reader.damage();
        self.files.push(FileReport {
            file: name.to_owned(),
            frames: *reader.counts(),
            damage: damage.to_vec(),
            damages,
            backwards: reader.backwards(),
        });
    }

    /// The tables, and what was found.
    pub fn finish(mut self) -> (Rib, Report) {
        self.tunnels.finish();
        self.contexts.finish();
        let private = |ip: IpAddr| is_private(ip, &self.options.segments);
        self.sides.resolve(&self.contexts, &mut self.terminals, &mut self.findings, private);
        self.terminals.register(self.registrations.finish(), &mut self.findings);
        let applications = std::mem::take(&mut self.registrations.applications);
        let (rib, users) = self.terminals.into_rib(&self.options, applications, &mut self.findings);
        let report = Report {
            files: self.files,
            tunnels: self.tunnels.counts(),
            control: self.contexts.counts,
            accounting: self.sessions.counts,
            prp: self.prp,
            registrations: self.registrations.counts,
            users,
            gateways: rib.gateways.len() as u64,
            segments: rib.segments.len() as u64,
            realms: rib
                .segments
                .iter()
                .map(|segment| segment.realm)
                .max()
                .map_or(0, |max| u64::from(max) + 1),
            applications: rib.apps.len() as u64,
            names: rib.names.len() as u64,
            findings: self.findings.into_list(),
        };
        (rib, report)
    }

    fn datagram(&mut self, datagram: &Datagram<'_>) {
        let ports = [datagram.from.port(), datagram.to.port()];
        if ports.contains(&gtp::CONTROL_PORT) {
            self.contexts.take(datagram, &mut self.terminals, &mut self.findings);
            return;
        }
        if ports.contains(&gtp::V0_PORT) {
            self.contexts.counts.version_0 += 1;
            return;
        }
        if ports.contains(&radius::ACCOUNTING_PORT) {
            self.sessions.take(datagram, &mut self.terminals, &mut self.findings);
            return;
        }
        match self.tunnels.open(datagram) {
            Found::Signalling(_) | Found::NoPacket(_) => {}
            Found::Plain => {
                if super::push::is_prp(datagram, self.options.prp_port) {
                    self.prp += 1;
                    self.registrations.take(datagram, &self.options.segments, &mut self.findings);
                } else if self.options.plain && is_private(datagram.to.ip(), &self.options.segments) {
                    self.terminals.plain(datagram.to.ip(), datagram.to.port());
                }
            }
            Found::Inner(inner) => {
                let prp = inner.datagram.filter(|inner| super::push::is_prp(inner, self.options.prp_port));
                if let Some(prp) = &prp {
                    self.prp += 1;
                    self.registrations.take(prp, &self.options.segments, &mut self.findings);
                }
                match inner.layer.form {
                    Form::Gtpu(teid) => {
                        let port = inner.datagram.map(|datagram| datagram.to.port());
                        let gpdu = sides::Gpdu {
                            tunnel: (inner.layer.to.ip(), teid),
                            outer_from: inner.layer.from.ip(),
                            from: inner.from.to_canonical(),
                            to: inner.to.to_canonical(),
                            ports: inner.ports,
                            port,
                            time_ns: datagram.time_ns,
                        };
                        match self.contexts.of_tunnel(gpdu.tunnel) {
                            Some((context, uplink)) => {
                                context.packet(&gpdu, uplink, &mut self.terminals, &mut self.findings);
                            }
                            None => self.sides.take(&gpdu),
                        }
                    }
                    Form::Vxlan(vni) => {
                        let (to, gateway) = (inner.to.to_canonical(), inner.layer.to.ip());
                        if let Some(datagram) = inner.datagram
                            && is_private(to, &self.options.segments)
                            && prp.is_none()
                        {
                            self.terminals.vxlan(gateway, vni, to, datagram.to.port());
                        }
                    }
                }
            }
        }
    }
}

/// Whether a host has a private address, or one under a prefix that was said to be private.
fn is_private(ip: IpAddr, segments: &[(IpAddr, u8)]) -> bool {
    let usual = match ip {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            v4.is_private() || v4.is_loopback() || v4.is_link_local() || (a == 100 && b & 0xC0 == 64)
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    };
    let given = segments.iter().any(|(prefix, len)| match (prefix, ip) {
        (IpAddr::V4(prefix), IpAddr::V4(ip)) => {
            let shift = 32 - u32::from(*len).min(32);
            (prefix.to_bits() ^ ip.to_bits()).checked_shr(shift).unwrap_or(0) == 0
        }
        (IpAddr::V6(prefix), IpAddr::V6(ip)) => {
            let shift = 128 - u32::from(*len).min(128);
            (prefix.to_bits() ^ ip.to_bits()).checked_shr(shift).unwrap_or(0) == 0
        }
        _ => false,
    });
    (usual || given) && is_host(ip)
}

/// Whether an address can be one terminal's: no multicast, broadcast or unspecified one.
fn is_host(ip: IpAddr) -> bool {
    !ip.is_multicast() && !ip.is_unspecified() && ip != IpAddr::V4(std::net::Ipv4Addr::BROADCAST)
}

#[cfg(test)]
mod tests;
