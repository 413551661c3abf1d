//! `pushplane bench …`: the measurements that the README quotes, each beside its plain version.

mod forward;
mod host;
mod lookup;
mod plot;
mod register;
mod replay;
mod report;
mod served;

use crate::Stop;

/// The measurements that the README quotes
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    Forward(forward::Args),
    Lookup(Box<lookup::Args>),
    Register(register::Args),
    Replay(replay::Args),
    Swap(forward::swap::Args),
}

pub(crate) fn run(command: &Command) -> Result<(), Stop> {
    match command {
        Command::Forward(args) => forward::run(args),
        Command::Lookup(args) => lookup::run(args),
        Command::Register(args) => register::run(args),
        Command::Replay(args) => replay::run(args),
        Command::Swap(args) => forward::swap::run(args),
    }
}
