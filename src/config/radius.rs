//! `[radius]` of `pushplane.toml`: who may tell this server which terminal has which address, and how its words are
//! read.

use std::fmt;
use std::net::IpAddr;

use toml::de::DeValue;

use super::address::address;
use super::document::{At, Document, Section, name, number, parsed};
use super::faults::Faults;
use super::load::{PORT, listen, word};
use crate::id::{Endpoint, parse_ip_prefix};

/// UDP port of accounting (RFC 2866 §3).
const ACCOUNTING_PORT: u16 = 1813;

/// Octets of the longest shared secret taken.
const SECRET_MAX: usize = 255;

/// `[radius]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Radius {
    /// Addresses that Accounting-Requests are received on.
    pub listen: Vec<Endpoint>,
    /// The private address space of what clients and APNs without one of their own say.
    pub realm: u32,
    /// What names a terminal's user, in this order.
    pub identify: Vec<Identify>,
    /// The port of a terminal that neither registered nor has a private address in users.csv.
    pub port: u16,
    /// How long a session counts of which nothing more is heard, seconds; 0: until it is stopped.
    pub session_max_s: u32,
    /// Who may speak, the longest prefix first.
    pub clients: Vec<RadiusClient>,
    /// APNs whose addresses lie in a space of their own, in lower case.
    pub apns: Vec<(String, u32)>,
}

impl Radius {
    /// The client that speaks from this address: the longest prefix decides.
    pub fn client(&self, from: IpAddr) -> Option<usize> {
        self.clients.iter().position(|client| client.has(from))
    }

    /// The private address space of an address that a client gave out for an APN.
    pub fn realm(&self, client: usize, apn: Option<&str>) -> u32 {
        let of_apn = |apn: &str| self.apns.iter().find(|(name, _)| name.eq_ignore_ascii_case(apn));
        let own = apn.and_then(of_apn).map(|(_, realm)| *realm);
        own.or_else(|| self.clients.get(client).and_then(|client| client.realm)).unwrap_or(self.realm)
    }
}

/// One element of `radius.identify`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Identify {
    /// 3GPP-IMSI, by the column `imsi` of users.csv.
    Imsi,
    /// Calling-Station-Id, by names.csv.
    CallingStation,
    /// User-Name, by names.csv.
    UserName,
}

/// `[[radius.client]]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RadiusClient {
    /// Where it speaks from.
    pub prefix: (IpAddr, u8),
    /// What it shares with this server.
    pub secret: Secret,
    /// The private address space that it speaks of.
    pub realm: Option<u32>,
}

impl RadiusClient {
    fn has(&self, from: IpAddr) -> bool {
        match (self.prefix, from) {
            ((IpAddr::V4(own), len), IpAddr::V4(from)) => {
                (own.to_bits() ^ from.to_bits()).checked_shr(32 - u32::from(len)).unwrap_or(0) == 0
            }
            ((IpAddr::V6(own), len), IpAddr::V6(from)) => {
                (own.to_bits() ^ from.to_bits()).checked_shr(128 - u32::from(len)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// A shared secret, which no message shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// A secret of these octets.
    pub fn new(octets: &[u8]) -> Self {
        Self(octets.into())
    }

    /// Its octets.
    pub fn octets(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Reads `[radius]`. `taken` are addresses that something else receives on; `realms` takes down where each private
/// address space is named.
pub(super) fn read(
    document: &Document,
    mut section: Section<'_>,
    taken: &[Endpoint],
    realms: &mut Vec<(u32, usize)>,
    faults: &mut Faults,
) -> Option<Radius> {
    let listen = listen(&mut section, faults, ACCOUNTING_PORT);
    for own in listen.iter().flatten().filter(|own| taken.contains(own)) {
        let sentence = format!("listen: {own} is in server.listen already; give RADIUS another port");
        faults.push(section.fault_at(section.place_of("listen"), sentence));
    }
    let realm = section.optional(faults, "realm", number(0..=u32::MAX.into()));
    let realm = take_realm(realm, realms).unwrap_or(0);
    let identify = identify(&mut section, faults);
    let port = section.optional(faults, "port", number(1..=u16::MAX.into()));
    let session_max_s = section.optional(faults, "session_max_s", number(0..=u32::MAX.into()));
    let clients = clients(document, &mut section, realms, faults);
    let apns = apns(&mut section, realms, faults);
    section.finish(faults);
    Some(Radius {
        listen: listen?,
        realm,
        identify,
        port: port.map_or(PORT, |at| at.value as u16),
        session_max_s: session_max_s.map_or(86_400, |at| at.value as u32),
        clients,
        apns,
    })
}

fn take_realm(realm: Option<At<u64>>, realms: &mut Vec<(u32, usize)>) -> Option<u32> {
    let At { offset, value } = realm?;
    realms.push((value as u32, offset));
    Some(value as u32)
}

fn identify(section: &mut Section<'_>, faults: &mut Faults) -> Vec<Identify> {
    let words = [
        ("imsi", Identify::Imsi),
        ("calling-station-id", Identify::CallingStation),
        ("user-name", Identify::UserName),
    ];
    let all = words.map(|(_, meaning)| meaning).to_vec();
    let before = faults.found();
    let found = section.list(faults, "identify", true, |text| word(text, &words));
    let Some(found) = found else { return all };
    let mut ways = Vec::with_capacity(found.len());
    for At { offset, value } in &found {
        if ways.contains(value) {
            faults.push(section.fault_at(*offset, "identify: expected each word once; remove this one"));
        }
        ways.push(*value);
    }
    if ways.is_empty() && faults.found() == before {
        let sentence = "identify: expected at least one of \"imsi\", \"calling-station-id\" and \"user-name\", found \
                        none; without, nobody is known; remove the key or write one";
        faults.push(section.fault_at(section.place_of("identify"), sentence));
    }
    ways
}

fn clients(
    document: &Document,
    section: &mut Section<'_>,
    realms: &mut Vec<(u32, usize)>,
    faults: &mut Faults,
) -> Vec<RadiusClient> {
    let mut clients: Vec<RadiusClient> = Vec::new();
    let mut told_mode = false;
    for mut client in section.tables(faults, "client", "radius.client") {
        let prefix = client.required(faults, "address", "address = \"10.255.0.0/24\"", parsed(prefix));
        let secret = client.required(faults, "secret", "secret = \"…\"", secret);
        let realm = client.optional(faults, "realm", number(0..=u32::MAX.into()));
        let realm = take_realm(realm, realms);
        if let (Some(mode), false) = (document.shared_mode(), told_mode) {
            told_mode = true;
            let sentence = format!(
                "secret: expected a file that only its owner can read, found mode {mode:04o}; run chmod 600 {}",
                document.path().display()
            );
            faults.push(client.fault_at(client.place_of("secret"), sentence));
        }
        client.finish(faults);
        let (Some(prefix), Some(secret)) = (prefix, secret) else { continue };
        if clients.iter().any(|client| client.prefix == prefix.value) {
            let (ip, len) = prefix.value;
            let sentence = format!("address: {ip}/{len} is another client's already; remove one of the two");
            faults.push(document.fault(prefix.offset, sentence));
        }
        clients.push(RadiusClient { prefix: prefix.value, secret: secret.value, realm });
    }
    if !section.has("client") {
        let sentence = "expected at least one [[radius.client]], found none; add it with address and secret";
        faults.push(section.fault(sentence));
    }
    clients.sort_by_key(|client| std::cmp::Reverse(client.prefix.1));
    clients
}

fn apns(
    section: &mut Section<'_>,
    realms: &mut Vec<(u32, usize)>,
    faults: &mut Faults,
) -> Vec<(String, u32)> {
    let mut apns: Vec<(String, u32)> = Vec::new();
    for mut apn in section.tables(faults, "apn", "radius.apn") {
        let called = apn.required(faults, "name", "name = \"vpn.example\"", name);
        let realm = apn.required(faults, "realm", "realm = 9", number(0..=u32::MAX.into()));
        let realm = take_realm(realm, realms);
        let place = apn.place_of("name");
        apn.finish(faults);
        let (Some(called), Some(realm)) = (called, realm) else { continue };
        let called = called.value.to_ascii_lowercase();
        if apns.iter().any(|(name, _)| *name == called) {
            let sentence = format!("name: {called:?} has a realm already; remove one of the two");
            faults.push(section.fault_at(place, sentence));
        }
        apns.push((called, realm));
    }
    apns
}

/// One address, or a prefix of them.
fn prefix(text: &str) -> Result<(IpAddr, u8), String> {
    if text.contains('/') {
        return parse_ip_prefix(text).map_err(|error| error.0);
    }
    let ip = address(text, Some(ACCOUNTING_PORT))?.ip();
    if text.parse::<IpAddr>().is_err() {
        return Err(format!("expected an address without a port, found {text}; write {ip}"));
    }
    Ok((ip, if ip.is_ipv4() { 32 } else { 128 }))
}

fn secret(value: &DeValue<'_>) -> Result<Secret, String> {
    // What was found is a secret, or nearly one: it is not shown.
    match value {
        DeValue::String(text) if (1..=SECRET_MAX).contains(&text.len()) => Ok(Secret::new(text.as_bytes())),
        DeValue::String(text) => {
            Err(format!("expected a secret of 1 to {SECRET_MAX} octets, found {}; correct it", text.len()))
        }
        _ => Err("expected a secret in quotes, found something else; put it in quotes".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(text: &str, realm: Option<u32>) -> RadiusClient {
        RadiusClient { prefix: prefix(text).unwrap(), secret: Secret::new(text.as_bytes()), realm }
    }

    #[test]
    fn the_longest_prefix_decides_who_speaks() {
        let mut radius = Radius {
            listen: Vec::new(),
            realm: 1,
            identify: Vec::new(),
            port: 1,
            session_max_s: 0,
            clients: Vec::new(),
            apns: vec![("vpn.example".to_owned(), 9)],
        };
        assert_eq!(radius.client("10.0.0.1".parse().unwrap()), None);
        radius.clients =
            vec![client("10.0.0.1", Some(3)), client("10.0.0.0/8", Some(2)), client("::/0", None)];
        for (from, at) in
            [("10.0.0.1", Some(0)), ("10.0.0.2", Some(1)), ("11.0.0.1", None), ("fd00::1", Some(2))]
        {
            assert_eq!(radius.client(from.parse().unwrap()), at, "{from}");
        }
        radius.clients.push(client("0.0.0.0/0", None));
        assert_eq!(radius.client("11.0.0.1".parse().unwrap()), Some(3));
        assert_eq!([0, 1, 2].map(|client| radius.realm(client, None)), [3, 2, 1]);
        assert_eq!([0, 1, 2].map(|client| radius.realm(client, Some("VPN.example"))), [9, 9, 9]);
    }

    #[test]
    fn a_secret_is_not_shown() {
        assert_eq!(format!("{:?}", client("10.0.0.1", None)).matches("10.0.0.1").count(), 1);
    }
}
