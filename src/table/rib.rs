//! The editable tables: rows as an operator thinks of them, checked, names resolved to indexes.
//! The compiled, read-only tables are made from these.

use std::net::IpAddr;

use crate::id::{Endpoint, Imsi, Mac, PushId, PushPrefix};

/// All source tables of one generation. [`crate::table::source::load`] makes only consistent ones:
/// see there for what that means.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Rib {
    /// `servers.toml`.
    pub servers: Vec<Server>,
    /// `gateways.toml`.
    pub gateways: Vec<Gateway>,
    /// `segments.csv`.
    pub segments: Vec<Segment>,
    /// `apps.toml`.
    pub apps: Vec<App>,
    /// `users.csv`.
    pub users: Vec<User>,
    /// `names.csv`.
    pub names: Vec<(String, PushId)>,
    /// `groups.csv`: group and member.
    pub groups: Vec<(PushId, PushId)>,
    /// `keys.toml`.
    pub keys: Vec<Key>,
}

/// A Push server of the federation.
#[derive(Clone, PartialEq, Debug)]
pub struct Server {
    /// Its name, unique.
    pub name: String,
    /// The prefixes of Push IDs whose home it is.
    pub prefixes: Vec<PushPrefix>,
    /// Where it listens, and what it sends from.
    pub address: Endpoint,
    /// The key that it shares with this server.
    pub key: Option<u32>,
}

/// A first packet-domain node: GGSN, P-GW.
#[derive(Clone, PartialEq, Debug)]
pub struct Gateway {
    /// Its name, unique.
    pub name: String,
    /// Where its tunnel ends (outer address and port).
    pub address: Endpoint,
    /// The tunnel's form.
    pub tunnel: Tunnel,
    /// The inner source of each family: vxlan and gtpu.
    pub source_v4: Option<Endpoint>,
    /// As `source_v4`.
    pub source_v6: Option<Endpoint>,
}

/// How a datagram travels to a gateway (`PROTOCOL.md`, "Tunnels to a gateway").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tunnel {
    /// The PRP datagram with the terminal's address as options.
    Plain,
    /// RFC 7348: VNI (24 bits) and the inner destination.
    Vxlan {
        /// VXLAN network identifier.
        vni: u32,
        /// Inner Ethernet destination.
        mac: Mac,
    },
    /// TS 29.281 G-PDU.
    Gtpu {
        /// Tunnel endpoint identifier.
        teid: u32,
    },
    /// None: straight to the private address.
    None,
}

impl Tunnel {
    /// As in `gateways.toml`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Vxlan { .. } => "vxlan",
            Self::Gtpu { .. } => "gtpu",
            Self::None => "none",
        }
    }

    /// The outer UDP port when the gateway's address has none (`INTERFACE.md`, ruling 18).
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Vxlan { .. } => 4789,
            Self::Gtpu { .. } => 2152,
            Self::Plain | Self::None => 17400,
        }
    }
}

/// A private network segment and the gateway that it lies behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// The private address space.
    pub realm: u32,
    /// The prefix, without host bits.
    pub ip: IpAddr,
    /// Its length.
    pub len: u8,
    /// Index into [`Rib::gateways`].
    pub gateway: u32,
}

/// An application on the allowlist.
#[derive(Clone, PartialEq, Debug)]
pub struct App {
    /// The application identifier.
    pub id: u32,
    /// For people.
    pub name: String,
    /// Prefixes of addresses that may push for it; `None`: anyone.
    pub sources: Option<Vec<(IpAddr, u8)>>,
    /// Terminals may push for it too.
    pub users: bool,
    /// How its messages leave.
    pub rule: Rule,
    /// Messages a second, by the whole server.
    pub rate: Option<u32>,
    /// The key that its messages must be signed with.
    pub key: Option<u32>,
}

/// `rule` of an application.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Rule {
    /// As they come.
    #[default]
    Normal,
    /// Before normal ones when not all can be sent; sets PRIORITY.
    Priority,
    /// Handed to the kernel at once.
    MinDelay,
}

impl Rule {
    /// As in `apps.toml`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Priority => "priority",
            Self::MinDelay => "min-delay",
        }
    }
}

/// One terminal of a user.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct User {
    /// The user.
    pub push_id: PushId,
    /// Which of the user's terminals; 0 is one of its own.
    pub device: u8,
    /// The private address space of `private`.
    pub realm: u32,
    /// Private address and port.
    pub private: Option<Endpoint>,
    /// The public address and port that the network shows for it.
    pub nat: Option<Endpoint>,
    /// The subscriber's IMSI.
    pub imsi: Option<Imsi>,
    /// What the terminal can take: 1 packet data, 2 network-requested, 4 SMS, 8 SIP.
    pub bearers: u8,
    /// The roaming server that serves the user now; then neither `private` nor `nat`.
    pub serving: Option<Endpoint>,
    /// Seconds since 1970 after which the binding is void.
    pub valid_until: Option<u64>,
}

impl User {
    /// `bearers` when the column is empty (`PROTOCOL.md`, ruling 34).
    pub const DEFAULT_BEARERS: u8 = 3;

    /// A terminal of which nothing is known.
    pub const fn new(push_id: PushId, device: u8) -> Self {
        Self {
            push_id,
            device,
            realm: 0,
            private: None,
            nat: None,
            imsi: None,
            bearers: Self::DEFAULT_BEARERS,
            serving: None,
            valid_until: None,
        }
    }
}

/// A key of AES-128-CMAC.
#[derive(Clone, PartialEq)]
pub struct Key {
    /// The key identifier of Auth.
    pub id: u32,
    /// The key.
    pub value: [u8; 16],
    /// The subscriber whose key it is.
    pub user: Option<PushId>,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("id", &self.id).field("user", &self.user).finish_non_exhaustive()
    }
}
