//! What changes from one image to another: rows added, removed and changed, by their keys.
//!
//! Two rows are the same row when their keys agree: a server's, gateway's and name's name, a
//! segment's realm and prefix, an application's and a key's id, a terminal's user and device; all of
//! a row of `groups.csv`. The order of rows does not count, nor that of prefixes within a row.
//!
//! Cost: sorting the rows of both images, 32 bytes a terminal, and one pass over them.

use serde::Serialize;
use serde_json::{Map, Value};

use super::Image;
use super::rows::{Rows, Table, object};

/// What changed in one table.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct TableDiff {
    /// The table's name.
    pub table: &'static str,
    /// Rows in the first image.
    pub before: usize,
    /// Rows in the second.
    pub after: usize,
    /// Rows that only the second has.
    pub added: u64,
    /// Rows that only the first has.
    pub removed: u64,
    /// Rows that both have, not the same.
    pub changed: u64,
    /// The first of them.
    pub changes: Vec<Change>,
}

impl TableDiff {
    /// How many rows differ.
    pub const fn total(&self) -> u64 {
        self.added + self.removed + self.changed
    }
}

/// One row that differs.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "lowercase", tag = "change")]
pub enum Change {
    /// Only the second image has it.
    Added {
        /// The row.
        row: Value,
    },
    /// Only the first image has it.
    Removed {
        /// The row.
        row: Value,
    },
    /// Both have it, not the same.
    Changed {
        /// The row as the first has it.
        row: Value,
        /// The columns that differ, as the second has them; `value` is a key's, which is not shown.
        to: Value,
    },
}

/// Compares two images; lists at most `limit` rows of each table.
pub fn diff(before: &Image, after: &Image, limit: usize) -> Vec<TableDiff> {
    let sides = [Rows::new(before), Rows::new(after)];
    let compare = |table| match table {
        Table::Servers => by_key(&sides, table, limit, |rows, at| rows.rib.servers[at].name.clone()),
        Table::Gateways => by_key(&sides, table, limit, |rows, at| rows.rib.gateways[at].name.clone()),
        Table::Segments => by_key(&sides, table, limit, |rows, at| {
            let row = &rows.rib.segments[at];
            (row.realm, row.ip, row.len)
        }),
        Table::Apps => by_key(&sides, table, limit, |rows, at| rows.rib.apps[at].id),
        Table::Names => by_key(&sides, table, limit, |rows, at| rows.rib.names[at].0.clone()),
        Table::Groups => by_key(&sides, table, limit, |rows, at| rows.rib.groups[at]),
        Table::Keys => by_key(&sides, table, limit, |rows, at| rows.rib.keys[at].id),
        Table::Users => {
            let key = |side: usize, at: usize| {
                let user = sides[side].user(at);
                (user.push_id, user.device)
            };
            let same = |b: usize, a: usize| sides[0].user(b) == sides[1].user(a);
            merge(&sides, table, limit, key, |_, at| at, same)
        }
    };
    Table::ALL.map(compare).into()
}

/// A table that is small enough to be sorted here.
fn by_key<K: Ord>(
    sides: &[Rows<'_>; 2],
    table: Table,
    limit: usize,
    key: impl Fn(&Rows<'_>, usize) -> K,
) -> TableDiff {
    let sorted = [0, 1].map(|side: usize| {
        let rows = &sides[side];
        let mut order: Vec<usize> = (0..rows.len(table)).collect();
        order.sort_by_cached_key(|at| key(rows, *at));
        order
    });
    let same = |b: usize, a: usize| {
        table != Table::Keys || sides[0].rib.keys[sorted[0][b]].value == sides[1].rib.keys[sorted[1][a]].value
    };
    let same = |b: usize, a: usize| {
        same(b, a) && cells(&sides[0], table, sorted[0][b]) == cells(&sides[1], table, sorted[1][a])
    };
    merge(
        sides,
        table,
        limit,
        |side, at| key(&sides[side], sorted[side][at]),
        |side, at| sorted[side][at],
        same,
    )
}

/// A row's cells, lists in order.
fn cells(rows: &Rows<'_>, table: Table, at: usize) -> Vec<Value> {
    let mut cells = rows.row(table, at);
    for cell in &mut cells {
        if let Value::Array(items) = cell {
            items.sort_by_key(ToString::to_string);
        }
    }
    cells
}

/// Goes through two sorted tables side by side. `key`, `place` and `same` take places in that order;
/// `place` says where in the table that is.
fn merge<K: Ord>(
    sides: &[Rows<'_>; 2],
    table: Table,
    limit: usize,
    key: impl Fn(usize, usize) -> K,
    place: impl Fn(usize, usize) -> usize,
    same: impl Fn(usize, usize) -> bool,
) -> TableDiff {
    let [before, after] = [0, 1].map(|side: usize| sides[side].len(table));
    let mut diff = TableDiff {
        table: table.name(),
        before,
        after,
        added: 0,
        removed: 0,
        changed: 0,
        changes: Vec::new(),
    };
    let row = |side: usize, at| object(table, cells(&sides[side], table, place(side, at)));
    let (mut b, mut a) = (0, 0);
    while b < before || a < after {
        let order = match (b < before, a < after) {
            (true, true) => key(0, b).cmp(&key(1, a)),
            (true, false) => std::cmp::Ordering::Less,
            (false, _) => std::cmp::Ordering::Greater,
        };
        let listed = diff.changes.len() < limit;
        match order {
            std::cmp::Ordering::Less => {
                diff.removed += 1;
                diff.changes.extend(listed.then(|| Change::Removed { row: row(0, b) }));
                b += 1;
            }
            std::cmp::Ordering::Greater => {
                diff.added += 1;
                diff.changes.extend(listed.then(|| Change::Added { row: row(1, a) }));
                a += 1;
            }
            std::cmp::Ordering::Equal => {
                if !same(b, a) {
                    diff.changed += 1;
                    diff.changes.extend(listed.then(|| {
                        let (row, to) = (row(0, b), row(1, a));
                        let to = changed_cells(&row, to);
                        Change::Changed { row, to }
                    }));
                }
                (b, a) = (b + 1, a + 1);
            }
        }
    }
    diff
}

/// The cells of the second row that the first has otherwise.
fn changed_cells(before: &Value, after: Value) -> Value {
    let Value::Object(after) = after else { return after };
    let mut changed: Map<String, Value> =
        after.into_iter().filter(|(column, cell)| before.get(column) != Some(cell)).collect();
    if changed.is_empty() {
        changed.insert("value".to_owned(), Value::String("another".to_owned()));
    }
    Value::Object(changed)
}
