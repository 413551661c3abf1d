//! PRP/1 a second time, written plainly from `PROTOCOL.md` and sharing no code with
//! [`crate::wire`]: what the cast speaks and what the oracle judges by. Allocates as it likes.

use aes::Aes128;
use cmac::{Cmac, KeyInit, Mac};

use crate::id::{Endpoint, PushId};
use crate::reason::Reason;

/// Bytes before the options.
pub const FIXED: usize = 48;

/// A message with its options in order; Auth is kept apart.
#[derive(Clone, PartialEq, Eq)]
pub struct Letter {
    /// 1 to 14 where it has a name.
    pub kind: u8,
    /// All eight bits.
    pub flags: u8,
    /// Hop limit.
    pub hops: u8,
    /// Application identifier.
    pub app: u32,
    /// The user that this concerns.
    pub destination: PushId,
    /// Who sent it.
    pub source: PushId,
    /// Message identifier.
    pub message: u64,
    /// Type and value, Auth left out.
    pub options: Vec<(u8, Vec<u8>)>,
    /// Without padding.
    pub payload: Vec<u8>,
    /// The Auth option, when it was read from a datagram.
    pub auth: Option<Signature>,
}

/// What Auth says and where its tag lies in the datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Signature {
    /// Key identifier.
    pub key: u32,
    /// When, milliseconds since 1970.
    pub unix_ms: u64,
    tag_at: usize,
}

/// Kinds by number.
#[expect(missing_docs, reason = "the names are those of PROTOCOL.md, \"Kinds\"")]
pub mod kind {
    pub const PUSH: u8 = 1;
    pub const RECEIPT: u8 = 2;
    pub const REJECT: u8 = 3;
    pub const REGISTER: u8 = 4;
    pub const REGISTERED: u8 = 5;
    pub const RELEASE: u8 = 6;
    pub const RELEASED: u8 = 7;
    pub const GROUP: u8 = 8;
    pub const GROUPED: u8 = 9;
    pub const RESOLVED: u8 = 11;
    pub const ECHO: u8 = 12;
    pub const ECHOED: u8 = 13;
    pub const INTRODUCE: u8 = 14;
}

/// Flags.
#[expect(missing_docs, reason = "the names are those of PROTOCOL.md, \"Header\"")]
pub mod flag {
    pub const RECEIPT: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const ROAMED: u8 = 4;
    pub const GROUP: u8 = 8;
}

/// Options by number.
#[expect(missing_docs, reason = "the names are those of PROTOCOL.md, \"Options\"")]
pub mod option {
    pub const DEADLINE: u8 = 1;
    pub const DEVICE: u8 = 2;
    pub const PRIVATE_ADDRESS: u8 = 3;
    pub const NAT_ADDRESS: u8 = 4;
    pub const REALM: u8 = 5;
    pub const IMSI: u8 = 6;
    pub const VALIDITY: u8 = 7;
    pub const DYNAMIC_ID: u8 = 8;
    pub const REASON: u8 = 9;
    pub const GROUP_ID: u8 = 11;
    pub const SERVING_SERVER: u8 = 12;
    pub const SOURCE_ADDRESS: u8 = 14;
    pub const LISTEN_PORT: u8 = 16;
    pub const CONTENT_TYPE: u8 = 17;
    pub const PAYLOAD_LENGTH: u8 = 19;
    pub const AUTH: u8 = 128;
}

/// Whether a kind answers something.
pub const fn is_answer(kind: u8) -> bool {
    matches!(kind, 2 | 3 | 5 | 7 | 9 | 11 | 13)
}

impl std::fmt::Debug for Letter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kind, flags, hops, app, destination, source, message, options, payload, auth } = self;
        write!(f, "kind {kind} flags {flags:#x} hops {hops} app {app} to {destination} from {source} ")?;
        write!(f, "message {message:016x} options {options:?} payload of {} auth {auth:?}", payload.len())
    }
}

fn be(bytes: &[u8]) -> u128 {
    bytes.iter().fold(0, |sum, byte| sum << 8 | u128::from(*byte))
}

/// An address and port as options carry it.
pub fn write_endpoint(endpoint: Endpoint) -> Vec<u8> {
    let mut out = match endpoint.ip() {
        std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
        std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    out.extend(endpoint.port().to_be_bytes());
    out
}

fn read_endpoint(value: &[u8]) -> Endpoint {
    let (ip, port) = value.split_at(value.len() - 2);
    let ip = match <[u8; 4]>::try_from(ip) {
        Ok(v4) => std::net::IpAddr::from(v4),
        Err(_) => std::net::IpAddr::from(be(ip).to_be_bytes()).to_canonical(),
    };
    Endpoint::new(ip, be(port) as u16)
}

impl Letter {
    /// A message of this kind with nothing else.
    pub fn new(kind: u8, destination: PushId, source: PushId, message: u64) -> Self {
        Self {
            kind,
            flags: 0,
            hops: 8,
            app: 0,
            destination,
            source,
            message,
            options: Vec::new(),
            payload: Vec::new(),
            auth: None,
        }
    }

    /// Its answer: source and destination swapped.
    pub fn answer(&self, kind: u8) -> Self {
        Self::new(kind, self.source, self.destination, self.message)
    }

    /// The value of an option.
    pub fn option(&self, wanted: u8) -> Option<&[u8]> {
        self.options.iter().find(|(option, _)| *option == wanted).map(|(_, value)| &value[..])
    }

    /// An option that is one number.
    pub fn number(&self, wanted: u8) -> Option<u64> {
        self.option(wanted).map(|value| be(value) as u64)
    }

    /// An option that is a Push ID.
    pub fn id(&self, wanted: u8) -> Option<PushId> {
        self.option(wanted).map(|value| PushId(be(value)))
    }

    /// An option that is an address and port.
    pub fn endpoint(&self, wanted: u8) -> Option<Endpoint> {
        self.option(wanted).map(read_endpoint)
    }

    /// The code of the Reason.
    pub fn reason(&self) -> Option<Reason> {
        Reason::from_code(be(self.option(option::REASON)?.get(..2)?) as u16)
    }

    /// Whether a flag is set.
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The datagram, signed with a key at a time where one is given, with so many bytes of padding
    /// announced by PayloadLength where there is any.
    pub fn encode(&self, sign: Option<(u32, [u8; 16], u64)>, padding: usize) -> Vec<u8> {
        let mut out = vec![0x10 | self.kind, self.flags, self.hops, 0];
        out.extend(self.app.to_be_bytes());
        out.extend(self.destination.0.to_be_bytes());
        out.extend(self.source.0.to_be_bytes());
        out.extend(self.message.to_be_bytes());
        let put = |out: &mut Vec<u8>, option: u8, value: &[u8]| {
            out.push(option);
            out.push(value.len() as u8);
            out.extend(value);
            while !out.len().is_multiple_of(4) {
                out.push(0);
            }
        };
        for (option, value) in &self.options {
            put(&mut out, *option, value);
        }
        if padding > 0 {
            put(&mut out, option::PAYLOAD_LENGTH, &(self.payload.len() as u16).to_be_bytes());
        }
        let tag_at = out.len() + 14;
        if let Some((key, _, unix_ms)) = sign {
            let value = [&key.to_be_bytes()[..], &unix_ms.to_be_bytes(), &[0; 16]].concat();
            put(&mut out, option::AUTH, &value);
        }
        out[3] = u8::try_from(out.len() / 4).expect("the cast writes short heads");
        out.extend(&self.payload);
        out.resize(out.len() + padding, 0xA5);
        if let Some((_, value, _)) = sign {
            let tag = tag(&out, tag_at, value);
            out[tag_at..tag_at + 16].copy_from_slice(&tag);
        }
        out
    }

    /// What can be answered even when the rest is malformed: kind, destination, source, identifier.
    pub fn head(bytes: &[u8]) -> Option<Self> {
        let fixed = bytes.get(..FIXED)?;
        let id = |at: usize| PushId(be(&fixed[at..at + 16]));
        let mut letter = Self::new(fixed[0] & 15, id(8), id(24), be(&fixed[40..48]) as u64);
        (letter.flags, letter.hops, letter.app) = (fixed[1], fixed[2], be(&fixed[4..8]) as u32);
        Some(letter)
    }

    /// Reads a datagram.
    ///
    /// # Errors
    /// The first of malformed, unsupported-version, unsupported-kind (of a kind without a number),
    /// unsupported-option; with the kinds that a server takes, [`super::oracle`] knows more.
    pub fn decode(bytes: &[u8]) -> Result<Self, Reason> {
        let mut letter = Self::head(bytes).ok_or(Reason::Malformed)?;
        let head_end = usize::from(bytes[3]) * 4;
        if head_end < FIXED || head_end > bytes.len() {
            return Err(Reason::Malformed);
        }
        if bytes[0] >> 4 != 1 {
            return Err(Reason::UnsupportedVersion);
        }
        let mut payload_len = bytes.len() - head_end;
        let mut unknown_critical = false;
        let mut at = FIXED;
        while at < head_end {
            let (option, length) = (bytes[at], usize::from(bytes[at + 1]));
            if at + 2 + length > head_end {
                return Err(Reason::Malformed);
            }
            let value = &bytes[at + 2..at + 2 + length];
            let known = matches!(option, 1..=19 | option::AUTH);
            let repeated = letter.option(option).is_some();
            if known && (repeated || !is_value_of(option, value)) {
                return Err(Reason::Malformed);
            }
            unknown_critical |= !known && option >= 128;
            let next = at + (2 + length).next_multiple_of(4);
            match option {
                option::AUTH if next < head_end => return Err(Reason::Malformed),
                option::AUTH => {
                    let (key, unix_ms) = (be(&value[..4]) as u32, be(&value[4..12]) as u64);
                    letter.auth = Some(Signature { key, unix_ms, tag_at: at + 14 });
                }
                option::PAYLOAD_LENGTH => {
                    if be(value) as usize > payload_len {
                        return Err(Reason::Malformed);
                    }
                    payload_len = be(value) as usize;
                    letter.options.push((option, value.to_vec()));
                }
                _ => letter.options.push((option, value.to_vec())),
            }
            at = next;
        }
        letter.payload = bytes[head_end..head_end + payload_len].to_vec();
        let has = |option| letter.option(option).is_some();
        let complete = match letter.kind {
            3 => has(9),
            4 => has(16) || has(3) || has(12),
            5 => has(7),
            6 => has(2) || has(3) || has(6),
            8 | 9 => has(18),
            10 => has(10),
            0 | 15 => return Err(Reason::UnsupportedKind),
            _ => true,
        };
        if !complete {
            return Err(Reason::Malformed);
        }
        if unknown_critical { Err(Reason::UnsupportedOption) } else { Ok(letter) }
    }
}

impl Signature {
    /// Whether the datagram that this was read from carries this key's tag.
    pub fn is_right(&self, bytes: &[u8], value: [u8; 16]) -> bool {
        bytes[self.tag_at..self.tag_at + 16] == tag(bytes, self.tag_at, value)
    }
}

/// RFC 4493 over the datagram with the tag's bytes zero.
fn tag(bytes: &[u8], tag_at: usize, value: [u8; 16]) -> [u8; 16] {
    let mut blank = bytes.to_vec();
    blank[tag_at..tag_at + 16].fill(0);
    let mut cmac = Cmac::<Aes128>::new(&value.into());
    cmac.update(&blank);
    cmac.finalize().into_bytes().into()
}

fn is_value_of(option: u8, value: &[u8]) -> bool {
    let length = value.len();
    match option {
        1 => length == 8,
        2 => length == 1,
        3 | 4 | 12 | 14 | 15 => length == 6 || length == 18,
        5 | 7 | 13 | 18 => length == 4,
        6 => {
            let digits: Vec<u8> = value.iter().flat_map(|octet| [octet & 15, octet >> 4]).collect();
            let count = digits.iter().position(|digit| *digit > 9).unwrap_or(digits.len());
            length == 8 && (6..=15).contains(&count) && digits[count..].iter().all(|digit| *digit == 15)
        }
        8 | 11 => length == 16,
        9 => length >= 2 && std::str::from_utf8(&value[2..]).is_ok(),
        10 => length > 0 && std::str::from_utf8(value).is_ok(),
        16 | 19 => length == 2,
        17 => value.is_ascii(),
        option::AUTH => length == 28,
        _ => true,
    }
}

/// The Internet checksum (RFC 1071), two bytes at a time: 0xFFFF when a packet's is right.
pub fn ones_sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for pair in parts.concat().chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum as u16
}
