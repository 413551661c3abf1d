//! `names.csv` and `groups.csv`.

use std::path::Path;

use super::entries::homeless;
use super::place::Homes;
use super::rows::{Column, Next, Row, Rows};
use super::unique::{Lines, clashes};
use super::users::{push_id, utf8};
use crate::config::faults::Faults;
use crate::diagnostic::Diagnostic;
use crate::id::PushId;

const NAMES: &[Column] =
    &[Column { name: "name", required: true }, Column { name: "push_id", required: true }];
const GROUPS: &[Column] =
    &[Column { name: "group", required: true }, Column { name: "push_id", required: true }];

/// The longest name, bytes: what the Name option holds.
const NAME_MAX: usize = 255;

/// Reads `names.csv`.
pub(super) fn names(path: &Path, homes: Option<&Homes>, faults: &mut Faults) -> Vec<(String, PushId)> {
    let (rows, lines) = read(path, NAMES, faults, |row, faults| {
        let name = name(row.get(0)).map_err(|sentence| faults.push(row.fault(0, sentence)));
        let id = home_id(row, 1, "push_id", homes, faults);
        Some((name.ok()?, id?))
    });
    refuse_twice(
        path,
        NAMES,
        &lines,
        rows.len(),
        |row| Some(&rows[row].0),
        faults,
        |row| format!("the name {:?}", rows[row].0),
    );
    rows
}

/// Reads `groups.csv`.
pub(super) fn groups(path: &Path, homes: Option<&Homes>, faults: &mut Faults) -> Vec<(PushId, PushId)> {
    let (rows, lines) = read(path, GROUPS, faults, |row, faults| {
        let group = home_id(row, 0, "group", homes, faults);
        let member = home_id(row, 1, "push_id", homes, faults);
        Some((group?, member?))
    });
    refuse_twice(
        path,
        GROUPS,
        &lines,
        rows.len(),
        |row| Some(rows[row]),
        faults,
        |row| format!("the member {} of group {}", rows[row].1, rows[row].0),
    );
    rows
}

fn read<T>(
    path: &Path,
    columns: &'static [Column],
    faults: &mut Faults,
    each: impl Fn(&Row<'_>, &mut Faults) -> Option<T>,
) -> (Vec<T>, Lines) {
    let mut found = Vec::new();
    let mut lines = Lines::default();
    if let Some(mut rows) = Rows::open(path, columns, faults) {
        loop {
            match rows.next(faults) {
                Next::Row(row) => {
                    if let Some(value) = each(&row, faults) {
                        lines.push(found.len(), row.line);
                        found.push(value);
                    }
                }
                Next::Fault => {}
                Next::End => break,
            }
        }
    }
    (found, lines)
}

fn refuse_twice<K: std::hash::Hash + Eq>(
    path: &Path,
    columns: &'static [Column],
    lines: &Lines,
    rows: usize,
    key: impl Fn(usize) -> Option<K>,
    faults: &mut Faults,
    what: impl Fn(usize) -> String,
) {
    let found = clashes(rows, key, |_, _| true);
    faults.count(found.more);
    let wanted = found.pairs.iter().map(|(later, _)| (lines.line(*later), 0));
    let places = super::rows::columns(path, columns, wanted);
    for (later, earlier) in found.pairs {
        let line = lines.line(later);
        let sentence =
            format!("{} is already in line {}; remove one of the two", what(later), lines.line(earlier));
        faults.push(Diagnostic::new(path, line, places.get(&(line, 0)).copied().unwrap_or(1), sentence));
    }
}

fn name(text: &[u8]) -> Result<String, String> {
    // PROTOCOL.md, rulings 24 and 29: 1 to 255 bytes, matched after trimming.
    let text = utf8(text)?.trim();
    match text.len() {
        0 => Err("name: expected a name, found an empty one; write it or remove the row".to_owned()),
        1..=NAME_MAX if !text.chars().any(char::is_control) => Ok(text.to_owned()),
        1..=NAME_MAX => Err(format!("name: expected no control characters, found {text:?}; remove them")),
        len => Err(format!("name: expected at most {NAME_MAX} bytes, found {len}; shorten it")),
    }
}

fn home_id(
    row: &Row<'_>,
    column: usize,
    what: &str,
    homes: Option<&Homes>,
    faults: &mut Faults,
) -> Option<PushId> {
    match push_id(row.get(column)) {
        Ok(id) => {
            if homes.is_some_and(|homes| homes.find(id).is_none()) {
                faults.push(row.fault(column, homeless(what, id)));
            }
            Some(id)
        }
        Err(sentence) => {
            faults.push(row.fault(column, format!("{what}: {sentence}")));
            None
        }
    }
}
