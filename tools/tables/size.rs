//! `pushplane tables size`.

use std::path::PathBuf;

use pushplane::table::binding::Load;
use pushplane::table::{Sizes, Tables};

use crate::{Stop, common};

/// The bytes that tables will take, before a server loads them
#[derive(clap::Args)]
#[command(after_help = "Example:
  pushplane tables size tables/lab

A server holds one generation, and two while it replaces one by the next. What does not depend on the
tables comes on top: the shards' buffers and the limits of pushplane.toml.")]
pub(crate) struct Args {
    /// A directory of table sources, or an image
    #[arg(value_name = "DIR")]
    tables: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct Answer {
    tables: Vec<Row>,
    terminals: usize,
    image_bytes: usize,
    bytes_a_terminal: f64,
    serving_bytes: usize,
    swap_bytes: usize,
    users_index: Load,
    owners_index: Load,
    cache_lines_a_lookup: f64,
}

#[derive(serde::Serialize)]
struct Row {
    table: &'static str,
    rows: usize,
    bytes: usize,
}

pub(crate) fn run(args: &Args) -> Result<(), Stop> {
    let image = common::open_tables(&args.tables)?;
    let Sizes { arrays, image_bytes, terminals, users, owners } = image.sizes();
    let serving_bytes = Tables::new(image, 1, "", None).bytes();
    let answer = Answer {
        tables: arrays.into_iter().map(|(table, rows, bytes)| Row { table, rows, bytes }).collect(),
        terminals,
        image_bytes,
        bytes_a_terminal: image_bytes as f64 / terminals.max(1) as f64,
        serving_bytes,
        swap_bytes: 2 * serving_bytes,
        users_index: users,
        owners_index: owners,
        // The index, then the terminal's line.
        cache_lines_a_lookup: users.buckets_a_hit + 1.0,
    };
    if args.json {
        return common::print_json(&answer);
    }
    let grouped = |bytes: usize| common::grouped(bytes as u64);
    common::print(|out| {
        writeln!(out, "{:<14} {:>14} {:>18}", "table", "rows", "bytes")?;
        for row in &answer.tables {
            // Tries and texts have bytes only.
            let rows = if row.rows == 0 && row.bytes > 0 { String::new() } else { grouped(row.rows) };
            writeln!(out, "{:<14} {rows:>14} {:>18}", row.table, grouped(row.bytes))?;
        }
        writeln!(out, "{:<14} {:>14} {:>18}", "image", grouped(terminals), grouped(image_bytes))?;
        writeln!(out)?;
        writeln!(out, "{:.1} bytes a terminal", answer.bytes_a_terminal)?;
        writeln!(out, "{} bytes in a server that serves them", grouped(serving_bytes))?;
        writeln!(out, "{} bytes while it replaces them by tables as large", grouped(answer.swap_bytes))?;
        for (index, load) in [("users", &users), ("owners", &owners)] {
            writeln!(
                out,
                "{index} index: {:.0} % full; {:.2} cache lines a lookup, {:.2} of what is not there, at most {}",
                load.load_factor * 100.0,
                load.buckets_a_hit,
                load.buckets_a_miss,
                load.buckets_max
            )?;
        }
        writeln!(out, "{:.2} cache lines from a Push ID to its terminal", answer.cache_lines_a_lookup)
    })
}
