//! `pushplane replay`: captured traffic through the engine, offline, twice to compare, or at a live server.

mod compare;
mod control;
mod decision;
mod engine;
mod live;
mod map;
mod messages;
mod offline;
pub(crate) mod parts;
mod place;
mod report;
mod select;
mod watch;

use std::path::PathBuf;

use pushplane::id::Endpoint;

use self::compare::Allowance;
use self::messages::Choice;
use crate::Stop;

/// Captured traffic through the engine: every PRP datagram of a capture, or with --as-push a push of each
/// datagram to the user who owns its destination. The capture's times are the clock
#[derive(clap::Args)]
#[command(after_help = "Example:
  pushplane tables learn trace.pcap -o learned
  pushplane replay trace.pcap --tables learned --as-push
  pushplane replay trace.pcap --tables learned --as-push --json | jq .dropped
  pushplane replay trace.pcap.zst --tables today --against tomorrow --allow 0.1%
  pushplane replay trace.pcap --tables today --verdicts before.jsonl  # then, with another version:
  pushplane replay trace.pcap --tables today --expect before.jsonl
  pushplane replay trace.pcap --server 127.0.0.1:17400 --timing pps --speed 20000 --loop 10

Datagrams inside GTP-U and VXLAN are found, too. What the server itself sent is left out: it came
from an address that the tables name, or without tables from the port of PRP to another. Who
registers in the capture is bound from then on; other servers of the federation are taken to agree
to what they are asked. A damaged capture is used as far as it can be read; standard error says
where it is damaged.

At a live server every message gets a new identifier, so a signature that it had is taken off:
--key signs anew. Late is measured against an absolute schedule; a run whose sender could not keep
it is INVALID and exits 1.")]
pub(crate) struct Args {
    #[command(flatten)]
    choice: Choice,
    /// A directory of table sources, or an image
    #[arg(long, value_name = "DIR|IMAGE", required_unless_present_any = ["config", "server"])]
    tables: Option<PathBuf>,
    /// The server's configuration: its tables, its name, its addresses, its policy and its limits
    #[arg(long, value_name = "FILE", conflicts_with = "tables")]
    config: Option<PathBuf>,
    /// Which server this one is [default: the first in servers.toml]
    #[arg(long = "as", value_name = "NAME", conflicts_with = "config")]
    own: Option<String>,
    /// Other tables: decide every message by these too, and tell what differs
    #[arg(long, value_name = "DIR|IMAGE", conflicts_with_all = ["expect", "verdicts", "pcapng", "verbose"])]
    against: Option<PathBuf>,
    /// An earlier run's --verdicts: tell what differs from it
    #[arg(long, value_name = "FILE")]
    expect: Option<PathBuf>,
    /// How many decisions may differ before the exit status is 1, or how many of a hundred
    #[arg(long, value_name = "N|N%", default_value = "0")]
    allow: Allowance,
    /// Write what became of each message as a line of JSON; - is standard output
    #[arg(long, value_name = "FILE")]
    verdicts: Option<PathBuf>,
    /// Write a capture of the datagrams that left, and of those that were dropped, with the reason as comment;
    /// - is standard output
    #[arg(long, value_name = "FILE")]
    pcapng: Option<PathBuf>,
    /// Print a line a message: time, frame, from, destination, verdict, where to
    #[arg(short, long, conflicts_with = "json")]
    verbose: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Send the messages to this live Push server instead, and match what comes back
    #[arg(
        long,
        value_name = "ADDRESS",
        conflicts_with_all = ["against", "expect", "verdicts", "pcapng", "verbose"],
        help_heading = "At a live server"
    )]
    server: Option<Endpoint>,
    #[command(flatten, next_help_heading = "At a live server")]
    orderly: live::Orderly,
}

pub(crate) fn run(args: &Args) -> Result<(), Stop> {
    let Some(server) = args.server else { return offline::run(args) };
    let world = match (&args.tables, &args.config) {
        (None, None) if args.choice.as_push => {
            return Err(Stop::Wrong("--as-push needs --tables: who owns which address".to_owned()));
        }
        (None, None) => messages::World::default(),
        _ => place::open(args)?.1,
    };
    live::run(&args.choice, &args.orderly, server, world, args.json)
}
