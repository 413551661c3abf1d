//! Options: where each is, and what its value says.

use super::{HEADER_BYTES, Kind};
use crate::id::{Endpoint, Imsi, PushId};
use crate::reason::Reason;

/// The types of options.
#[expect(missing_docs, reason = "the names are those of PROTOCOL.md, \"Options\"")]
pub mod option_type {
    pub const DEADLINE: u8 = 1;
    pub const DEVICE: u8 = 2;
    pub const PRIVATE_ADDRESS: u8 = 3;
    pub const NAT_ADDRESS: u8 = 4;
    pub const REALM: u8 = 5;
    pub const IMSI: u8 = 6;
    pub const VALIDITY: u8 = 7;
    pub const DYNAMIC_ID: u8 = 8;
    pub const REASON: u8 = 9;
    pub const NAME: u8 = 10;
    pub const GROUP_ID: u8 = 11;
    pub const SERVING_SERVER: u8 = 12;
    pub const BEARERS: u8 = 13;
    pub const SOURCE_ADDRESS: u8 = 14;
    pub const PEER_ADDRESS: u8 = 15;
    pub const LISTEN_PORT: u8 = 16;
    pub const CONTENT_TYPE: u8 = 17;
    pub const GROUP_REQUEST: u8 = 18;
    pub const PAYLOAD_LENGTH: u8 = 19;
    pub const AUTH: u8 = 128;
    /// From here on an option is critical: who does not know it rejects the message.
    pub const CRITICAL: u8 = 128;
}
use option_type as ty;

/// Known types below 128, and one place for Auth.
const SLOTS: usize = 21;
const AUTH_SLOT: usize = 20;

/// Where each known option of a message is: its offset in 4-byte words, 0 where it is absent.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    word: [u8; SLOTS],
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let present = self.word.iter().enumerate().filter(|(_, word)| **word != 0);
        f.debug_map().entries(present.map(|(slot, word)| (slot, usize::from(*word) * 4))).finish()
    }
}

/// The place of a known type in the index; `None` for an unknown one.
const fn slot(option: u8) -> Option<usize> {
    match option {
        1..=19 => Some(option as usize),
        ty::AUTH => Some(AUTH_SLOT),
        _ => None,
    }
}

/// Bytes that an option with a value of this length takes.
pub(super) const fn padded(value_bytes: usize) -> usize {
    (2 + value_bytes + 3) & !3
}

fn is_valid(option: u8, value: &[u8]) -> bool {
    match option {
        ty::DEADLINE => value.len() == 8,
        ty::DEVICE => value.len() == 1,
        ty::PRIVATE_ADDRESS
        | ty::NAT_ADDRESS
        | ty::SERVING_SERVER
        | ty::SOURCE_ADDRESS
        | ty::PEER_ADDRESS => value.len() == 6 || value.len() == 18,
        ty::REALM | ty::VALIDITY | ty::BEARERS | ty::GROUP_REQUEST => value.len() == 4,
        ty::IMSI => value.try_into().is_ok_and(|tbcd| Imsi::from_tbcd(tbcd).is_some()),
        ty::DYNAMIC_ID | ty::GROUP_ID => value.len() == 16,
        ty::REASON => value.get(2..).is_some_and(|text| std::str::from_utf8(text).is_ok()),
        ty::NAME => !value.is_empty() && std::str::from_utf8(value).is_ok(),
        ty::LISTEN_PORT | ty::PAYLOAD_LENGTH => value.len() == 2,
        ty::CONTENT_TYPE => value.is_ascii(),
        ty::AUTH => value.len() == 28,
        _ => true,
    }
}

impl Options {
    /// Walks the options of a head (the datagram up to its header length); also says whether an
    /// unknown critical one is there.
    pub(super) fn walk(head: &[u8]) -> Result<(Self, bool), Reason> {
        let mut options = Self::default();
        let mut critical_unknown = false;
        let mut at = HEADER_BYTES;
        while at < head.len() {
            let (option, value) = option_at(head, at).ok_or(Reason::Malformed)?;
            let next = at + padded(value.len());
            if let Some(slot) = slot(option) {
                let word = options.word.get_mut(slot).ok_or(Reason::Malformed)?;
                let is_last = next >= head.len();
                if *word != 0 || !is_valid(option, value) || (option == ty::AUTH && !is_last) {
                    return Err(Reason::Malformed);
                }
                *word = (at / 4) as u8;
            } else if option >= ty::CRITICAL {
                critical_unknown = true;
            }
            at = next;
        }
        Ok((options, critical_unknown))
    }

    /// Whether a message of this kind has the options that it needs.
    pub(super) const fn satisfy(&self, kind: Kind) -> bool {
        match kind {
            Kind::Reject => self.has(ty::REASON),
            Kind::Register => {
                self.has(ty::LISTEN_PORT) || self.has(ty::PRIVATE_ADDRESS) || self.has(ty::SERVING_SERVER)
            }
            Kind::Registered => self.has(ty::VALIDITY),
            Kind::Release => self.has(ty::DEVICE) || self.has(ty::PRIVATE_ADDRESS) || self.has(ty::IMSI),
            Kind::Group | Kind::Grouped => self.has(ty::GROUP_REQUEST),
            Kind::Resolve => self.has(ty::NAME),
            Kind::Push
            | Kind::Receipt
            | Kind::Released
            | Kind::Resolved
            | Kind::Echo
            | Kind::Echoed
            | Kind::Introduce => true,
        }
    }

    /// Whether the option is there.
    #[expect(clippy::indexing_slicing, reason = "slot() is below SLOTS; a const fn has no get")]
    pub const fn has(&self, option: u8) -> bool {
        match slot(option) {
            Some(slot) => self.word[slot] != 0,
            None => false,
        }
    }

    /// Offset of a known option's type byte in the datagram.
    pub fn offset(&self, option: u8) -> Option<usize> {
        let word = *self.word.get(slot(option)?)?;
        (word != 0).then_some(usize::from(word) * 4)
    }

    /// The value of a known option, in the datagram that was parsed.
    pub fn value<'a>(&self, datagram: &'a [u8], option: u8) -> Option<&'a [u8]> {
        option_at(datagram, self.offset(option)?).map(|(_, value)| value)
    }

    fn array<const N: usize>(&self, datagram: &[u8], option: u8) -> Option<[u8; N]> {
        self.value(datagram, option)?.try_into().ok()
    }

    fn endpoint(&self, datagram: &[u8], option: u8) -> Option<Endpoint> {
        read_endpoint(self.value(datagram, option)?)
    }

    /// Milliseconds since 1970 after which the message is worthless.
    pub fn deadline(&self, datagram: &[u8]) -> Option<u64> {
        self.array(datagram, ty::DEADLINE).map(u64::from_be_bytes)
    }

    /// One of the user's terminals; 0, and an absent option, mean all of them.
    pub fn device(&self, datagram: &[u8]) -> Option<u8> {
        self.array(datagram, ty::DEVICE).map(|[device]| device)
    }

    /// The terminal's private address and port.
    pub fn private_address(&self, datagram: &[u8]) -> Option<Endpoint> {
        self.endpoint(datagram, ty::PRIVATE_ADDRESS)
    }

    /// The public address and port of PrivateAddress.
    pub fn nat_address(&self, datagram: &[u8]) -> Option<Endpoint> {
        self.endpoint(datagram, ty::NAT_ADDRESS)
    }

    /// The private address space of PrivateAddress.
    pub fn realm(&self, datagram: &[u8]) -> Option<u32> {
        self.array(datagram, ty::REALM).map(u32::from_be_bytes)
    }

    /// The subscriber.
    pub fn imsi(&self, datagram: &[u8]) -> Option<Imsi> {
        self.array(datagram, ty::IMSI).and_then(Imsi::from_tbcd)
    }

    /// Seconds; 0 is a static binding.
    pub fn validity(&self, datagram: &[u8]) -> Option<u32> {
        self.array(datagram, ty::VALIDITY).map(u32::from_be_bytes)
    }

    /// A lent Push ID.
    pub fn dynamic_id(&self, datagram: &[u8]) -> Option<PushId> {
        self.array(datagram, ty::DYNAMIC_ID).map(PushId::from_bytes)
    }

    /// The code and the text of a Reason.
    pub fn reason<'a>(&self, datagram: &'a [u8]) -> Option<(u16, &'a str)> {
        let (code, text) = self.value(datagram, ty::REASON)?.split_first_chunk()?;
        Some((u16::from_be_bytes(*code), std::str::from_utf8(text).ok()?))
    }

    /// A name to look up.
    pub fn name<'a>(&self, datagram: &'a [u8]) -> Option<&'a str> {
        std::str::from_utf8(self.value(datagram, ty::NAME)?).ok()
    }

    /// A group.
    pub fn group_id(&self, datagram: &[u8]) -> Option<PushId> {
        self.array(datagram, ty::GROUP_ID).map(PushId::from_bytes)
    }

    /// The roaming server that serves the user now.
    pub fn serving_server(&self, datagram: &[u8]) -> Option<Endpoint> {
        self.endpoint(datagram, ty::SERVING_SERVER)
    }

    /// What the terminal can take.
    pub fn bearers(&self, datagram: &[u8]) -> Option<u32> {
        self.array(datagram, ty::BEARERS).map(u32::from_be_bytes)
    }

    /// Where the source can be reached directly.
    pub fn source_address(&self, datagram: &[u8]) -> Option<Endpoint> {
        self.endpoint(datagram, ty::SOURCE_ADDRESS)
    }

    /// Where the other side can be reached.
    pub fn peer_address(&self, datagram: &[u8]) -> Option<Endpoint> {
        self.endpoint(datagram, ty::PEER_ADDRESS)
    }

    /// The client's port; 0: the one that the datagram came from.
    pub fn listen_port(&self, datagram: &[u8]) -> Option<u16> {
        self.array(datagram, ty::LISTEN_PORT).map(u16::from_be_bytes)
    }

    /// Media type of the payload.
    pub fn content_type<'a>(&self, datagram: &'a [u8]) -> Option<&'a str> {
        std::str::from_utf8(self.value(datagram, ty::CONTENT_TYPE)?).ok()
    }

    /// What a GROUP asks for: 1 create, 2 join, 3 leave, 4 list, 5 delete.
    pub fn group_request(&self, datagram: &[u8]) -> Option<u8> {
        self.array(datagram, ty::GROUP_REQUEST).map(|[request, ..]: [u8; 4]| request)
    }

    /// Bytes of the payload; what follows is padding.
    pub fn payload_length(&self, datagram: &[u8]) -> Option<u16> {
        self.array(datagram, ty::PAYLOAD_LENGTH).map(u16::from_be_bytes)
    }
}

/// The option whose type byte is at `at`: its type and its value, if that lies within `bytes`.
pub(super) fn option_at(bytes: &[u8], at: usize) -> Option<(u8, &[u8])> {
    let (&[option, length], rest) = bytes.get(at..)?.split_first_chunk()?;
    Some((option, rest.get(..usize::from(length))?))
}

fn read_endpoint(value: &[u8]) -> Option<Endpoint> {
    if let Ok([a, b, c, d, p, q]) = <[u8; 6]>::try_from(value) {
        return Some(Endpoint::new([a, b, c, d].into(), u16::from_be_bytes([p, q])));
    }
    let (addr, port) = value.split_first_chunk::<16>()?;
    Some(Endpoint::from_octets(*addr, u16::from_be_bytes(port.try_into().ok()?)))
}
