//! The tables that are TOML: servers, gateways, applications, keys.

use std::net::IpAddr;
use std::path::Path;

use ahash::AHashMap;
use toml::de::DeValue;

use super::place::Homes;
use crate::config::address::address;
use crate::config::document::{
    At, Document, Section, boolean, describe, name, number, open, parsed, shared_mode, string,
};
use crate::config::faults::Faults;
use crate::diagnostic::Diagnostic;
use crate::id::{Endpoint, Mac, PushId, PushPrefix, parse_ip_prefix};
use crate::table::rib::{App, Gateway, Key, Rule, Server, Tunnel};

const U32_MAX: u64 = u32::MAX as u64;

/// The port of a Push server's address without one.
const PORT: u16 = 17400;

/// The elements of `[[name]]` in a file; `false` when not all of them could be read.
fn sections(
    path: &Path,
    element: &'static str,
    faults: &mut Faults,
    mut each: impl FnMut(&Document, Section<'_>, &mut Faults),
) -> (Option<Document>, bool) {
    let document = match Document::read(path) {
        Ok(Some(document)) => document,
        Ok(None) => return (None, true),
        Err(fault) => {
            faults.push(fault);
            return (None, false);
        }
    };
    let whole = each_section(&document, element, faults, |section, faults| each(&document, section, faults));
    (Some(document), whole)
}

fn each_section(
    document: &Document,
    element: &'static str,
    faults: &mut Faults,
    mut each: impl FnMut(Section<'_>, &mut Faults),
) -> bool {
    let Some(root) = document.parse(faults) else { return false };
    let before = faults.found();
    let sections = document.elements(&root, element, faults);
    let whole = faults.found() == before;
    for section in sections {
        each(section, faults);
    }
    whole
}

/// Remembers where each value of a unique key was first, and refuses it the second time.
struct Once<K> {
    what: &'static str,
    lines: AHashMap<K, usize>,
}

impl<K: std::hash::Hash + Eq + std::fmt::Display> Once<K> {
    fn new(what: &'static str) -> Self {
        Self { what, lines: AHashMap::new() }
    }

    /// `true` the first time.
    fn check(&mut self, document: &Document, at: At<K>, remedy: &str, faults: &mut Faults) -> bool {
        let line = document.place(at.offset).0;
        if let Some(earlier) = self.lines.get(&at.value) {
            let sentence = format!("the {} {} is already in line {earlier}; {remedy}", self.what, at.value);
            faults.push(document.fault(at.offset, sentence));
            return false;
        }
        self.lines.insert(at.value, line);
        true
    }
}

/// `keys.toml`.
pub(super) struct Keys {
    path: std::path::PathBuf,
    rows: Vec<KeyRow>,
    /// Index of each id; `None` when not every id could be read.
    known: Option<AHashMap<u32, usize>>,
}

struct KeyRow {
    key: Key,
    /// Line and column of `user`.
    user_place: (usize, usize),
}

/// Reads `keys.toml`, refused when others than its owner can read it.
pub(super) fn keys(path: &Path, faults: &mut Faults) -> Keys {
    let mut keys = Keys { path: path.to_owned(), rows: Vec::new(), known: None };
    let file = match open(path) {
        Ok(Some(file)) => file,
        Ok(None) => {
            keys.known = Some(AHashMap::new());
            return keys;
        }
        Err(fault) => {
            faults.push(fault);
            return keys;
        }
    };
    if let Some(mode) = shared_mode(&file) {
        faults.push(Diagnostic::new(
            path,
            1,
            1,
            format!(
                "expected a file that only its owner can read, found mode {mode:04o}; run chmod 600 {}",
                path.display()
            ),
        ));
    }
    let document = match Document::read_open(path, file) {
        Ok(document) => document,
        Err(fault) => {
            faults.push(fault);
            return keys;
        }
    };
    let mut known = AHashMap::new();
    let mut ids = Once::new("key id");
    let mut all_ids = true;
    let whole = each_section(&document, "key", faults, |mut section, faults| {
        let id = section.required(faults, "id", "id = 1", number(0..=U32_MAX));
        let value = section.required(faults, "value", "value = \"…\", 32 hexadecimal digits", key_value);
        let user = section.optional(faults, "user", parsed(push_id));
        let user_place = document.place(section.place_of("user"));
        section.finish(faults);
        let Some(id) = id else {
            all_ids = false;
            return;
        };
        if ids.check(&document, id, "give this key another id", faults) {
            known.insert(id.value as u32, keys.rows.len());
            let value = value.map_or([0; 16], |at| at.value);
            keys.rows.push(KeyRow {
                key: Key { id: id.value as u32, value, user: user.map(|at| at.value) },
                user_place,
            });
        } else {
            all_ids = false;
        }
    });
    keys.known = (whole && all_ids).then_some(known);
    keys
}

fn key_value(value: &DeValue<'_>) -> Result<[u8; 16], String> {
    // What was found is a secret, or nearly one: it is not shown.
    const EXPECTED: &str = "expected a key of 32 hexadecimal digits in quotes";
    let DeValue::String(text) = value else { return Err(format!("{EXPECTED}, found {}", kind(value))) };
    if text.len() == 32
        && text.bytes().all(|byte| byte.is_ascii_hexdigit())
        && let Ok(value) = u128::from_str_radix(text, 16)
    {
        return Ok(value.to_be_bytes());
    }
    let odd = text.chars().filter(|c| !c.is_ascii_hexdigit()).count();
    Err(format!("{EXPECTED}, found {} characters, {odd} of them no such digits", text.chars().count()))
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
        _ => "something without quotes",
    }
}

fn push_id(text: &str) -> Result<PushId, String> {
    match text.parse::<PushId>() {
        Ok(id) if id.is_none() => {
            Err("expected a Push ID, found the all-zero one, which is nobody's".to_owned())
        }
        Ok(id) => Ok(id),
        Err(error) => Err(error.0),
    }
}

impl Keys {
    /// Refuses a key id that `keys.toml` does not have; warns when it is a subscriber's.
    fn check_id(
        &self,
        document: &Document,
        key: Option<At<u64>>,
        what: &str,
        faults: &mut Faults,
        warnings: &mut Faults,
    ) -> Option<u32> {
        let key = key?;
        if let Some(known) = &self.known {
            match known.get(&(key.value as u32)).and_then(|index| self.rows.get(*index)) {
                None => faults.push(document.fault(
                    key.offset,
                    format!("key: expected the id of a [[key]] in keys.toml, found {}; add it there or correct it", key.value),
                )),
                Some(row) if row.key.user.is_some() => warnings.push(document.fault(
                    key.offset,
                    format!(
                        "key {} is a subscriber's, who could sign for this {what} with it; give the {what} one of its own",
                        key.value
                    ),
                )),
                Some(_) => {}
            }
        }
        Some(key.value as u32)
    }

    /// A subscriber's key must be of a user under some server's prefix.
    pub(super) fn check_users(&self, homes: Option<&Homes>, faults: &mut Faults, warnings: &mut Faults) {
        let mut owners: AHashMap<PushId, u32> = AHashMap::new();
        for row in &self.rows {
            let Some(user) = row.key.user else { continue };
            let (line, column) = row.user_place;
            if homes.is_some_and(|homes| homes.find(user).is_none()) {
                faults.push(Diagnostic::new(&self.path, line, column, homeless("user", user)));
            }
            if let Some(earlier) = owners.insert(user, row.key.id) {
                warnings.push(Diagnostic::new(
                    &self.path,
                    line,
                    column,
                    format!("user {user} has key {earlier} already; one of them signs what goes there, remove the other"),
                ));
            }
        }
    }

    /// The keys, in the order of the file.
    pub(super) fn rows(self) -> Vec<Key> {
        self.rows.into_iter().map(|row| row.key).collect()
    }
}

/// The sentence for a Push ID that is nobody's to serve.
pub(super) fn homeless(column: &str, id: PushId) -> String {
    format!(
        "{column}: expected a Push ID under the prefix of a [[server]] in servers.toml, found {id}; correct it or add \
         the prefix"
    )
}

/// `servers.toml`.
pub(super) struct Servers {
    pub(super) rows: Vec<Server>,
    /// `None` when not every prefix could be read.
    pub(super) homes: Option<Homes>,
    /// Whether every address could be read.
    pub(super) addresses_whole: bool,
}

/// Reads `servers.toml`.
pub(super) fn servers(path: &Path, keys: &Keys, faults: &mut Faults, warnings: &mut Faults) -> Servers {
    let mut rows: Vec<Server> = Vec::new();
    let mut homes = Homes::default();
    let (mut names, mut addresses) = (Once::new("server name"), Once::new("server address"));
    let mut prefixes: Once<PushPrefix> = Once::new("prefix");
    let (mut prefixes_whole, mut addresses_whole) = (true, true);
    let (_, whole) = sections(path, "server", faults, |document, mut section, faults| {
        let server_name = section.required(faults, "name", "name = \"mobile-1\"", name);
        let address = section.required(
            faults,
            "address",
            "address = \"192.0.2.1:17400\"",
            parsed(|text| address(text, Some(PORT))),
        );
        let key = section.optional(faults, "key", number(0..=U32_MAX));
        let before = faults.found();
        let list =
            section.list(faults, "prefix", true, |text| text.parse::<PushPrefix>().map_err(|error| error.0));
        let list_whole = faults.found() == before;
        prefixes_whole &= list_whole;
        let row = rows.len();
        let mut server =
            Server { name: String::new(), prefixes: Vec::new(), address: Endpoint::NONE, key: None };
        for prefix in list.unwrap_or_default() {
            if prefixes.check(document, prefix, "a prefix has one home, remove it here or there", faults) {
                homes.insert(prefix.value, row);
                server.prefixes.push(prefix.value);
            } else {
                // Whoever wrote one twice meant another: which, nobody knows yet.
                prefixes_whole = false;
            }
        }
        if list_whole && server.prefixes.is_empty() && faults.found() == before {
            warnings.push(section.fault(
                "this [[server]] has no prefix: it is nobody's home; add one unless it only serves roamers",
            ));
        }
        server.key = keys.check_id(document, key, "server", faults, warnings);
        section.finish(faults);
        if let Some(at) = server_name {
            server.name.clone_from(&at.value);
            names.check(document, at, "choose another name or merge the two", faults);
        }
        match address {
            Some(at) => {
                server.address = at.value;
                addresses_whole &=
                    addresses.check(document, at, "two servers cannot share it, correct one", faults);
            }
            None => addresses_whole = false,
        }
        rows.push(server);
    });
    Servers {
        rows,
        homes: (whole && prefixes_whole).then_some(homes),
        addresses_whole: whole && addresses_whole,
    }
}

/// `gateways.toml`.
pub(super) struct Gateways {
    pub(super) rows: Vec<Gateway>,
    /// Index of each name, and whether that gateway was without fault.
    pub(super) names: AHashMap<String, (u32, bool)>,
    /// Whether every name could be read.
    pub(super) whole: bool,
}

/// Reads `gateways.toml`.
pub(super) fn gateways(path: &Path, faults: &mut Faults) -> Gateways {
    let mut rows = Vec::new();
    let mut index = AHashMap::new();
    let mut names = Once::new("gateway name");
    let mut all_names = true;
    let (_, whole) = sections(path, "gateway", faults, |document, mut section, faults| {
        let before = faults.found();
        let gateway_name = section.required(faults, "name", "name = \"ggsn-a\"", name);
        let (tunnel, source) = tunnel(document, &mut section, faults);
        let port = tunnel.map_or(PORT, Tunnel::default_port);
        let example = "address = \"10.255.0.1\"";
        let address = section.required(faults, "address", example, parsed(|text| address(text, Some(port))));
        section.finish(faults);
        let Some(gateway_name) = gateway_name else {
            all_names = false;
            return;
        };
        let name = gateway_name.value.clone();
        if names.check(document, gateway_name, "choose another name or merge the two", faults) {
            index.insert(name.clone(), (rows.len() as u32, faults.found() == before));
            rows.push(Gateway {
                name,
                address: address.map_or(Endpoint::NONE, |at| at.value),
                tunnel: tunnel.unwrap_or(Tunnel::None),
                source_v4: source[0],
                source_v6: source[1],
            });
        } else {
            all_names = false;
        }
    });
    Gateways { rows, names: index, whole: whole && all_names }
}

/// The tunnel of a gateway with what its form needs, and its inner sources, IPv4 and IPv6.
fn tunnel(
    document: &Document,
    section: &mut Section<'_>,
    faults: &mut Faults,
) -> (Option<Tunnel>, [Option<Endpoint>; 2]) {
    const FORMS: [&str; 4] = ["plain", "vxlan", "gtpu", "none"];
    const OWNERS: [(&str, &[&str]); 4] =
        [("vni", &["vxlan"]), ("mac", &["vxlan"]), ("teid", &["gtpu"]), ("source", &["vxlan", "gtpu"])];
    let form =
        section.required(faults, "tunnel", "tunnel = \"plain\", \"vxlan\", \"gtpu\" or \"none\"", |value| {
            let text = string(value)?;
            FORMS.iter().find(|form| **form == text).copied().ok_or_else(|| {
                format!("expected \"plain\", \"vxlan\", \"gtpu\" or \"none\", found {}", describe(value))
            })
        });
    let form = form.map(|at| at.value);
    if let Some(form) = form {
        for (key, owners) in OWNERS {
            if section.has(key) && !owners.contains(&form) {
                faults.push(section.fault_at(
                    section.place_of_key(key),
                    format!(
                        "{key} belongs to {}, found it in a gateway whose tunnel is {form:?}; remove it",
                        owners.join(" and ")
                    ),
                ));
            } else if !section.has(key) && owners.contains(&form) {
                let example = match key {
                    "vni" => "vni = 100",
                    "mac" => "mac = \"02:00:00:00:00:01\"",
                    "teid" => "teid = 1",
                    _ => "source = \"10.255.0.254:17400\"",
                };
                faults
                    .push(section.fault(format!("a {form} gateway needs {key}, found none; add {example}")));
            }
        }
    }
    let vni = section.optional(faults, "vni", number(0..=0xFF_FFFF)).map_or(0, |at| at.value as u32);
    let teid = section.optional(faults, "teid", number(1..=U32_MAX)).map_or(0, |at| at.value as u32);
    let mac = section
        .optional(faults, "mac", parsed(|text| text.parse::<Mac>().map_err(|error| error.0)))
        .map_or(Mac::default(), |at| at.value);
    let mut source = [None; 2];
    let before = faults.found();
    let list = section.list(faults, "source", true, |text| address(text, None));
    if section.has("source") && list.as_ref().is_none_or(Vec::is_empty) && faults.found() == before {
        let sentence = "source: expected an address or one of each family, found an empty list; add one";
        faults.push(section.fault_at(section.place_of("source"), sentence));
    }
    for at in list.unwrap_or_default() {
        let family = &mut source[usize::from(!at.value.is_ipv4())];
        match family {
            Some(earlier) => faults.push(document.fault(
                at.offset,
                format!(
                    "source: expected one address of each family, found {} after {earlier}; remove one",
                    at.value
                ),
            )),
            None => *family = Some(at.value),
        }
    }
    let tunnel = form.map(|form| match form {
        "vxlan" => Tunnel::Vxlan { vni, mac },
        "gtpu" => Tunnel::Gtpu { teid },
        "plain" => Tunnel::Plain,
        _ => Tunnel::None,
    });
    (tunnel, source)
}

/// A prefix of addresses without host bits, each family written as itself.
pub(super) fn ip_prefix(text: &str) -> Result<(IpAddr, u8), String> {
    let (ip, len) = parse_ip_prefix(text).map_err(|error| error.0)?;
    match ip {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Err(format!("expected an IPv4 prefix written as such, found {text}; write it like 10.0.0.0/8"))
        }
        ip => Ok((ip, len)),
    }
}

/// Reads `apps.toml`.
pub(super) fn apps(path: &Path, keys: &Keys, faults: &mut Faults, warnings: &mut Faults) -> Vec<App> {
    let mut rows = Vec::new();
    let mut ids = Once::new("application id");
    sections(path, "app", faults, |document, mut section, faults| {
        let id = section.required(faults, "id", "id = 7", number(0..=U32_MAX));
        let app_name = section.optional(faults, "name", name);
        let before = faults.found();
        let list = section.list(faults, "sources", false, ip_prefix);
        let list_whole = faults.found() == before;
        let users = section.optional(faults, "users", boolean).is_some_and(|at| at.value);
        let rule = section.optional(faults, "rule", |value| {
            let text = string(value)?;
            [Rule::Normal, Rule::Priority, Rule::MinDelay]
                .into_iter()
                .find(|rule| rule.name() == text)
                .ok_or_else(|| {
                    format!("expected \"normal\", \"priority\" or \"min-delay\", found {}", describe(value))
                })
        });
        let rate = section.optional(faults, "rate", rate);
        let key = section.optional(faults, "key", number(0..=U32_MAX));
        let key = keys.check_id(document, key, "application", faults, warnings);
        let mut seen: AHashMap<(IpAddr, u8), ()> = AHashMap::new();
        for at in list.iter().flatten() {
            if seen.insert(at.value, ()).is_some() {
                let (ip, len) = at.value;
                let sentence = format!("sources: the prefix {ip}/{len} is already in this list; remove it");
                faults.push(document.fault(at.offset, sentence));
            }
        }
        let sources = list.map(|list| list.into_iter().map(|at| at.value).collect::<Vec<_>>());
        if list_whole && !users && sources.as_ref().is_some_and(Vec::is_empty) {
            warnings.push(document.fault(
                section.place_of("sources"),
                "nobody may push for this application: its sources are an empty list and users is false; remove sources \
                 to allow everybody",
            ));
        }
        section.finish(faults);
        let Some(id) = id else { return };
        ids.check(document, id, "give this application another id", faults);
        rows.push(App {
            id: id.value as u32,
            name: app_name.map_or_else(|| id.value.to_string(), |at| at.value),
            sources,
            users,
            rule: rule.map_or(Rule::Normal, |at| at.value),
            rate: rate.map(|at| at.value),
            key,
        });
    });
    rows
}

fn rate(value: &DeValue<'_>) -> Result<u32, String> {
    match number(0..=U32_MAX)(value)? {
        0 => {
            Err("expected at least 1 message a second, found 0; remove rate for no limit, or the application"
                .to_owned())
        }
        rate => Ok(rate as u32),
    }
}
