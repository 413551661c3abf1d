//! PDP contexts as GTP-C makes, changes and ends them.

use std::collections::HashMap;
use std::net::IpAddr;

use super::report::Findings;
use super::sides::Gpdu;
use super::tables::Terminals;
use super::{Datagram, is_host};
use crate::id::{Endpoint, Imsi};
use crate::wire::gtp::{self, Malformed, Pdp, kind};

/// Requests that wait for their response. Beyond, the older ones count as unanswered.
const MAX_PENDING: usize = 1 << 16;
/// How long a request waits when there are many, nanoseconds: T3-RESPONSE times N3-REQUESTS of slow
/// peers.
const PENDING_NS: u64 = 60_000_000_000;

/// GTP-C messages of a capture.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct ControlCounts {
    /// Contexts created: a request and its accepting response.
    pub created: u64,
    /// Requests of any kind that were refused.
    pub refused: u64,
    /// Requests without a response in the capture.
    pub unanswered: u64,
    /// Responses without a request in the capture.
    pub unasked: u64,
    /// Contexts updated.
    pub updated: u64,
    /// Contexts deleted.
    pub deleted: u64,
    /// Messages of other types.
    pub other: u64,
    /// Messages of GTPv0 (port 3386), not read.
    pub version_0: u64,
    /// Messages of GTPv2, not read.
    pub version_2: u64,
    /// Messages of GTP', not read.
    pub prime: u64,
    /// Datagrams on the port of GTP-C that are no message.
    pub malformed: u64,
}

/// An end of a tunnel: the node's address and the identifier that it chose.
type End = (IpAddr, u32);

/// One PDP context.
#[derive(Clone, Debug)]
pub(super) struct Context {
    imsi: Option<Imsi>,
    nsapi: u8,
    /// The GGSN's address for user traffic.
    gateway: IpAddr,
    /// Its addresses for signalling: the one it uses and the one it names.
    ggsn: [IpAddr; 2],
    apn: String,
    addresses: Vec<IpAddr>,
    live: bool,
}

/// What a request asked, until its response comes.
struct Pending {
    kind: u8,
    time_ns: u64,
    imsi: Option<Imsi>,
    msisdn: String,
    apn: String,
    nsapi: u8,
    teardown: bool,
    static_addresses: Vec<IpAddr>,
    /// The sender's ends.
    control: Option<End>,
    data: Option<End>,
    /// The contexts that the request is about, by its header TEID.
    about: Vec<usize>,
}

/// All contexts of a capture.
#[derive(Default)]
pub(super) struct Contexts {
    contexts: Vec<Context>,
    /// By either end of the control tunnel.
    control: HashMap<End, Vec<usize>>,
    /// By the receiving end of a user tunnel; whether that is the GGSN's, so that it carries uplink.
    data: HashMap<End, (usize, bool)>,
    pending: HashMap<(Endpoint, Endpoint, u16), Pending>,
    pub(super) counts: ControlCounts,
}

impl Contexts {
    /// The context that a user tunnel belongs to, and whether the tunnel carries uplink.
    pub(super) fn of_tunnel(&self, end: End) -> Option<(&Context, bool)> {
        let &(index, uplink) = self.data.get(&end)?;
        Some((self.contexts.get(index)?, uplink))
    }

    /// The capture has ended: what waits is unanswered.
    pub(super) fn finish(&mut self) {
        self.counts.unanswered += self.pending.len() as u64;
        self.pending.clear();
    }

    /// Takes a datagram from or to the port of GTP-C.
    pub(super) fn take(
        &mut self,
        datagram: &Datagram<'_>,
        terminals: &mut Terminals,
        findings: &mut Findings,
    ) {
        let message = match gtp::parse(datagram.payload) {
            Ok(message) => message,
            Err(Malformed::Version(2)) => return self.counts.version_2 += 1,
            Err(Malformed::Version(0)) => return self.counts.version_0 += 1,
            Err(Malformed::Prime) => return self.counts.prime += 1,
            Err(_) => return self.counts.malformed += 1,
        };
        let request = match message.kind {
            kind::CREATE_PDP_REQUEST | kind::UPDATE_PDP_REQUEST | kind::DELETE_PDP_REQUEST => true,
            kind::CREATE_PDP_RESPONSE | kind::UPDATE_PDP_RESPONSE | kind::DELETE_PDP_RESPONSE => false,
            _ => return self.counts.other += 1,
        };
        // Without a sequence number a request and its response cannot be told to belong together.
        let Some(sequence) = message.sequence else { return self.counts.malformed += 1 };
        let pdp = Pdp::read(message.ies());
        if request {
            self.request(datagram, message.kind, message.teid, sequence, &pdp);
            return;
        }
        let Some(asked) = self.pending.remove(&(datagram.to, datagram.from, sequence)) else {
            return self.counts.unasked += 1;
        };
        if asked.kind + 1 != message.kind {
            return self.counts.unasked += 1;
        }
        if !pdp.accepted() {
            return self.counts.refused += 1;
        }
        match message.kind {
            kind::CREATE_PDP_RESPONSE => self.create(datagram, asked, &pdp, terminals, findings),
            kind::UPDATE_PDP_RESPONSE => self.update(datagram, &asked, &pdp),
            _ => self.delete(&asked, terminals),
        }
    }

    fn request(&mut self, datagram: &Datagram<'_>, kind: u8, teid: u32, sequence: u16, pdp: &Pdp<'_>) {
        if self.pending.len() >= MAX_PENDING {
            let before = self.pending.len();
            let now = datagram.time_ns;
            self.pending.retain(|_, asked| now.saturating_sub(asked.time_ns) < PENDING_NS);
            if self.pending.len() >= MAX_PENDING {
                self.pending.clear();
            }
            self.counts.unanswered += (before - self.pending.len()) as u64;
        }
        let about = match teid {
            0 => Vec::new(),
            _ => self.control.get(&(datagram.to.ip(), teid)).cloned().unwrap_or_default(),
        };
        let from = datagram.from.ip();
        let asked = Pending {
            kind,
            time_ns: datagram.time_ns,
            imsi: pdp.imsi,
            msisdn: pdp.msisdn.map(|msisdn| msisdn.to_string()).unwrap_or_default(),
            apn: pdp.apn.map(|apn| apn.to_string()).unwrap_or_default(),
            nsapi: pdp.nsapi.unwrap_or(0),
            teardown: pdp.teardown == Some(true),
            static_addresses: pdp.end_user.map(|eua| eua.addresses().collect()).unwrap_or_default(),
            control: pdp.teid_control.map(|teid| (pdp.gsn_control.unwrap_or(from), teid)),
            data: pdp.teid_data.map(|teid| (pdp.gsn_user.or(pdp.gsn_control).unwrap_or(from), teid)),
            about,
        };
        // A request that was sent again is the same request.
        self.pending.insert((datagram.from, datagram.to, sequence), asked);
    }

    fn create(
        &mut self,
        datagram: &Datagram<'_>,
        asked: Pending,
        pdp: &Pdp<'_>,
        terminals: &mut Terminals,
        findings: &mut Findings,
    ) {
        self.counts.created += 1;
        let from = datagram.from.ip();
        let gateway = pdp.gsn_user.or(pdp.gsn_control).unwrap_or(from).to_canonical();
        // A secondary context has neither IMSI nor address of its own.
        let primary = asked.about.iter().rev().filter_map(|index| self.contexts.get(*index)).find(|c| c.live);
        let addresses: Vec<IpAddr> = match pdp.end_user {
            Some(eua) if eua.addresses().next().is_some() => eua.addresses().collect(),
            _ if !asked.static_addresses.is_empty() => asked.static_addresses,
            _ => primary.map(|context| context.addresses.clone()).unwrap_or_default(),
        };
        let context = Context {
            imsi: asked.imsi.or(primary.and_then(|context| context.imsi)),
            nsapi: asked.nsapi,
            gateway,
            ggsn: [from, pdp.gsn_control.unwrap_or(from)],
            apn: if asked.apn.is_empty() {
                primary.map(|context| context.apn.clone()).unwrap_or_default()
            } else {
                asked.apn
            },
            addresses: addresses.into_iter().map(|ip| ip.to_canonical()).filter(|ip| is_host(*ip)).collect(),
            live: true,
        };
        if context.addresses.is_empty() {
            findings.note("contexts without an IP address, left out", || {
                format!("at {gateway}, frame {}", datagram.frame_number)
            });
        }
        for &address in &context.addresses {
            terminals.context(&context.gateway, &context.apn, address, context.imsi, findings);
        }
        if let Some(imsi) = context.imsi
            && !asked.msisdn.is_empty()
        {
            terminals.name(asked.msisdn, imsi, findings);
        }
        let index = self.contexts.len();
        self.contexts.push(context);
        // A node may sign with one address and name another.
        let theirs = pdp.teid_control.map(|teid| (pdp.gsn_control.unwrap_or(from), teid));
        let seen_theirs = pdp.teid_control.map(|teid| (from, teid));
        let seen_ours = asked.control.map(|(_, teid)| (datagram.to.ip(), teid));
        let mut ends: Vec<End> =
            [theirs, seen_theirs, asked.control, seen_ours].into_iter().flatten().collect();
        ends.dedup();
        for end in ends {
            let contexts = self.control.entry(end).or_default();
            // An identifier is given anew when its contexts have ended.
            contexts.retain(|&other| self.contexts[other].live && other != index);
            contexts.push(index);
        }
        if let Some(end) = asked.data {
            self.data.insert(end, (index, false));
        }
        if let Some(teid) = pdp.teid_data {
            self.data.insert((gateway, teid), (index, true));
        }
    }

    /// New user tunnels: an SGSN's after a change of routing area, or a GGSN's.
    fn update(&mut self, datagram: &Datagram<'_>, asked: &Pending, pdp: &Pdp<'_>) {
        let Some(&index) = asked.about.iter().find(|index| self.contexts[**index].nsapi == asked.nsapi)
        else {
            return;
        };
        self.counts.updated += 1;
        let answers = datagram.from.ip();
        let context = &self.contexts[index];
        let to_ggsn = context.ggsn.contains(&answers);
        if let Some(end) = asked.data {
            self.data.insert(end, (index, !to_ggsn));
        }
        if let Some(teid) = pdp.teid_data {
            let unnamed = if to_ggsn { context.gateway } else { answers };
            let end = (pdp.gsn_user.or(pdp.gsn_control).unwrap_or(unnamed), teid);
            self.data.insert(end, (index, to_ggsn));
        }
        let theirs = pdp.teid_control.map(|teid| (pdp.gsn_control.unwrap_or(answers), teid));
        for end in [asked.control, theirs].into_iter().flatten() {
            let contexts = self.control.entry(end).or_default();
            if !contexts.contains(&index) {
                contexts.push(index);
            }
        }
    }

    fn delete(&mut self, asked: &Pending, terminals: &mut Terminals) {
        for &index in &asked.about {
            let context = &mut self.contexts[index];
            if !context.live || !(asked.teardown || context.nsapi == asked.nsapi) {
                continue;
            }
            self.counts.deleted += 1;
            context.live = false;
            let context = self.contexts[index].clone();
            // Another context may hold the same address still.
            let held = |address: &IpAddr| {
                asked.about.iter().any(|&other| {
                    let other = &self.contexts[other];
                    other.live && other.gateway == context.gateway && other.addresses.contains(address)
                })
            };
            for address in context.addresses.iter().filter(|address| !held(address)) {
                terminals.ended(Some(context.gateway), &context.apn, *address, context.imsi);
            }
        }
    }
}

impl Context {
    /// A user's packet in one of the context's tunnels.
    pub(super) fn packet(
        &self,
        gpdu: &Gpdu,
        uplink: bool,
        terminals: &mut Terminals,
        findings: &mut Findings,
    ) {
        let address = if uplink { gpdu.from } else { gpdu.to };
        let same_prefix = |one: &IpAddr| match (one, address) {
            (IpAddr::V6(one), IpAddr::V6(other)) => one.segments()[..4] == other.segments()[..4],
            _ => false,
        };
        let own = self.addresses.contains(&address);
        if own || self.addresses.iter().any(same_prefix) {
            if !own && is_host(address) {
                // The context's /64 is the terminal's; it chooses the rest as it likes (RFC 4941).
                terminals.context(&self.gateway, &self.apn, address, self.imsi, findings);
            }
            if !uplink && let Some(port) = gpdu.port {
                terminals.port(&self.gateway, &self.apn, address, port);
            }
        } else if is_host(address) && !matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
            findings.note("packets whose address is not that of their context", || {
                format!(
                    "{address}, not {:?}, in TEID {:#010x} to {}",
                    self.addresses, gpdu.tunnel.1, gpdu.tunnel.0
                )
            });
        }
    }
}
