//! `pushplane lab`: a complete small federation on loopback, and what becomes of messages pushed
//! through it.

mod cast;
mod scenes;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use pushplane::config::Config;
use pushplane::server::Server;
use pushplane::table::{Rib, source};

use crate::Stop;
use cast::Cast;

/// Start a small federation on loopback, push messages through it, and show where each went.
///
/// Three Push servers of two operators, four gateways with a tunnel form each, and the terminals of
/// tables/lab, all in this process, talking UDP over 127.0.0.0/8.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  pushplane lab\n  pushplane lab --stay    # then push by hand with `pushplane send`"
)]
pub(crate) struct Args {
    /// Go on serving until SIGINT, to push by hand.
    #[arg(long)]
    stay: bool,
}

/// The lab's tables, in the program: the lab needs no file beside it.
const TABLES: [(&str, &str); 8] = [
    ("servers.toml", include_str!("../tables/lab/servers.toml")),
    ("gateways.toml", include_str!("../tables/lab/gateways.toml")),
    ("segments.csv", include_str!("../tables/lab/segments.csv")),
    ("apps.toml", include_str!("../tables/lab/apps.toml")),
    ("users.csv", include_str!("../tables/lab/users.csv")),
    ("names.csv", include_str!("../tables/lab/names.csv")),
    ("groups.csv", include_str!("../tables/lab/groups.csv")),
    ("keys.toml", include_str!("../tables/lab/keys.toml")),
];

/// Heidi as her home knows her, and as a visitor of the server that serves her.
const HEIDI: [&str; 2] = [
    "00000000000000000000000000000008,1,,,,,,127.0.0.3:17400,",
    "00000000000000000000000000000008,1,0,127.16.0.80:2948,,460000000000008,3,,",
];

/// The server that Heidi visits.
const VISITED: &str = "unicom-1";

pub(crate) fn run(args: &Args) -> Result<(), Stop> {
    let folder = tempfile::tempdir().map_err(|error| Stop::Wrong(format!("no temporary folder: {error}")))?;
    let home = tables(folder.path(), "home", "")?;
    let visited = tables(folder.path(), "visited", VISITED)?;
    let rib = load(&home)?;
    let mut servers = Vec::new();
    for server in &rib.servers {
        let tables = if server.name == VISITED { &visited } else { &home };
        servers.push(start(folder.path(), &server.name, server.address, tables)?);
    }
    let (tell, events) = mpsc::channel();
    let mut cast = Cast::start(&rib, &load(&visited)?, &tell)?;
    introduce(&rib, &servers);
    scenes::play(&rib, &events)?;
    // What is still on its way is counted before the sums are shown.
    std::thread::sleep(Duration::from_millis(100));
    let closed = sums(&servers);
    if args.stay {
        let dave = rib.users.iter().find_map(|user| user.private.filter(|_| user.push_id.0 == 4));
        dave.into_iter().for_each(|at| cast.leave(at));
        stay(&home, &events)?;
    }
    for server in servers {
        server.stop().map_err(|error| Stop::Failed(error.to_string()))?;
    }
    if closed { Ok(()) } else { Err(Stop::No) }
}

/// Writes the lab's tables, as this server knows them.
fn tables(folder: &Path, name: &str, server: &str) -> Result<std::path::PathBuf, Stop> {
    let folder = folder.join(name);
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(&folder)?;
        for (file, text) in TABLES {
            let path = folder.join(file);
            let text = if server == VISITED { text.replace(HEIDI[0], HEIDI[1]) } else { text.to_owned() };
            std::fs::write(&path, text)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        }
        Ok(())
    };
    write().map_err(|error| Stop::file(&folder, error))?;
    Ok(folder)
}

fn load(folder: &Path) -> Result<Rib, Stop> {
    Ok(source::load(folder)?.rib)
}

/// A server as `pushplane serve` would start it.
fn start(folder: &Path, name: &str, address: pushplane::id::Endpoint, tables: &Path) -> Result<Server, Stop> {
    let path = folder.join(format!("{name}.toml"));
    let text = format!(
        "[server]\nname = \"{name}\"\nlisten = [\"{address}\"]\nshards = 1\ntables = \"{}\"\nstate = \"state-{name}\"\n\
         control = \"{name}.sock\"\n",
        tables.display()
    );
    std::fs::write(&path, text).map_err(|error| Stop::file(&path, error))?;
    let (config, places) = Config::load_with_places(&path)?;
    let image = crate::serve::load(&config, &places)?;
    Server::start(config, image, crate::chance()).map_err(|error| Stop::Wrong(error.to_string()))
}

fn introduce(rib: &Rib, servers: &[Server]) {
    crate::say(
        &"The federation: each Push server is home to the users whose Push IDs start with its prefix.\n",
    );
    for (server, running) in rib.servers.iter().zip(servers) {
        let prefixes: Vec<String> = server.prefixes.iter().map(ToString::to_string).collect();
        let port = running.ports().first().and_then(|port| port.split(':').next()).unwrap_or_default();
        let name = &server.name;
        crate::say(&format!("  {name:<10} {:<5} {}   over {port}", prefixes.join(" "), server.address));
    }
    crate::say(&"\nThe gateways, and the private networks that lie behind them:\n");
    for (index, gateway) in (0..).zip(&rib.gateways) {
        let segments = rib.segments.iter().filter(|segment| segment.gateway == index);
        let segments: Vec<String> = segments
            .map(|segment| {
                format!(
                    "{}/{}{}",
                    segment.ip,
                    segment.len,
                    if segment.realm == 0 { "" } else { " (realm 1)" }
                )
            })
            .collect();
        crate::say(&format!("  {:<10} {:<5} {}", gateway.name, gateway.tunnel.name(), segments.join(", ")));
    }
}

/// Each server's counters; whether each of them adds up.
fn sums(servers: &[Server]) -> bool {
    crate::say(&"\nEvery datagram is accounted for:\n");
    crate::say(&"  server     received = delivered + forwarded + answered + dropped   unaccounted");
    let mut closed = true;
    for server in servers {
        let c = server.counters();
        closed &= c.unaccounted() == 0;
        crate::say(&format!(
            "  {:<10} {:>8} = {:>9} + {:>9} + {:>8} + {:>7}   {:>11}",
            server.config().name,
            c.rx,
            c.delivered,
            c.forwarded,
            c.answered,
            c.dropped_total(),
            c.unaccounted()
        ));
    }
    closed
}

fn stay(tables: &Path, events: &mpsc::Receiver<cast::Event>) -> Result<(), Stop> {
    let end = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, std::sync::Arc::clone(&end))
            .map_err(|error| Stop::Wrong(format!("signals cannot be handled: {error}")))?;
    }
    crate::say(&format!(
        "\nThe lab stays until SIGINT. Push by hand:\n\n  pushplane send --server 127.0.0.1:17400 --to \
         00000000000000000000000000000001 --app 7 --receipt hello\n  pushplane listen --server 127.0.0.1:17400 --id \
         00000000000000000000000000000004 --bind 127.19.0.10 --port 2948\n  pushplane explain --tables {} --destination \
         00000000000000000000000000000005 --app 7\n",
        tables.display()
    ));
    while !end.load(std::sync::atomic::Ordering::Relaxed) {
        if let Ok(event) = events.recv_timeout(Duration::from_millis(100)) {
            crate::say(&format!("  {event}"));
        }
    }
    Ok(())
}
