//! `pushplane check`.

use crate::Stop;

/// To come.
#[derive(clap::Args)]
pub struct Args {}

pub fn run(_: &Args) -> Result<(), Stop> {
    Err(Stop::No)
}
