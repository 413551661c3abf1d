//! `pushplane check`: everything that `serve` would refuse, refused here.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;

use pushplane::config::{Config, Io, Places};
use pushplane::diagnostic::{Diagnostic, Diagnostics};
use pushplane::net;
use pushplane::table::Tables;

use crate::common::{Entries, Opened};
use crate::{Stop, common};

/// Everything that `serve` would refuse, refused here: the configuration, the tables, what they say
/// of each other, and what this host lacks. Ports may be in use: the server may be running
#[derive(clap::Args)]
#[command(after_help = "Example:
  pushplane check --config /etc/pushplane/pushplane.toml && systemctl reload pushplane")]
pub(crate) struct Args {
    /// The server's configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct Answer<'a> {
    ok: bool,
    name: &'a str,
    listen: Vec<String>,
    tables: String,
    digest: String,
    entries: Entries,
    bytes: usize,
    warnings: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<(), Stop> {
    let (config, places) = Config::load_with_places(&args.config)?;
    let mut warnings = Vec::new();
    let mut faults = Vec::new();
    host(&config, &places, &mut faults, &mut warnings);
    let mut opened = match common::open(&config.tables) {
        Ok(opened) => opened,
        // The tables' faults are told beside the host's: all of them at once.
        Err(Stop::Wrong(wrong)) if !faults.is_empty() => {
            return Err(Stop::Wrong(format!("{}\n{wrong}", Diagnostics(faults))));
        }
        Err(stop) => return Err(stop),
    };
    match opened.check_against(&config, &places) {
        Ok(more) => warnings.extend(more),
        Err(Diagnostics(more)) => faults.extend(more),
    }
    if !faults.is_empty() {
        faults.sort();
        return Err(Diagnostics(faults).into());
    }
    warnings.append(&mut opened.warnings);
    common::warn(&warnings);
    let Opened { image, .. } = opened;
    let entries = common::entries(&image);
    let tables = Tables::new(image, 1, &config.name, None);
    let answer = Answer {
        ok: true,
        name: &config.name,
        listen: config.listen.iter().map(ToString::to_string).collect(),
        tables: config.tables.display().to_string(),
        digest: format!("{:032x}", tables.image().digest()),
        bytes: tables.bytes(),
        warnings: warnings.iter().map(ToString::to_string).collect(),
        entries,
    };
    if args.json {
        return common::print_json(&answer);
    }
    common::print(|out| {
        let rows = answer.entries.text();
        writeln!(out, "ok {} on {}: {rows}", config.name, answer.listen.join(", "))
    })
}

/// What this host lacks for the configuration.
pub(crate) fn host(
    config: &Config,
    places: &Places,
    faults: &mut Vec<Diagnostic>,
    warnings: &mut Vec<Diagnostic>,
) {
    let sentences = |place: (usize, usize)| move |sentence: String| places.fault(place, sentence);
    match net::choose_cpus(&config.shards, net::allowed_cpus()) {
        Ok(placement) => warnings.extend(placement.warnings.into_iter().map(sentences(places.shards))),
        Err(error) => faults.push(places.fault(places.shards, format!("shards: {error}"))),
    }
    match net::Uring::probe() {
        Err(error) if config.io == Io::Uring => {
            faults.push(places.fault(places.io, net::uring_refusal(&error)))
        }
        Err(error) if config.io == Io::Auto => {
            warnings.push(places.fault(places.io, net::uring_refusal(&error)))
        }
        _ => {}
    }
    let own = config.listen.iter().map(|listen| (listen, places.listen));
    let radius = config.radius.iter().flat_map(|radius| &radius.listen);
    for (listen, place) in own.chain(radius.map(|listen| (listen, places.radius_listen))) {
        // Any port will do: that it is an address of this host is the question.
        if let Err(error) = UdpSocket::bind(SocketAddr::from(listen.with_port(0))) {
            let sentence = format!(
                "listen: expected an address of this host, found {} ({error}); correct it or give the address to an interface",
                listen.ip()
            );
            faults.push(places.fault(place, sentence));
        }
    }
    if let Some(metrics) = config.metrics
        && let Err(error) = TcpListener::bind(SocketAddr::from(metrics.with_port(0)))
    {
        let sentence = format!(
            "metrics: expected an address of this host, found {} ({error}); correct it",
            metrics.ip()
        );
        faults.push(places.fault(places.metrics, sentence));
    }
    if let Err(error) = pushplane::server::check_control(config) {
        faults.push(places.fault(places.control, format!("control: {error}")));
    }
    // What is left of what a server refuses when the above was right: its state folder.
    if faults.is_empty()
        && let Err(error) = pushplane::server::check(config)
    {
        faults.push(places.fault(places.state, format!("state: {error}")));
    }
}
