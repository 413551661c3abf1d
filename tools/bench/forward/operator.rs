//! The operator that is forwarded for: user number `n` is behind gateway `n % hops`, so that everything about a
//! datagram follows from its number and can be checked.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use pushplane::id::{Endpoint, Mac, PushId};
use pushplane::table::Rib;
use pushplane::table::rib::{App, Gateway, Rule, Segment, Server, Tunnel, User};
use pushplane::wire::prp::{HeadBuilder, Header, Kind};

use crate::{Stop, common};

const APP: u32 = 7;
const NAME: &str = "home";
const VNI: u32 = 100;
const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
/// What payloads are filled with behind the time.
const FILL: u8 = 0x5A;
/// Bytes of the time at which a datagram was due, at the start of its payload.
const STAMP_BYTES: usize = 8;
const HEADER_BYTES: usize = 48;
/// Where a PUSH has its message identifier: the number of the turn, of its user and of its next hop.
const MESSAGE_AT: usize = 40;
const TURN_SHIFT: u32 = 44;
const USER_SHIFT: u32 = 16;
/// Turns are told apart by so many bits: as many last for hours.
const TURNS: u32 = 1 << (u64::BITS - TURN_SHIFT);
/// vxlan, Ethernet, IPv4 and UDP.
const VXLAN_BYTES: usize = 8 + 14 + 20 + 8;
/// PrivateAddress and Realm.
const PLAIN_BYTES: usize = 8 + 8;

/// What is put around a PUSH.
#[derive(clap::ValueEnum, serde::Serialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub(super) enum Form {
    /// A tunnel of Ethernet frames
    Vxlan,
    /// Options that name the terminal
    Plain,
    /// Nothing: it leaves as it came
    #[value(skip)]
    Bare,
}

/// What the datagrams of a turn must be where they arrive.
#[derive(Clone, Copy)]
pub(super) struct Expected {
    pub(super) form: Form,
    /// Bytes behind a PUSH's header.
    pub(super) payload: usize,
    /// The next hop is the one that the PUSH says, not one that the forwarder chose.
    pub(super) hop_is_said: bool,
    /// Its number.
    pub(super) turn: u32,
}

impl Expected {
    /// As the first turn's, or those of the turn after so many.
    pub(super) fn in_turn_after(self, turns: usize) -> Self {
        // PUSHes that nobody marked are of turn 0.
        Self { turn: 1 + (turns % (TURNS as usize - 1)) as u32, ..self }
    }

    /// The length of each datagram.
    const fn bytes(self) -> usize {
        HEADER_BYTES + self.payload + self.form.added()
    }

    /// Whether this has the length and the mark of that turn.
    pub(super) fn is_of_turn(self, datagram: &[u8]) -> bool {
        let message = datagram.get(self.form.push_at() + MESSAGE_AT..).and_then(|rest| rest.first_chunk());
        let turn = message.map(|message| u64::from_be_bytes(*message) >> TURN_SHIFT);
        datagram.len() == self.bytes() && turn == Some(self.turn.into())
    }

    /// When a datagram that arrived was due.
    pub(super) fn due_ns(self, datagram: &[u8]) -> Option<u64> {
        let at = datagram.len().checked_sub(self.payload)?;
        datagram.get(at..)?.first_chunk().map(|stamp| u64::from_be_bytes(*stamp))
    }
}

impl Form {
    /// What a PUSH in this form is longer.
    const fn added(self) -> usize {
        match self {
            Self::Vxlan => VXLAN_BYTES,
            Self::Plain => PLAIN_BYTES,
            Self::Bare => 0,
        }
    }

    /// Where the PUSH begins.
    const fn push_at(self) -> usize {
        match self {
            Self::Vxlan => VXLAN_BYTES,
            Self::Plain | Self::Bare => 0,
        }
    }
}

/// How much of everything.
#[derive(Clone, Copy)]
pub(super) struct Size {
    pub(super) users: u64,
    pub(super) hops: u16,
    /// Bytes behind a PUSH's header.
    pub(super) payload: usize,
}

/// Where load and next hops may stand: loopback, and what is set apart for benchmarks (RFC 2544, appendix C.2.2).
const INSIDE: [(Ipv4Addr, u8); 2] = [(Ipv4Addr::new(127, 0, 0, 0), 8), (Ipv4Addr::new(198, 18, 0, 0), 15)];

/// Whether an address is one of those.
pub(super) fn is_inside(address: Endpoint) -> bool {
    let Some(ip) = address.ipv4().map(u32::from_be_bytes) else { return false };
    INSIDE.iter().any(|(network, bits)| (ip ^ u32::from(*network)) >> (32 - bits) == 0)
}

/// The operator.
pub(super) struct Operator {
    pub(super) size: Size,
    pub(super) form: Form,
    folder: PathBuf,
    first_hop: Endpoint,
    rib: Rib,
}

impl Operator {
    /// An operator whose servers will have their files in this folder.
    pub(super) fn new(folder: &Path, size: Size, form: Form, first_hop: Endpoint) -> Self {
        Self { size, form, folder: folder.to_owned(), first_hop, rib: Self::rib(size, form, first_hop) }
    }

    fn rib(size: Size, form: Form, first_hop: Endpoint) -> Rib {
        let Size { users, hops, .. } = size;
        let gateway = |n| Gateway {
            name: format!("gateway-{n}"),
            address: hop(first_hop, n),
            tunnel: match form {
                Form::Vxlan => Tunnel::Vxlan { vni: VNI, mac: MAC },
                Form::Plain | Form::Bare => Tunnel::Plain,
            },
            source_v4: Some(Endpoint::new(Ipv4Addr::new(10, 255, 0, 254).into(), 17400)),
            source_v6: None,
        };
        let segment = |n: u16| Segment {
            realm: n.into(),
            ip: Ipv4Addr::new(10, 0, 0, 0).into(),
            len: 8,
            gateway: n.into(),
        };
        let row = |n| User {
            realm: (n % u64::from(hops)) as u32,
            private: Some(private(n / u64::from(hops))),
            ..User::new(id(n), 0)
        };
        let app = App {
            id: APP,
            name: "mail".to_owned(),
            sources: Some(INSIDE.map(|(network, bits)| (network.into(), bits)).into()),
            users: false,
            rule: Rule::Normal,
            rate: None,
            key: None,
        };
        Rib {
            servers: vec![Server {
                name: NAME.to_owned(),
                prefixes: "0011".parse().into_iter().collect(),
                address: Endpoint::new(Ipv4Addr::LOCALHOST.into(), 17400),
                key: None,
            }],
            gateways: (0..hops).map(gateway).collect(),
            segments: (0..hops).map(segment).collect(),
            apps: vec![app],
            users: (0..users).map(row).collect(),
            ..Rib::default()
        }
    }

    /// Writes the tables as those of a server at this address.
    pub(super) fn image(&mut self, name: &str, address: Endpoint) -> Result<PathBuf, Stop> {
        self.rib.servers[0].address = address;
        let path = self.folder.join(format!("{name}.ppt"));
        let image = common::build(&path, &self.rib)?;
        image.write(&path).map_err(|error| Stop::file(&path, error))?;
        Ok(path)
    }

    /// Writes the tables and the configuration of a server at this address, with these lines in `[server]`.
    pub(super) fn configure(&mut self, name: &str, address: Endpoint, lines: &str) -> Result<PathBuf, Stop> {
        self.image(name, address)?;
        let path = self.folder.join(format!("{name}.toml"));
        let text = format!(
            "[server]\nname = \"{NAME}\"\nlisten = [\"{address}\"]\ntables = \"{name}.ppt\"\nstate = \"{name}\"\n\
             control = \"{name}.sock\"\nmetrics = \"127.0.0.1:0\"\n{lines}\n"
        );
        fs::write(&path, text).map_err(|error| Stop::file(&path, error))?;
        Ok(path)
    }

    /// Forgets the rows: nothing will be configured any more.
    pub(super) fn settle(&mut self) {
        self.rib = Rib::default();
    }

    /// The PUSH to user number `n`.
    pub(super) fn push(&self, n: u64) -> Vec<u8> {
        let hop = n % u64::from(self.size.hops);
        let header = Header {
            app: APP,
            ..Header::new(Kind::Push, id(n), PushId(0x1 << 124 | 77), n << USER_SHIFT | hop)
        };
        let mut payload = vec![FILL; self.size.payload];
        payload[..STAMP_BYTES].fill(0);
        HeadBuilder::new(&header).datagram(&payload).unwrap_or_default()
    }

    /// The length of every PUSH.
    pub(super) fn push_bytes(&self) -> usize {
        HEADER_BYTES + self.size.payload
    }

    /// Whether this, which arrived at a next hop, is the PUSH that its message identifier says, as that turn's must be.
    pub(super) fn is_right(&self, expected: Expected, at: Endpoint, datagram: &[u8]) -> bool {
        let Expected { form, payload, hop_is_said, .. } = expected;
        if !expected.is_of_turn(datagram) {
            return false;
        }
        let (tunnel, push) = datagram.split_at(form.push_at());
        let Some(header) = Header::read(push) else { return false };
        let n = header.message << (u64::BITS - TURN_SHIFT) >> (u64::BITS - TURN_SHIFT + USER_SHIFT);
        let hops = u64::from(self.size.hops);
        let [.., a, b, c, d] = private(n / hops).octets();
        let to_terminal = form != Form::Vxlan || tunnel[38..42] == [a, b, c, d];
        let at_hop = !hop_is_said || at == hop(self.first_hop, (n % hops) as u16);
        let filled = &push[push.len() - payload + STAMP_BYTES..];
        n < self.size.users
            && header.destination == id(n)
            && to_terminal
            && at_hop
            && filled.iter().all(|byte| *byte == FILL)
    }

    /// Marks a PUSH as one of this turn.
    pub(super) fn mark(push: &mut [u8], turn: u32) {
        if let Some(message) = push.get_mut(MESSAGE_AT..).and_then(|rest| rest.first_chunk_mut()) {
            let number = u64::from_be_bytes(*message) & ((1 << TURN_SHIFT) - 1);
            *message = (u64::from(turn) << TURN_SHIFT | number).to_be_bytes();
        }
    }

    /// Writes into a PUSH when it was due.
    pub(super) fn stamp(push: &mut [u8], due_ns: u64) {
        if let Some(stamp) = push.get_mut(HEADER_BYTES..HEADER_BYTES + STAMP_BYTES) {
            stamp.copy_from_slice(&due_ns.to_be_bytes());
        }
    }
}

/// Where next hop number `n` stands.
pub(super) fn hop(first: Endpoint, n: u16) -> Endpoint {
    let ip = first.ipv4().map_or(0, u32::from_be_bytes);
    Endpoint::new(Ipv4Addr::from(ip + u32::from(n)).into(), first.port())
}

/// Where a bare forwarder finds the next hop of a PUSH.
pub(super) const HOP_AT: usize = 46;

/// User number `n`: under the prefix 0011, and otherwise without pattern.
const fn id(n: u64) -> PushId {
    let high = mix(n) >> 4 | 0x3 << 60;
    PushId((high as u128) << 64 | mix(n ^ u64::MAX) as u128)
}

/// The private address of the `n`th user of a realm.
fn private(n: u64) -> Endpoint {
    let [.., b, c, d] = n.to_be_bytes();
    Endpoint::new(Ipv4Addr::new(10, b, c, d).into(), 2948)
}

/// `SplitMix64` (Steele, Lea, Flood 2014): a bijection that looks random.
pub(super) const fn mix(n: u64) -> u64 {
    let z = n.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ z >> 31
}
