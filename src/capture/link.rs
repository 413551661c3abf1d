//! Link layers: from a frame to its IP packet.

/// Link types (the registry of tcpdump.org) that are understood.
mod kind {
    pub(super) const NULL: u16 = 0;
    pub(super) const ETHERNET: u16 = 1;
    pub(super) const RAW_BSD: u16 = 12;
    pub(super) const RAW_OPENBSD: u16 = 14;
    pub(super) const RAW: u16 = 101;
    pub(super) const LOOP: u16 = 108;
    pub(super) const LINUX_COOKED: u16 = 113;
    pub(super) const IPV4: u16 = 228;
    pub(super) const IPV6: u16 = 229;
    pub(super) const LINUX_COOKED_2: u16 = 276;
}

pub(super) const ETHERNET: u16 = kind::ETHERNET;

/// What a frame holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Content<'a> {
    /// An IP packet, perhaps followed by padding.
    Ip(&'a [u8]),
    /// Something else.
    Other,
    /// Less than its link header.
    Short,
    /// A link type that is not understood.
    UnknownLink,
}

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86DD;
/// 802.1Q, 802.1ad, and the older number for a second tag.
const VLAN: [u16; 3] = [0x8100, 0x88A8, 0x9100];
const PPPOE_SESSION: u16 = 0x8864;

/// The content of a frame of this link type.
pub(super) fn content(link: u16, frame: &[u8]) -> Content<'_> {
    let found = match link {
        kind::ETHERNET => frame.split_at_checked(12).map(|(_, rest)| by_ethertype(rest)),
        kind::LINUX_COOKED => frame.split_at_checked(14).map(|(_, rest)| by_ethertype(rest)),
        kind::LINUX_COOKED_2 => frame.split_first_chunk().map(|(&[p1, p0, ..], rest): (&[u8; 20], _)| {
            match u16::from_be_bytes([p1, p0]) {
                IPV4 | IPV6 => Content::Ip(rest),
                tag if VLAN.contains(&tag) => tagged(rest),
                _ => Content::Other,
            }
        }),
        // The address family in the byte order of the machine that captured: what follows tells.
        kind::NULL | kind::LOOP => frame.split_at_checked(4).map(|(_, rest)| by_version(rest)),
        kind::RAW | kind::RAW_BSD | kind::RAW_OPENBSD | kind::IPV4 | kind::IPV6 => Some(by_version(frame)),
        _ => Some(Content::UnknownLink),
    };
    found.unwrap_or(Content::Short)
}

/// What starts with an Ethernet type, behind any number of VLAN tags.
fn by_ethertype(mut rest: &[u8]) -> Content<'_> {
    loop {
        let Some((kind, after)) = rest.split_first_chunk::<2>() else { return Content::Short };
        match u16::from_be_bytes(*kind) {
            IPV4 | IPV6 => return Content::Ip(after),
            tag if VLAN.contains(&tag) => match after.split_at_checked(2) {
                Some((_, inner)) => rest = inner,
                None => return Content::Short,
            },
            // Version and type, code, session, length, then PPP's protocol: 0x0021 IPv4, 0x0057 IPv6.
            PPPOE_SESSION => {
                return match after.split_first_chunk::<8>() {
                    Some(([0x11, 0, _, _, _, _, 0, 0x21 | 0x57], packet)) => Content::Ip(packet),
                    Some(_) => Content::Other,
                    None => Content::Short,
                };
            }
            _ => return Content::Other,
        }
    }
}

/// What follows a tag's type: two bytes of tag, then a type.
fn tagged(rest: &[u8]) -> Content<'_> {
    rest.split_at_checked(2).map_or(Content::Short, |(_, inner)| by_ethertype(inner))
}

fn by_version(packet: &[u8]) -> Content<'_> {
    match packet.first().map(|first| first >> 4) {
        Some(4 | 6) => Content::Ip(packet),
        Some(_) => Content::Other,
        None => Content::Short,
    }
}
