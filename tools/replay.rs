//! `pushplane replay`.

use crate::Stop;

/// To come.
#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_: &Args) -> Result<(), Stop> {
    Err(Stop::No)
}
