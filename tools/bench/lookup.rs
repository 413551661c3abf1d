//! `pushplane bench lookup`: route lookups beside their plain version, DPDK's tables and the limit of the memory.

use std::path::PathBuf;

use self::measure::{Measured, Options, Table};
use super::host::Host;
use super::plot::{self, Curve, Plot};
use crate::outcome::Tally;
use crate::{Stop, common};

#[path = "../../benches/measure/mod.rs"]
mod measure;

/// Route lookups beside their plain version, DPDK's tables and the limit of the memory
///
/// Everybody answers the same questions in turn; every answer is checked, the best of the rounds counts.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  pushplane bench lookup --users 10000000 --writer
  pushplane bench lookup --draw zipf --hits mixed --prefixes 0
  pushplane bench lookup --instructions benches/lookup.instructions")]
pub(crate) struct Args {
    #[command(flatten)]
    options: Options,
    /// Draw the lookups a second against the size of the table as lookup.svg in this directory
    #[arg(long, value_name = "DIR", conflicts_with = "instructions")]
    plots: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Stop> {
    if let Some(plots) = &args.plots {
        plot::folder(plots)?;
    }
    let measured = measure::measure(&args.options, &["bench", "lookup"], Vec::new, |_| Vec::new());
    let tables = match measured.map_err(Stop::Failed)? {
        Measured::Times(tables) => tables,
        Measured::Instructions(table) => return common::print(|out| write!(out, "{table}")),
    };
    if let Some(plots) = &args.plots {
        draw(&args.options.users, &tables).write(&plots.join("lookup.svg"))?;
    }
    if args.json {
        return common::print_json(&Said {
            bench: "lookup",
            host: Host::read(),
            settings: &args.options,
            tally: tally(&args.options, &tables),
            tables,
        });
    }
    common::print(|out| {
        Host::read().print(out)?;
        tables.iter().try_for_each(|table| write!(out, "\n{table}"))
    })
}

#[derive(serde::Serialize)]
struct Said<'a> {
    bench: &'static str,
    host: Host,
    settings: &'a Options,
    #[serde(flatten)]
    tally: Tally,
    tables: Vec<Table>,
}

/// Questions, which were all answered rightly: a wrong answer would have ended the program.
fn tally(options: &Options, tables: &[Table]) -> Tally {
    let each = u64::from(options.rounds) * u64::from(options.lookups);
    let asked = tables.iter().map(|table| table.rows.len() as u64).sum::<u64>() * each;
    Tally { planned: asked, sent: asked, answered: asked, valid: true, ..Tally::default() }
}

/// The first tables are those of users, one for each size.
fn draw(sizes: &[u64], tables: &[Table]) -> Plot {
    let mut curves: Vec<Curve> = Vec::new();
    for (size, table) in sizes.iter().zip(tables) {
        for row in &table.rows {
            let point = (*size as f64, 1e3 / row.ns);
            match curves.iter_mut().find(|curve| curve.name == row.name) {
                Some(curve) => curve.points.push(point),
                None => curves.push(Curve { name: row.name.to_owned(), points: vec![point] }),
            }
        }
    }
    let title = "Lookups by the size of the table".to_owned();
    Plot { title, along: "users", up: "million lookups a second, one core", curves }
}
