//! The `pushplane` command: flags in, library calls, answers out. One file a subcommand.

mod bench;
mod capture;
mod check;
mod client;
mod common;
mod explain;
mod group;
mod lab;
mod listen;
mod outcome;
mod replay;
mod send;
mod serve;
mod show;
mod tables;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A routing engine for carrier Push services.
#[derive(Parser)]
#[command(version, about, max_term_width = 100)]
#[command(
    after_help = "Example:\n  pushplane lab        # a small federation on loopback, and what becomes of messages pushed through it"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(serve::Args),
    Check(check::Args),
    Show(show::Args),
    #[command(subcommand)]
    Tables(tables::Command),
    Explain(explain::Args),
    Send(send::Args),
    Listen(listen::Args),
    Group(group::Group),
    Resolve(group::Resolve),
    Replay(Box<replay::Args>),
    #[command(subcommand)]
    Bench(bench::Command),
    Lab(lab::Args),
}

/// How a command ends other than well.
enum Stop {
    /// The answer is no: exit status 1. The answer itself was printed.
    No,
    /// Something that was under way failed: exit status 1, and why.
    Failed(String),
    /// The command line, a file or an address is wrong: exit status 2, and why.
    Wrong(String),
}

impl std::fmt::Display for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::No => Ok(()),
            Self::Failed(why) | Self::Wrong(why) => f.write_str(why),
        }
    }
}

impl Stop {
    /// What is wrong with a file that is not of ours, or a folder.
    fn file(path: &std::path::Path, error: impl std::fmt::Display) -> Self {
        Self::Wrong(format!("{}: {error}", path.display()))
    }
}

impl From<pushplane::diagnostic::Diagnostics> for Stop {
    fn from(diagnostics: pushplane::diagnostic::Diagnostics) -> Self {
        Self::Wrong(diagnostics.to_string())
    }
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Serve(args) => serve::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Show(args) => show::run(&args),
        Command::Tables(command) => tables::run(&command),
        Command::Explain(args) => explain::run(&args),
        Command::Send(args) => send::run(&args),
        Command::Listen(args) => listen::run(&args),
        Command::Group(args) => group::run(&args),
        Command::Resolve(args) => group::resolve(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Bench(command) => bench::run(&command),
        Command::Lab(args) => lab::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Stop::No) => ExitCode::from(1),
        Err(Stop::Failed(why)) => {
            eprintln!("{why}");
            ExitCode::from(1)
        }
        Err(Stop::Wrong(why)) => {
            eprintln!("{why}");
            ExitCode::from(2)
        }
    }
}

/// A number that nobody can guess: message identifiers, keys of hashes.
fn chance() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library's hasher is keyed by the system's randomness.
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// Prints a result. Whoever closed our output does not want it any more: the command ends, quietly.
fn say(result: &dyn std::fmt::Display) {
    use std::io::Write;
    if writeln!(std::io::stdout().lock(), "{result}").is_err() {
        std::process::exit(0);
    }
}
