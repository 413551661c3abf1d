//! `pushplane tables learn`.

use std::net::IpAddr;
use std::path::PathBuf;

use pushplane::capture::learn::{LearnOptions, Learner, write_sources};
use pushplane::id::{Endpoint, parse_ip_prefix};

use crate::{Stop, capture, common};

/// Source files from what captures show: who has which private address behind which gateway
#[derive(clap::Args)]
#[command(after_help = "Example:
  pushplane tables learn tests/captures/live-osmo-ggsn-sgsnemu-push.pcap -o learned
  pushplane replay tests/captures/live-osmo-ggsn-sgsnemu-push.pcap --tables learned --as-push

Users come from GTP-C, RADIUS accounting and PRP registrations, from GTP-U, from VXLAN and
from plain UDP to private addresses. The tables have one server, \"learned\", and application 1
and those of the PUSHes in the capture, open to anyone: they can be served as they are.")]
pub(crate) struct Args {
    /// Captures in the order of time: pcap or pcapng, as they are or compressed by gzip or zstd; - is standard input
    #[arg(required = true, value_name = "CAPTURE")]
    captures: Vec<PathBuf>,
    /// The directory to write; made if it is not there
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// A prefix that is private besides the usual ones; may be given more than once
    #[arg(long, value_name = "PREFIX", value_parser = prefix)]
    segment: Vec<(IpAddr, u8)>,
    /// Port of a terminal to which no UDP datagram went
    #[arg(long, value_name = "PORT", default_value_t = 17400)]
    port: u16,
    /// Address of the one server in the tables
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:17400")]
    server: Endpoint,
    /// Look for GTP-U on every port, not only 2152
    #[arg(long)]
    gtpu_any_port: bool,
    /// The secret of RADIUS: requests made with another one are left out [default: all are believed]
    #[arg(long, value_name = "SECRET")]
    radius_secret: Option<String>,
    /// Destinations of plain UDP are no terminals
    #[arg(long)]
    no_plain: bool,
    /// Write into a directory that is not empty
    #[arg(long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn prefix(text: &str) -> Result<(IpAddr, u8), String> {
    parse_ip_prefix(text).map_err(|error| error.to_string())
}

pub(crate) fn run(args: &Args) -> Result<(), Stop> {
    common::expect_empty(&args.output, args.force)?;
    let mut options = LearnOptions {
        segments: args.segment.clone(),
        port: args.port,
        server: args.server,
        plain: !args.no_plain,
        radius_secret: args.radius_secret.clone(),
        ..LearnOptions::default()
    };
    options.tunnels.gtpu_any_port = args.gtpu_any_port;
    // All of them first: a wrong one is told before hours of others are read.
    let captures = args.captures.iter().map(|file| capture::open(file)).collect::<Result<Vec<_>, _>>()?;
    let mut learner = Learner::new(options);
    for (file, (reader, position)) in args.captures.iter().zip(captures) {
        let progress = position.progress("reading a capture");
        learner.take_watched(&capture::name(file), reader, || position.show(&progress));
    }
    let progress = common::Progress::start("writing the tables");
    let (rib, report) = learner.finish();
    write_sources(&args.output, &rib)
        .map_err(|error| common::fault(&args.output, format!("the tables cannot be written: {error}")))?;
    drop(progress);
    for file in &report.files {
        for damage in &file.damage {
            common::note(format_args!("warning: {}:1:1: damaged at {damage}", file.file));
        }
    }
    if args.json {
        return common::print_json(&report);
    }
    common::print(|out| {
        write!(out, "{report}")?;
        writeln!(out, "written to {}", args.output.display())
    })
}
