//! Route lookups beside their peers, and beside the limit that memory sets.
//!
//! ```text
//! cargo bench --bench lookup                                          1 and 10 million users, a million prefixes
//! cargo bench --bench lookup -- --users 10000000 --writer             beside a writer too
//! cargo bench --bench lookup -- --draw zipf --hits mixed --only DPDK  and others: --help
//! ```
//!
//! `pushplane bench lookup` is the same without the peers that are Rust crates. What is measured, and how, is in
//! `measure`; here are those peers.

mod measure;
mod peers;

use clap::Parser;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    options: measure::Options,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let Cli { options, .. } = Cli::parse();
    match measure::measure(&options, &[], peers::users, peers::routes) {
        Ok(measure::Measured::Times(tables)) => tables.iter().for_each(|table| println!("{table}")),
        Ok(measure::Measured::Instructions(table)) => print!("{table}"),
        Err(why) => {
            eprintln!("{why}");
            std::process::exit(1);
        }
    }
}
