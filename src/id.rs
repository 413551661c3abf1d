//! The words: identifiers and addresses, how they are written, and nothing else.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// What a word should have looked like, for the person who wrote it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParseError(pub String);

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ParseError {}

fn expected<T>(what: &str, found: &str) -> Result<T, ParseError> {
    Err(ParseError(format!("expected {what}, found \"{found}\"")))
}

/// A Push ID (US 9,307,039: the identifier to which a Push message is addressed): 128 bits whose
/// first ones name operator and Push server. Also names a group.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize,
)]
pub struct PushId(pub u128);

impl PushId {
    /// The all-zero identifier: no user.
    pub const NONE: Self = Self(0);

    /// From the sixteen bytes of the wire.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    /// The sixteen bytes of the wire.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// Whether this is [`PushId::NONE`].
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// The first 64 bits: all that a prefix may look at.
    pub const fn high(self) -> u64 {
        (self.0 >> 64) as u64
    }

    /// The last 32 bits: what steers a datagram to a shard.
    pub const fn steer(self) -> u32 {
        self.0 as u32
    }
}

impl fmt::Display for PushId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for PushId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PushId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
        if digits.len() == 32
            && digits.bytes().all(|b| b.is_ascii_hexdigit())
            && let Ok(value) = u128::from_str_radix(digits, 16)
        {
            return Ok(Self(value));
        }
        expected("a Push ID of 32 hexadecimal digits", text)
    }
}

/// A prefix of Push IDs, up to 64 bits. Written as its bits (`0011`) or as `0x30/4`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PushPrefix {
    bits: u64,
    len: u8,
}

impl PushPrefix {
    /// The prefix of `len` bits at the left of `bits`. `None` beyond 64 bits, or when a bit
    /// right of the prefix is set.
    pub const fn new(bits: u64, len: u8) -> Option<Self> {
        if len > 64 || (len < 64 && (bits << len) != 0) {
            return None;
        }
        Some(Self { bits, len })
    }

    /// The prefix's bits, left-aligned.
    pub const fn bits(self) -> u64 {
        self.bits
    }

    /// How many bits count, 0 to 64.
    #[expect(clippy::len_without_is_empty, reason = "a prefix of length zero is not empty but everything")]
    pub const fn len(self) -> u8 {
        self.len
    }

    /// The lowest Push ID that starts with it.
    pub const fn first(self) -> PushId {
        PushId((self.bits as u128) << 64)
    }

    /// Whether `id` starts with this prefix.
    pub const fn contains(self, id: PushId) -> bool {
        self.len == 0 || (id.high() ^ self.bits) >> (64 - self.len) == 0
    }
}

impl fmt::Display for PushPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.len == 0 {
            return f.write_str("0x0/0");
        }
        for bit in 0..self.len {
            f.write_str(if self.bits >> (63 - bit) & 1 == 1 { "1" } else { "0" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for PushPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PushPrefix {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        const WHAT: &str = "a prefix as its bits (\"0011\") or as hexadecimal digits and a length (\"0x30/4\"), at most 64 bits";
        if let Some((hex, len)) = text.strip_prefix("0x").and_then(|rest| rest.split_once('/')) {
            let digits_fit = (1..=16).contains(&hex.len()) && hex.bytes().all(|b| b.is_ascii_hexdigit());
            let (Some(value), Ok(len)) =
                (u64::from_str_radix(hex, 16).ok().filter(|_| digits_fit), len.parse::<u8>())
            else {
                return expected(WHAT, text);
            };
            let bits = value << (64 - 4 * hex.len());
            return match Self::new(bits, len) {
                Some(prefix) => Ok(prefix),
                None => expected("a prefix without bits set beyond its length", text),
            };
        }
        if text.is_empty() || text.len() > 64 || !text.bytes().all(|b| b == b'0' || b == b'1') {
            return expected(WHAT, text);
        }
        let bits = text.bytes().fold(0u64, |bits, b| bits << 1 | u64::from(b == b'1'));
        Ok(Self { bits: bits << (64 - text.len()), len: text.len() as u8 })
    }
}

/// An address and a port, 18 bytes, IPv4 as v4-mapped IPv6: what tables and bursts hold instead of
/// the 32 bytes of [`SocketAddr`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Endpoint {
    addr: [u8; 16],
    port: u16,
}

impl Endpoint {
    /// `[::]:0`, which stands for nothing.
    pub const NONE: Self = Self { addr: [0; 16], port: 0 };

    /// This address and port; a v4-mapped IPv6 address is the IPv4 one.
    pub const fn new(ip: IpAddr, port: u16) -> Self {
        let addr = match ip {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        Self { addr, port }
    }

    /// From the sixteen bytes of an IPv6 (or v4-mapped) address.
    pub const fn from_octets(addr: [u8; 16], port: u16) -> Self {
        Self { addr, port }
    }

    /// The address as IPv6, IPv4 mapped into it.
    pub const fn octets(self) -> [u8; 16] {
        self.addr
    }

    /// The port.
    pub const fn port(self) -> u16 {
        self.port
    }

    /// The same address with another port.
    #[must_use]
    pub const fn with_port(self, port: u16) -> Self {
        Self { addr: self.addr, port }
    }

    /// The address.
    pub const fn ip(self) -> IpAddr {
        Ipv6Addr::from_octets(self.addr).to_canonical()
    }

    /// The four octets, if the address is IPv4.
    pub const fn ipv4(self) -> Option<[u8; 4]> {
        match self.addr {
            [.., a, b, c, d] if self.is_ipv4() => Some([a, b, c, d]),
            _ => None,
        }
    }

    /// Whether the address is IPv4: one comparison of what v4-mapped addresses begin with.
    pub const fn is_ipv4(self) -> bool {
        u128::from_be_bytes(self.addr) >> 32 == 0xFFFF
    }

    /// Whether this is [`Endpoint::NONE`].
    pub fn is_none(self) -> bool {
        self == Self::NONE
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(addr: SocketAddr) -> Self {
        Self::new(addr.ip(), addr.port())
    }
}

impl From<Endpoint> for SocketAddr {
    fn from(endpoint: Endpoint) -> Self {
        Self::new(endpoint.ip(), endpoint.port())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&SocketAddr::from(*self), f)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Endpoint {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text.parse::<SocketAddr>() {
            Ok(addr) => Ok(addr.into()),
            Err(_) => expected("an address and port like 192.0.2.1:2948 or [2001:db8::1]:2948", text),
        }
    }
}

/// An IMSI: 6 to 15 decimal digits (TS 23.003 §2.2), kept as the eight TBCD octets of the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Imsi([u8; 8]);

impl Imsi {
    /// From TBCD, low nibble first, filled with 0xF. `None` when it is none.
    pub fn from_tbcd(octets: [u8; 8]) -> Option<Self> {
        let nibbles = octets.iter().flat_map(|octet| [octet & 15, octet >> 4]);
        let digits = nibbles.clone().take_while(|nibble| *nibble <= 9).count();
        let filled = nibbles.skip(digits).all(|nibble| nibble == 15);
        (filled && (6..=15).contains(&digits)).then_some(Self(octets))
    }

    /// The eight TBCD octets of the wire.
    pub const fn to_tbcd(self) -> [u8; 8] {
        self.0
    }
}

impl fmt::Display for Imsi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for nibble in self.0.iter().flat_map(|octet| [octet & 15, octet >> 4]).take_while(|n| *n <= 9) {
            write!(f, "{nibble}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Imsi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Imsi {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if !(6..=15).contains(&text.len()) || !text.bytes().all(|b| b.is_ascii_digit()) {
            return expected("an IMSI of 6 to 15 digits", text);
        }
        let mut octets = [0xFF; 8];
        for (index, digit) in text.bytes().enumerate() {
            let octet = &mut octets[index / 2];
            let digit = digit - b'0';
            *octet = if index % 2 == 0 { 0xF0 | digit } else { (*octet & 0x0F) | digit << 4 };
        }
        Ok(Self(octets))
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            match parts.next().filter(|part| part.len() == 2).map(|part| u8::from_str_radix(part, 16)) {
                Some(Ok(value)) => *octet = value,
                _ => return expected("an Ethernet address like 02:00:00:00:00:01", text),
            }
        }
        if parts.next().is_some() {
            return expected("an Ethernet address like 02:00:00:00:00:01", text);
        }
        Ok(Self(octets))
    }
}

/// An IPv4 or IPv6 prefix and its length. One with host bits set is refused, with the prefix that was
/// probably meant (`INTERFACE.md`, ruling 20).
///
/// # Errors
/// What was expected and found.
pub fn parse_ip_prefix(text: &str) -> Result<(IpAddr, u8), ParseError> {
    let Some((ip, len)) = text.split_once('/') else {
        return expected("a prefix like 10.1.0.0/16 or 2001:db8::/32", text);
    };
    let (Ok(ip), Ok(len)) = (ip.parse::<IpAddr>(), len.parse::<u8>()) else {
        return expected("a prefix like 10.1.0.0/16 or 2001:db8::/32", text);
    };
    let masked = match ip {
        IpAddr::V4(v4) if len <= 32 => {
            IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & (u64::from(u32::MAX) << (32 - len)) as u32))
        }
        IpAddr::V6(v6) if len <= 128 => IpAddr::V6(Ipv6Addr::from_bits(if len == 0 {
            0
        } else {
            v6.to_bits() & u128::MAX << (128 - len)
        })),
        _ => return expected("a prefix length of at most 32 (IPv4) or 128 (IPv6)", text),
    };
    if masked != ip {
        return Err(ParseError(format!("{text} has host bits set; write {masked}/{len}")));
    }
    Ok((ip, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn push_ids_are_32_digits_with_or_without_0x() {
        let id: PushId = "0x300000000000000000000000deadbeef".parse().unwrap();
        assert_eq!(id.to_string(), "300000000000000000000000deadbeef");
        assert_eq!(id.steer(), 0xdead_beef);
        for bad in ["", "30", "0x", "g00000000000000000000000deadbeef", "+00000000000000000000000deadbeef"] {
            assert!(bad.parse::<PushId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn prefixes_are_bits_or_hexadecimal_with_a_length() {
        let bits: PushPrefix = "0011".parse().unwrap();
        assert_eq!("0x30/4".parse::<PushPrefix>(), Ok(bits));
        assert_eq!("0x3/4".parse::<PushPrefix>(), Ok(bits));
        assert_eq!(bits.to_string(), "0011");
        assert!(bits.contains(PushId(0x3F << 120)));
        assert!(!bits.contains(PushId(0x4F << 120)));
        assert!("0x0/0".parse::<PushPrefix>().unwrap().contains(PushId(u128::MAX)));
        for bad in ["", "2", "0x31/4", "0x30", "0x30/65", "0x/4", &"1".repeat(65)] {
            assert!(bad.parse::<PushPrefix>().is_err(), "{bad}");
        }
    }

    #[test]
    fn endpoints_hold_both_families() {
        for text in ["192.0.2.1:2948", "[2001:db8::1]:2948"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        assert_eq!("[::ffff:192.0.2.1]:1".parse::<Endpoint>(), "192.0.2.1:1".parse::<Endpoint>());
        assert!("192.0.2.1".parse::<Endpoint>().is_err());
    }

    #[test]
    fn imsi_is_tbcd() {
        // The octets of facts about IE 2 that scapy, pycrate and tshark agree on.
        let imsi: Imsi = "460001234567890".parse().unwrap();
        assert_eq!(imsi.to_tbcd(), [0x64, 0x00, 0x10, 0x32, 0x54, 0x76, 0x98, 0xF0]);
        assert_eq!(Imsi::from_tbcd(imsi.to_tbcd()), Some(imsi));
        assert_eq!(imsi.to_string(), "460001234567890");
        assert_eq!(Imsi::from_tbcd([0xFF; 8]), None);
        assert_eq!(Imsi::from_tbcd([0x64, 0x00, 0x10, 0x32, 0xF4, 0x76, 0x98, 0xF0]), None);
    }

    #[test]
    fn prefixes_with_host_bits_say_what_was_meant() {
        assert!(parse_ip_prefix("10.0.0.0/8").is_ok());
        assert!(parse_ip_prefix("0.0.0.0/0").is_ok());
        assert!(parse_ip_prefix("::/0").is_ok());
        assert_eq!(
            parse_ip_prefix("10.0.0.1/8").unwrap_err().0,
            "10.0.0.1/8 has host bits set; write 10.0.0.0/8"
        );
        assert!(parse_ip_prefix("10.0.0.0/33").is_err());
    }
}
