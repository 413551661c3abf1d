//! `pushplane tables show`.

use std::io;
use std::path::PathBuf;

use pushplane::table::rows::{Rows, Table, cell_text, object};
use serde_json::json;

use crate::{Stop, common};

/// What tables hold: an overview, or every row of one table. Keys' values are never shown
#[derive(clap::Args)]
#[command(after_help = "Example:
  pushplane tables show lab.ppt
  pushplane tables show lab.ppt users | head
  pushplane tables show tables/lab segments --json")]
pub(crate) struct Args {
    /// An image, or a directory of table sources
    #[arg(value_name = "IMAGE")]
    tables: PathBuf,
    /// servers, gateways, segments, apps, users, names, groups or keys
    #[arg(value_name = "TABLE", value_parser = table)]
    table: Option<Table>,
    /// Print JSON: an object, or one a row
    #[arg(long)]
    json: bool,
}

fn table(name: &str) -> Result<Table, String> {
    Table::from_name(name).ok_or_else(|| {
        let known: Vec<&str> = Table::ALL.iter().map(|table| table.name()).collect();
        format!("expected one of {}", known.join(", "))
    })
}

pub(crate) fn run(args: &Args) -> Result<(), Stop> {
    let image = common::open_tables(&args.tables)?;
    let rows = Rows::new(&image);
    let Some(table) = args.table else {
        let digest = format!("{:032x}", image.digest());
        if args.json {
            let entries = common::entries(&image);
            let names: Vec<&str> = image.server_names().collect();
            return common::print_json(&json!({
                "digest": digest, "image_bytes": image.bytes().len(), "entries": entries, "servers": names,
                "pages": image.pages(),
            }));
        }
        return common::print(|out| {
            writeln!(out, "{} bytes, digest {digest}", common::grouped(image.bytes().len() as u64))?;
            for table in Table::ALL {
                let count = common::grouped(rows.len(table) as u64);
                writeln!(out, "{count:>15} {:<9} {}", table.name(), table.columns().join(","))?;
            }
            Ok(())
        });
    };
    common::print(|out| {
        if args.json {
            for at in 0..rows.len(table) {
                serde_json::to_writer(&mut *out, &object(table, rows.row(table, at)))
                    .map_err(io::Error::from)?;
                writeln!(out)?;
            }
            return Ok(());
        }
        let mut csv = csv::Writer::from_writer(out);
        csv.write_record(table.columns()).map_err(unwrapped)?;
        for at in 0..rows.len(table) {
            csv.write_record(rows.row(table, at).iter().map(cell_text)).map_err(unwrapped)?;
        }
        csv.flush()
    })
}

/// The error itself, which says whether the reader went away.
fn unwrapped(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}
