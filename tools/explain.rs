//! `pushplane explain`: what the dataplane would do with a message, by its own code.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pushplane::clock::Clock;
use pushplane::config::{Config, Limits, Policy};
use pushplane::id::{Endpoint, PushId};
use pushplane::plane::explain::{Explanation, Question, explain};
use pushplane::plane::{Shared, Site};
use pushplane::table::{Image, Tables};
use pushplane::wire::prp::flag;

use crate::{Stop, common};

/// What the dataplane would do with a message and why, step by step. Exits 1 when it would drop it
#[derive(clap::Args)]
#[command(after_help = "Example:
  pushplane explain --tables tables/lab --destination 00000000000000000000000000000001 --app 7
  pushplane explain --config pushplane.toml --app 8 --from 192.0.2.7:5000 --json \\
      --destination 0x40000000000000000000000000000001

Keys are taken as given: the message is signed with the sending server's key, else with the
application's, else, where the policy wants every message signed, with the source's own.")]
#[command(group = clap::ArgGroup::new("where").required(true))]
pub(crate) struct Args {
    /// A directory of table sources, or an image
    #[arg(long, value_name = "DIR|IMAGE", group = "where")]
    tables: Option<PathBuf>,
    /// The server's configuration: its tables, its name, its addresses and its policy
    #[arg(long, value_name = "FILE", group = "where")]
    config: Option<PathBuf>,
    /// Which server this one is [default: the first in servers.toml]
    #[arg(long = "as", value_name = "NAME", conflicts_with = "config")]
    own: Option<String>,
    /// Whom the message is for: 32 hexadecimal digits
    #[arg(long, value_name = "ID")]
    destination: PushId,
    /// Who sends it [default: nobody]
    #[arg(long, value_name = "ID")]
    source: Option<PushId>,
    /// The application
    #[arg(long, value_name = "N", default_value_t = 0)]
    app: u32,
    /// The address that it comes from [default: one that may push for the application]
    #[arg(long, value_name = "ADDRESS")]
    from: Option<Endpoint>,
    /// One of the user's terminals [default: all]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    device: u8,
    /// Flags of the header
    #[arg(long, value_name = "FLAG,…", value_delimiter = ',')]
    flags: Vec<Flag>,
    /// The hop limit
    #[arg(long, value_name = "N", default_value_t = 8)]
    hop: u8,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Flag {
    Receipt,
    Priority,
    Roamed,
    Group,
}

impl Flag {
    const fn bit(self) -> u8 {
        match self {
            Self::Receipt => flag::RECEIPT,
            Self::Priority => flag::PRIORITY,
            Self::Roamed => flag::ROAMED,
            Self::Group => flag::GROUP,
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<(), Stop> {
    let place = match (&args.config, &args.tables) {
        (Some(config), _) => Place::configured(config)?,
        (None, Some(tables)) => Place::of_tables(tables, args.own.as_deref())?,
        (None, None) => return Err(Stop::Wrong("one of --tables and --config is needed".to_owned())),
    };
    let question = Question {
        source: args.source.unwrap_or_default(),
        app: args.app,
        from: args.from,
        device: args.device,
        flags: args.flags.iter().fold(0, |flags, flag| flags | flag.bit()),
        hop_limit: args.hop,
        ..Question::to(args.destination)
    };
    let answer = explain(&place.site, &place.tables, Clock::start().now(), &question);
    if args.json {
        common::print_json(&answer)?;
    } else {
        common::print(|out| print(out, &place.name, &question, &answer))?;
    }
    if answer.reason.is_some() { Err(Stop::No) } else { Ok(()) }
}

/// A server that is not running.
struct Place {
    name: String,
    site: Site,
    tables: Tables,
}

impl Place {
    fn configured(file: &Path) -> Result<Self, Stop> {
        let (config, places) = Config::load_with_places(file)?;
        let image = crate::serve::load(&config, &places)?;
        let listen = config.listen.clone();
        Ok(Self::new(image, config.name, config.policy, listen, config.limits.datagram_max))
    }

    fn of_tables(path: &Path, asked: Option<&str>) -> Result<Self, Stop> {
        let image = common::open_tables(path)?;
        let name = common::own_server(&image, path, asked)?;
        let datagram_max = Limits::default().datagram_max;
        let mut place = Self::new(image, name, Policy::default(), Vec::new(), datagram_max);
        let own = place.tables.own().map(|own| place.tables.server_address(own));
        place.site.listen = own.map(common::listen_of).unwrap_or_default();
        Ok(place)
    }

    fn new(image: Image, name: String, policy: Policy, listen: Vec<Endpoint>, datagram_max: usize) -> Self {
        // One message needs no more room.
        let limits = Limits { receipts: 64, replays: 64, reject_sources: 64, ..Limits::default() };
        let shared = Arc::new(Shared::new(&limits, 1, 0));
        let tables = Tables::new(image, 1, &name, None);
        Self { name, site: Site { policy, listen, datagram_max, shard: 0, shared }, tables }
    }
}

fn print(out: &mut dyn Write, name: &str, question: &Question, answer: &Explanation<'_>) -> io::Result<()> {
    writeln!(
        out,
        "a PUSH for {} from {}, application {}, at {name}:",
        question.destination, answer.from, question.app
    )?;
    for (at, step) in answer.steps.iter().enumerate() {
        writeln!(out, "{:>3}. {step}", at + 1)?;
    }
    match answer.reason {
        Some(reason) => writeln!(out, "verdict: drop, {reason}\nremedy: {}", reason.remedy())?,
        None => writeln!(out, "verdict: {}", answer.verdict)?,
    }
    for send in &answer.sends {
        write!(out, "  to {}", send.to)?;
        match (send.gateway, send.tunnel, send.server) {
            (Some(gateway), Some(tunnel), _) => write!(out, ", gateway {gateway}, tunnel {tunnel}")?,
            (_, _, Some(server)) => write!(out, ", Push server {server}")?,
            _ => write!(out, ", {}", send.via)?,
        }
        if send.via != "server" {
            write!(out, ", device {}", send.device)?;
        }
        if let Some(private) = send.private {
            write!(out, " at {private}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}
