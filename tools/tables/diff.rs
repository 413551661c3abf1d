//! `pushplane tables diff`.

use std::io::{self, Write};
use std::path::PathBuf;

use pushplane::table::diff::{Change, TableDiff, diff};
use pushplane::table::rows::{Table, cell_text};
use serde_json::Value;

use crate::{Stop, common};

/// What changes from one set of tables to another. Exits 0 when they are the same, 1 when not
#[derive(clap::Args)]
#[command(after_help = "Example:
  pushplane tables diff running.ppt tables/lab

Rows of a table are told by their keys: a name, an id, a realm and prefix, a Push ID and device. + is a
row of the second only, - one of the first only, ~ one that both have with other cells.")]
pub(crate) struct Args {
    /// What is: a directory of table sources, or an image
    #[arg(value_name = "A")]
    before: PathBuf,
    /// What is to be: a directory of table sources, or an image
    #[arg(value_name = "B")]
    after: PathBuf,
    /// How many rows of each table are listed
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct Answer<'a> {
    same: bool,
    added: u64,
    removed: u64,
    changed: u64,
    tables: &'a [TableDiff],
}

pub(crate) fn run(args: &Args) -> Result<(), Stop> {
    let before = common::open_tables(&args.before)?;
    let after = common::open_tables(&args.after)?;
    let progress = common::Progress::start("comparing the tables");
    let tables = diff(&before, &after, args.limit);
    drop(progress);
    let sum = |count: fn(&TableDiff) -> u64| tables.iter().map(count).sum();
    let answer = Answer {
        same: tables.iter().all(|table| table.total() == 0),
        added: sum(|table| table.added),
        removed: sum(|table| table.removed),
        changed: sum(|table| table.changed),
        tables: &tables,
    };
    if args.json {
        common::print_json(&answer)?;
    } else {
        common::print(|out| print(out, &answer))?;
    }
    if answer.same { Ok(()) } else { Err(Stop::No) }
}

fn print(out: &mut dyn Write, answer: &Answer<'_>) -> io::Result<()> {
    if answer.same {
        return writeln!(out, "the same tables");
    }
    for diff in answer.tables.iter().filter(|diff| diff.total() > 0) {
        writeln!(
            out,
            "{}: {} added, {} removed, {} changed ({} rows, then {})",
            diff.table,
            common::grouped(diff.added),
            common::grouped(diff.removed),
            common::grouped(diff.changed),
            common::grouped(diff.before as u64),
            common::grouped(diff.after as u64)
        )?;
        let columns = Table::from_name(diff.table).map_or(&[][..], Table::columns);
        for change in &diff.changes {
            match change {
                Change::Added { row } => writeln!(out, "  + {}", cells(columns, row))?,
                Change::Removed { row } => writeln!(out, "  - {}", cells(columns, row))?,
                Change::Changed { row, to } => {
                    writeln!(out, "  ~ {}: {}", cells(columns, row), changed(columns, row, to))?;
                }
            }
        }
        let more = diff.total() - diff.changes.len() as u64;
        if more > 0 {
            writeln!(out, "  and {} more; --limit lists them", common::grouped(more))?;
        }
    }
    Ok(())
}

fn cells(columns: &[&str], row: &Value) -> String {
    columns.iter().map(|column| cell_text(&row[*column])).collect::<Vec<_>>().join(",")
}

fn changed(columns: &[&str], row: &Value, to: &Value) -> String {
    if to.get("value").is_some() {
        return "another value".to_owned();
    }
    let or_none =
        |cell: &Value| Some(cell_text(cell)).filter(|text| !text.is_empty()).unwrap_or("none".to_owned());
    let changed = columns.iter().filter_map(|column| Some((column, to.get(*column)?)));
    let changed =
        changed.map(|(column, cell)| format!("{column} {} -> {}", or_none(&row[*column]), or_none(cell)));
    changed.collect::<Vec<_>>().join(", ")
}
