//! What the network says of terminals, one session at a time: whose it is, and which addresses it has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::{Endpoint, Imsi, PushId};

/// What a session is known by.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct SessionId {
    /// Clients of different domains never mean the same session: the private address space that is the client's own.
    pub domain: u32,
    /// Who counts it.
    pub nas: Nas,
    /// Acct-Session-Id.
    pub session: Box<[u8]>,
}

/// Who counts sessions: a GGSN, a P-GW, or what speaks for it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Nas {
    /// By its address.
    Address(IpAddr),
    /// By its name.
    Identifier(Box<[u8]>),
}

/// The 64 bits of IPv6 that a terminal has for itself, and its address in them where the network knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Net6 {
    /// The high half.
    pub prefix: [u8; 8],
    /// The low half.
    pub interface: Option<[u8; 8]>,
}

impl Net6 {
    /// The address with zeros for its low half: what all addresses of the net begin with.
    pub fn base(self) -> [u8; 16] {
        self.join([0; 8])
    }

    fn join(self, low: [u8; 8]) -> [u8; 16] {
        let mut octets = [0; 16];
        octets[..8].copy_from_slice(&self.prefix);
        octets[8..].copy_from_slice(&low);
        octets
    }
}

/// A session of a terminal, as the network last told it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Session {
    /// What it is known by.
    pub id: Arc<SessionId>,
    /// The other address of who counts it: 3GPP-GGSN-Address.
    pub gateway: Option<IpAddr>,
    /// The other name of who counts it, where it is known by an address.
    pub identifier: Option<Arc<[u8]>>,
    /// The user and which of its devices; none: the network's subscriber is not known here.
    pub user: Option<(PushId, u8)>,
    /// The subscriber.
    pub imsi: Option<Imsi>,
    /// Which of the subscriber's bearers.
    pub nsapi: Option<u8>,
    /// The private address space of the addresses.
    pub realm: u32,
    /// The terminal's address.
    pub ipv4: Option<Ipv4Addr>,
    /// The terminal's net.
    pub ipv6: Option<Net6>,
    /// The port that the terminal listens on as far as is known without its REGISTER.
    pub port: u16,
    /// What it can take.
    pub bearers: u8,
    /// Milliseconds since 1970, of the event by which it has its addresses.
    pub since_ms: u64,
    /// Milliseconds since 1970, of the last event that was heard.
    pub heard_ms: u64,
    /// Milliseconds since 1970 after which it does not count any more; none: it lasts until it is stopped.
    pub until_ms: Option<u64>,
    /// The terminal released itself: it is not bound again by this session.
    pub released: bool,
}

impl Session {
    /// Whether it counts at this time.
    pub fn is_live(&self, unix_ms: u64) -> bool {
        self.until_ms.is_none_or(|until| unix_ms < until)
    }

    /// What it has for itself: its address, and the first one of its net.
    pub fn addresses(&self) -> impl Iterator<Item = [u8; 16]> + use<> {
        let ipv4 = self.ipv4.map(|address| address.to_ipv6_mapped().octets());
        ipv4.into_iter().chain(self.ipv6.map(Net6::base))
    }

    /// Whether a private address of its realm is the terminal's.
    pub fn has(&self, octets: [u8; 16]) -> bool {
        self.addresses().any(|own| own == base_of(octets))
    }

    /// Where the terminal is reached: at its IPv4 address, else at its IPv6 address as far as all of it is known.
    pub fn endpoint(&self) -> Option<Endpoint> {
        let ipv6 = || self.ipv6.and_then(|net| Some(IpAddr::V6(Ipv6Addr::from(net.join(net.interface?)))));
        self.ipv4.map(IpAddr::V4).or_else(ipv6).map(|ip| Endpoint::new(ip, self.port))
    }
}

/// What a terminal's private address is looked up by: an IPv4 address itself, of an IPv6 address its net.
pub fn base_of(octets: [u8; 16]) -> [u8; 16] {
    if Endpoint::from_octets(octets, 0).is_ipv4() {
        return octets;
    }
    let mut base = octets;
    base[8..].fill(0);
    base
}
