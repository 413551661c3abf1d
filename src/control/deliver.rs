//! The way to a terminal, for the few datagrams that the controller itself sends there: as the plane
//! does it (PROTOCOL.md, step 5).

use super::answer::datagram;
use super::{Engine, Outbox, Reply};
use crate::clock::Now;
use crate::id::Endpoint;
use crate::reason::Reason;
use crate::table::rib::Tunnel;
use crate::table::{Binding, Tables};
use crate::wire::prp::HeadBuilder;
use crate::wire::tunnel;

/// The bit of Bearers without which nothing goes over packet data (ruling 34).
const PACKET_DATA: u8 = 1;

impl Engine {
    /// Sends a datagram with this head and no payload to a terminal, signed with its user's key if it
    /// has one (ruling 15). `inside`, a realm and a private address, is appended where that does not
    /// clash with what a plain gateway is told.
    pub(super) fn deliver(
        &self,
        tables: &Tables,
        terminal: &Binding,
        head: &mut HeadBuilder,
        inside: Option<(u32, Endpoint)>,
        now: Now,
        out: &mut Outbox,
    ) -> Result<(), Reason> {
        if terminal.bearers & PACKET_DATA == 0 {
            return Err(Reason::BearerFailed);
        }
        let key = tables.user_key(terminal.user).map(|key| tables.key_id(key));
        let gateway = terminal.private.and_then(|private| {
            Some((private, tables.gateway_view(tables.gateway(terminal.realm, private)?)))
        });
        let is_plain = gateway.is_some_and(|(_, gateway)| gateway.tunnel() == Tunnel::Plain);
        if let Some((realm, private)) = inside.filter(|_| !is_plain) {
            head.private_address(private).realm(realm);
        }
        let (to, datagram) = match (gateway, terminal.nat) {
            (Some((private, gateway)), _) => {
                let to = gateway.address();
                let inner = |inner: Vec<u8>| {
                    let from = gateway.source_for(private).ok_or(Reason::NoGateway)?;
                    ip_packet(inner, from, private)
                };
                match gateway.tunnel() {
                    Tunnel::Plain => {
                        head.private_address(private).realm(terminal.realm);
                        (to, datagram(tables, head, &[], key, now)?)
                    }
                    Tunnel::None => (private, datagram(tables, head, &[], key, now)?),
                    Tunnel::Vxlan { vni, mac } => {
                        let packet = inner(datagram(tables, head, &[], key, now)?)?;
                        let front = tunnel::vxlan_ethernet(vni, mac, private.is_ipv4());
                        (to, [&front[..], &packet].concat())
                    }
                    Tunnel::Gtpu { teid } => {
                        let packet = inner(datagram(tables, head, &[], key, now)?)?;
                        let length = u16::try_from(packet.len()).map_err(|_| Reason::TooLarge)?;
                        (to, [&tunnel::gtpu(teid, length)[..], &packet].concat())
                    }
                }
            }
            (None, Some(nat)) => (nat, datagram(tables, head, &[], key, now)?),
            (None, None) => return Err(Reason::NotAttached),
        };
        // The terminal knows the address that it wrote to; a gateway, the first.
        let wanted = if to == gateway.map_or(to, |(private, _)| private) { terminal.listener } else { 0 };
        let listener = self.listener_for(to, wanted).ok_or(Reason::NoRoute)?;
        out.replies.push(Reply { to, listener, datagram, is_reject: false });
        Ok(())
    }
}

/// The datagram in UDP and IP.
fn ip_packet(inner: Vec<u8>, from: Endpoint, to: Endpoint) -> Result<Vec<u8>, Reason> {
    let mut packet = vec![0; tunnel::ip_udp_bytes(to)];
    packet.extend(inner);
    if tunnel::write_ip_udp(&mut packet, from, to) { Ok(packet) } else { Err(Reason::TooLarge) }
}
