//! One cache line of the live table: how a binding stands in seven words.
//!
//! | word | of a binding | of a lent Push ID | of an extension |
//! |---|---|---|---|
//! | 0, 1 | user | the lent Push ID | public address |
//! | 2, 3 | private or serving address; word 2 is the IMSI when it is IPv4 or there is none | whom it leads to | IMSI, – |
//! | 4 | realm (32 bits), port (16), public port (16) | – | – |
//! | 5 | public IPv4 address, or the extension's slot (32); valid until, s (32) | –, until | – |
//! | 6 | device (8), bearers (8), flags (16), listener (8), ms of valid until (16) | device, flags, ms | flags |

use crate::id::{Endpoint, Imsi, PushId};
use crate::table::change::Binding;

/// Words of a slot, besides its version.
pub(super) const WORDS: usize = 7;

/// What a slot's seven words hold.
pub(super) type Words = [u64; WORDS];

/// What a slot with nothing in it holds.
pub(super) const FREE: Words = [0; WORDS];

mod flag {
    pub(super) const BOUND: u64 = 1 << 16;
    pub(super) const ENDED: u64 = 1 << 17;
    pub(super) const LENT: u64 = 1 << 18;
    pub(super) const EXTENSION: u64 = 1 << 19;
    pub(super) const PRIVATE: u64 = 1 << 20;
    pub(super) const SERVING: u64 = 1 << 21;
    pub(super) const NAT: u64 = 1 << 22;
    /// Public address and IMSI stand in another slot.
    pub(super) const EXTENDED: u64 = 1 << 23;
    pub(super) const UNTIL: u64 = 1 << 24;
    /// The address is IPv6: all of words 2 and 3 is its.
    pub(super) const ADDR6: u64 = 1 << 25;
}

/// What the live table says of a user.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Live {
    /// A terminal is bound, unless its validity has ended.
    Bound(Binding),
    /// A device is bound no more, not by users.csv either.
    Ended {
        /// Whose.
        user: PushId,
        /// Which.
        device: u8,
    },
    /// The Push ID is a lent one.
    Lent {
        /// Whom it leads to.
        user: PushId,
        /// Which of the user's devices; 0: all.
        device: u8,
        /// Milliseconds since 1970 after which it leads nowhere.
        until_ms: u64,
    },
}

const fn high(value: u128) -> u64 {
    (value >> 64) as u64
}

const fn join(high: u64, low: u64) -> u128 {
    (high as u128) << 64 | low as u128
}

const fn endpoint(high: u64, low: u64, port: u64) -> Endpoint {
    Endpoint::from_octets(join(high, low).to_be_bytes(), port as u16)
}

/// The two words that a moment takes: seconds, and milliseconds with a flag.
fn until_words(until_ms: Option<u64>) -> (u64, u64) {
    let Some(ms) = until_ms else { return (0, 0) };
    match u32::try_from(ms / 1000) {
        Ok(seconds) => (u64::from(seconds), flag::UNTIL | (ms % 1000) << 40),
        // Beyond the year 2106: as good as no end.
        Err(_) => (0, 0),
    }
}

const fn until_of(words: &Words) -> Option<u64> {
    if words[6] & flag::UNTIL == 0 {
        return None;
    }
    Some((words[5] & 0xFFFF_FFFF) * 1000 + (words[6] >> 40 & 0x3FF))
}

/// Whether a binding needs a second slot.
pub(super) fn is_extended(binding: &Binding) -> bool {
    let is_v6 = |endpoint: Endpoint| !endpoint.is_ipv4();
    let addr_v6 = binding.private.or(binding.serving).is_some_and(is_v6);
    binding.nat.is_some_and(is_v6) || (binding.imsi.is_some() && addr_v6)
}

/// The words of a binding's second slot.
pub(super) fn extension(binding: &Binding) -> Words {
    let nat = binding.nat.map_or(0, |nat| u128::from_be_bytes(nat.octets()));
    let imsi = binding.imsi.map_or(0, |imsi| u64::from_be_bytes(imsi.to_tbcd()));
    [high(nat), nat as u64, imsi, 0, 0, 0, flag::EXTENSION]
}

/// The words of a binding; `extension` is its second slot, if it has one.
pub(super) fn bound(binding: &Binding, extension: Option<u32>) -> Words {
    let user = binding.user.0;
    let (seconds, until) = until_words(binding.valid_until_ms);
    let mut flags = flag::BOUND | until;
    let addr = match (binding.private, binding.serving) {
        (Some(private), _) => {
            flags |= flag::PRIVATE;
            private
        }
        (None, Some(serving)) => {
            flags |= flag::SERVING;
            serving
        }
        (None, None) => Endpoint::NONE,
    };
    let has_addr = binding.private.is_some() || binding.serving.is_some();
    if has_addr && !addr.is_ipv4() {
        flags |= flag::ADDR6;
    }
    let bits = u128::from_be_bytes(addr.octets());
    let mut words = [high(user), user as u64, high(bits), bits as u64, 0, seconds, 0];
    if let Some(imsi) = binding.imsi
        && extension.is_none()
    {
        words[2] = u64::from_be_bytes(imsi.to_tbcd());
    }
    if let Some(nat) = binding.nat {
        flags |= flag::NAT;
        words[4] |= u64::from(nat.port());
        words[5] |= u64::from(u32::from_be_bytes(nat.ipv4().unwrap_or_default())) << 32;
    }
    if let Some(slot) = extension {
        flags |= flag::EXTENDED;
        words[5] = u64::from(slot) << 32 | seconds;
    }
    words[4] |= u64::from(binding.realm) << 32 | u64::from(addr.port()) << 16;
    words[6] = flags
        | u64::from(binding.device)
        | u64::from(binding.bearers) << 8
        | u64::from(binding.listener) << 32;
    words
}

/// The words of a device that is bound no more.
pub(super) fn ended(user: PushId, device: u8) -> Words {
    [high(user.0), user.0 as u64, 0, 0, 0, 0, flag::ENDED | u64::from(device)]
}

/// The words of a lent Push ID.
pub(super) fn lent(id: PushId, user: PushId, device: u8, until_ms: u64) -> Words {
    let (seconds, until) = until_words(Some(until_ms));
    let [id, user] = [id.0, user.0];
    let flags = flag::LENT | until | u64::from(device);
    [high(id), id as u64, high(user), user as u64, 0, seconds, flags]
}

/// Whether these words say something of this Push ID.
#[inline(always)]
pub(super) const fn is_of(words: &Words, id: PushId) -> bool {
    words[0] == high(id.0)
        && words[1] == id.0 as u64
        && words[6] & (flag::BOUND | flag::ENDED | flag::LENT) != 0
}

/// The slot of the extension, if there is one.
#[inline(always)]
pub(super) const fn extension_of(words: &Words) -> Option<usize> {
    if words[6] & flag::EXTENDED == 0 { None } else { Some((words[5] >> 32) as usize) }
}

/// What words, with those of their extension, say.
#[inline]
pub(super) fn decode(words: &Words, extension: Option<&Words>) -> Option<Live> {
    let flags = words[6];
    let (user, device) = (PushId(join(words[0], words[1])), flags as u8);
    if flags & flag::ENDED != 0 {
        return Some(Live::Ended { user, device });
    }
    if flags & flag::LENT != 0 {
        let user = PushId(join(words[2], words[3]));
        return Some(Live::Lent { user, device, until_ms: until_of(words).unwrap_or(u64::MAX) });
    }
    if flags & flag::BOUND == 0 {
        return None;
    }
    // The first 64 bits of a mapped IPv4 address are zero: the word is the IMSI's.
    let imsi_in_addr = flags & flag::ADDR6 == 0;
    let addr = endpoint(if imsi_in_addr { 0 } else { words[2] }, words[3], words[4] >> 16);
    let has = |wanted| flags & wanted != 0;
    let nat_port = words[4];
    let nat = match extension {
        Some(more) => endpoint(more[0], more[1], nat_port),
        None => endpoint(0, 0xFFFF << 32 | words[5] >> 32, nat_port),
    };
    let imsi = match extension {
        Some(more) => more[2],
        None if imsi_in_addr => words[2],
        None => 0,
    };
    Some(Live::Bound(Binding {
        user,
        device,
        realm: (words[4] >> 32) as u32,
        private: has(flag::PRIVATE).then_some(addr),
        nat: has(flag::NAT).then_some(nat),
        imsi: Imsi::from_tbcd(imsi.to_be_bytes()),
        bearers: (flags >> 8) as u8,
        serving: has(flag::SERVING).then_some(addr),
        valid_until_ms: until_of(words),
        listener: (flags >> 32) as u8,
    }))
}
