//! `pushplane serve`: the Push server.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pushplane::config::{Config, Places};
use pushplane::server::Server;
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
    let (config, places) = Config::load_with_places(&args.config)?;
    let image = load(&config, &places)?;
    // Before any thread: the signals must find their handler from the first moment on.
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])
        .map_err(|error| Stop::Wrong(format!("signals cannot be handled: {error}")))?;
    let mut server =
        Server::start(config, image, crate::chance()).map_err(|error| Stop::Wrong(error.to_string()))?;
    for warning in server.warnings() {
        eprintln!("warning: {warning}");
    }
    say_ready(&server);
    loop {
        for signal in signals.pending() {
            if signal == SIGHUP {
                apply_again(&mut server, &args.config);
            } else {
                return stop(server);
            }
        }
        if !server.tend() {
            let ended =
                server.stop().err().map_or_else(|| "a shard has ended".to_owned(), |error| error.to_string());
            return Err(Stop::Failed(format!("the server cannot go on: {ended}")));
        }
        std::thread::sleep(TEND);
    }
}

/// The tables that the configuration names, held to everything that it wants of them.
pub(crate) fn load(config: &Config, places: &Places) -> Result<Image, Stop> {
    let mut opened = common::open(&config.tables)?;
    let disagree = pushplane::table::source::check_against(config, places, opened.rib())?;
    common::warn(&opened.warnings);
    common::warn(&disagree);
    Ok(opened.image)
}

fn say_ready(server: &Server) {
    let config = server.config();
    let listen: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
    let metrics = server.metrics().map_or_else(String::new, |at| format!(", http://{at}/metrics"));
    let mut out = std::io::stdout().lock();
    // Whoever closed our output does not want to know.
    let _ = writeln!(
        out,
        "ready {} on {}: {} shards over {}, generation {}, {} terminals, digest {:032x}{metrics}",
        config.name,
        listen.join(" "),
        server.shards(),
        server.ports().first().map_or("nothing", String::as_str),
        server.tables().generation(),
        server.tables().arrays().lines().len(),
        server.tables().image().digest(),
    );
    let _ = out.flush();
}

/// The tables are read again; the rest of the configuration holds until the next start.
fn apply_again(server: &mut Server, path: &Path) {
    let applied = Config::load_with_places(path).map_err(Stop::from).and_then(|(config, places)| {
        let serving = server.config().clone();
        let tables = config.tables.clone();
        if (Config { tables: serving.tables.clone(), ..config }) != serving {
            eprintln!(
                "warning: {}: only the tables are applied now, the rest at the next start",
                path.display()
            );
        }
        let image = load(&Config { tables, ..serving }, &places)?;
        server.replace(image).map_err(|error| Stop::Wrong(error.to_string()))
    });
    match applied {
        Ok(generation) => {
            eprintln!("generation {generation} serves, digest {:032x}", server.tables().image().digest())
        }
        Err(stop) => {
            eprintln!("{stop}");
            eprintln!("nothing was changed: generation {} serves on", server.tables().generation());
        }
    }
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
