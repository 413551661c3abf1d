//! What was learned about terminals, as tables.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use xxhash_rust::xxh3::xxh3_64;

use super::LearnOptions;
use super::registrations::Registered;
use super::report::{Findings, UserCounts};
use crate::id::{Endpoint, Imsi, PushId, PushPrefix};
use crate::table::rib::{App, Gateway, Rib, Rule, Segment, Server, Tunnel, User};

/// Where a terminal was learned from, the surest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Source {
    Control,
    Accounting,
    UserPlane,
    Vxlan,
    Plain,
    Registered,
}

/// The application of pushes that are made of a capture.
const FIRST_APP: u32 = 1;

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
    /// Who registered there, by which device and with what.
    registered: Option<((PushId, u8), Registered)>,
}

/// Terminals while they are learned.
#[derive(Default, Debug)]
pub(super) struct Terminals {
    domains: Vec<Domain>,
    domain_index: HashMap<Domain, usize>,
    rows: HashMap<(usize, IpAddr), Row>,
    /// Who had an address and lost it, in the order of losing.
    past: Vec<Imsi>,
    /// Who registered and has no private address any more, or never had one.
    elsewhere: Vec<((PushId, u8), Registered)>,
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
        let before = row.given(imsi);
        self.passed(before, imsi, address, findings);
    }

    /// RADIUS did. `gateway` is none where nobody knows which.
    pub(super) fn session(
        &mut self,
        gateway: Option<IpAddr>,
        apn: &str,
        address: IpAddr,
        imsi: Option<Imsi>,
        findings: &mut Findings,
    ) {
        let row = self.row(gateway, apn, address, Source::Accounting);
        let before = row.given(imsi);
        self.passed(before, imsi, address, findings);
    }

    /// An address was somebody's before; if it is another's now, that is worth telling.
    fn passed(
        &mut self,
        before: (Option<Imsi>, bool),
        now: Option<Imsi>,
        address: IpAddr,
        findings: &mut Findings,
    ) {
        let ((Some(before), was_live), Some(now)) = (before, now) else { return };
        if before == now {
            return;
        }
        self.past.push(before);
        let what = if was_live {
            "addresses given to a subscriber while another still had them"
        } else {
            "addresses that went from one subscriber to another"
        };
        findings.note(what, || format!("{address}: {before}, then {now}"));
    }

    /// GTP-C or RADIUS took an address from a subscriber.
    pub(super) fn ended(&mut self, gateway: Option<IpAddr>, apn: &str, address: IpAddr, imsi: Option<Imsi>) {
        let row = self.row(gateway, apn, address, Source::Accounting);
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
        let new = Row { serial, source, imsi: None, port: None, live: false, registered: None };
        let row = self.rows.entry((domain, address)).or_insert(new);
        row.source = row.source.min(source);
        row
    }

    /// Who registered at the end, at the addresses that are known by then.
    pub(super) fn register(
        &mut self,
        registered: BTreeMap<(PushId, u8), Registered>,
        findings: &mut Findings,
    ) {
        self.merge(findings);
        let mut domains: HashMap<IpAddr, Vec<usize>> = HashMap::new();
        for (domain, address) in self.rows.keys() {
            domains.entry(*address).or_default().push(*domain);
        }
        for (who, terminal) in registered {
            let Some(private) = terminal.private else {
                self.elsewhere.push((who, terminal));
                continue;
            };
            let address = private.ip();
            match domains.get(&address).map(Vec::as_slice) {
                None => {
                    // Realms are numbered anew.
                    let realm =
                        if terminal.realm == 0 { String::new() } else { format!("realm {}", terminal.realm) };
                    self.row(None, &realm, address, Source::Registered).registered = Some((who, terminal));
                }
                Some([domain]) => {
                    if let Some(row) = self.rows.get_mut(&(*domain, address)) {
                        row.imsi = row.imsi.or(terminal.imsi);
                        row.registered = Some((who, terminal));
                    }
                }
                Some(_) => {
                    findings.note(
                        "registrations from an address that more than one gateway has, without it",
                        || format!("{} at {address}", who.0),
                    );
                    self.elsewhere.push((who, Registered { private: None, ..terminal }));
                }
            }
        }
    }

    /// The tables.
    pub(super) fn into_rib(
        mut self,
        options: &LearnOptions,
        applications: BTreeSet<u32>,
        findings: &mut Findings,
    ) -> (Rib, UserCounts) {
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
            apps: apps(applications),
            ..Rib::default()
        };
        let gateways = gateways(&mut rib, &self.domains, &rows, options);
        segments(&mut rib, &self.domains, &rows, &realms, &gateways);

        let mut counts = UserCounts::default();
        let mut ids = Ids::of(&rows, &self.elsewhere, findings);
        for (domain, address, row) in &rows {
            let realm = realms[*domain];
            let private = Endpoint::new(*address, row.port.unwrap_or(options.port));
            let mut user =
                User { realm, private: Some(private), imsi: row.imsi, ..User::new(PushId::NONE, 0) };
            match (&row.registered, row.imsi) {
                (Some((who, terminal)), _) => {
                    (user.push_id, user.device) = *who;
                    user.private = terminal.private;
                    (user.nat, user.bearers) = (terminal.nat, terminal.bearers);
                }
                (None, Some(imsi)) => {
                    let Some(who) = ids.next_device(imsi) else {
                        findings.note("addresses of a subscriber beyond the 256th, left out", || {
                            address.to_string()
                        });
                        continue;
                    };
                    (user.push_id, user.device) = who;
                }
                (None, None) => user.push_id = address_id(realm, *address),
            }
            *match row.source {
                Source::Control => &mut counts.gtp_control,
                Source::Accounting => &mut counts.accounting,
                Source::UserPlane => &mut counts.gtp_user,
                Source::Vxlan => &mut counts.vxlan,
                Source::Plain => &mut counts.plain,
                Source::Registered => &mut counts.registered,
            } += 1;
            counts.ended += u64::from(row.source <= Source::Accounting && !row.live);
            rib.users.push(user);
        }
        for ((push_id, device), terminal) in &self.elsewhere {
            *if terminal.nat.is_some() { &mut counts.registered } else { &mut counts.without_address } += 1;
            let Registered { nat, imsi, bearers, .. } = *terminal;
            rib.users.push(User { nat, imsi, bearers, ..User::new(*push_id, *device) });
        }
        for imsi in self.past {
            if !ids.has_device(imsi)
                && let Some((push_id, device)) = ids.next_device(imsi)
            {
                counts.without_address += 1;
                rib.users.push(User { imsi: Some(imsi), ..User::new(push_id, device) });
            }
        }
        serve(&mut rib);
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
            .filter(|(_, imsi)| ids.has_device(*imsi))
            .map(|(msisdn, imsi)| (msisdn, ids.push_id(imsi)))
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
                    other.imsi = other.imsi.or(row.imsi);
                    other.live |= row.live;
                    other.source = other.source.min(row.source);
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

/// Application 1, and those that were pushed for, open to anyone as they seem to have been.
fn apps(mut pushed: BTreeSet<u32>) -> Vec<App> {
    pushed.remove(&FIRST_APP);
    let app = |id, name: String, users| App {
        id,
        name,
        sources: None,
        users,
        rule: Rule::Normal,
        rate: None,
        key: None,
    };
    let first = app(FIRST_APP, "replay".into(), false);
    std::iter::once(first).chain(pushed.into_iter().map(|id| app(id, format!("pushed-{id}"), true))).collect()
}

impl Row {
    /// Somebody has the address; who had it before, and whether it was still that one's.
    fn given(&mut self, imsi: Option<Imsi>) -> (Option<Imsi>, bool) {
        let before = self.imsi;
        self.imsi = imsi.or(before);
        (before, std::mem::replace(&mut self.live, true))
    }
}

/// Push IDs of subscribers, and which of their devices are taken.
struct Ids {
    registered: HashMap<Imsi, PushId>,
    taken: HashSet<(PushId, u8)>,
    /// A subscriber's next device that may be free.
    next: HashMap<Imsi, u16>,
}

impl Ids {
    /// A subscriber that registered is known by that Push ID.
    fn of(
        rows: &[(usize, IpAddr, Row)],
        elsewhere: &[((PushId, u8), Registered)],
        findings: &mut Findings,
    ) -> Self {
        let mut ids = Self { registered: HashMap::new(), taken: HashSet::new(), next: HashMap::new() };
        let here = rows.iter().filter_map(|(.., row)| Some((row.registered.as_ref()?.0, row.imsi)));
        for (who, imsi) in here.chain(elsewhere.iter().map(|(who, terminal)| (*who, terminal.imsi))) {
            ids.taken.insert(who);
            let Some(imsi) = imsi else { continue };
            ids.next.entry(imsi).or_default();
            let known = *ids.registered.entry(imsi).or_insert(who.0);
            if known != who.0 {
                findings.note("subscribers that registered with more than one Push ID", || {
                    format!("{imsi}: {known} and {}", who.0)
                });
            }
        }
        ids
    }

    fn push_id(&self, imsi: Imsi) -> PushId {
        self.registered.get(&imsi).copied().unwrap_or_else(|| imsi_id(imsi))
    }

    fn has_device(&self, imsi: Imsi) -> bool {
        self.next.contains_key(&imsi)
    }

    /// A device that nobody is yet; None when all 256 are.
    fn next_device(&mut self, imsi: Imsi) -> Option<(PushId, u8)> {
        let push_id = self.push_id(imsi);
        let next = self.next.entry(imsi).or_default();
        loop {
            let device = u8::try_from(*next).ok()?;
            *next += 1;
            if self.taken.insert((push_id, device)) {
                return Some((push_id, device));
            }
        }
    }
}

/// The one server is everybody's home: besides `0000` it has the first four bits of every Push ID that registered.
fn serve(rib: &mut Rib) {
    let firsts: BTreeSet<u64> = rib.users.iter().map(|user| user.push_id.high() >> 60).collect();
    if let Some(server) = rib.servers.first_mut() {
        let others = firsts.into_iter().filter(|first| *first != 0);
        server.prefixes.extend(others.filter_map(|first| PushPrefix::new(first << 60, 4)));
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
