//! `pushplane tables …`.

use crate::Stop;

/// Table sources and images.
#[derive(clap::Subcommand)]
pub enum Command {}

pub fn run(_: &Command) -> Result<(), Stop> {
    Err(Stop::No)
}
