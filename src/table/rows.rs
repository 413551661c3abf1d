//! The rows of an image for people and scripts: what each table is called, its columns, its cells.
//! Keys' values are in none of them.
//!
//! Cost: the users are read where they lie, one row at a time, in an order that takes four bytes a terminal; all
//! other tables are rows in memory.

use std::cell::OnceCell;

use serde_json::{Value, json};

use super::Image;
use super::rib::{Rib, Tunnel, User};
use crate::id::Endpoint;

/// A table, by the source file that it stands in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names are those of the source files")]
pub enum Table {
    Servers,
    Gateways,
    Segments,
    Apps,
    Users,
    Names,
    Groups,
    Keys,
}

impl Table {
    /// Every table.
    pub const ALL: [Self; 8] = [
        Self::Servers,
        Self::Gateways,
        Self::Segments,
        Self::Apps,
        Self::Users,
        Self::Names,
        Self::Groups,
        Self::Keys,
    ];

    /// Its name: the source file's without the extension.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Servers => "servers",
            Self::Gateways => "gateways",
            Self::Segments => "segments",
            Self::Apps => "apps",
            Self::Users => "users",
            Self::Names => "names",
            Self::Groups => "groups",
            Self::Keys => "keys",
        }
    }

    /// The table of this name; the source file's name will do, too.
    pub fn from_name(name: &str) -> Option<Self> {
        let stem = name.strip_suffix(".csv").or_else(|| name.strip_suffix(".toml")).unwrap_or(name);
        Self::ALL.into_iter().find(|table| table.name() == stem)
    }

    /// Its columns: the keys or columns of its source file, in the order of [`Rows::row`]'s cells.
    pub const fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Servers => &["name", "prefix", "address", "key"],
            Self::Gateways => &["name", "address", "tunnel", "vni", "teid", "mac", "source"],
            Self::Segments => &["realm", "prefix", "gateway"],
            Self::Apps => &["id", "name", "sources", "users", "rule", "rate", "key"],
            Self::Users => {
                &["push_id", "device", "realm", "private", "nat", "imsi", "bearers", "serving", "valid_until"]
            }
            Self::Names => &["name", "push_id"],
            Self::Groups => &["group", "push_id"],
            // Never the value.
            Self::Keys => &["id", "user"],
        }
    }
}

/// The rows of an image.
#[derive(Debug)]
pub struct Rows<'a> {
    pub(super) image: &'a Image,
    /// All but the users.
    pub(super) rib: Rib,
    /// The users' lines in order, once somebody asks.
    ordered: OnceCell<Vec<u32>>,
}

impl<'a> Rows<'a> {
    /// The rows of this image.
    pub fn new(image: &'a Image) -> Self {
        Self { image, rib: image.to_rib_without_users(), ordered: OnceCell::new() }
    }

    /// How many a table has.
    pub fn len(&self, table: Table) -> usize {
        let rib = &self.rib;
        match table {
            Table::Servers => rib.servers.len(),
            Table::Gateways => rib.gateways.len(),
            Table::Segments => rib.segments.len(),
            Table::Apps => rib.apps.len(),
            Table::Users => self.image.terminals(),
            Table::Names => rib.names.len(),
            Table::Groups => rib.groups.len(),
            Table::Keys => rib.keys.len(),
        }
    }

    /// Whether a table has none.
    pub fn is_empty(&self, table: Table) -> bool {
        self.len(table) == 0
    }

    /// A row of the users, in the order of user and device.
    ///
    /// # Panics
    /// When there are not so many.
    pub(super) fn user(&self, at: usize) -> User {
        self.image.user(self.ordered.get_or_init(|| self.image.ordered())[at] as usize)
    }

    /// The cells of one row, as many as the table has columns; null where there is nothing.
    ///
    /// # Panics
    /// When the table has not so many rows.
    pub fn row(&self, table: Table, at: usize) -> Vec<Value> {
        let rib = &self.rib;
        match table {
            Table::Servers => {
                let row = &rib.servers[at];
                let prefixes: Vec<String> = row.prefixes.iter().map(ToString::to_string).collect();
                vec![json!(row.name), json!(prefixes), text(row.address), json!(row.key)]
            }
            Table::Gateways => {
                let row = &rib.gateways[at];
                let (vni, teid, mac) = match row.tunnel {
                    Tunnel::Vxlan { vni, mac } => (Some(vni), None, Some(mac)),
                    Tunnel::Gtpu { teid } => (None, Some(teid), None),
                    Tunnel::Plain | Tunnel::None => (None, None, None),
                };
                let sources: Vec<String> =
                    [row.source_v4, row.source_v6].iter().flatten().map(ToString::to_string).collect();
                vec![
                    json!(row.name),
                    text(row.address),
                    json!(row.tunnel.name()),
                    json!(vni),
                    json!(teid),
                    mac.map_or(Value::Null, text),
                    if sources.is_empty() { Value::Null } else { json!(sources) },
                ]
            }
            Table::Segments => {
                let row = &rib.segments[at];
                let gateway = rib.gateways.get(row.gateway as usize).map(|gateway| gateway.name.as_str());
                vec![json!(row.realm), json!(format!("{}/{}", row.ip, row.len)), json!(gateway)]
            }
            Table::Apps => {
                let row = &rib.apps[at];
                let sources: Option<Vec<String>> = row
                    .sources
                    .as_ref()
                    .map(|sources| sources.iter().map(|(ip, len)| format!("{ip}/{len}")).collect());
                vec![
                    json!(row.id),
                    json!(row.name),
                    json!(sources),
                    json!(row.users),
                    json!(row.rule.name()),
                    json!(row.rate),
                    json!(row.key),
                ]
            }
            Table::Users => user(&self.user(at)),
            Table::Names => {
                let (name, id) = &rib.names[at];
                vec![json!(name), text(id)]
            }
            Table::Groups => {
                let (group, member) = &rib.groups[at];
                vec![text(group), text(member)]
            }
            Table::Keys => {
                let row = &rib.keys[at];
                vec![json!(row.id), row.user.map_or(Value::Null, text)]
            }
        }
    }
}

fn user(row: &User) -> Vec<Value> {
    let endpoint = |endpoint: Option<Endpoint>| endpoint.map_or(Value::Null, text);
    let until = row.valid_until.map(|seconds| {
        let time = i64::try_from(seconds).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
        time.map_or_else(|| json!(seconds), text)
    });
    vec![
        text(row.push_id),
        json!(row.device),
        json!(row.realm),
        endpoint(row.private),
        endpoint(row.nat),
        row.imsi.map_or(Value::Null, text),
        json!(row.bearers),
        endpoint(row.serving),
        until.unwrap_or(Value::Null),
    ]
}

fn text(shown: impl std::fmt::Display) -> Value {
    Value::String(shown.to_string())
}

/// A cell as text: nothing for null, the items of a list with spaces between them.
pub fn cell_text(cell: &Value) -> String {
    match cell {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "[]".to_owned(),
        Value::Array(items) => items.iter().map(cell_text).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

/// The cells of a row as a JSON object.
pub fn object(table: Table, cells: Vec<Value>) -> Value {
    let columns = table.columns().iter().map(|column| (*column).to_owned());
    Value::Object(columns.zip(cells).collect())
}
