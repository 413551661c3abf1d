//! One cache line of the live table: how a binding stands in seven words.
//!
//! | word | of a binding | of a lent Push ID | of an extension |
//! |---|---|---|---|
//! | 0, 1 | user | the lent Push ID | public address |
//! | 2, 3 | private or serving address; word 2 is the IMSI when it is IPv4 or there is none | whom it leads to | IMSI, – |
//! | 4 | realm (32 bits), port (16), public port (16) | – | – |
//! | 5 | public IPv4 address, or the extension's slot (32); valid until, s (32) | –, until | – |
//! | 6 | device (8), bearers (8), flags (10), tag of the gateway (6), listener (8), ms of valid until (10), gateway and one (14) | device, flags, ms | flags |
//!
//! The gateway is that of the segments of one image: who reads another one's, as the tag says, asks that one's segments.

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

/// How far the tag of the gateway, and the gateway itself, are shifted in the last word.
const TAG_SHIFT: u32 = 26;
const GATEWAY_SHIFT: u32 = 50;
/// Gateways beyond have no room, and are asked for.
const GATEWAYS_MAX: u32 = (1 << (u64::BITS - GATEWAY_SHIFT)) - 1;

/// Which image's segments a gateway is of. Never that of nobody's, which is zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tag(u64);

impl Tag {
    /// Tags that can be told apart.
    const COUNT: u64 = 63;

    /// The tag of the image with this number.
    pub(super) const fn new(number: u64) -> Self {
        Self(number % Self::COUNT + 1)
    }
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

/// The words of a binding with where the segments of an image lead its private address to.
pub(super) fn with_gateway(mut words: Words, tag: Tag, gateway: Option<u32>) -> Words {
    words[6] &= !(Tag::COUNT << TAG_SHIFT | u64::MAX << GATEWAY_SHIFT);
    if let Some(gateway) = gateway.filter(|gateway| *gateway < GATEWAYS_MAX) {
        words[6] |= tag.0 << TAG_SHIFT | u64::from(gateway + 1) << GATEWAY_SHIFT;
    }
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

/// Whether these words say something, and not as an extension.
#[inline(always)]
pub(super) const fn says(words: &Words) -> bool {
    words[6] & (flag::BOUND | flag::ENDED | flag::LENT) != 0
}

/// The first words of a slot that says something of this Push ID.
#[inline(always)]
pub(super) const fn id_words(id: PushId) -> [u64; 2] {
    [high(id.0), id.0 as u64]
}

/// Whether these words say something of this Push ID.
#[inline(always)]
pub(super) const fn is_of(words: &Words, id: PushId) -> bool {
    let [high, low] = id_words(id);
    words[0] == high && words[1] == low && says(words)
}

/// Whether these words are of a binding.
#[inline(always)]
pub(super) const fn is_bound(words: &Words) -> bool {
    words[6] & flag::BOUND != 0
}

/// The slot of the extension, if there is one.
#[inline(always)]
pub(super) const fn extension_of(words: &Words) -> Option<usize> {
    if words[6] & flag::EXTENDED == 0 { None } else { Some((words[5] >> 32) as usize) }
}

/// What a slot says, as its words and those of its extension: read as far as it is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LiveLine {
    words: Words,
    /// The first words of the extension; zero without one.
    more: [u64; 3],
}

/// What a line says something of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Of {
    /// A binding.
    Bound,
    /// A device that is bound no more.
    Ended,
    /// A lent Push ID.
    Lent,
}

impl LiveLine {
    /// Of words that say something.
    #[inline(always)]
    pub(super) const fn new(words: Words, extension: Option<&Words>) -> Self {
        let more = match extension {
            Some([high, low, imsi, ..]) => [*high, *low, *imsi],
            None => [0; 3],
        };
        Self { words, more }
    }

    #[inline(always)]
    const fn has(&self, wanted: u64) -> bool {
        self.words[6] & wanted != 0
    }

    /// What it says something of.
    #[inline(always)]
    pub const fn of(&self) -> Of {
        if self.has(flag::BOUND) {
            Of::Bound
        } else if self.has(flag::LENT) {
            Of::Lent
        } else {
            Of::Ended
        }
    }

    /// The user, or the lent Push ID.
    #[inline(always)]
    pub const fn user(&self) -> PushId {
        PushId(join(self.words[0], self.words[1]))
    }

    /// Which of the user's devices; of a lent Push ID, which of whom it leads to (0: all).
    #[inline(always)]
    pub const fn device(&self) -> u8 {
        self.words[6] as u8
    }

    /// Whom a lent Push ID leads to.
    #[inline(always)]
    pub const fn lent_to(&self) -> PushId {
        PushId(join(self.words[2], self.words[3]))
    }

    /// The private address space.
    #[inline(always)]
    pub const fn realm(&self) -> u32 {
        (self.words[4] >> 32) as u32
    }

    #[inline(always)]
    fn addr(&self, wanted: u64) -> Option<Endpoint> {
        // Of an IPv4 address the first word is the IMSI's.
        let high = if self.has(flag::ADDR6) { self.words[2] } else { 0 };
        self.has(wanted).then(|| endpoint(high, self.words[3], self.words[4] >> 16))
    }

    /// Private address and port.
    #[inline(always)]
    pub fn private(&self) -> Option<Endpoint> {
        self.addr(flag::PRIVATE)
    }

    /// The serving server's address.
    #[inline(always)]
    pub fn serving(&self) -> Option<Endpoint> {
        self.addr(flag::SERVING)
    }

    /// Public address and port.
    #[inline(always)]
    pub fn nat(&self) -> Option<Endpoint> {
        if !self.has(flag::NAT) {
            return None;
        }
        let [high, low] = if self.has(flag::EXTENDED) {
            [self.more[0], self.more[1]]
        } else {
            [0, 0xFFFF << 32 | self.words[5] >> 32]
        };
        Some(endpoint(high, low, self.words[4]))
    }

    /// The subscriber.
    #[inline(always)]
    pub fn imsi(&self) -> Option<Imsi> {
        let imsi = if self.has(flag::EXTENDED) {
            self.more[2]
        } else if self.has(flag::ADDR6) {
            0
        } else {
            self.words[2]
        };
        if imsi == 0 { None } else { Imsi::from_tbcd(imsi.to_be_bytes()) }
    }

    /// What the terminal can take.
    #[inline(always)]
    pub const fn bearers(&self) -> u8 {
        (self.words[6] >> 8) as u8
    }

    /// Which of the server's listening addresses it last wrote to.
    #[inline(always)]
    pub const fn listener(&self) -> u8 {
        (self.words[6] >> 32) as u8
    }

    /// Where the segments of the image with this tag lead its private address to, if that is known here.
    #[inline(always)]
    pub fn gateway(&self, tag: Tag) -> Option<u32> {
        let is_its = self.words[6] >> TAG_SHIFT & Tag::COUNT == tag.0;
        if is_its { ((self.words[6] >> GATEWAY_SHIFT) as u32).checked_sub(1) } else { None }
    }

    /// Milliseconds since 1970 after which it is void; none: static.
    #[inline(always)]
    pub const fn valid_until_ms(&self) -> Option<u64> {
        until_of(&self.words)
    }

    /// Whether its validity has not ended at this time.
    #[inline(always)]
    pub fn is_live(&self, now_ms: u64) -> bool {
        self.valid_until_ms().is_none_or(|until| now_ms < until)
    }

    /// All of it.
    pub fn decode(&self) -> Live {
        let (user, device) = (self.user(), self.device());
        match self.of() {
            Of::Bound => Live::Bound(Binding {
                user,
                device,
                realm: self.realm(),
                private: self.private(),
                nat: self.nat(),
                imsi: self.imsi(),
                bearers: self.bearers(),
                serving: self.serving(),
                valid_until_ms: self.valid_until_ms(),
                listener: self.listener(),
            }),
            Of::Ended => Live::Ended { user, device },
            Of::Lent => {
                let until_ms = self.valid_until_ms().unwrap_or(u64::MAX);
                Live::Lent { user: self.lent_to(), device, until_ms }
            }
        }
    }
}
