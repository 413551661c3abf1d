//! Writing heads: the fixed header and the options, into a buffer of its own on the stack, from
//! where they are put in front of a payload that stays where it is.

use super::option::{option_at, option_type as ty, padded};
use super::{HEADER_BYTES, Header, Message, flag};
use crate::id::{Endpoint, Imsi, PushId};
use crate::reason::Reason;

/// Where the destination lies in a datagram.
const DESTINATION: std::ops::Range<usize> = 8..24;

/// The longest head: 255 words.
pub const HEAD_MAX: usize = 255 * 4;

/// The options do not fit into 255 words: the message is too large.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeadTooLong;

impl From<HeadTooLong> for Reason {
    fn from(_: HeadTooLong) -> Self {
        Self::TooLarge
    }
}

/// A head being written. Once something did not fit, [`HeadBuilder::finish`] says so.
#[derive(Clone, Debug)]
pub struct HeadBuilder {
    buffer: [u8; HEAD_MAX],
    len: usize,
    overflow: bool,
}

impl HeadBuilder {
    /// A head with this header and no options; its header length is set at the end.
    pub fn new(header: &Header) -> Self {
        let mut builder = Self { buffer: [0; HEAD_MAX], len: 0, overflow: false };
        builder.restart(header);
        builder
    }

    /// As [`HeadBuilder::new`], in the same memory: what it held before is overwritten as far as it
    /// is used again.
    pub fn restart(&mut self, header: &Header) -> &mut Self {
        (self.len, self.overflow) = (HEADER_BYTES, false);
        if let Some(front) = self.buffer.first_chunk_mut() {
            *front = header.to_bytes();
        }
        self
    }

    /// Copies the options of a parsed message in their order, unknown ones too, whose type is `wanted`.
    pub fn keep(&mut self, message: &Message, datagram: &[u8], wanted: impl Fn(u8) -> bool) -> &mut Self {
        let mut at = HEADER_BYTES;
        while at < message.payload_start {
            let Some((option, value)) = option_at(datagram, at) else { break };
            if wanted(option) {
                self.option(option, &[value]);
            }
            at += padded(value.len());
        }
        self
    }

    /// Appends an option whose value is these pieces, one after the other.
    pub fn option(&mut self, option: u8, pieces: &[&[u8]]) -> &mut Self {
        let value_bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
        let end = self.len + padded(value_bytes);
        let (Ok(length), Some(room)) = (u8::try_from(value_bytes), self.buffer.get_mut(self.len..end)) else {
            self.overflow = true;
            return self;
        };
        room.fill(0);
        let mut at = 0;
        for piece in [&[option, length][..]].iter().chain(pieces) {
            if let Some(room) = room.get_mut(at..at + piece.len()) {
                room.copy_from_slice(piece);
            }
            at += piece.len();
        }
        self.len = end;
        self
    }

    fn endpoint(&mut self, option: u8, endpoint: Endpoint) -> &mut Self {
        let port = endpoint.port().to_be_bytes();
        match endpoint.ipv4() {
            Some(v4) => self.option(option, &[&v4, &port]),
            None => self.option(option, &[&endpoint.octets(), &port]),
        }
    }

    /// Appends Deadline, milliseconds since 1970.
    pub fn deadline(&mut self, unix_ms: u64) -> &mut Self {
        self.option(ty::DEADLINE, &[&unix_ms.to_be_bytes()])
    }

    /// Appends Device.
    pub fn device(&mut self, device: u8) -> &mut Self {
        self.option(ty::DEVICE, &[&[device]])
    }

    /// Appends PrivateAddress.
    pub fn private_address(&mut self, endpoint: Endpoint) -> &mut Self {
        self.endpoint(ty::PRIVATE_ADDRESS, endpoint)
    }

    /// Appends NatAddress.
    pub fn nat_address(&mut self, endpoint: Endpoint) -> &mut Self {
        self.endpoint(ty::NAT_ADDRESS, endpoint)
    }

    /// Appends Realm.
    pub fn realm(&mut self, realm: u32) -> &mut Self {
        self.option(ty::REALM, &[&realm.to_be_bytes()])
    }

    /// Appends Imsi.
    pub fn imsi(&mut self, imsi: Imsi) -> &mut Self {
        self.option(ty::IMSI, &[&imsi.to_tbcd()])
    }

    /// Appends Reason with its name as the text.
    pub fn reason(&mut self, reason: Reason) -> &mut Self {
        self.option(ty::REASON, &[&reason.code().to_be_bytes(), reason.name().as_bytes()])
    }

    /// Appends Validity, seconds.
    pub fn validity(&mut self, seconds: u32) -> &mut Self {
        self.option(ty::VALIDITY, &[&seconds.to_be_bytes()])
    }

    /// Appends DynamicId.
    pub fn dynamic_id(&mut self, lent: PushId) -> &mut Self {
        self.option(ty::DYNAMIC_ID, &[&lent.to_bytes()])
    }

    /// Appends ServingServer.
    pub fn serving_server(&mut self, endpoint: Endpoint) -> &mut Self {
        self.endpoint(ty::SERVING_SERVER, endpoint)
    }

    /// Appends PeerAddress.
    pub fn peer_address(&mut self, endpoint: Endpoint) -> &mut Self {
        self.endpoint(ty::PEER_ADDRESS, endpoint)
    }

    /// Appends GroupRequest.
    pub fn group_request(&mut self, request: u8) -> &mut Self {
        self.option(ty::GROUP_REQUEST, &[&[request, 0, 0, 0]])
    }

    /// Appends SourceAddress.
    pub fn source_address(&mut self, endpoint: Endpoint) -> &mut Self {
        self.endpoint(ty::SOURCE_ADDRESS, endpoint)
    }

    /// Appends GroupId.
    pub fn group_id(&mut self, group: PushId) -> &mut Self {
        self.option(ty::GROUP_ID, &[&group.to_bytes()])
    }

    /// Appends ContentType.
    pub fn content_type(&mut self, media_type: &str) -> &mut Self {
        self.option(ty::CONTENT_TYPE, &[media_type.as_bytes()])
    }

    /// Appends Auth with a tag of zeros: the last option. The tag is put by
    /// [`super::auth::MacKey::sign`] once the datagram is whole.
    pub fn auth(&mut self, key: u32, unix_ms: u64) -> &mut Self {
        self.option(ty::AUTH, &[&key.to_be_bytes(), &unix_ms.to_be_bytes(), &[0; 16]])
    }

    /// The head, its length set.
    ///
    /// # Errors
    /// When not everything fitted into 255 words.
    pub fn finish(&mut self) -> Result<&[u8], HeadTooLong> {
        if self.overflow {
            return Err(HeadTooLong);
        }
        if let Some(words) = self.buffer.get_mut(3) {
            *words = (self.len / 4) as u8;
        }
        self.buffer.get(..self.len).ok_or(HeadTooLong)
    }

    /// The whole datagram in a new vector: for clients, tools and tests.
    ///
    /// # Errors
    /// As [`HeadBuilder::finish`].
    pub fn datagram(&mut self, payload: &[u8]) -> Result<Vec<u8>, HeadTooLong> {
        Ok([self.finish()?, payload].concat())
    }
}

/// What each member of a group gets of a message for the group (PROTOCOL.md, ruling 7): GROUP cleared, GroupId
/// added; ROAMED too is cleared, since no copy has passed the home of its user yet, and what belongs to one hop is
/// gone. The destination is still to be written, by [`set_destination`].
///
/// # Errors
/// GroupId does not fit.
pub fn copy_for_members(message: &Message, datagram: &[u8], group: PushId) -> Result<Vec<u8>, HeadTooLong> {
    let flags = message.header.flags & flag::KNOWN & !(flag::GROUP | flag::ROAMED);
    let mut head = HeadBuilder::new(&Header { flags, ..message.header });
    head.keep(message, datagram, |option| ![ty::AUTH, ty::PAYLOAD_LENGTH, ty::GROUP_ID].contains(&option));
    head.group_id(group).datagram(message.payload(datagram))
}

/// Writes the destination of a datagram that has a whole header.
pub fn set_destination(datagram: &mut [u8], user: PushId) {
    if let Some(field) = datagram.get_mut(DESTINATION) {
        field.copy_from_slice(&user.to_bytes());
    }
}
