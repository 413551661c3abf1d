//! From the editable tables to the flat arrays of an image, and back.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::image::{
    Address, AppRow, ArchivedArrays, ArchivedText, Arrays, GatewayRow, GroupRow, KeyRow, NO_INDEX, NameRow,
    PrefixRow, RealmRow, SegmentRow, ServerRow, Text,
};
use super::lpm::{Route, Tries};
use super::place;
use super::rib::{App, Gateway, Key, Rib, Rule, Segment, Server, Tunnel};
use super::step::Step;
use super::users::Users;
use crate::id::{Endpoint, Mac, PushId, PushPrefix};

/// `users` of an application.
pub(super) const APP_USERS: u8 = 1;
/// The application has `sources`.
pub(super) const APP_SOURCES: u8 = 2;

/// An address as the key of a trie: of an IPv4 address the first 32 of 64 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum TrieKey {
    V4(u64),
    V6(u128),
}

impl TrieKey {
    #[inline(always)]
    pub(super) const fn of(address: Endpoint) -> Self {
        let bits = u128::from_be_bytes(address.octets());
        if address.is_ipv4() { Self::V4((bits as u64) << 32) } else { Self::V6(bits) }
    }

    /// Left-aligned in 128 bits.
    const fn wide(self) -> u128 {
        match self {
            Self::V4(bits) => (bits as u128) << 64,
            Self::V6(bits) => bits,
        }
    }
}

#[derive(Default)]
struct Texts(Vec<u8>);

impl Texts {
    fn add(&mut self, text: &str) -> Text {
        let start = self.0.len() as u32;
        self.0.extend_from_slice(text.as_bytes());
        Text { start, len: text.len() as u32 }
    }
}

/// Compiles consistent tables; `users` stand for those of `rib`. `told` hears how far it is.
///
/// # Errors
/// A sentence, when a table has more rows than 32-bit indexes reach.
pub(super) fn compile(rib: &Rib, users: Users, told: &dyn Fn(Step)) -> Result<Arrays, String> {
    if rib.segments.len() >= NO_INDEX as usize {
        return Err(format!(
            "segments.csv has {} rows, expected fewer than {NO_INDEX}; split the operator",
            rib.segments.len()
        ));
    }
    let text_bytes: usize = rib.names.iter().map(|(name, _)| name.len()).sum();
    if text_bytes > u32::MAX as usize / 2 {
        return Err(format!("names.csv has {text_bytes} bytes of names, expected at most 2 GiB"));
    }

    let mut texts = Texts::default();
    let mut tries = Tries::default();

    let mut keys: Vec<KeyRow> = rib
        .keys
        .iter()
        .map(|key| KeyRow { id: key.id, value: key.value, user: key.user.unwrap_or_default().to_bytes() })
        .collect();
    keys.sort_unstable_by_key(|key| key.id);
    let key_index = |id: Option<u32>| match id.map(|id| keys.binary_search_by_key(&id, |key| key.id)) {
        Some(Ok(index)) => index as u32,
        _ => NO_INDEX,
    };

    let mut prefixes = Vec::new();
    let mut servers = Vec::with_capacity(rib.servers.len());
    for (index, server) in (0..).zip(&rib.servers) {
        let name = texts.add(&server.name);
        servers.push(ServerRow { name, address: server.address.into(), key: key_index(server.key) });
        prefixes.extend(server.prefixes.iter().map(|prefix| PrefixRow {
            bits: prefix.bits(),
            len: prefix.len(),
            server: index,
        }));
    }
    let mut routes: Vec<Route> = prefixes
        .iter()
        .map(|row| Route { key: u128::from(row.bits) << 64, len: row.len, value: row.server })
        .collect();
    let prefix_root = tries.add(&mut routes);

    let gateways = rib.gateways.iter().map(|gateway| gateway_row(gateway, &mut texts)).collect();
    let (segments, realms) = compile_segments(&rib.segments, &mut tries);

    let mut sources = Vec::new();
    let mut sorted: Vec<&App> = rib.apps.iter().collect();
    sorted.sort_unstable_by_key(|app| app.id);
    let mut apps = Vec::with_capacity(sorted.len());
    for (index, app) in (0..).zip(sorted) {
        let allowed = app.sources.as_deref().unwrap_or_default();
        let (root_v4, root_v6) = add_both(&mut tries, allowed.iter().map(|(ip, len)| (*ip, *len, 0)));
        sources.extend(allowed.iter().map(|(ip, len)| segment_row(*ip, *len, index, 0)));
        apps.push(AppRow {
            id: app.id,
            name: texts.add(&app.name),
            rate: app.rate.unwrap_or(0),
            key: key_index(app.key),
            root_v4,
            root_v6,
            rule: app.rule as u8,
            flags: (u8::from(app.users) * APP_USERS) | (u8::from(app.sources.is_some()) * APP_SOURCES),
        });
    }

    let mut sorted: Vec<&(String, PushId)> = rib.names.iter().collect();
    sorted.sort_unstable();
    let names = sorted
        .iter()
        .map(|(name, push_id)| NameRow { name: texts.add(name), push_id: push_id.to_bytes() })
        .collect();

    let (groups, members) = compile_groups(&rib.groups);
    let keyed = rib.keys.iter().filter_map(|key| key.user);
    let place::Placed { users, blocks, owners, lines, nat6 } =
        place::place(users, keyed, &realms, &tries, told)?;

    Ok(Arrays {
        lines,
        users,
        owners,
        text: texts.0,
        servers,
        prefixes,
        prefix_root,
        gateways,
        segments,
        realms,
        apps,
        sources,
        tries,
        blocks,
        nat6,
        names,
        groups,
        members,
        keys,
    })
}

fn gateway_row(gateway: &Gateway, texts: &mut Texts) -> GatewayRow {
    let (tunnel, tunnel_id, mac) = match gateway.tunnel {
        Tunnel::Plain => (0, 0, Mac::default()),
        Tunnel::Vxlan { vni, mac } => (1, vni, mac),
        Tunnel::Gtpu { teid } => (2, teid, Mac::default()),
        Tunnel::None => (3, 0, Mac::default()),
    };
    GatewayRow {
        name: texts.add(&gateway.name),
        address: gateway.address.into(),
        source_v4: gateway.source_v4.unwrap_or(Endpoint::NONE).into(),
        source_v6: gateway.source_v6.unwrap_or(Endpoint::NONE).into(),
        tunnel_id,
        mac: mac.0,
        tunnel,
    }
}

fn segment_row(ip: IpAddr, len: u8, owner: u32, gateway: u32) -> SegmentRow {
    SegmentRow { octets: Endpoint::new(ip, 0).octets(), owner, gateway, len }
}

fn add_both(tries: &mut Tries, prefixes: impl Iterator<Item = (IpAddr, u8, u32)>) -> (u32, u32) {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for (ip, len, value) in prefixes {
        let family = if ip.is_ipv4() { &mut v4 } else { &mut v6 };
        family.push(Route { key: TrieKey::of(Endpoint::new(ip, 0)).wide(), len, value });
    }
    (tries.add(&mut v4), tries.add(&mut v6))
}

fn compile_segments(rows: &[Segment], tries: &mut Tries) -> (Vec<SegmentRow>, Vec<RealmRow>) {
    let mut by_realm: BTreeMap<u32, Vec<&Segment>> = BTreeMap::new();
    for segment in rows {
        by_realm.entry(segment.realm).or_default().push(segment);
    }
    let mut realms = Vec::with_capacity(by_realm.len());
    for (realm, rows) in by_realm {
        let prefixes = rows.iter().map(|segment| (segment.ip, segment.len, segment.gateway));
        let (root_v4, root_v6) = add_both(tries, prefixes);
        realms.push(RealmRow { realm, root_v4, root_v6 });
    }
    let segments = rows.iter().map(|row| segment_row(row.ip, row.len, row.realm, row.gateway)).collect();
    (segments, realms)
}

fn compile_groups(rows: &[(PushId, PushId)]) -> (Vec<GroupRow>, Vec<[u8; 16]>) {
    let mut sorted = rows.to_vec();
    sorted.sort_unstable();
    let mut groups: Vec<GroupRow> = Vec::new();
    for (at, (group, _)) in (0..).zip(&sorted) {
        match groups.last_mut() {
            Some(last) if last.group == group.to_bytes() => last.count += 1,
            _ => groups.push(GroupRow { group: group.to_bytes(), first: at, count: 1 }),
        }
    }
    (groups, sorted.iter().map(|(_, member)| member.to_bytes()).collect())
}

/// The rows again but for the users: they are most of an image, and can be read where they lie.
pub(super) fn decompile_without_users(a: &ArchivedArrays) -> Rib {
    let text = |text: &ArchivedText| a.text(text).to_owned();
    let key_id = |index: u32| a.keys.get(index as usize).map(|key| key.id.to_native());
    let ip_len = |octets: [u8; 16], len: u8| (Endpoint::from_octets(octets, 0).ip(), len);
    let endpoint = |address| Some(Endpoint::from(address)).filter(|endpoint| !endpoint.is_none());
    let mut rib = Rib {
        servers: a
            .servers
            .iter()
            .map(|row| Server {
                name: text(&row.name),
                prefixes: Vec::new(),
                address: Endpoint::from(&row.address),
                key: key_id(row.key.to_native()),
            })
            .collect(),
        gateways: a
            .gateways
            .iter()
            .map(|row| Gateway {
                name: text(&row.name),
                address: Endpoint::from(&row.address),
                tunnel: tunnel(row.tunnel, row.tunnel_id.to_native(), Mac(row.mac)),
                source_v4: endpoint(&row.source_v4),
                source_v6: endpoint(&row.source_v6),
            })
            .collect(),
        segments: a
            .segments
            .iter()
            .map(|row| {
                let (ip, len) = ip_len(row.octets, row.len);
                Segment { realm: row.owner.to_native(), ip, len, gateway: row.gateway.to_native() }
            })
            .collect(),
        apps: a
            .apps
            .iter()
            .map(|row| App {
                id: row.id.to_native(),
                name: text(&row.name),
                sources: (row.flags & APP_SOURCES != 0).then(Vec::new),
                users: row.flags & APP_USERS != 0,
                rule: rule(row.rule),
                rate: Some(row.rate.to_native()).filter(|rate| *rate != 0),
                key: key_id(row.key.to_native()),
            })
            .collect(),
        users: Vec::new(),
        names: a.names.iter().map(|row| (text(&row.name), PushId::from_bytes(row.push_id))).collect(),
        groups: Vec::with_capacity(a.members.len()),
        keys: a
            .keys
            .iter()
            .map(|row| Key {
                id: row.id.to_native(),
                value: row.value,
                user: Some(PushId::from_bytes(row.user)).filter(|user| !user.is_none()),
            })
            .collect(),
    };
    for row in a.prefixes.iter() {
        if let Some(prefix) = PushPrefix::new(row.bits.to_native(), row.len) {
            rib.servers[row.server.to_native() as usize].prefixes.push(prefix);
        }
    }
    for row in a.sources.iter() {
        if let Some(sources) = &mut rib.apps[row.owner.to_native() as usize].sources {
            sources.push(ip_len(row.octets, row.len));
        }
    }
    for row in a.groups.iter() {
        let group = PushId::from_bytes(row.group);
        let members = a.group(group).unwrap_or_default();
        rib.groups.extend(members.iter().map(|member| (group, PushId::from_bytes(*member))));
    }
    rib
}

/// The tunnel with this number in a [`GatewayRow`].
pub(super) const fn tunnel(number: u8, id: u32, mac: Mac) -> Tunnel {
    match number {
        0 => Tunnel::Plain,
        1 => Tunnel::Vxlan { vni: id, mac },
        2 => Tunnel::Gtpu { teid: id },
        _ => Tunnel::None,
    }
}

/// The rule with this number in an [`AppRow`].
pub(super) const fn rule(number: u8) -> Rule {
    match number {
        1 => Rule::Priority,
        2 => Rule::MinDelay,
        _ => Rule::Normal,
    }
}

impl From<Address> for Endpoint {
    fn from(address: Address) -> Self {
        Self::from_octets(address.octets, address.port)
    }
}
