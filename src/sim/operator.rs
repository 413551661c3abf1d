//! An operator of a seed: the rows of each server's tables, and who really sits where.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rand::RngExt;
use rand_pcg::Pcg64Mcg;

use super::options::{Options, ServerKeys};
use super::oracle;
use crate::config::Policy;
use crate::id::{Endpoint, Imsi, Mac, PushId, PushPrefix};
use crate::table::Rib;
use crate::table::rib::{App, Gateway, Key, Rule, Segment, Server, Tunnel, User};

/// A Push server and its tables.
#[derive(Clone, Debug)]
pub struct Site {
    /// Its name in every `servers`.
    pub name: String,
    /// Where it listens: its address in `servers` first.
    pub listen: Vec<Endpoint>,
    /// What it allows.
    pub policy: Policy,
    /// Its tables.
    pub rib: Rib,
}

/// A terminal as it stands in the world, whatever the tables say.
#[derive(Clone, Debug)]
pub struct Handset {
    /// Whose.
    pub user: PushId,
    /// Which of the user's.
    pub device: u8,
    /// Behind whose gateways.
    pub site: usize,
    /// In which private address space.
    pub realm: u32,
    /// Where, in there.
    pub private: Option<Endpoint>,
    /// Its address as the public network shows it.
    pub nat: Option<Endpoint>,
    /// What a server sees it send from.
    pub uplink: Option<Endpoint>,
    /// Its user's key.
    pub key: Option<(u32, [u8; 16])>,
}

/// Everybody.
#[derive(Clone, Debug, Default)]
pub struct Operator {
    /// The servers; the order is that of every `servers`.
    pub sites: Vec<Site>,
    /// The terminals.
    pub handsets: Vec<Handset>,
    /// Where application servers send from.
    pub pushers: Vec<Endpoint>,
    /// All keys of applications.
    pub app_keys: Vec<Key>,
    /// How many numbers were used up.
    serial: u32,
}

/// Realm whose addresses are routable from the servers.
pub const OPEN_REALM: u32 = 3;
/// Applications that are drawn; the last is on no list.
pub const APPS: [u32; 8] = [0, 1, 2, 3, 4, 5, 6, 9];
/// The second when every world begins, since 1970.
pub const START_UNIX_S: u64 = 1_800_000_000;

/// An IPv4 endpoint.
pub const fn v4(a: u8, b: u8, c: u8, d: u8, port: u16) -> Endpoint {
    Endpoint::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), port)
}

pub(super) fn v6(groups: [u16; 8], port: u16) -> Endpoint {
    let [a, b, c, d, e, f, g, h] = groups;
    Endpoint::new(Ipv6Addr::new(a, b, c, d, e, f, g, h).into(), port)
}

impl Operator {
    /// Servers without users: server `i` (from 0) has the prefix of four bits `i` and listens at
    /// 198.51.100.(i+1):17400 and 2001:db8:(i+1)::1. Each has gateways of all forms for realms 1 and 2, which
    /// use the same addresses, and the realm [`OPEN_REALM`] without tunnel.
    pub fn bare(servers: usize) -> Self {
        let listen = |site: usize| {
            let number = site as u8 + 1;
            vec![
                v4(198, 51, 100, number, 17400),
                v6([0x2001, 0xDB8, u16::from(number), 0, 0, 0, 0, 1], 17400),
            ]
        };
        let all: Vec<Server> = (0..servers)
            .map(|site| Server {
                name: format!("server-{site}"),
                prefixes: PushPrefix::new((site as u64) << 60, 4).into_iter().collect(),
                address: listen(site)[0],
                key: None,
            })
            .collect();
        let sites = (0..servers).map(|site| Site {
            name: format!("server-{site}"),
            listen: listen(site),
            policy: Policy::default(),
            rib: Rib { servers: all.clone(), ..Self::gateways(site, false) },
        });
        Self {
            sites: sites.collect(),
            pushers: vec![v4(192, 0, 2, 1, 5000), v4(192, 0, 2, 200, 5000)],
            ..Self::default()
        }
    }

    /// The gateways and segments of a site.
    fn gateways(site: usize, outer_v6: bool) -> Rib {
        let number = site as u8 + 1;
        let at = |host: u8, port| {
            if outer_v6 {
                v6([0x2001, 0xDB8, 0xFF, u16::from(number), 0, 0, 0, u16::from(host)], port)
            } else {
                v4(10, 255, number, host, port)
            }
        };
        let inner = |name: &str, address, tunnel| Gateway {
            name: name.to_owned(),
            address,
            tunnel,
            source_v4: Some(v4(10, 255, number, 254, 17400)),
            source_v6: Some(v6([0xFD00, 0xFFFF, u16::from(number), 0, 0, 0, 0, 1], 17400)),
        };
        let bare = |name: &str, address, tunnel| Gateway {
            source_v4: None,
            source_v6: None,
            ..inner(name, address, tunnel)
        };
        let mac = Mac([2, 0, 0, 0, number, 1]);
        let id = u32::from(number) * 10;
        let gateways = vec![
            inner("vxlan-1", at(1, 4789), Tunnel::Vxlan { vni: id + 1, mac }),
            inner("vxlan-2", at(1, 4789), Tunnel::Vxlan { vni: id + 2, mac }),
            inner("gtpu-1", at(2, 2152), Tunnel::Gtpu { teid: id + 1 }),
            inner("gtpu-2", at(2, 2152), Tunnel::Gtpu { teid: id + 2 }),
            bare("plain", at(3, 17400), Tunnel::Plain),
            bare("open", at(4, 17400), Tunnel::None),
        ];
        let ip4 = |b: u8| IpAddr::from([10, b, 0, 0]);
        let ip6 = |b: u16| IpAddr::from(Ipv6Addr::new(0xFD00, b, 0, 0, 0, 0, 0, 0));
        let segment = |realm, ip, len, gateway| Segment { realm, ip, len, gateway };
        let mut segments = Vec::new();
        for (realm, wide, nested) in [(1, 0, 2), (2, 3, 1)] {
            segments.extend([
                segment(realm, ip4(0), 8, wide),
                segment(realm, ip4(1), 16, nested),
                segment(realm, ip4(2), 16, 4),
                segment(realm, ip6(0), 16, wide),
                segment(realm, ip6(1), 32, nested),
                segment(realm, ip6(2), 32, 4),
            ]);
        }
        let open4 = IpAddr::from([172, 16, number, 0]);
        let open6 = IpAddr::from(Ipv6Addr::new(0xFD99, u16::from(number), 0, 0, 0, 0, 0, 0));
        segments.extend([segment(OPEN_REALM, open4, 24, 5), segment(OPEN_REALM, open6, 32, 5)]);
        Rib { gateways, segments, ..Rib::default() }
    }

    /// Any operator.
    pub fn draw(rng: &mut Pcg64Mcg, options: &Options) -> Self {
        let mut operator = Self::bare(options.servers);
        operator.pushers = vec![
            v4(192, 0, 2, 1, 5000),
            v4(192, 0, 2, 9, 5001),
            v4(192, 0, 2, 200, 5000),
            v6([0x2001, 0xDB8, 5, 0, 0, 0, 0, 1], 5000),
            v6([0x2001, 0xDB8, 6, 0, 0, 0, 0, 1], 5000),
        ];
        operator.draw_servers(rng, options);
        operator.draw_apps(rng);
        let users = rng.random_range(4..24);
        for _ in 0..users {
            operator.draw_user(rng);
        }
        operator
    }

    fn draw_servers(&mut self, rng: &mut Pcg64Mcg, options: &Options) {
        let count = options.servers;
        let mut taken = BTreeSet::new();
        for site in 0..count {
            let outer_v6 = rng.random_bool(0.3);
            let Rib { gateways, mut segments, .. } = Self::gateways(site, outer_v6);
            segments.retain(|_| rng.random_bool(0.95));
            (self.sites[site].rib.gateways, self.sites[site].rib.segments) = (gateways, segments);
            let policy = &mut self.sites[site].policy;
            policy.known_sources = rng.random_bool(0.15);
            policy.require_auth = rng.random_bool(0.05);
            policy.rejects = rng.random_bool(0.9);
        }
        let mut prefixes: Vec<Vec<PushPrefix>> =
            (0..count).map(|site| PushPrefix::new((site as u64) << 60, 4).into_iter().collect()).collect();
        // Nested prefixes: of a server within its own or another's.
        for _ in 0..rng.random_range(0..6) {
            let (owner, within) = (rng.random_range(0..count), rng.random_range(0..count));
            let len = [5, 8, 16, 33, 64][rng.random_range(0..5)];
            let bits = ((within as u64) << 60 | rng.random::<u64>() >> 4) & (u64::MAX << (64 - len));
            if let Some(prefix) = PushPrefix::new(bits, len).filter(|prefix| taken.insert(*prefix)) {
                prefixes[owner].push(prefix);
            }
        }
        // Of two families, servers do not know each other again: each sends from an address that the
        // other does not find in its tables. A mistake, which must do no harm.
        let (is_v6, mixed) = (rng.random_bool(0.3), rng.random_bool(0.1));
        for (at, prefixes) in prefixes.into_iter().enumerate() {
            let family = usize::from(if mixed { rng.random() } else { is_v6 });
            let address = self.sites[at].listen[family];
            for site in &mut self.sites {
                (site.rib.servers[at].prefixes, site.rib.servers[at].address) = (prefixes.clone(), address);
            }
            if rng.random_bool(0.15) {
                self.sites[at].listen = vec![address];
            }
        }
        let values: Vec<[u8; 16]> = (0..count * count).map(|_| rng.random()).collect();
        for one in 0..count {
            for two in (0..count).filter(|two| *two != one) {
                let id = match options.server_keys {
                    ServerKeys::None => continue,
                    ServerKeys::One => 0,
                    ServerKeys::Pairs => one.min(two) * count + one.max(two),
                };
                let rib = &mut self.sites[one].rib;
                rib.servers[two].key = Some(id as u32 + 1);
                if rib.keys.iter().all(|key| key.id != id as u32 + 1) {
                    rib.keys.push(Key { id: id as u32 + 1, value: values[id], user: None });
                }
            }
        }
    }

    fn draw_apps(&mut self, rng: &mut Pcg64Mcg) {
        let some4 = (IpAddr::from([192, 0, 2, 0]), 25);
        let few4 = (IpAddr::from([192, 0, 2, 8]), 29);
        let some6 = (IpAddr::from(Ipv6Addr::new(0x2001, 0xDB8, 5, 0, 0, 0, 0, 0)), 48);
        let app = |id, sources: Option<&[(IpAddr, u8)]>, rule, key| App {
            id,
            name: format!("app-{id}"),
            sources: sources.map(<[_]>::to_vec),
            users: false,
            rule,
            rate: None,
            key,
        };
        let all = [
            app(0, None, Rule::Normal, None),
            app(1, None, Rule::Normal, None),
            app(2, Some(&[some4]), Rule::Priority, None),
            App { users: true, ..app(3, Some(&[few4, some6]), Rule::Normal, None) },
            app(4, None, Rule::MinDelay, Some(104)),
            App { rate: Some(3), ..app(5, None, Rule::Priority, None) },
            App { users: true, ..app(6, Some(&[some4, some6]), Rule::MinDelay, Some(106)) },
        ];
        self.app_keys = [104, 106].map(|id| Key { id, value: rng.random(), user: None }).to_vec();
        for site in &mut self.sites {
            let odds = |app: &App| if app.id == 0 { 0.3 } else { 0.95 };
            site.rib.apps = all.iter().filter(|app| rng.random_bool(odds(app))).cloned().collect();
            site.rib.keys.extend(self.app_keys.iter().cloned());
        }
    }

    /// A number that was not used before.
    fn next(&mut self) -> u32 {
        self.serial += 1;
        self.serial
    }

    /// A Push ID under some server's prefix.
    pub fn draw_id(&self, rng: &mut Pcg64Mcg) -> PushId {
        let servers = &self.sites[0].rib.servers;
        let prefixes = &servers[rng.random_range(0..servers.len())].prefixes;
        let prefix = prefixes[rng.random_range(0..prefixes.len())];
        let rest = u128::MAX.checked_shr(u32::from(prefix.len())).unwrap_or(0);
        PushId(u128::from(prefix.bits()) << 64 | rng.random::<u128>() & rest)
    }

    fn draw_user(&mut self, rng: &mut Pcg64Mcg) {
        let user = self.draw_id(rng);
        let Some(home) = oracle::route(&self.sites[0].rib, user) else { return };
        if self.sites.iter().any(|site| site.rib.users.iter().any(|row| row.push_id == user)) {
            return;
        }
        let key = rng.random_bool(0.3).then(|| (1000 + self.next(), rng.random()));
        if let Some((id, value)) = key {
            for (at, site) in self.sites.iter_mut().enumerate() {
                if at == home || rng.random_bool(0.5) {
                    site.rib.keys.push(Key { id, value, user: Some(user) });
                }
            }
        }
        let devices = if rng.random_bool(0.25) { rng.random_range(2..=4) } else { 1 };
        let first = rng.random_range(0..3u8);
        for device in first..first + devices {
            let mut row = User::new(user, device);
            let mut site = home;
            match rng.random_range(0..100) {
                0..50 => self.draw_private(rng, home, &mut row),
                50..58 => row.nat = Some(self.draw_nat(rng)),
                58..64 => {
                    self.draw_private(rng, home, &mut row);
                    row.nat = Some(self.draw_nat(rng));
                }
                64..68 => row.private = Some(v4(192, 168, 0, self.next() as u8, 9)),
                68..72 => row.imsi = Imsi::from_tbcd([0x64, 0, 0x10, 0x32, 0x54, 0x76, 0x98, 0xF0]),
                72..74 => {}
                _ if self.sites.len() == 1 => self.draw_private(rng, home, &mut row),
                // Roaming, mostly to a server that knows of it.
                _ => {
                    site = rng.random_range(0..self.sites.len());
                    if site == home {
                        site = (site + 1) % self.sites.len();
                    }
                    row.serving = Some(self.sites[0].rib.servers[site].address);
                    // Of a server that is on no list: one where nobody is, one that pushes itself.
                    match rng.random_range(0..30) {
                        0 => row.serving = Some(v4(198, 51, 100, 250, 17400)),
                        1 => row.serving = Some(self.pushers[0]),
                        _ => {}
                    }
                    let known = rng.random_bool(0.85);
                    let mut visitor = User::new(user, device);
                    if rng.random_bool(0.8) {
                        self.draw_private(rng, site, &mut visitor);
                    } else {
                        visitor.nat = Some(self.draw_nat(rng));
                    }
                    self.add_row(home, row);
                    if known {
                        self.add_terminal(site, visitor, key);
                    }
                    continue;
                }
            }
            match rng.random_range(0..20) {
                0 => row.valid_until = Some(START_UNIX_S - rng.random_range(1..1000)),
                1 => row.valid_until = Some(START_UNIX_S + rng.random_range(0..6)),
                2 => row.bearers = rng.random_range(0..16),
                3 => row.valid_until = Some(START_UNIX_S + 100_000),
                _ => {}
            }
            self.add_terminal(site, row, key);
        }
    }

    /// A free address of a site's realms. Few, so that realms use the same ones and moves meet.
    fn draw_private(&mut self, rng: &mut Pcg64Mcg, site: usize, row: &mut User) {
        let number = site as u8 + 1;
        let realm = rng.random_range(1..=OPEN_REALM);
        let is_v6 = rng.random_bool(0.25);
        for host in 1..=254u8 {
            let (host, second) = (host.wrapping_mul(29), rng.random_range(0..4u8));
            let port = [2948, 17400, 9][rng.random_range(0..3)];
            let private = match (realm == OPEN_REALM, is_v6) {
                (true, false) => v4(172, 16, number, host, port),
                (true, true) => v6([0xFD99, u16::from(number), 0, 0, 0, 0, 0, u16::from(host)], port),
                (false, false) => v4(10, second, 0, host, port),
                (false, true) => v6([0xFD00, u16::from(second), 0, 0, 0, 0, 0, u16::from(host)], port),
            };
            // One address, one user; a second terminal of the user may have another port.
            let clash = |other: &User| {
                other.realm == realm
                    && other.private.is_some_and(|own| own.ip() == private.ip())
                    && (other.push_id != row.push_id || other.private == Some(private))
            };
            if !self.sites[site].rib.users.iter().any(clash) {
                (row.realm, row.private) = (realm, Some(private));
                return;
            }
        }
    }

    fn draw_nat(&mut self, rng: &mut Pcg64Mcg) -> Endpoint {
        let serial = self.next() as u16;
        if rng.random_bool(0.8) {
            v4(203, 0, 113, (serial % 8) as u8 + 1, 10_000 + serial)
        } else {
            v6([0x2001, 0xDB8, 0xAAAA, 0, 0, 0, 0, serial % 8], 10_000 + serial)
        }
    }

    /// Adds a row to a server's users.
    pub fn add_row(&mut self, site: usize, row: User) {
        self.sites[site].rib.users.push(row);
    }

    /// Adds a row and the terminal that it speaks of.
    pub fn add_terminal(&mut self, site: usize, row: User, key: Option<(u32, [u8; 16])>) {
        self.add_row(site, row);
        let serial = self.next() as u16;
        let User { push_id: user, device, realm, private, nat, .. } = row;
        let rib = &self.sites[site].rib;
        let through = |private| {
            let gateway = &rib.gateways[oracle::gateway(rib, realm, private)?];
            Some(gateway.address.with_port(20_000 + serial))
        };
        let open = private.filter(|_| realm == OPEN_REALM);
        let uplink = nat.or(open).or_else(|| private.and_then(through));
        self.handsets.push(Handset { user, device, site, realm, private, nat, uplink, key });
    }

    /// Moves private addresses at a site: some terminal takes the address of another user's, which
    /// gets none, or its former one. Returns the realm and addresses that changed hands.
    pub fn move_address(&mut self, rng: &mut Pcg64Mcg, site: usize) -> Vec<(u32, Endpoint)> {
        let rows = &self.sites[site].rib.users;
        let owners: Vec<usize> = (0..rows.len()).filter(|at| rows[*at].private.is_some()).collect();
        if owners.len() < 2 {
            return Vec::new();
        }
        let (one, two) =
            (owners[rng.random_range(0..owners.len())], owners[rng.random_range(0..owners.len())]);
        let (a, b) = (rows[one], rows[two]);
        let alone = |row: &User| {
            let shares = |other: &&User| {
                other.realm == row.realm && other.private.map(Endpoint::ip) == row.private.map(Endpoint::ip)
            };
            rows.iter().filter(shares).count() == 1
        };
        if a.push_id == b.push_id || !alone(&a) || !alone(&b) {
            return Vec::new();
        }
        let swapped = rng.random_bool(0.5);
        let changed = [(a.realm, a.private), (b.realm, b.private)];
        let place = |row: &User| if swapped { (row.realm, row.private) } else { (row.realm, None) };
        for (at, (realm, private)) in [(one, place(&b)), (two, (a.realm, a.private))] {
            let row = &mut self.sites[site].rib.users[at];
            (row.realm, row.private) = (realm, private);
            let (user, device) = (row.push_id, row.device);
            for handset in &mut self.handsets {
                if (handset.site, handset.user, handset.device) == (site, user, device) {
                    (handset.realm, handset.private) = (realm, private);
                    if handset.nat.is_none() && (realm == OPEN_REALM || private.is_none()) {
                        handset.uplink = private;
                    } else if handset.nat.is_none()
                        && handset.uplink.is_none_or(|own| {
                            own.ip() == a.private.unwrap_or(Endpoint::NONE).ip()
                                || own.ip() == b.private.unwrap_or(Endpoint::NONE).ip()
                        })
                    {
                        handset.uplink = None;
                    }
                }
            }
        }
        changed.into_iter().filter_map(|(realm, private)| Some((realm, private?))).collect()
    }
}
