//! `pushplane tables …`.

use crate::Stop;

/// Table sources and images.
#[derive(clap::Subcommand)]
pub(crate) enum Command {}

pub(crate) fn run(_: &Command) -> Result<(), Stop> {
    Err(Stop::No)
}
