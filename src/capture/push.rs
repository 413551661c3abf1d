//! A captured trace as pushes: what it would have been had the sender pushed instead.

use std::collections::HashMap;
use std::io::Read;
use std::net::IpAddr;

use super::payload::Payload;
use super::tunnel::{self, Found, Layer, TunnelCounts, Tunnels};
use super::{Datagram, Reader};
use crate::id::{Endpoint, PushId};
use crate::table::Rib;
use crate::wire::prp::{HEADER_BYTES, HeadBuilder, Header, Kind, flag};

/// The longest UDP payload.
const MAX_PAYLOAD: usize = 65_507;

/// How a trace becomes pushes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PushOptions {
    /// The application that the pushes are for.
    pub app: u32,
    /// Datagrams from or to this port that look like PRP are PRP, and stay as they are.
    pub prp_port: u16,
    /// What is taken for a tunnel.
    pub tunnels: tunnel::Options,
    /// Message identifier of the first push; each next one is one higher.
    pub first_message_id: u64,
    /// A RECEIPT is wanted for each push.
    pub receipts: bool,
}

impl Default for PushOptions {
    fn default() -> Self {
        Self {
            app: 1,
            prp_port: 17_400,
            tunnels: tunnel::Options::default(),
            first_message_id: 1,
            receipts: false,
        }
    }
}

/// One PRP datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Push<'a> {
    /// When what it was made from was captured, nanoseconds since 1970.
    pub time_ns: u64,
    /// Who sent that.
    pub from: Endpoint,
    /// Where that went.
    pub to: Endpoint,
    /// The tunnel that it came through.
    pub layer: Option<Layer>,
    /// The frame of the capture.
    pub frame_number: u64,
    /// The PRP datagram: header and payload.
    pub bytes: &'a [u8],
    /// It was PRP in the capture.
    pub as_it_is: bool,
}

/// What became of a trace's datagrams, inner ones where there is a tunnel: each is in exactly one of
/// these, or is no datagram in [`TunnelCounts`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct PushCounts {
    /// Made into a PUSH.
    pub pushes: u64,
    /// PRP already.
    pub prp: u64,
    /// From a user to nobody known.
    pub uplink: u64,
    /// Neither from nor to a user.
    pub unowned: u64,
    /// To a user, but too long to carry a PRP header too.
    pub too_long: u64,
    /// Of `pushes`, those of a SIP MESSAGE: their ContentType is `message/sip`.
    pub sip_messages: u64,
    /// Of `pushes`, those of a WAP push: their ContentType is that of its content.
    pub wap_pushes: u64,
}

/// Reads a capture as pushes. `owner` says who owns an address, given also the tunnel next to the
/// packet: private addresses may repeat behind different gateways.
pub struct Pushes<R, F> {
    reader: Reader<R>,
    tunnels: Tunnels,
    options: PushOptions,
    owner: F,
    counts: PushCounts,
    message_id: u64,
    head: HeadBuilder,
    out: Vec<u8>,
}

/// The pushes of a capture; see [`Pushes`].
pub fn pushes<R, F>(reader: Reader<R>, options: PushOptions, owner: F) -> Pushes<R, F>
where
    R: Read,
    F: Fn(IpAddr, Option<&Layer>) -> Option<PushId>,
{
    Pushes {
        reader,
        tunnels: Tunnels::new(options.tunnels),
        options,
        owner,
        counts: PushCounts::default(),
        message_id: options.first_message_id,
        head: HeadBuilder::new(&Header::new(Kind::Push, PushId::NONE, PushId::NONE, 0)),
        out: Vec::with_capacity(2048),
    }
}

impl<R, F> Pushes<R, F>
where
    R: Read,
    F: Fn(IpAddr, Option<&Layer>) -> Option<PushId>,
{
    /// The next one; `None` at the capture's end.
    pub fn next_push(&mut self) -> Option<Push<'_>> {
        loop {
            let Some(outer) = self.reader.next_datagram() else {
                self.tunnels.finish();
                return None;
            };
            let (datagram, layer) = match self.tunnels.open(&outer) {
                Found::Plain => (outer, None),
                Found::Inner(inner) => match inner.datagram {
                    Some(datagram) => (datagram, Some(inner.layer)),
                    None => continue,
                },
                Found::Signalling(_) | Found::NoPacket(_) => continue,
            };
            let Datagram { time_ns, from, to, payload, frame_number } = datagram;
            let as_it_is = is_prp(&datagram, self.options.prp_port);
            self.out.clear();
            if as_it_is {
                self.counts.prp += 1;
            } else if let Some(user) = (self.owner)(to.ip(), layer.as_ref()) {
                let head = push_head(&mut self.head, &self.options, user, self.message_id);
                let content = Payload::of(payload, to.port());
                if let Some(media_type) = content.media_type() {
                    head.content_type(media_type);
                }
                let Some(head) = head.finish().ok().filter(|head| head.len() + payload.len() <= MAX_PAYLOAD)
                else {
                    self.counts.too_long += 1;
                    continue;
                };
                self.out.extend_from_slice(head);
                self.message_id = self.message_id.wrapping_add(1);
                self.counts.pushes += 1;
                self.counts.sip_messages += u64::from(content == Payload::SipMessage);
                self.counts.wap_pushes += u64::from(matches!(content, Payload::WapPush(_)));
            } else {
                let uplink = (self.owner)(from.ip(), layer.as_ref()).is_some();
                *(if uplink { &mut self.counts.uplink } else { &mut self.counts.unowned }) += 1;
                continue;
            }
            self.out.extend_from_slice(payload);
            return Some(Push { time_ns, from, to, layer, frame_number, bytes: &self.out, as_it_is });
        }
    }

    /// The PRP datagram of the push that came last.
    pub fn last(&self) -> &[u8] {
        &self.out
    }

    /// What became of the datagrams so far.
    pub const fn counts(&self) -> PushCounts {
        self.counts
    }

    /// What the tunnels held so far.
    pub const fn tunnel_counts(&self) -> TunnelCounts {
        self.tunnels.counts()
    }

    /// The capture that is read: its counts and its damage.
    pub const fn reader(&self) -> &Reader<R> {
        &self.reader
    }
}

/// Who owns an address, by the tables: what [`pushes`] asks when it replays against them.
///
/// An address that several realms have is looked up by the gateway that is an end of the tunnel; with
/// none of them, the lowest realm counts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Owners {
    /// Realm, gateway, user, in this order.
    owners: HashMap<IpAddr, Vec<(u32, Option<IpAddr>, PushId)>>,
}

impl Owners {
    /// Takes the private addresses of `rib`. About 80 bytes a user.
    pub fn new(rib: &Rib) -> Self {
        let mut segments: HashMap<(u32, IpAddr, u8), IpAddr> = HashMap::new();
        let mut lengths: Vec<u8> = Vec::new();
        for segment in &rib.segments {
            if let Some(gateway) = rib.gateways.get(segment.gateway as usize) {
                segments.insert((segment.realm, segment.ip, segment.len), gateway.address.ip());
                lengths.push(segment.len);
            }
        }
        lengths.sort_unstable();
        lengths.dedup();
        let mut owners: HashMap<IpAddr, Vec<(u32, Option<IpAddr>, PushId)>> = HashMap::new();
        for user in &rib.users {
            let Some(private) = user.private else { continue };
            let longest = lengths
                .iter()
                .rev()
                .find_map(|&len| segments.get(&(user.realm, masked(private.ip(), len)?, len)).copied());
            owners.entry(private.ip()).or_default().push((user.realm, longest, user.push_id));
        }
        owners.values_mut().for_each(|owners| owners.sort_unstable());
        Self { owners }
    }

    /// Who owns `address`, seen in the tunnel `layer`.
    pub fn owner(&self, address: IpAddr, layer: Option<&Layer>) -> Option<PushId> {
        let owners = self.owners.get(&address.to_canonical())?;
        let ends = layer.map(|layer| [layer.from.ip(), layer.to.ip()]);
        let behind = |gateway: &Option<IpAddr>| {
            gateway.is_some_and(|gateway| ends.is_some_and(|ends| ends.contains(&gateway)))
        };
        let found = owners.iter().find(|(_, gateway, _)| behind(gateway)).or(owners.first());
        found.map(|(.., user)| *user)
    }
}

/// The network of an address; `None` when the length is another family's.
fn masked(ip: IpAddr, len: u8) -> Option<IpAddr> {
    if ip.is_ipv4() && len > 32 {
        return None;
    }
    Some(match ip {
        IpAddr::V4(v4) => {
            let host = u32::MAX.checked_shr(len.into()).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & !host).into())
        }
        IpAddr::V6(v6) => {
            let host = u128::MAX.checked_shr(len.into()).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & !host).into())
        }
    })
}

/// Whether a datagram is PRP: one of its ports is `port`, it is as long as a header, and its first
/// four bits say version 1.
pub fn is_prp(datagram: &Datagram<'_>, port: u16) -> bool {
    [datagram.from.port(), datagram.to.port()].contains(&port)
        && datagram.payload.len() >= HEADER_BYTES
        && datagram.payload.first().is_some_and(|first| first >> 4 == 1)
}

/// The head of a PUSH from nobody.
fn push_head<'a>(
    head: &'a mut HeadBuilder,
    options: &PushOptions,
    user: PushId,
    message_id: u64,
) -> &'a mut HeadBuilder {
    let flags = if options.receipts { flag::RECEIPT } else { 0 };
    let header = Header::new(Kind::Push, user, PushId::NONE, message_id);
    head.restart(&Header { app: options.app, flags, ..header })
}
