//! What was learned about terminals, as tables.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use xxhash_rust::xxh3::xxh3_64;

use super::LearnOptions;
use super::report::{Findings, UserCounts};
use crate::id::{Endpoint, Imsi, PushId, PushPrefix};
use crate::table::rib::{App, Gateway, Rib, Rule, Segment, Server, Tunnel, User};

/// Where a terminal was learned from, the surest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Source {
    Control,
    UserPlane,
    Vxlan,
    Plain,
}

/// A space of addresses in which none repeats: a gateway and its APN or VNI. No gateway is "direct".
type Domain = (Option<IpAddr>, String);

/// Who has an address.
#[derive(Debug)]
struct Row {
    serial: usize,
    source: Source,
    imsi: Option<Imsi>,
    port: Option<u16>,
    live: bool,
}

/// Terminals while they are learned.
#[derive(Default, Debug)]
pub(super) struct Terminals {
    domains: Vec<Domain>,
    domain_index: HashMap<Domain, usize>,
    rows: HashMap<(usize, IpAddr), Row>,
    /// Who had an address and lost it, in the order of losing.
    past: Vec<Imsi>,
    names: BTreeMap<String, Option<Imsi>>,
}

impl Terminals {
    /// All addresses so far.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.rows.keys().map(|(_, address)| *address)
    }

    /// GTP-C gave an address to a subscriber.
    pub(super) fn context(
        &mut self,
        gateway: &IpAddr,
        apn: &str,
        address: IpAddr,
        imsi: Option<Imsi>,
        findings: &mut Findings,
    ) {
        let row = self.row(Some(*gateway), apn, address, Source::Control);
        let before = row.imsi;
        row.imsi = imsi.or(before);
        let was_live = std::mem::replace(&mut row.live, true);
        if let (Some(before), Some(now)) = (before, imsi)
            && before != now
        {
            self.past.push(before);
            let what = if was_live {
                "addresses given to a subscriber while another still had them"
            } else {
                "addresses that went from one subscriber to another"
            };
            findings.note(what, || format!("{address} behind {gateway}: {before}, then {now}"));
        }
    }

    /// GTP-C took an address from a subscriber.
    pub(super) fn ended(&mut self, gateway: &IpAddr, apn: &str, address: IpAddr, imsi: Option<Imsi>) {
        let row = self.row(Some(*gateway), apn, address, Source::Control);
        if row.imsi == imsi {
            row.live = false;
        }
    }

    /// A UDP datagram went down to this port.
    pub(super) fn port(&mut self, gateway: &IpAddr, apn: &str, address: IpAddr, port: u16) {
        self.row(Some(*gateway), apn, address, Source::Control).port.get_or_insert(port);
    }

    /// A GTP-U tunnel leads from or to this terminal.
    pub(super) fn user_plane(&mut self, gateway: &IpAddr, address: IpAddr, port: Option<u16>) {
        let row = self.row(Some(*gateway), "", address, Source::UserPlane);
        row.port = row.port.or(port);
    }

    /// A VXLAN tunnel leads to this terminal.
    pub(super) fn vxlan(&mut self, gateway: IpAddr, vni: u32, address: IpAddr, port: u16) {
        let name = format!("vni {vni}");
        self.row(Some(gateway.to_canonical()), &name, address, Source::Vxlan).port.get_or_insert(port);
    }

    /// A plain datagram went to this terminal.
    pub(super) fn plain(&mut self, address: IpAddr, port: u16) {
        self.row(None, "", address, Source::Plain).port.get_or_insert(port);
    }

    /// A subscriber's number.
    pub(super) fn name(&mut self, msisdn: String, imsi: Imsi, findings: &mut Findings) {
        let known = self.names.entry(msisdn.clone()).or_insert(Some(imsi));
        if known.is_some_and(|known| known != imsi) {
            findings.note("numbers of more than one subscriber, left out", || msisdn);
            *known = None;
        }
    }

    fn row(&mut self, gateway: Option<IpAddr>, name: &str, address: IpAddr, source: Source) -> &mut Row {
        let domain = (gateway, name.to_owned());
        let domain = match self.domain_index.get(&domain) {
            Some(index) => *index,
            None => {
                self.domains.push(domain.clone());
                self.domain_index.insert(domain, self.domains.len() - 1);
                self.domains.len() - 1
            }
        };
        let serial = self.rows.len();
        let new = Row { serial, source, imsi: None, port: None, live: false };
        let row = self.rows.entry((domain, address)).or_insert(new);
        row.source = row.source.min(source);
        row
    }

    /// The tables.
    pub(super) fn into_rib(mut self, options: &LearnOptions, findings: &mut Findings) -> (Rib, UserCounts) {
        self.merge(findings);
        let mut rows: Vec<(usize, IpAddr, Row)> =
            self.rows.drain().map(|((domain, address), row)| (domain, address, row)).collect();
        rows.sort_by_key(|(.., row)| row.serial);
        let realms = realms(&self.domains, &rows, findings);

        let mut rib = Rib {
            servers: vec![Server {
                name: "learned".into(),
                prefixes: PushPrefix::new(0, 4).into_iter().collect(),
                address: options.server,
                key: None,
            }],
            apps: vec![App {
                id: 1,
                name: "replay".into(),
                sources: None,
                users: false,
                rule: Rule::Normal,
                rate: None,
                key: None,
            }],
            ..Rib::default()
        };
        let gateways = gateways(&mut rib, &self.domains, &rows, options);
        segments(&mut rib, &self.domains, &rows, &realms, &gateways);

        let mut counts = UserCounts::default();
        let mut devices: HashMap<Imsi, usize> = HashMap::new();
        for (domain, address, row) in &rows {
            let realm = realms[*domain];
            let device = match row.imsi {
                None => 0,
                Some(imsi) => {
                    let count = devices.entry(imsi).or_default();
                    *count += 1;
                    *count - 1
                }
            };
            let Ok(device) = u8::try_from(device) else {
                findings.note("addresses of a subscriber beyond the 256th, left out", || address.to_string());
                continue;
            };
            *match row.source {
                Source::Control => &mut counts.gtp_control,
                Source::UserPlane => &mut counts.gtp_user,
                Source::Vxlan => &mut counts.vxlan,
                Source::Plain => &mut counts.plain,
            } += 1;
            counts.ended += u64::from(row.source == Source::Control && !row.live);
            rib.users.push(User {
                push_id: row.imsi.map_or_else(|| address_id(realm, *address), imsi_id),
                device,
                realm,
                private: Some(Endpoint::new(*address, row.port.unwrap_or(options.port))),
                nat: None,
                imsi: row.imsi,
                bearers: User::DEFAULT_BEARERS,
                serving: None,
                valid_until: None,
            });
        }
        for imsi in self.past {
            if let std::collections::hash_map::Entry::Vacant(entry) = devices.entry(imsi) {
                entry.insert(1);
                counts.without_address += 1;
                rib.users.push(User {
                    push_id: imsi_id(imsi),
                    device: 0,
                    realm: 0,
                    private: None,
                    nat: None,
                    imsi: Some(imsi),
                    bearers: User::DEFAULT_BEARERS,
                    serving: None,
                    valid_until: None,
                });
            }
        }
        rib.users.sort_by_key(|user| (user.push_id, user.device));
        let before = rib.users.len();
        rib.users.dedup_by_key(|user| (user.push_id, user.device));
        if rib.users.len() < before {
            findings.note("addresses whose Push IDs are the same, all but one left out", || {
                (before - rib.users.len()).to_string()
            });
        }
        counts.total = rib.users.len() as u64;
        let named = self.names.into_iter().filter_map(|(msisdn, imsi)| Some((msisdn, imsi?)));
        rib.names = named
            .filter(|(_, imsi)| devices.contains_key(imsi))
            .map(|(msisdn, imsi)| (msisdn, imsi_id(imsi)))
            .collect();
        (rib, counts)
    }

    /// One terminal seen in two ways: without tunnel as well as in one, or in a tunnel of its gateway
    /// both with GTP-C and without.
    fn merge(&mut self, findings: &mut Findings) {
        let mut seen: HashMap<IpAddr, Vec<usize>> = HashMap::new();
        for (domain, address) in self.rows.keys() {
            seen.entry(*address).or_default().push(*domain);
        }
        let mut repeated: Vec<(IpAddr, Vec<usize>)> =
            seen.into_iter().filter(|(_, domains)| domains.len() > 1).collect();
        repeated.sort_unstable();
        for (address, mut domains) in repeated {
            domains.sort_unstable();
            for &vague in &domains {
                let (gateway, name) = &self.domains[vague];
                if !name.is_empty() {
                    continue;
                }
                let mut surer = domains.iter().filter(|&&other| {
                    let (its_gateway, its_name) = &self.domains[other];
                    let better = gateway.is_none() || !its_name.is_empty();
                    other != vague
                        && its_gateway.is_some()
                        && better
                        && (gateway.is_none() || gateway == its_gateway)
                });
                let (Some(&into), None) = (surer.next(), surer.next()) else { continue };
                let Some(row) = self.rows.remove(&(vague, address)) else { continue };
                if let Some(other) = self.rows.get_mut(&(into, address)) {
                    other.port = other.port.or(row.port);
                    other.serial = other.serial.min(row.serial);
                }
                if gateway.is_none() {
                    findings.note("addresses seen in a tunnel and without, taken as the tunnel's", || {
                        address.to_string()
                    });
                }
            }
        }
    }
}

/// A realm for each domain: 0 unless an address of it is already another's there.
fn realms(domains: &[Domain], rows: &[(usize, IpAddr, Row)], findings: &mut Findings) -> Vec<u32> {
    let mut addresses: Vec<Vec<IpAddr>> = vec![Vec::new(); domains.len()];
    for (domain, address, _) in rows {
        addresses[*domain].push(*address);
    }
    let mut first: HashMap<IpAddr, usize> = HashMap::new();
    let mut realms = vec![0; domains.len()];
    let mut highest = 0;
    for (domain, addresses) in addresses.iter().enumerate() {
        let mut clashes =
            addresses.iter().filter_map(|address| Some((address, *first.get(address)?))).peekable();
        if clashes.peek().is_none() {
            first.extend(addresses.iter().map(|address| (*address, domain)));
            continue;
        }
        highest += 1;
        realms[domain] = highest;
        for (address, other) in clashes {
            findings.note(
                "private addresses behind more than one gateway, APN or VNI; the later got a realm",
                || format!("{address}: {} and {}", called(&domains[other]), called(&domains[domain])),
            );
        }
    }
    realms
}

fn called((gateway, name): &Domain) -> String {
    match gateway {
        None => "direct".to_owned(),
        Some(gateway) if name.is_empty() => gateway.to_string(),
        Some(gateway) => format!("{gateway} {name}"),
    }
}

/// The gateways that have terminals, in the order in which they were seen; where each is in the table.
fn gateways(
    rib: &mut Rib,
    domains: &[Domain],
    rows: &[(usize, IpAddr, Row)],
    options: &LearnOptions,
) -> HashMap<Option<IpAddr>, u32> {
    let mut index = HashMap::new();
    for (domain, ..) in rows {
        let gateway = domains[*domain].0;
        index.entry(gateway).or_insert_with(|| {
            let tunnel = if gateway.is_some() { options.tunnel } else { Tunnel::None };
            // Without a tunnel the address serves nothing but must be there.
            let ip = gateway.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
            let sources = matches!(tunnel, Tunnel::Vxlan { .. } | Tunnel::Gtpu { .. });
            rib.gateways.push(Gateway {
                name: gateway.map_or_else(|| "direct".to_owned(), |ip| format!("gateway-{ip}")),
                address: Endpoint::new(ip, tunnel.default_port()),
                tunnel,
                source_v4: options.source_v4.filter(|_| sources),
                source_v6: options.source_v6.filter(|_| sources),
            });
            rib.gateways.len() as u32 - 1
        });
    }
    index
}

/// The /24 or /64 of each address, or the address alone where another gateway has part of it.
fn segments(
    rib: &mut Rib,
    domains: &[Domain],
    rows: &[(usize, IpAddr, Row)],
    realms: &[u32],
    gateways: &HashMap<Option<IpAddr>, u32>,
) {
    let mut owner: HashMap<(u32, IpAddr), Option<u32>> = HashMap::new();
    let places: Vec<(u32, IpAddr, u32)> = rows
        .iter()
        .map(|(domain, address, _)| (realms[*domain], *address, gateways[&domains[*domain].0]))
        .collect();
    for (realm, address, gateway) in &places {
        let owner = owner.entry((*realm, net(*address).0)).or_insert(Some(*gateway));
        if *owner != Some(*gateway) {
            *owner = None;
        }
    }
    let mut found = HashSet::new();
    for (realm, address, gateway) in places {
        let (net, len) = net(address);
        let (ip, len) = if owner[&(realm, net)].is_some() {
            (net, len)
        } else {
            (address, if address.is_ipv4() { 32 } else { 128 })
        };
        if found.insert((realm, ip, len)) {
            rib.segments.push(Segment { realm, ip, len, gateway });
        }
    }
    rib.segments.sort_by_key(|segment| (segment.realm, segment.ip, segment.len));
}

fn net(address: IpAddr) -> (IpAddr, u8) {
    match address {
        IpAddr::V4(v4) => (IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & 0xFFFF_FF00)), 24),
        IpAddr::V6(v6) => (IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)), 64),
    }
}

/// `01`, the digits of the IMSI filled with `f` to 15, seven zeros, its last eight digits.
fn imsi_id(imsi: Imsi) -> PushId {
    let digits = imsi.to_string();
    let number = |digits: &str| u128::from_str_radix(digits, 16).unwrap_or(0);
    let tail = &digits[digits.len().saturating_sub(8)..];
    PushId(1 << 120 | number(&format!("{digits:f<15}")) << 60 | number(tail))
}

/// `04`, realm, address; or `06`, a hash of realm and /64, interface identifier.
fn address_id(realm: u32, address: IpAddr) -> PushId {
    match address {
        IpAddr::V4(v4) => PushId(4 << 120 | u128::from(realm & 0x00FF_FFFF) << 96 | u128::from(v4.to_bits())),
        IpAddr::V6(v6) => {
            let mut key = [0; 12];
            let [realm_bytes @ .., _, _, _, _, _, _, _, _] = &mut key;
            realm_bytes.copy_from_slice(&realm.to_be_bytes());
            key[4..].copy_from_slice(&v6.octets()[..8]);
            let hash = u128::from(xxh3_64(&key) >> 8);
            PushId(6 << 120 | hash << 64 | v6.to_bits() & u128::from(u64::MAX))
        }
    }
}
