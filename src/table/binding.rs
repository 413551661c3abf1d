//! Where each user is: the bindings that users.csv knows, one cache line a terminal.
//!
//! Costs: 64 bytes a terminal, of 98.4 percent of the places; 0.3 bytes of the perfect hash that says which
//! ([`super::phf`]): 65.3 bytes a user with one terminal, 69.7 with the way back ([`super::owners`]), 74.4 with what
//! says whether registrations are to be asked ([`super::live::overlay`]). A lookup
//! reads one line from memory, whether the user is there or not, and one byte that is in a near cache; further
//! terminals stand side by side in further lines, which only their users' lookups read.
//!
//! A line knows the gateway that its private address lies behind: the segments are of the same image, so the longest
//! match is made once, when the image is.
//!
//! Hash values are of a hash that is specified here ([`hash`]), with the seed in the image: an image means the same on
//! every machine.

use rkyv::bytecheck::CheckBytes;
use rkyv::rend::{u16_le, u32_le};
use rkyv::{Archive, Portable, Serialize};

use super::memory::prefetch;
use super::phf::Places;
use super::rib::User;
use crate::id::{Endpoint, Imsi, PushId};

/// One terminal of one user in one cache line, the same in memory and in an image. All zero: a place that is free.
#[derive(Archive, Serialize, Portable, CheckBytes, Clone, Copy, PartialEq, Eq, Debug, Default)]
#[rkyv(as = Line)]
#[bytecheck(crate = rkyv::bytecheck)]
#[repr(C, align(64))]
pub struct Line {
    user: [u8; 16],
    /// Private address, or the serving server's.
    addr: [u8; 16],
    /// TBCD; zero: none.
    imsi: [u8; 8],
    realm: u32_le,
    /// Seconds since 1970; zero: no end.
    valid_until: u32_le,
    /// Public IPv4 address; with `flag::NAT6` an index into the public IPv6 addresses.
    nat: [u8; 4],
    port: u16_le,
    nat_port: u16_le,
    /// Where the private address is reached; [`NO_GATEWAY`]: ask the segments.
    gateway: u16_le,
    device: u8,
    bearers: u8,
    flags: u8,
    /// Of a user with several terminals, in the first one's line: where the further ones stand, counted from the
    /// first of their block; little-endian.
    further: [u8; 3],
}

const _: () = assert!(size_of::<Line>() == 64 && align_of::<Line>() == 64);

/// No gateway, or one with a number that has no room in a line.
pub(super) const NO_GATEWAY: u16 = u16::MAX;

/// Places whose further lines are counted from one of them on: 2^14, so that 255 further terminals each are fewer
/// than three bytes count.
pub(super) const BLOCK_SHIFT: u32 = 14;

const _: () = assert!(255 << BLOCK_SHIFT < 1 << 24);

/// Bits of [`Line::flags`].
mod flag {
    pub(super) const PRIVATE: u8 = 1;
    pub(super) const NAT: u8 = 2;
    pub(super) const NAT6: u8 = 4;
    pub(super) const SERVING: u8 = 8;
    /// There are further terminals: of the first line `further` says where, of a further one the next line is
    /// another.
    pub(super) const MORE: u8 = 16;
    /// The user has a key of its own.
    pub(super) const KEY: u8 = 32;
}

/// The specified hash of 128 bits: one 64 × 64 → 128 bit multiplication, folded, twice (the shape of wyhash). Once
/// would be linear in keys that follow each other, which no perfect hash keeps apart.
#[inline(always)]
pub const fn hash(key: u128, seed: u64) -> u64 {
    let mixed = fold(key as u64 ^ 0x9E37_79B9_7F4A_7C15 ^ seed, (key >> 64) as u64 ^ 0xD1B5_4A32_D192_ED03);
    fold(mixed ^ 0xA076_1D64_78BD_642F, seed ^ key as u64 ^ 0xE703_7ED1_A0B4_28DB)
}

/// The two halves of a product, folded.
const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

/// The specified hash of a private address. The realm makes the seed another one, by a multiplication: whichever two
/// addresses have one hash under a seed, they have two under the next.
pub(super) const fn owner_hash((realm, addr): (u32, [u8; 16]), seed: u64) -> u64 {
    let seed = fold(realm as u64 ^ seed ^ 0x9E37_79B9_7F4A_7C15, 0xD1B5_4A32_D192_ED03);
    hash(u128::from_be_bytes(addr), seed)
}

/// A private address as one number for an index that only hints: two may have the same.
#[inline(always)]
pub const fn owner_key(realm: u32, addr: [u8; 16]) -> u128 {
    // Realms differ in bits that IPv4-mapped addresses leave zero.
    u128::from_be_bytes(addr) ^ (realm as u128) << 96
}

/// Which lines say all of their users: of one terminal with a private address.
#[derive(Clone, Copy, Debug)]
pub struct Plain(u8);

impl Plain {
    /// Those with a public address are not among them where that may be somebody else's by now.
    pub const fn new(may_be_taken: bool) -> Self {
        let public = if may_be_taken { flag::NAT } else { 0 };
        Self(flag::PRIVATE | flag::SERVING | flag::MORE | public)
    }
}

impl Line {
    /// A terminal's row; a public IPv6 address goes to `nat6`.
    pub fn new(user: &User, nat6: &mut Vec<[u8; 16]>) -> Self {
        let (endpoint, mut flags) = match (user.private, user.serving) {
            (Some(private), _) => (private, flag::PRIVATE),
            (None, Some(serving)) => (serving, flag::SERVING),
            (None, None) => (Endpoint::NONE, 0),
        };
        let mut nat = [0; 4];
        if let Some(public) = user.nat {
            flags |= flag::NAT;
            nat = public.ipv4().unwrap_or_else(|| {
                flags |= flag::NAT6;
                nat6.push(public.octets());
                (nat6.len() as u32 - 1).to_be_bytes()
            });
        }
        let until = user.valid_until.map_or(0, |until| u32::try_from(until).unwrap_or(u32::MAX).max(1));
        Self {
            user: user.push_id.to_bytes(),
            addr: endpoint.octets(),
            imsi: user.imsi.map_or([0; 8], Imsi::to_tbcd),
            realm: user.realm.into(),
            valid_until: until.into(),
            nat,
            port: endpoint.port().into(),
            nat_port: user.nat.map_or(0, Endpoint::port).into(),
            gateway: NO_GATEWAY.into(),
            device: user.device,
            bearers: user.bearers,
            flags,
            further: [0; 3],
        }
    }

    /// The same with what the rest of the tables says of it: the gateway that the segments lead to, whether the user has
    /// a key, where its public IPv6 address stands.
    pub(super) fn placed(self, gateway: Option<u32>, has_key: bool, nat6: Option<u32>) -> Self {
        let gateway = gateway.and_then(|gateway| u16::try_from(gateway).ok()).unwrap_or(NO_GATEWAY);
        let key = if has_key { flag::KEY } else { 0 };
        let nat = nat6.map_or(self.nat, u32::to_be_bytes);
        Self { gateway: gateway.into(), flags: self.flags | key, nat, ..self }
    }

    /// The same with where the user's further lines stand, if there are some.
    pub(super) fn with_further(self, further: Option<u32>) -> Self {
        let Some(place) = further else { return self };
        let [a, b, c, _] = place.to_le_bytes();
        Self { flags: self.flags | flag::MORE, further: [a, b, c], ..self }
    }

    /// Which of the public IPv6 addresses is this terminal's.
    pub(super) fn nat6_place(&self) -> Option<u32> {
        (self.flags & flag::NAT6 != 0).then(|| u32::from_be_bytes(self.nat))
    }

    /// The user.
    #[inline(always)]
    pub fn user(&self) -> PushId {
        PushId::from_bytes(self.user)
    }

    /// Which of the user's terminals.
    #[inline(always)]
    pub fn device(&self) -> u8 {
        self.device
    }

    /// Whether this is a place where nobody stands.
    #[inline(always)]
    pub fn is_free(&self) -> bool {
        self.user == [0; 16]
    }

    /// Whether the user has further terminals than this one and those before it.
    #[inline(always)]
    pub fn has_more(&self) -> bool {
        self.flags & flag::MORE != 0
    }

    /// Whether the user has a key of its own.
    #[inline(always)]
    pub fn has_key(&self) -> bool {
        self.flags & flag::KEY != 0
    }

    /// Whether the binding holds at this time (seconds since 1970).
    #[inline(always)]
    pub fn is_live(&self, unix_s: u64) -> bool {
        let until = self.valid_until.to_native();
        until == 0 || unix_s < u64::from(until)
    }

    /// The private address space.
    #[inline(always)]
    pub fn realm(&self) -> u32 {
        self.realm.to_native()
    }

    /// Where the further lines stand, from the first one of the block on.
    #[inline(always)]
    pub(super) fn further(&self) -> usize {
        let [a, b, c] = self.further;
        u32::from_le_bytes([a, b, c, 0]) as usize
    }

    /// The gateway that the private address lies behind, where the line has it; else the segments know.
    #[inline(always)]
    pub fn gateway(&self) -> Option<u32> {
        let gateway = self.gateway.to_native();
        (gateway != NO_GATEWAY).then_some(u32::from(gateway))
    }

    /// What the terminal can take.
    #[inline(always)]
    pub fn bearers(&self) -> u8 {
        self.bearers
    }

    fn endpoint(&self, wanted: u8) -> Option<Endpoint> {
        (self.flags & wanted != 0).then(|| Endpoint::from_octets(self.addr, self.port.to_native()))
    }

    /// Private address and port.
    #[inline(always)]
    pub fn private(&self) -> Option<Endpoint> {
        self.endpoint(flag::PRIVATE)
    }

    /// The serving server's address.
    #[inline(always)]
    pub fn serving(&self) -> Option<Endpoint> {
        self.endpoint(flag::SERVING)
    }

    /// Public address and port; `nat6` is the table's array of public IPv6 addresses.
    #[inline(always)]
    pub fn nat(&self, nat6: &[[u8; 16]]) -> Option<Endpoint> {
        if self.flags & flag::NAT == 0 {
            return None;
        }
        let port = self.nat_port.to_native();
        if self.flags & flag::NAT6 == 0 {
            return Some(Endpoint::new(self.nat.into(), port));
        }
        let addr = nat6.get(u32::from_be_bytes(self.nat) as usize)?;
        Some(Endpoint::from_octets(*addr, port))
    }

    /// The subscriber.
    #[inline(always)]
    pub fn imsi(&self) -> Option<Imsi> {
        Imsi::from_tbcd(self.imsi)
    }

    /// The row of `users.csv` that this line was made from.
    pub fn to_user(&self, nat6: &[[u8; 16]]) -> User {
        let until = self.valid_until.to_native();
        User {
            push_id: self.user(),
            device: self.device,
            realm: self.realm(),
            private: self.private(),
            nat: self.nat(nat6),
            imsi: self.imsi(),
            bearers: self.bearers,
            serving: self.serving(),
            valid_until: (until != 0).then_some(u64::from(until)),
        }
    }

    /// Whether the flags agree with each other and with the side tables.
    pub fn is_sound(&self, nat6: usize) -> bool {
        let both = flag::PRIVATE | flag::SERVING;
        let nat6_right = self.flags & flag::NAT6 == 0
            || (self.flags & flag::NAT != 0 && (u32::from_be_bytes(self.nat) as usize) < nat6);
        let imsi_right = self.imsi == [0; 8] || self.imsi().is_some();
        self.flags & both != both && nat6_right && imsi_right && self.flags >> 6 == 0
    }
}

/// The bindings of an image as a burst reads them: where the arrays are is found once, not once a lookup.
#[derive(Clone, Copy, Debug)]
pub struct Bindings<'a> {
    pub(super) lines: &'a [Line],
    pub(super) nat6: &'a [[u8; 16]],
    pub(super) places: Places<'a>,
    /// The lines behind all places, and where in them those of each block of places begin.
    pub(super) behind: &'a [Line],
    pub(super) blocks: &'a [u32_le],
}

impl<'a> Bindings<'a> {
    /// What a user is found by.
    #[inline(always)]
    pub const fn hash(&self, user: PushId) -> u64 {
        hash(user.0, self.places.seed())
    }

    /// Starts to bring near what [`Bindings::place`] reads.
    #[inline(always)]
    pub fn prefetch(&self, hash: u64) {
        self.places.prefetch(hash);
    }

    /// The only place where the line of the user with this hash can stand.
    #[inline(always)]
    pub fn place(&self, hash: u64) -> usize {
        self.places.place(hash)
    }

    /// The perfect hash of users.
    #[inline(always)]
    pub const fn places(&self) -> &Places<'a> {
        &self.places
    }

    /// Starts to bring a line near.
    #[inline(always)]
    pub fn prefetch_line(&self, place: usize) {
        prefetch(self.lines, place);
    }

    /// The user's first line, if it stands where it must.
    #[inline(always)]
    pub fn at(&self, user: PushId, place: usize) -> Option<&'a Line> {
        // A free place says that it is nobody's.
        self.lines.get(place).filter(|line| line.user() == user && !user.is_none())
    }

    /// The user's only line, if it is such a one.
    #[inline(always)]
    pub fn plain_at(&self, user: PushId, place: usize, plain: Plain) -> Option<&'a Line> {
        // A free place has no flags.
        self.lines.get(place).filter(|line| line.user() == user && line.flags & plain.0 == flag::PRIVATE)
    }

    /// The lines.
    #[inline(always)]
    pub const fn lines(&self) -> &'a [Line] {
        self.lines
    }

    /// The user's first line, and where it stands.
    #[inline]
    pub fn find(&self, user: PushId) -> Option<(&'a Line, usize)> {
        let place = self.place(self.hash(user));
        Some((self.at(user, place)?, place))
    }

    /// The further lines of the user whose first line this is.
    #[inline(always)]
    pub fn further(&self, first: &Line, place: usize) -> &'a [Line] {
        if first.has_more() { self.further_lines(first, place) } else { &[] }
    }

    #[cold]
    fn further_lines(&self, first: &Line, place: usize) -> &'a [Line] {
        let block = self.blocks.get(place >> BLOCK_SHIFT).map_or(0, |begin| begin.to_native() as usize);
        let rest = self.behind.get(block + first.further()..).unwrap_or_default();
        let count = rest.iter().position(|line| !line.has_more()).map_or(rest.len(), |last| last + 1);
        &rest[..count]
    }

    /// All lines of a user, one a terminal.
    pub fn of(&self, user: PushId) -> impl Iterator<Item = &'a Line> + use<'a> {
        let found = self.find(user);
        let further = found.map_or(&[][..], |(first, place)| self.further(first, place));
        found.into_iter().map(|(first, _)| first).chain(further)
    }

    /// The public IPv6 addresses.
    #[inline(always)]
    pub const fn nat6(&self) -> &'a [[u8; 16]] {
        self.nat6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `tables/README.md` draws.
    #[test]
    fn the_layout_is_the_one_that_is_drawn() {
        use std::mem::offset_of;
        let line = [
            offset_of!(Line, user),
            offset_of!(Line, addr),
            offset_of!(Line, imsi),
            offset_of!(Line, realm),
            offset_of!(Line, valid_until),
            offset_of!(Line, nat),
            offset_of!(Line, port),
            offset_of!(Line, nat_port),
            offset_of!(Line, gateway),
            offset_of!(Line, device),
            offset_of!(Line, bearers),
            offset_of!(Line, flags),
            offset_of!(Line, further),
        ];
        assert_eq!(line, [0, 16, 32, 40, 44, 48, 52, 54, 56, 58, 59, 60, 61]);
    }
}
