//! `pushplane tables size`.

use std::path::PathBuf;

use pushplane::table::memory::Pages;
use pushplane::table::{Fill, Sizes, Tables};

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
    users: Fill,
    owners: Fill,
    bytes_a_user: f64,
    near_bytes: usize,
    overlay_bytes: usize,
    cache_lines_a_lookup: usize,
    pages: Pages,
}

#[derive(serde::Serialize)]
struct Row {
    table: &'static str,
    rows: usize,
    bytes: usize,
}

pub(crate) fn run(args: &Args) -> Result<(), Stop> {
    let image = common::open_tables(&args.tables)?;
    let sizes = image.sizes();
    let bytes_a_user = sizes.bytes_a_user();
    let pages = image.pages();
    let Sizes { arrays, image_bytes, terminals, users, owners, near_bytes, overlay_bytes, .. } = sizes;
    let serving_bytes = Tables::new(image, 1, "", None).bytes() + overlay_bytes;
    let answer = Answer {
        tables: arrays.into_iter().map(|(table, rows, bytes)| Row { table, rows, bytes }).collect(),
        terminals,
        image_bytes,
        bytes_a_terminal: image_bytes as f64 / terminals.max(1) as f64,
        serving_bytes,
        swap_bytes: 2 * serving_bytes,
        users,
        owners,
        bytes_a_user,
        near_bytes,
        overlay_bytes,
        cache_lines_a_lookup: Sizes::LINES_A_LOOKUP,
        pages,
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
        for (what, fill) in [("users", &users), ("private addresses", &owners)] {
            let (entries, places) = (grouped(fill.entries), grouped(fill.places));
            writeln!(out, "{entries} {what} in {places} places, {:.1} % full", fill.load_factor * 100.0)?;
        }
        writeln!(
            out,
            "{:.1} bytes a user with one terminal, the way back from its address included",
            answer.bytes_a_user
        )?;
        writeln!(
            out,
            "{} cache line of memory from a Push ID to its terminal, whether there is one or not; \
             {:.0} KiB that tell which are to stay in a near cache, {:.0} KiB whether it is needed where \
             something is registered",
            answer.cache_lines_a_lookup,
            answer.near_bytes as f64 / 1024.0,
            answer.overlay_bytes as f64 / 1024.0
        )?;
        writeln!(out, "on {pages} here")
    })
}
