//! `pushplane bench lookup`: route lookups beside their plain version, DPDK's tables and the limit of the memory.

use serde_json::json;

use self::measure::Measured;
use super::host::Host;
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
    options: measure::Options,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Stop> {
    let measured = measure::measure(&args.options, &["bench", "lookup"], Vec::new, |_| Vec::new());
    match measured.map_err(Stop::Failed)? {
        Measured::Times(tables) if args.json => {
            let settings = &args.options;
            common::print_json(&json!({
                "bench": "lookup", "host": Host::read(), "settings": settings, "tables": tables, "valid": true,
            }))
        }
        Measured::Times(tables) => common::print(|out| {
            Host::read().print(out)?;
            tables.iter().try_for_each(|table| write!(out, "\n{table}"))
        }),
        Measured::Instructions(table) => common::print(|out| write!(out, "{table}")),
    }
}
