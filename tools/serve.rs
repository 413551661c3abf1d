//! `pushplane serve`: the Push server.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use pushplane::config::{Config, Places};
use pushplane::diagnostic::Diagnostics;
use pushplane::net;
use pushplane::server::{Recovered, Server};
use pushplane::table::Image;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::{Stop, common};

/// Serve as a Push server until SIGTERM or SIGINT.
///
/// Prints one line that starts with "ready" when it serves. SIGHUP applies the tables again: those
/// that are wrong change nothing and are named on standard error.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  pushplane serve --config /etc/pushplane/pushplane.toml")]
pub(crate) struct Args {
    /// The configuration, pushplane.toml.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// How often the server frees what the shards have left and looks whether they live.
const TEND: Duration = Duration::from_millis(100);

pub(crate) fn run(args: &Args) -> Result<(), Stop> {
    // Before anything that takes time: a signal must find its handler from the first moment on.
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])
        .map_err(|error| Stop::Wrong(format!("signals cannot be handled: {error}")))?;
    let (config, places) = Config::load_with_places(&args.config)?;
    let mut faults = Vec::new();
    crate::check::host(&config, &places, &mut faults, &mut Vec::new());
    if !faults.is_empty() {
        return Err(Diagnostics(faults).into());
    }
    if config.hlr.is_some() {
        eprintln!(
            "warning: server.hlr is not asked by this version: who is known by an IMSI alone is rejected"
        );
    }
    let image = load(&config, &places)?;
    let server = Server::start(config, image, crate::chance());
    let mut server = server.map_err(|error| Stop::Wrong(error.to_string()))?;
    for warning in server.warnings() {
        eprintln!("warning: {warning}");
    }
    say_recovered(&server);
    say_ready(&server);
    // What is done from here on, and on threads that begin here, is never more urgent than a push.
    net::give_way(server.shard_cpus());
    let mut reload = Reload::default();
    loop {
        for trouble in server.take_troubles() {
            eprintln!("error: {trouble}");
        }
        for signal in signals.pending() {
            if signal == SIGHUP {
                reload.begin(&server, &args.config);
            } else {
                return stop(server);
            }
        }
        reload.finish(&mut server);
        if !server.tend() {
            let ended = server.stop().err();
            let ended = ended.map_or_else(|| "a shard has ended".to_owned(), |error| error.to_string());
            return Err(Stop::Failed(format!("the server cannot go on: {ended}")));
        }
        std::thread::sleep(TEND);
    }
}

/// The tables that the configuration names, held to everything that it wants of them.
pub(crate) fn load(config: &Config, places: &Places) -> Result<Image, Stop> {
    let opened = common::open(&config.tables)?;
    let disagree = opened.check_against(config, places)?;
    common::warn(&opened.warnings);
    common::warn(&disagree);
    Ok(opened.image)
}

/// What the journal had, if it had anything.
fn say_recovered(server: &Server) {
    let Recovered { bindings, sessions, journal } = server.recovered();
    for passed in &journal.passed_over {
        eprintln!("warning: {passed}");
    }
    if let Some(cut) = &journal.cut {
        eprintln!("warning: {cut}");
    }
    let records = journal.records + journal.snapshot_records;
    if records > 0 {
        let sessions = if *sessions > 0 { format!(" and {sessions} sessions") } else { String::new() };
        eprintln!("recovered {bindings} bindings{sessions} from {records} records, {} bytes", journal.bytes);
    }
}

fn say_ready(server: &Server) {
    let config = server.config();
    let listen: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
    let radius: Vec<String> =
        config.radius.iter().flat_map(|radius| &radius.listen).map(ToString::to_string).collect();
    let radius = if radius.is_empty() { String::new() } else { format!(", radius on {}", radius.join(" ")) };
    let metrics = server.metrics().map_or_else(String::new, |at| format!(", http://{at}/metrics"));
    let mut out = std::io::stdout().lock();
    // Whoever closed our output does not want to know.
    let _ = writeln!(
        out,
        "ready {} on {}: {} shards over {}, generation {}, {} terminals on {}, {} registered, digest {:032x}{radius}{metrics}",
        config.name,
        listen.join(" "),
        server.shards(),
        ports(server),
        server.tables().generation(),
        server.tables().image().terminals(),
        server.pages(),
        server.recovered().bindings,
        server.tables().image().digest(),
    );
    let _ = out.flush();
}

/// What the shards' ports are: mostly all alike.
fn ports(server: &Server) -> String {
    let mut ports: Vec<&str> = server.ports().iter().map(String::as_str).collect();
    ports.dedup();
    ports.join("; ")
}

/// Tables that are being read again, on a thread of their own: a large operator takes its time, and
/// SIGTERM must not wait for it.
#[derive(Default)]
struct Reload {
    reading: Option<Receiver<Result<(Image, PathBuf), Stop>>>,
    /// Asked for again while it was under way.
    again: Option<PathBuf>,
}

impl Reload {
    /// Begins to read, or remembers to do so once what is under way has ended.
    fn begin(&mut self, server: &Server, path: &Path) {
        if self.reading.is_some() {
            self.again = Some(path.to_owned());
            return;
        }
        let (tell, told) = channel();
        let (serving, path) = (server.config().clone(), path.to_owned());
        let shards = server.shard_cpus().to_vec();
        let read = move || {
            // Twice now: on a CPU that it must share it gets a tenth of what a shard gets, and so ends even beside full ones.
            net::give_way(&shards);
            drop(tell.send(read_again(serving, &path)));
        };
        match std::thread::Builder::new().name("reload".to_owned()).spawn(read) {
            Ok(_) => self.reading = Some(told),
            Err(error) => eprintln!("the tables cannot be read again now: {error}"),
        }
    }

    /// Applies what was read, if it has been.
    fn finish(&mut self, server: &mut Server) {
        let Some(Ok(read)) = self.reading.as_ref().map(Receiver::try_recv) else { return };
        self.reading = None;
        let applied = read.and_then(|(image, source)| {
            server.replace(image, &source).map_err(|error| Stop::Wrong(error.to_string()))
        });
        match applied {
            Ok(generation) => {
                eprintln!("generation {generation} serves, digest {:032x}", server.tables().image().digest());
            }
            Err(stop) => {
                eprintln!("{stop}");
                eprintln!("nothing was changed: generation {} serves on", server.tables().generation());
            }
        }
        if let Some(path) = self.again.take() {
            self.begin(server, &path);
        }
    }
}

/// The tables are read again, and where from; the rest of the configuration holds until the next start.
fn read_again(serving: Config, path: &Path) -> Result<(Image, PathBuf), Stop> {
    let (config, places) = Config::load_with_places(path)?;
    let tables = config.tables.clone();
    if (Config { tables: serving.tables.clone(), ..config }) != serving {
        eprintln!("warning: {}: only the tables are applied now, the rest at the next start", path.display());
    }
    let image = load(&Config { tables: tables.clone(), ..serving }, &places)?;
    Ok((image, tables))
}

fn stop(server: Server) -> Result<(), Stop> {
    let counters =
        server.stop().map_err(|error| Stop::Failed(format!("the server did not end well: {error}")))?;
    eprintln!(
        "stopped: received {}, delivered {}, forwarded {}, answered {}, dropped {}, unaccounted {}",
        counters.rx,
        counters.delivered,
        counters.forwarded,
        counters.answered,
        counters.dropped_total(),
        counters.unaccounted(),
    );
    Ok(())
}
