//! IP and UDP headers, by `etherparse`. Checksums are not looked at: on the sending machine a
//! capture shows them before the network card has put them in.

use std::net::IpAddr;

use etherparse::{Ipv6ExtensionSlice, LaxIpSlice, LenSource, ip_number};

/// What is left of an IP packet without its headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Packet<'a> {
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    /// IP protocol number of `payload`.
    pub(super) protocol: u8,
    pub(super) fragment: Option<Piece>,
    pub(super) payload: &'a [u8],
    /// The packet is longer than the bytes that are there.
    pub(super) cut: bool,
}

/// Which part of its datagram a fragment is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Piece {
    pub(super) id: u32,
    /// Offset of the payload, bytes.
    pub(super) offset: usize,
    /// Whether others follow.
    pub(super) more: bool,
}

/// Takes an IP packet apart; bytes behind its end are ignored. `None`: it is none.
pub(super) fn ip(bytes: &[u8]) -> Option<Packet<'_>> {
    let (slice, fault) = LaxIpSlice::from_slice(bytes).ok()?;
    let payload = slice.payload();
    // Where a length field was not believed although it said less than is there, the header is bad;
    // zero is what segmentation offload leaves (IPv4) and a jumbogram says (IPv6).
    let said_zero = match &slice {
        LaxIpSlice::Ipv4(v4) => v4.header().total_len() == 0,
        LaxIpSlice::Ipv6(v6) => v6.header().payload_length() == 0,
    };
    if payload.len_source == LenSource::Slice && !payload.incomplete && !said_zero {
        return None;
    }
    if fault.is_some() && !payload.incomplete {
        return None;
    }
    let fragment = match &slice {
        LaxIpSlice::Ipv4(v4) if payload.fragmented => Some(Piece {
            id: v4.header().identification().into(),
            offset: usize::from(v4.header().fragments_offset().value()) * 8,
            more: v4.header().more_fragments(),
        }),
        LaxIpSlice::Ipv6(v6) if payload.fragmented => {
            v6.extensions().clone().into_iter().find_map(|extension| match extension {
                Ipv6ExtensionSlice::Fragment(header) => Some(Piece {
                    id: header.identification(),
                    offset: usize::from(header.fragment_offset().value()) * 8,
                    more: header.more_fragments(),
                }),
                _ => None,
            })
        }
        _ => None,
    };
    Some(Packet {
        from: slice.source_addr(),
        to: slice.destination_addr(),
        protocol: payload.ip_number.0,
        fragment,
        payload: payload.payload,
        cut: payload.incomplete,
    })
}

/// IP protocol number of UDP.
pub(super) const UDP: u8 = ip_number::UDP.0;

/// What became of UDP's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Udp<'a> {
    /// Source port, destination port, payload.
    Whole(u16, u16, &'a [u8]),
    /// The length says more than is there.
    Cut,
    /// Shorter than its header, or a length that cannot be.
    Malformed,
}

/// Takes a UDP datagram apart (RFC 768). A length of zero means the rest of the packet (RFC 2675).
pub(super) fn udp(payload: &[u8]) -> Udp<'_> {
    let Some((&[s1, s0, d1, d0, l1, l0, _, _], rest)) = payload.split_first_chunk::<8>() else {
        return Udp::Malformed;
    };
    let (source, destination) = (u16::from_be_bytes([s1, s0]), u16::from_be_bytes([d1, d0]));
    match usize::from(u16::from_be_bytes([l1, l0])) {
        0 => Udp::Whole(source, destination, rest),
        1..8 => Udp::Malformed,
        len => rest.get(..len - 8).map_or(Udp::Cut, |data| Udp::Whole(source, destination, data)),
    }
}
