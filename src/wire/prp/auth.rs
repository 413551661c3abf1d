//! Authentication, hop by hop: AES-128-CMAC (RFC 4493) over the whole datagram with the tag's
//! sixteen bytes zero.
//!
//! Costs one AES block for each 16 bytes; the key schedule is made once, when a key is loaded.

use aes::Aes128;
use cmac::{Cmac, KeyInit, Mac};

use super::option::{Options, option_type as ty};

/// How far the time in Auth may be from the receiver's clock, either way.
pub const SKEW_MS: u64 = 30_000;

/// Bytes of the tag.
pub const TAG_BYTES: usize = 16;

/// From the option's type byte to the tag: type, length, key identifier, time.
const TAG_OFFSET: usize = 2 + 4 + 8;

/// What an Auth option says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Auth {
    /// Which key.
    pub key: u32,
    /// When it was signed, milliseconds since 1970.
    pub unix_ms: u64,
    tag_at: usize,
}

impl Auth {
    /// The Auth of a parsed datagram.
    pub fn of(options: &Options, datagram: &[u8]) -> Option<Self> {
        let at = options.offset(ty::AUTH)?;
        let (key, rest) = options.value(datagram, ty::AUTH)?.split_first_chunk()?;
        let unix_ms = rest.first_chunk()?;
        Some(Self {
            key: u32::from_be_bytes(*key),
            unix_ms: u64::from_be_bytes(*unix_ms),
            tag_at: at + TAG_OFFSET,
        })
    }

    /// Whether the time is within [`SKEW_MS`] of the receiver's clock.
    pub const fn is_fresh(&self, now_unix_ms: u64) -> bool {
        self.unix_ms.abs_diff(now_unix_ms) <= SKEW_MS
    }
}

/// A key with its schedule.
#[derive(Clone)]
pub struct MacKey {
    cmac: Cmac<Aes128>,
}

impl std::fmt::Debug for MacKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MacKey")
    }
}

impl MacKey {
    /// Makes the schedule.
    pub fn new(key: [u8; 16]) -> Self {
        Self { cmac: Cmac::new(&key.into()) }
    }

    fn keyed(&self, datagram: &[u8], tag_at: usize) -> Option<Cmac<Aes128>> {
        let mut cmac = self.cmac.clone();
        cmac.update(datagram.get(..tag_at)?);
        cmac.update(&[0; TAG_BYTES]);
        cmac.update(datagram.get(tag_at + TAG_BYTES..)?);
        Some(cmac)
    }

    /// Whether the datagram's tag is this key's, in constant time.
    pub fn verify(&self, datagram: &[u8], auth: &Auth) -> bool {
        let Some(tag) = datagram.get(auth.tag_at..).and_then(|rest| rest.first_chunk::<TAG_BYTES>()) else {
            return false;
        };
        self.keyed(datagram, auth.tag_at).is_some_and(|cmac| cmac.verify(tag.into()).is_ok())
    }

    /// Puts the tag into a datagram whose last option, ending at `head_bytes`, is Auth. False, and
    /// nothing done, when there is no room for one.
    #[must_use]
    pub fn sign(&self, datagram: &mut [u8], head_bytes: usize) -> bool {
        // The value ends two bytes of padding before the head does: 2 + 28 + 2 = 32.
        let Some(tag_at) = head_bytes.checked_sub(TAG_BYTES + 2) else { return false };
        let Some(cmac) = self.keyed(datagram, tag_at) else { return false };
        let Some(tag) = datagram.get_mut(tag_at..tag_at + TAG_BYTES) else { return false };
        tag.copy_from_slice(&cmac.finalize().into_bytes());
        true
    }
}
