//! Tunnels: what is inside a datagram that is GTP-U (TS 29.281) or VXLAN (RFC 7348).
//!
//! A datagram is GTP-U when one of its ports is 2152 and its content is a GTPv1-U message; with
//! [`Options::gtpu_any_port`] on any port, when it is a G-PDU without trailing bytes around a whole
//! IP packet whose header checksum is right. It is VXLAN when its destination port is 4789 and the
//! VNI flag is set. Inside a tunnel one more tunnel is looked into. What only has the port of a
//! tunnel is an ordinary datagram.
//!
//! Cost: a look at eight bytes for other datagrams; a walk of two header stacks for these.

use std::fmt;
use std::net::IpAddr;

use super::Datagram;
use super::fragment::{Fragments, Key, Outcome};
use super::link::{self, Content};
use super::packet::{self, Packet, Piece, Udp};
use crate::id::Endpoint;
use crate::wire::gtp::{self, Message};

/// What is taken for a tunnel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// UDP port of GTP-U.
    pub gtpu_port: u16,
    /// Look for G-PDUs on every port.
    pub gtpu_any_port: bool,
    /// UDP destination port of VXLAN.
    pub vxlan_port: u16,
}

impl Default for Options {
    fn default() -> Self {
        Self { gtpu_port: gtp::USER_PORT, gtpu_any_port: false, vxlan_port: 4789 }
    }
}

/// What a tunnel calls itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Form {
    /// GTP-U with this TEID.
    Gtpu(u32),
    /// VXLAN with this VNI.
    Vxlan(u32),
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gtpu(teid) => write!(f, "GTP-U TEID {teid:#010x}"),
            Self::Vxlan(vni) => write!(f, "VXLAN VNI {vni}"),
        }
    }
}

/// One tunnel around a packet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Layer {
    /// Its form.
    pub form: Form,
    /// Outer source.
    pub from: Endpoint,
    /// Outer destination.
    pub to: Endpoint,
}

impl Layer {
    /// A number for the tunnel, so that fragments in different ones do not mix.
    fn scope(self) -> u64 {
        let (tag, id) = match self.form {
            Form::Gtpu(teid) => (1 << 32, u64::from(teid)),
            Form::Vxlan(vni) => (2 << 32, u64::from(vni)),
        };
        tag | id
    }
}

/// A packet that came through one or two tunnels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inner<'a> {
    /// The tunnel next to the packet.
    pub layer: Layer,
    /// The tunnel around that one.
    pub outer: Option<Layer>,
    /// Source of the inner packet.
    pub from: IpAddr,
    /// Destination of the inner packet.
    pub to: IpAddr,
    /// Its IP protocol number.
    pub protocol: u8,
    /// Source and destination port of TCP, UDP or SCTP, unless the packet is a later fragment.
    pub ports: Option<(u16, u16)>,
    /// The UDP datagram, where it holds or completes one.
    pub datagram: Option<Datagram<'a>>,
}

/// What a datagram is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found<'a> {
    /// No tunnel.
    Plain,
    /// A GTP-U message without a user's packet: echo, error indication, end marker.
    Signalling(Message<'a>),
    /// A tunnel with an IP packet in it.
    Inner(Inner<'a>),
    /// A tunnel with something else in it: ARP, PPP, or nothing that can be read.
    NoPacket(Layer),
}

/// What became of the datagrams handed to [`Tunnels::open`]. They are `plain + signalling +
/// no_packet + datagrams + fragments + not_udp + malformed` in number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct TunnelCounts {
    /// No tunnels.
    pub plain: u64,
    /// GTP-U messages that carry no packet.
    pub signalling: u64,
    /// Tunnels that hold no IP packet.
    pub no_packet: u64,
    /// Inner UDP datagrams.
    pub datagrams: u64,
    /// Inner UDP fragments that completed no datagram.
    pub fragments: u64,
    /// Inner packets of other protocols.
    pub not_udp: u64,
    /// Inner packets shorter than they say, and inner UDP headers that cannot be.
    pub malformed: u64,
    /// Inner datagrams that were never whole, so far.
    pub incomplete: u64,
}

/// Looks into tunnels; remembers the fragments of inner packets.
#[derive(Debug, Default)]
pub struct Tunnels {
    options: Options,
    fragments: Fragments,
    counts: TunnelCounts,
}

impl Tunnels {
    /// Takes for tunnels what `options` says.
    pub fn new(options: Options) -> Self {
        Self { options, ..Self::default() }
    }

    /// What became of the datagrams so far.
    pub const fn counts(&self) -> TunnelCounts {
        TunnelCounts { incomplete: self.fragments.incomplete, ..self.counts }
    }

    /// Gives up the fragments that wait: the capture has ended.
    pub fn finish(&mut self) {
        self.fragments.finish();
    }

    /// What `datagram` is.
    pub fn open<'a>(&'a mut self, datagram: &Datagram<'a>) -> Found<'a> {
        let (mut layer, mut content) = match self.peel(datagram.from, datagram.to, datagram.payload) {
            Peeled::Not => {
                self.counts.plain += 1;
                return Found::Plain;
            }
            Peeled::Signalling(message) => {
                self.counts.signalling += 1;
                return Found::Signalling(message);
            }
            Peeled::Packet(layer, content) => (layer, content),
        };
        let mut outer = None;
        loop {
            let Some(packet) = content.and_then(packet::ip) else {
                self.counts.no_packet += 1;
                return Found::NoPacket(layer);
            };
            let Packet { from, to, protocol, fragment, payload, cut } = packet;
            let ports = ports(&packet);
            let inner = Inner { layer, outer, from, to, protocol, ports, datagram: None };
            if protocol != packet::UDP || cut {
                *(if cut { &mut self.counts.malformed } else { &mut self.counts.not_udp }) += 1;
                return Found::Inner(inner);
            }
            if let Some(piece) = fragment {
                let key = Key { from, to, protocol, id: piece.id, scope: layer.scope() };
                return Found::Inner(self.fragment(inner, key, piece, payload, datagram));
            }
            let Udp::Whole(from_port, to_port, data) = packet::udp(payload) else {
                self.counts.malformed += 1;
                return Found::Inner(inner);
            };
            let (from, to) = (Endpoint::new(from, from_port), Endpoint::new(to, to_port));
            if outer.is_none()
                && let Peeled::Packet(second, deeper) = self.peel(from, to, data)
            {
                (outer, layer, content) = (Some(layer), second, deeper);
                continue;
            }
            self.counts.datagrams += 1;
            let found = Datagram { from, to, payload: data, ..*datagram };
            return Found::Inner(Inner { datagram: Some(found), ..inner });
        }
    }

    /// An inner packet that is a fragment. What it completes is not looked into for another tunnel.
    fn fragment<'a>(
        &'a mut self,
        inner: Inner<'a>,
        key: Key,
        piece: Piece,
        payload: &[u8],
        datagram: &Datagram<'a>,
    ) -> Inner<'a> {
        match self.fragments.take(key, piece, payload, datagram.time_ns) {
            Outcome::Held => self.counts.fragments += 1,
            Outcome::Bad => self.counts.malformed += 1,
            Outcome::Complete => match packet::udp(self.fragments.whole()) {
                Udp::Whole(from_port, to_port, payload) => {
                    self.counts.datagrams += 1;
                    let from = Endpoint::new(inner.from, from_port);
                    let to = Endpoint::new(inner.to, to_port);
                    let found = Datagram { from, to, payload, ..*datagram };
                    return Inner { datagram: Some(found), ..inner };
                }
                Udp::Cut | Udp::Malformed => self.counts.malformed += 1,
            },
        }
        inner
    }

    /// Takes one tunnel off.
    fn peel<'a>(&self, from: Endpoint, to: Endpoint, payload: &'a [u8]) -> Peeled<'a> {
        if to.port() == self.options.vxlan_port
            && let Some((&[flags, _, _, _, v2, v1, v0, _], frame)) = payload.split_first_chunk::<8>()
            && flags & 0x08 != 0
        {
            let layer = Layer { form: Form::Vxlan(u32::from_be_bytes([0, v2, v1, v0])), from, to };
            return Peeled::Packet(
                layer,
                match link::content(link::ETHERNET, frame) {
                    Content::Ip(packet) => Some(packet),
                    _ => None,
                },
            );
        }
        let at_port = [from.port(), to.port()].contains(&self.options.gtpu_port);
        if !at_port && !self.options.gtpu_any_port {
            return Peeled::Not;
        }
        let Ok(message) = gtp::parse(payload) else { return Peeled::Not };
        match message.kind {
            gtp::kind::G_PDU if at_port || surely_gpdu(&message) => {
                let layer = Layer { form: Form::Gtpu(message.teid), from, to };
                Peeled::Packet(layer, message.user_packet())
            }
            gtp::kind::ECHO_REQUEST
            | gtp::kind::ECHO_RESPONSE
            | gtp::kind::ERROR_INDICATION
            | gtp::kind::SUPPORTED_EXTENSIONS
            | gtp::kind::TUNNEL_STATUS
            | gtp::kind::END_MARKER
                if at_port =>
            {
                Peeled::Signalling(message)
            }
            _ => Peeled::Not,
        }
    }
}

/// The ports with which TCP, UDP and SCTP start.
fn ports(packet: &Packet<'_>) -> Option<(u16, u16)> {
    let first = packet.fragment.is_none_or(|piece| piece.offset == 0);
    match packet.payload {
        &[s1, s0, d1, d0, ..] if first && [6, 17, 132].contains(&packet.protocol) => {
            Some((u16::from_be_bytes([s1, s0]), u16::from_be_bytes([d1, d0])))
        }
        _ => None,
    }
}

enum Peeled<'a> {
    Not,
    Signalling(Message<'a>),
    Packet(Layer, Option<&'a [u8]>),
}

/// Whether a G-PDU on a foreign port is one: it fills its datagram, and its packet fills it, with an
/// IPv4 header checksum that is right or an IPv6 header of the right length.
fn surely_gpdu(message: &Message<'_>) -> bool {
    let body = message.body;
    if message.trailing != 0 {
        return false;
    }
    match body.first().map(|first| first >> 4) {
        Some(4) => etherparse::Ipv4Slice::from_slice(body).is_ok_and(|slice| {
            let header = slice.header().to_header();
            usize::from(slice.header().total_len()) == body.len()
                && header.header_checksum == header.calc_header_checksum()
        }),
        Some(6) => etherparse::Ipv6HeaderSlice::from_slice(body)
            .is_ok_and(|header| usize::from(header.payload_length()) + 40 == body.len()),
        _ => false,
    }
}
