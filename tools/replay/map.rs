//! Other Push IDs and addresses in the messages of a capture: `--map-ids` and `--map-addr`. Everything is
//! changed where it stands; a signature that is then wrong goes.

use std::net::IpAddr;
use std::str::FromStr;

use pushplane::id::{Endpoint, PushId, PushPrefix, parse_ip_prefix};
use pushplane::wire::prp::{HEADER_BYTES, Message, option_type as ty, parse};

use super::select::is_in;

/// Where the Push IDs of the fixed header stand.
const DESTINATION: usize = 8;
const SOURCE: usize = 24;
/// Where the header's length stands, in words.
const WORDS: usize = 3;

/// Options that hold a Push ID.
const ID_OPTIONS: [u8; 2] = [ty::DYNAMIC_ID, ty::GROUP_ID];
/// Options that hold an address and a port.
const ADDRESS_OPTIONS: [u8; 5] =
    [ty::PRIVATE_ADDRESS, ty::NAT_ADDRESS, ty::SERVING_SERVER, ty::SOURCE_ADDRESS, ty::PEER_ADDRESS];

/// `FROM=TO`: Push IDs under a prefix, or one of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum IdRule {
    Prefix(PushPrefix, PushPrefix),
    One(PushId, PushId),
}

impl FromStr for IdRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (from, to) = text.split_once('=').ok_or("expected FROM=TO")?;
        if let (Ok(from), Ok(to)) = (from.parse(), to.parse()) {
            return Ok(Self::One(from, to));
        }
        let prefix = |text: &str| text.parse::<PushPrefix>().map_err(|error| error.to_string());
        let (from, to) = (prefix(from)?, prefix(to)?);
        if from.len() != to.len() {
            return Err(format!(
                "expected prefixes of one length, found {} and {} bits",
                from.len(),
                to.len()
            ));
        }
        Ok(Self::Prefix(from, to))
    }
}

impl IdRule {
    fn map(&self, id: PushId) -> Option<PushId> {
        match *self {
            Self::One(from, to) => (id == from).then_some(to),
            Self::Prefix(from, to) => {
                from.contains(id).then(|| PushId(id.0 ^ u128::from(from.bits() ^ to.bits()) << 64))
            }
        }
    }
}

/// `FROM=TO`: addresses under a prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct AddressRule {
    from: IpAddr,
    to: IpAddr,
    len: u8,
}

impl FromStr for AddressRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (from, to) = text.split_once('=').ok_or("expected FROM=TO")?;
        let prefix = |text: &str| parse_ip_prefix(text).map_err(|error| error.to_string());
        let ((from, len), (to, to_len)) = (prefix(from)?, prefix(to)?);
        if from.is_ipv4() != to.is_ipv4() || len != to_len {
            return Err("expected prefixes of one address family and one length".to_owned());
        }
        Ok(Self { from, to, len })
    }
}

impl AddressRule {
    fn map(&self, ip: IpAddr) -> Option<IpAddr> {
        if !is_in(ip, self.from, self.len) {
            return None;
        }
        Some(match (ip.to_canonical(), self.from, self.to) {
            (IpAddr::V4(ip), IpAddr::V4(from), IpAddr::V4(to)) => {
                IpAddr::V4((ip.to_bits() ^ from.to_bits() ^ to.to_bits()).into())
            }
            (IpAddr::V6(ip), IpAddr::V6(from), IpAddr::V6(to)) => {
                IpAddr::V6((ip.to_bits() ^ from.to_bits() ^ to.to_bits()).into())
            }
            _ => return None,
        })
    }
}

/// All rules; of each kind the first that fits counts.
#[derive(Clone, Default, Debug)]
pub(super) struct Maps {
    pub(super) ids: Vec<IdRule>,
    pub(super) addresses: Vec<AddressRule>,
}

impl Maps {
    pub(super) const fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.addresses.is_empty()
    }

    /// What an address outside a message is mapped to, if a rule names it: who sent it.
    pub(super) fn endpoint(&self, endpoint: Endpoint) -> Option<Endpoint> {
        let mapped = self.addresses.iter().find_map(|rule| rule.map(endpoint.ip()))?;
        Some(Endpoint::new(mapped, endpoint.port()))
    }

    /// Maps a message, and takes its signature off if that made it wrong; true when it did.
    pub(super) fn apply(&self, datagram: &mut Vec<u8>) -> bool {
        if datagram.len() < HEADER_BYTES {
            return false;
        }
        let message = parse(datagram).ok();
        let option = |option: u8| message.as_ref().and_then(|message| message.options.offset(option));
        let ids = ID_OPTIONS.into_iter().filter_map(option).map(|at| at + 2);
        let mut changed = false;
        for at in [DESTINATION, SOURCE].into_iter().chain(ids) {
            changed |= self.map_id(datagram, at);
        }
        for at in ADDRESS_OPTIONS.into_iter().filter_map(option) {
            changed |= self.map_address(datagram, at);
        }
        match message {
            Some(message) if changed => unsign(datagram, &message),
            _ => false,
        }
    }

    fn map_id(&self, datagram: &mut [u8], at: usize) -> bool {
        let Some(bytes) = datagram.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<16>()) else {
            return false;
        };
        let id = PushId::from_bytes(*bytes);
        let mapped = self.ids.iter().find_map(|rule| rule.map(id)).filter(|_| !id.is_none());
        let Some(mapped) = mapped else { return false };
        *bytes = mapped.to_bytes();
        mapped != id
    }

    /// The option at `at`: type, length, 4 or 16 bytes of address, port.
    fn map_address(&self, datagram: &mut [u8], at: usize) -> bool {
        let Some([_, length, rest @ ..]) = datagram.get_mut(at..) else { return false };
        let (before, room) = match *length {
            6 => match rest.first_chunk::<4>() {
                Some(v4) => (IpAddr::from(*v4), &mut rest[..4]),
                None => return false,
            },
            _ => match rest.first_chunk::<16>() {
                Some(v6) => (IpAddr::from(*v6), &mut rest[..16]),
                None => return false,
            },
        };
        let Some(mapped) = self.addresses.iter().find_map(|rule| rule.map(before)) else { return false };
        match (mapped, room.len()) {
            (IpAddr::V4(v4), 4) => room.copy_from_slice(&v4.octets()),
            (IpAddr::V4(v4), _) => room.copy_from_slice(&v4.to_ipv6_mapped().octets()),
            (IpAddr::V6(v6), 16) => room.copy_from_slice(&v6.octets()),
            (IpAddr::V6(_), _) => return false,
        }
        mapped != before
    }
}

/// Takes Auth, the last option, off a message; false when it has none.
pub(super) fn unsign(datagram: &mut Vec<u8>, message: &Message) -> bool {
    let Some(at) = message.options.offset(ty::AUTH) else { return false };
    datagram.drain(at..message.payload_start);
    datagram[WORDS] = (at / 4) as u8;
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use pushplane::wire::prp::{HeadBuilder, Header, Kind};

    fn maps(ids: &[&str], addresses: &[&str]) -> Maps {
        Maps {
            ids: ids.iter().map(|rule| rule.parse().unwrap()).collect(),
            addresses: addresses.iter().map(|rule| rule.parse().unwrap()).collect(),
        }
    }

    fn message(write: impl FnOnce(&mut HeadBuilder)) -> Vec<u8> {
        let header = Header::new(Kind::Register, PushId(3 << 124 | 1), PushId(5 << 124 | 2), 9);
        let mut head = HeadBuilder::new(&header);
        write(&mut head);
        head.datagram(b"payload").unwrap()
    }

    #[test]
    fn ids_and_addresses_are_mapped_where_they_stand() {
        let maps = maps(
            &["0x3/4=0xA/4", "50000000000000000000000000000002=000000000000000000000000000000ff"],
            &["10.0.0.0/8=127.0.0.0/8", "2001:db8::/32=fd00::/32"],
        );
        let mut bytes = message(|head| {
            head.private_address("10.1.2.3:7".parse().unwrap());
            head.option(ty::NAT_ADDRESS, &[&[0x20, 1, 0x0D, 0xB8], &[1; 12], &[0, 9]]);
            head.group_id(PushId(3 << 124 | 7));
            head.auth(4, 1000);
        });
        let before = bytes.len();
        assert!(maps.apply(&mut bytes), "the signature went");
        assert_eq!(bytes.len(), before - 32);
        let message = parse(&bytes).unwrap();
        assert_eq!((message.header.destination, message.header.source), (PushId(10 << 124 | 1), PushId(255)));
        assert_eq!(message.options.group_id(&bytes), Some(PushId(10 << 124 | 7)));
        assert_eq!(message.options.private_address(&bytes).unwrap().to_string(), "127.1.2.3:7");
        assert_eq!(
            message.options.nat_address(&bytes).unwrap().to_string(),
            "[fd00:0:101:101:101:101:101:101]:9"
        );
        assert_eq!(message.payload(&bytes), b"payload");
        let from: Endpoint = "10.9.9.9:4000".parse().unwrap();
        assert_eq!(maps.endpoint(from).unwrap().to_string(), "127.9.9.9:4000");
    }

    #[test]
    fn what_no_rule_names_stays_with_its_signature() {
        let others = maps(&["0xF/4=0x0/4"], &["192.168.0.0/16=127.0.0.0/16"]);
        let before = message(|head| {
            head.private_address("10.1.2.3:7".parse().unwrap());
            head.auth(4, 1000);
        });
        let mut bytes = before.clone();
        assert!(!others.apply(&mut bytes));
        assert_eq!(bytes, before);
        // Nobody stays nobody, and what is no message only has a header.
        let all = maps(&["0x0/1=0x8/1"], &[]);
        let mut broken = Header::new(Kind::Push, PushId(1), PushId::NONE, 1).to_bytes().to_vec();
        broken[WORDS] = 99;
        assert!(!all.apply(&mut broken));
        let header = Header::read(&broken).unwrap();
        assert_eq!((header.destination, header.source), (PushId(1 << 127 | 1), PushId::NONE));
        assert!(!all.apply(&mut vec![0; 47]));
    }

    #[test]
    fn rules_that_cannot_be_are_refused() {
        for (text, words) in [("0011", "FROM=TO"), ("00=0", "one length"), ("xyz=00", "prefix")] {
            let error = text.parse::<IdRule>().unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        for (text, words) in
            [("10.0.0.0/8", "FROM=TO"), ("10.0.0.0/8=::/8", "one address family"), ("x=y", "")]
        {
            let error = text.parse::<AddressRule>().unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
