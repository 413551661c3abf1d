//! What the plane would do with one message and why: the question that `explain` asks, put to the very
//! stages that a shard runs.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Serialize, Serializer};

use super::{EXTRA, Hop, Moment, Plane, Send, Site, TERMINALS_MAX, Verdict};
use crate::clock::Now;
use crate::id::{Endpoint, PushId};
use crate::packet::{Burst, FramePool};
use crate::reason::Reason;
use crate::table::{AppView, Tables};
use crate::wire::prp::{self, HOP_LIMIT, HeadBuilder, Header, Kind};

/// A PUSH that might arrive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Question {
    /// Whom it is for.
    pub destination: PushId,
    /// Who sends it, or [`PushId::NONE`].
    pub source: PushId,
    /// The application.
    pub app: u32,
    /// The address that it comes from; none: one that may push for the application.
    pub from: Option<Endpoint>,
    /// One of the user's terminals; 0: all.
    pub device: u8,
    /// Flags of the header.
    pub flags: u8,
    /// The hop limit.
    pub hop_limit: u8,
}

impl Question {
    /// A message to this user and nothing else said.
    pub const fn to(destination: PushId) -> Self {
        Self {
            destination,
            source: PushId::NONE,
            app: 0,
            from: None,
            device: 0,
            flags: 0,
            hop_limit: HOP_LIMIT,
        }
    }
}

/// What would become of a message (`INTERFACE.md`, "Answers that scripts read").
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Explanation<'a> {
    /// `deliver`, `forward`, `query` or `drop`.
    pub verdict: &'static str,
    /// Why it is dropped.
    #[serde(serialize_with = "shown_or_null")]
    pub reason: Option<Reason>,
    /// How that was decided, a sentence a step.
    pub steps: Vec<String>,
    /// What leaves.
    pub sends: Vec<Sent<'a>>,
    /// The address that the message was taken to come from.
    #[serde(serialize_with = "shown")]
    pub from: Endpoint,
}

/// One datagram that leaves.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Sent<'a> {
    /// Where it is sent: the gateway's tunnel, the terminal or the server.
    #[serde(serialize_with = "shown")]
    pub to: Endpoint,
    /// `gateway`, `nat`, `server`, `direct` (a gateway without tunnel), or `asker` for an answer.
    pub via: &'static str,
    /// The gateway's name.
    pub gateway: Option<&'a str>,
    /// The tunnel's form.
    pub tunnel: Option<&'static str>,
    /// The terminal's number; 0 where there is none.
    pub device: u8,
    /// The terminal's private address.
    #[serde(serialize_with = "shown_or_null")]
    pub private: Option<Endpoint>,
    /// The server's name.
    pub server: Option<&'a str>,
}

fn shown<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn shown_or_null<S: Serializer>(value: &Option<impl Display>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

impl<'a> Sent<'a> {
    /// What a decision of the plane sends, in the words of the tables.
    pub fn of(tables: &'a Tables, send: &Send) -> Self {
        let nothing = Self {
            to: Endpoint::NONE,
            via: "server",
            gateway: None,
            tunnel: None,
            device: 0,
            private: None,
            server: None,
        };
        match send.hop {
            Hop::Gateway { gateway, terminal } => {
                let gateway = tables.gateway_view(gateway);
                let tunnel = gateway.tunnel();
                let private = terminal.private.filter(|_| tunnel == crate::table::rib::Tunnel::None);
                Self {
                    to: private.unwrap_or_else(|| gateway.address()),
                    via: if private.is_some() { "direct" } else { "gateway" },
                    gateway: Some(gateway.name()),
                    tunnel: Some(tunnel.name()),
                    device: terminal.device,
                    private: terminal.private,
                    ..nothing
                }
            }
            Hop::Nat { to, terminal } => {
                Self { to, via: "nat", device: terminal.device, private: terminal.private, ..nothing }
            }
            Hop::Server { server, to, .. } => {
                Self { to, server: server.map(|server| tables.server_name(server)), ..nothing }
            }
            Hop::Asker(asker) => Self { to: asker.from, via: "asker", ..nothing },
        }
    }
}

/// What a verdict is called.
pub const fn verdict_name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Deliver => "deliver",
        Verdict::Query | Verdict::Pending => "query",
        Verdict::Forward => "forward",
        Verdict::Answer | Verdict::Punt => "answer",
        Verdict::Drop(_) => "drop",
    }
}

/// Builds the message, signs it where that is needed, and runs the plane's stages over it.
///
/// A key is taken as given rightly: the sending server's if it has one, else the application's, else,
/// where everything must be signed, the source's own. Counts against the application's rate like
/// any message. Of a group the members of groups.csv are known, not who joined or left since.
pub fn explain<'a>(site: &Site, tables: &'a Tables, now: Now, question: &Question) -> Explanation<'a> {
    let mut steps = Vec::new();
    let from = question.from.unwrap_or_else(|| {
        let (from, why) = sender(&Moment::new(site, tables, now), question);
        steps.push(format!("nobody said where it comes from: taken to be {from}, {why}"));
        from
    });
    let answer = |verdict, reason, steps, sends| Explanation { verdict, reason, steps, sends, from };
    let Ok(bytes) = datagram(site, tables, now, question, from, &mut steps) else {
        steps.push("the options do not fit".to_owned());
        return answer("drop", Some(Reason::TooLarge), steps, Vec::new());
    };
    let question = Arrived { bytes: &bytes, from, is_copy: false };
    let (verdict, sends) = match outcome(site, tables, now, &question, &mut steps) {
        (Verdict::Punt, _) => of_group(site, tables, now, &question, &mut steps),
        decided => decided,
    };
    match verdict {
        Verdict::Drop(reason) => answer("drop", Some(reason), steps, Vec::new()),
        other => answer(verdict_name(other), None, steps, sends),
    }
}

/// What becomes of a message for a group: of each member's copy by itself, and of the whole as the best of them
/// (INTERFACE.md, ruling 13).
fn of_group<'a>(
    site: &Site,
    tables: &'a Tables,
    now: Now,
    arrived: &Arrived<'_>,
    steps: &mut Vec<String>,
) -> (Verdict, Vec<Sent<'a>>) {
    let Ok(message) = prp::parse(arrived.bytes) else {
        return (Verdict::Drop(Reason::Malformed), Vec::new());
    };
    let Header { destination: group, source, .. } = message.header;
    let is_own = tables.own().is_some() && tables.route(group) == tables.own();
    let Some(members) = tables.arrays().group(group).filter(|_| is_own) else {
        steps.push(format!(
            "groups.csv has no group {group}; of groups that users made only the running server knows"
        ));
        return (Verdict::Drop(Reason::UnknownGroup), Vec::new());
    };
    let Ok(mut copy) = prp::copy_for_members(&message, arrived.bytes, group) else {
        return (Verdict::Drop(Reason::TooLarge), Vec::new());
    };
    let mut whole = Verdict::Drop(Reason::NotAttached);
    let mut sends = Vec::new();
    let mut first_fault = None;
    for member in members.iter().map(|id| PushId::from_bytes(*id)).filter(|member| *member != source) {
        steps.push(format!("a copy for member {member}"));
        prp::set_destination(&mut copy, member);
        let (verdict, sent) =
            outcome(site, tables, now, &Arrived { bytes: &copy, is_copy: true, ..*arrived }, steps);
        sends.extend(sent);
        whole = match (whole, verdict) {
            (Verdict::Deliver, _) | (_, Verdict::Deliver) => Verdict::Deliver,
            (Verdict::Query, _) | (_, Verdict::Query) => Verdict::Query,
            (Verdict::Forward, _) | (_, Verdict::Forward) => Verdict::Forward,
            (_, fault) => *first_fault.get_or_insert(fault),
        };
    }
    (whole, sends)
}

/// One datagram: a message as it arrives, or a member's copy.
struct Arrived<'a> {
    bytes: &'a [u8],
    from: Endpoint,
    is_copy: bool,
}

fn outcome<'a>(
    site: &Site,
    tables: &'a Tables,
    now: Now,
    arrived: &Arrived<'_>,
    steps: &mut Vec<String>,
) -> (Verdict, Vec<Sent<'a>>) {
    let Arrived { bytes, from, is_copy } = *arrived;
    let moment = Moment::new(site, tables, now);
    let pool = FramePool::new(TERMINALS_MAX + 1, site.datagram_max);
    let frames = pool.capacity();
    let mut burst = Burst::new(pool);
    burst.push_copy(bytes, from, site.listener_for(from).unwrap_or(0));
    let mut plane = Plane::new(frames);
    if is_copy {
        plane.decide_copies(&moment, &burst, steps);
    } else {
        plane.decide_in(&moment, &burst, steps);
    }
    let mut verdict = plane.verdict(0);
    let mut sends: Vec<Sent<'_>> = plane.sends(0).iter().map(|send| Sent::of(tables, send)).collect();
    if verdict == Verdict::Query && sends.is_empty() {
        steps.push("a server that asks nobody (no hlr) rejects it at once: no-gateway".to_owned());
    }
    if !sends.is_empty() {
        // The last stage may still find that no listening address reaches the next hop.
        plane.rewrite(&moment, &mut burst);
        let mut left = burst.tx.iter().filter(|tx| tx.token != EXTRA).map(|tx| tx.to).peekable();
        sends.retain(|send| {
            let leaves = left.next_if_eq(&send.to).is_some();
            if !leaves {
                steps.push(format!("no listening address of this server reaches {}", send.to));
            }
            leaves
        });
        drop(left);
        if let (Verdict::Drop(_), true) = (plane.verdict(0), verdict != Verdict::Query) {
            verdict = plane.verdict(0);
        }
        for tx in burst.tx.drain(..) {
            burst.pool.put(tx.frame);
        }
    }
    burst.clear_rows();
    (verdict, sends)
}

/// The message as it would arrive.
fn datagram(
    site: &Site,
    tables: &Tables,
    now: Now,
    question: &Question,
    from: Endpoint,
    steps: &mut Vec<String>,
) -> Result<Vec<u8>, prp::HeadTooLong> {
    let header = Header {
        app: question.app,
        flags: question.flags,
        hop_limit: question.hop_limit,
        ..Header::new(Kind::Push, question.destination, question.source, 1)
    };
    let mut head = HeadBuilder::new(&header);
    if question.device != 0 {
        head.device(question.device);
    }
    let key = match tables.peer(from) {
        Some(peer) => tables.server_key(peer).map(|key| (key, "the server's")),
        None => {
            let app =
                tables.app(question.app).and_then(|app| app.key()).map(|key| (key, "the application's"));
            let own = || tables.user_key(question.source).map(|key| (key, "the source's own"));
            app.or_else(|| site.policy.require_auth.then(own).flatten())
        }
    };
    let Some((key, whose)) = key else { return head.datagram(&[]) };
    let id = tables.key_id(key);
    head.auth(id, now.unix_ms);
    let mut bytes = head.datagram(&[])?;
    let end = bytes.len();
    if tables.key(key).is_some_and(|schedule| schedule.sign(&mut bytes, end)) {
        steps.push(format!("taken to be signed with key {id}, {whose}"));
    }
    Ok(bytes)
}

/// An address that may push for the application, where there is one, and why it was taken. Never a
/// server's.
fn sender(moment: &Moment<'_>, question: &Question) -> (Endpoint, String) {
    let tables = moment.tables;
    let free = |ip| {
        let from = (9..).map(|port| Endpoint::new(ip, port)).find(|from| tables.peer(*from).is_none());
        from.unwrap_or(Endpoint::NONE)
    };
    let anyone = || free(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
    let Some(app) = tables.app(question.app) else {
        return (anyone(), "an address of documentation".to_owned());
    };
    if !app.has_sources() {
        return (anyone(), "since anyone may push for the application".to_owned());
    }
    if let Some((ip, len)) = app.sources().next() {
        return (free(first_host(ip, len)), format!("in {ip}/{len} of the application's sources"));
    }
    match terminal_address(moment, app, question.source) {
        Some(from) => (from, "a terminal of the source".to_owned()),
        None => (anyone(), "since nobody may push for the application".to_owned()),
    }
}

fn terminal_address(moment: &Moment<'_>, app: AppView<'_>, source: PushId) -> Option<Endpoint> {
    let mut found = None;
    if app.takes_users() {
        moment.each_of(source, |known| {
            if known.is_live(moment.now) && found.is_none() {
                found = known.nat().or(known.private());
            }
        });
    }
    found
}

/// The first address of a prefix that a host can have.
fn first_host(ip: IpAddr, len: u8) -> IpAddr {
    match ip {
        IpAddr::V4(v4) if len < 31 => IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() | 1)),
        IpAddr::V6(v6) if len < 127 => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() | 1)),
        other => other,
    }
}
