//! `pushplane replay`: captured traffic through the engine, offline.

mod engine;
mod report;

use std::path::PathBuf;

use pushplane::capture::Reader;
use pushplane::capture::push::{Owners, PushOptions, pushes};
use pushplane::capture::tunnel::Layer;
use pushplane::table::{Image, Tables};

use self::engine::Engine;
use self::report::Report;
use crate::common::Opened;
use crate::{Stop, common};

/// Captured traffic through the engine, offline: every PRP datagram of a capture, or with --as-push a
/// push of each datagram to the user who owns its destination. The capture's times are the clock
#[derive(clap::Args)]
#[command(after_help = "Example:
  pushplane tables learn trace.pcap -o learned
  pushplane replay trace.pcap --tables learned --as-push
  pushplane replay trace.pcap --tables learned --as-push --json | jq .dropped

Datagrams inside GTP-U and VXLAN are found, too. What the server itself sent is left out. A damaged
capture is used as far as it can be read; standard error says where it is damaged.")]
pub(crate) struct Args {
    /// The capture, pcap or pcapng
    capture: PathBuf,
    /// A directory of table sources, or an image
    #[arg(long, value_name = "DIR|IMAGE")]
    tables: PathBuf,
    /// Which server this one is [default: the first in servers.toml]
    #[arg(long = "as", value_name = "NAME")]
    own: Option<String>,
    /// Make a push of each datagram to a user's address
    #[arg(long)]
    as_push: bool,
    /// The application that those pushes are for [default: the first of the tables]
    #[arg(long, value_name = "N", requires = "as_push")]
    app: Option<u32>,
    /// The port of PRP in the capture
    #[arg(long, value_name = "PORT", default_value_t = 17400)]
    port: u16,
    /// Look for GTP-U on every port, not only 2152
    #[arg(long)]
    gtpu_any_port: bool,
    /// Stop after so many messages
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Print a line a message: time, frame, from, destination, verdict, where to
    #[arg(short, long, conflicts_with = "json")]
    verbose: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How many messages pass between two looks at the progress.
const SAY_EVERY: u64 = 1 << 14;

pub(crate) fn run(args: &Args) -> Result<(), Stop> {
    let reader = Reader::open(&args.capture).map_err(|error| common::fault(&args.capture, error))?;
    let mut opened = common::open(&args.tables)?;
    common::warn(&opened.warnings);
    let owners = args.as_push.then(|| Owners::new(opened.rib()));
    let Opened { image, .. } = opened;
    let name = common::own_server(&image, &args.tables, args.own.as_deref())?;
    let app = args.app.unwrap_or_else(|| first_app(&image));
    let owner = |address, layer: Option<&Layer>| owners.as_ref()?.owner(address, layer);
    let tables = Tables::new(image, 1, &name, None);

    let mut options = PushOptions { app, prp_port: args.port, ..PushOptions::default() };
    options.tunnels.gtpu_any_port = args.gtpu_any_port;
    let mut pushes = pushes(reader, options, owner);
    let mut engine = Engine::new(&tables, args.verbose);
    let mut own = 0;
    let progress = common::Progress::start("replaying");
    let mut write = |out: &mut dyn std::io::Write| {
        while args.limit.is_none_or(|limit| engine.planned() < limit) {
            let Some(push) = pushes.next_push() else { break };
            if push.as_it_is && engine.is_own(push.from) {
                own += 1;
                continue;
            }
            engine.take(&push, out)?;
            if engine.planned().is_multiple_of(SAY_EVERY) {
                let planned = engine.planned();
                progress.say(|| format!("replaying: {} messages", common::grouped(planned)));
            }
        }
        engine.flush(out)
    };
    // Lines a message come while they are made.
    common::print(|out| write(out))?;
    drop(progress);

    let reader = pushes.reader();
    let (damage, damages) = reader.damage();
    for place in damage {
        common::note(format_args!("warning: {}:1:1: damaged at {place}", args.capture.display()));
    }
    let report = Report {
        capture: args.capture.display().to_string(),
        server: name,
        app: args.as_push.then_some(app),
        outcome: engine.outcome(),
        own,
        frames: *reader.counts(),
        tunnels: pushes.tunnel_counts(),
        datagrams: pushes.counts(),
        damage: damage.to_vec(),
        damages,
    };
    if report.outcome.planned == 0 {
        let remedy =
            if args.as_push { "learn tables from it" } else { "--as-push makes pushes of other datagrams" };
        common::note(format_args!("{}: no message to replay; {remedy}", args.capture.display()));
    }
    if args.json {
        common::print_json(&report)?;
    } else {
        common::print(|out| report.print(out))?;
    }
    if report.outcome.valid { Ok(()) } else { Err(Stop::No) }
}

/// The application of the lowest number, else 1.
fn first_app(image: &Image) -> u32 {
    image.to_rib_without_users().apps.first().map_or(1, |app| app.id)
}
