//! `pushplane show`: a running server, asked over its control socket.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use pushplane::config::Config;
use pushplane::server::{Shown, ShownCounters, ShownServer, ShownShards, ShownTables};
use tokio::net::UnixStream;

use crate::common::grouped;
use crate::{Stop, common};

/// A running server: who serves and since when, the tables and the memory that they lie on, what came and what
/// became of it. Asked over its control socket, which only the server's user may use
///
/// Exit status 0: shown; 1: the server does not answer; 2: no server has this control socket, or this user may not ask.
#[derive(clap::Args)]
#[command(after_help = "Example:
  pushplane show --config /etc/pushplane/pushplane.toml
  pushplane show tables --control /run/pushplane/control.sock --json | jq .tables.memory

With --json an object with a key for each part that is shown:
  server
    name, version, pid, started, uptime_s, listen, radius, metrics, control
    state: starting, ready, draining, failed; degraded: the journal cannot be written
  tables
    generation, digest, source, loaded, bytes, image_bytes, generations_retired
    tables: table, entries (null: shared by tables), bytes
    memory: what, bytes, touched_bytes, huge_bytes, set_apart, on
    live: bindings, bindings_max, used, slots
  shards
    shards: shard, cpu, io, and counters; controller, fanout, all: counters
    dropped: by reason; kernel_rx_drops
    counters: received, taken, sent, delivered, forwarded, answered, dropped, handed_on,
      in_flight, unaccounted
Of each thread received + taken = delivered + forwarded + answered + dropped + handed_on +
in_flight + unaccounted; of all together the same without taken and handed_on.
The figures are those of /metrics, which the control socket serves too:
  curl -s --unix-socket control.sock http://localhost/metrics")]
pub(crate) struct Args {
    /// One part of it; all without
    #[arg(value_name = "WHAT")]
    what: Option<Part>,
    /// The server's configuration, which names the control socket
    #[arg(long, value_name = "FILE", default_value = "pushplane.toml")]
    config: PathBuf,
    /// The control socket itself
    #[arg(long, value_name = "SOCKET", conflicts_with = "config")]
    control: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What can be shown alone.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Part {
    /// Who serves, and whether
    Server,
    /// What it serves from, and on which pages that lies
    Tables,
    /// What came, and what became of it
    Shards,
}

impl Part {
    const fn path(part: Option<Self>) -> &'static str {
        match part {
            None => "/show",
            Some(Self::Server) => "/show/server",
            Some(Self::Tables) => "/show/tables",
            Some(Self::Shards) => "/show/shards",
        }
    }
}

/// How long a server may take to answer: it gives way to its shards.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn run(args: &Args) -> Result<(), Stop> {
    let socket = match &args.control {
        Some(socket) => socket.clone(),
        None => Config::load(&args.config)?.control,
    };
    let answer = ask(&socket, Part::path(args.what))?;
    if args.json {
        return common::print(|out| {
            out.write_all(&answer)?;
            writeln!(out)
        });
    }
    let shown: Shown = serde_json::from_slice(&answer).map_err(|error| {
        Stop::Failed(format!(
            "the server at {} answers as this version does not understand ({error}); use the pushplane that it was \
             started with, or --json",
            socket.display()
        ))
    })?;
    let parts = [
        shown.server.as_ref().map(server),
        shown.tables.as_ref().map(tables),
        shown.shards.as_ref().map(shards),
    ];
    common::print(|out| {
        for (number, part) in parts.iter().flatten().enumerate() {
            if number > 0 {
                writeln!(out)?;
            }
            part.iter().try_for_each(|line| writeln!(out, "{}", common::harmless(line)))?;
        }
        Ok(())
    })
}

/// What the server with this control socket answers.
fn ask(socket: &Path, path: &'static str) -> Result<Bytes, Stop> {
    let at = socket.display();
    let failed =
        |why: &dyn std::fmt::Display| Stop::Failed(format!("the server at {at} does not answer: {why}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let asked = runtime.map_err(|error| failed(&error))?.block_on(async {
        let asked = async {
            let stream = UnixStream::connect(socket).await.map_err(|error| nobody(socket, &error))?;
            get(stream, path).await.map_err(|error| failed(&error))
        };
        tokio::time::timeout(PATIENCE, asked).await
    });
    match asked.map_err(|_| {
        failed(&format_args!(
            "it was given {} s; try again, or look whether it is stopped",
            PATIENCE.as_secs()
        ))
    })?? {
        (StatusCode::OK, answer) => Ok(answer),
        (status, answer) => {
            Err(failed(&format_args!("{status}: {}", String::from_utf8_lossy(&answer).trim_end())))
        }
    }
}

async fn get(stream: UnixStream, path: &'static str) -> hyper::Result<(StatusCode, Bytes)> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::task::spawn(connection);
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = hyper::Uri::from_static(path);
    request.headers_mut().insert(hyper::header::HOST, hyper::header::HeaderValue::from_static("localhost"));
    let response = sender.send_request(request).await?;
    let status = response.status();
    Ok((status, response.into_body().collect().await?.to_bytes()))
}

/// Why a control socket leads to nobody, and what to do.
fn nobody(socket: &Path, error: &io::Error) -> Stop {
    let is_socket = socket.symlink_metadata().map(|file| file.file_type().is_socket());
    let why = match (error.kind(), is_socket) {
        (io::ErrorKind::PermissionDenied, _) => {
            format!("this user may not ask ({error}); run show as the server's user, or as root")
        }
        (_, Ok(false)) => "expected a control socket, found a file that is none; name the server's with --config or --control"
            .to_owned(),
        (io::ErrorKind::ConnectionRefused, _) => {
            "no server runs with this control socket, the one before was killed; start one with pushplane serve".to_owned()
        }
        (io::ErrorKind::NotFound, _) => "no server runs with this control socket; start one with pushplane serve, or name \
                                         another with --config or --control"
            .to_owned(),
        _ => format!("expected a server's control socket, found none that can be used ({error}); name another with --config \
                      or --control"),
    };
    Stop::Wrong(format!("{}: {why}", socket.display()))
}

fn server(shown: &ShownServer) -> Vec<String> {
    let mut lines = vec![format!(
        "{} is {}, process {} of pushplane {}, started {} ago ({})",
        shown.name,
        shown.state,
        shown.pid,
        shown.version,
        duration(shown.uptime_s),
        shown.started
    )];
    let metrics: Vec<String> = shown.metrics.iter().cloned().collect();
    for (what, at) in [
        ("listens on", &shown.listen),
        ("radius on", &shown.radius),
        ("metrics", &metrics),
        ("control", &vec![shown.control.clone()]),
    ] {
        if !at.is_empty() {
            lines.push(format!("  {what:<11}{}", at.join(" ")));
        }
    }
    lines
}

fn tables(shown: &ShownTables) -> Vec<String> {
    let count = |count: usize| grouped(count as u64);
    let mut lines = vec![
        format!("tables of generation {}, since {}", shown.generation, shown.loaded),
        format!("  {:<11}{}", "source", shown.source),
        format!("  {:<11}{}", "digest", shown.digest),
        format!(
            "  {:<11}{} bytes, {} of them the image",
            "takes",
            count(shown.bytes),
            count(shown.image_bytes)
        ),
    ];
    if shown.generations_retired > 0 {
        lines.push(format!(
            "  {:<11}{} before it, which somebody still reads",
            "retired", shown.generations_retired
        ));
    }
    lines.push(String::new());
    let head = ["table", "entries", "bytes"].map(str::to_owned);
    let rows = shown.tables.iter();
    let rows =
        rows.map(|row| [row.table.clone(), row.entries.map_or_else(String::new, count), count(row.bytes)]);
    lines.extend(columns("<>>", std::iter::once(head).chain(rows).collect()));
    let live = &shown.live;
    lines.push(String::new());
    lines.push(format!(
        "  {} of {} terminals registered, {} of {} live slots in use",
        count(live.bindings),
        count(live.bindings_max),
        count(live.used),
        count(live.slots)
    ));
    lines.push(String::new());
    let head = ["memory", "bytes", "touched", "on"].map(str::to_owned);
    let rows = shown.memory.iter();
    let rows = rows.map(|row| {
        [row.what.clone(), count(row.pages.bytes), count(row.pages.touched_bytes), row.on.clone()]
    });
    lines.extend(columns("<>><", std::iter::once(head).chain(rows).collect()));
    lines
}

fn shards(shown: &ShownShards) -> Vec<String> {
    let row = |thread: &str, cpu: String, counters: &ShownCounters| {
        let ShownCounters {
            received,
            taken,
            sent,
            delivered,
            forwarded,
            answered,
            dropped,
            handed_on,
            in_flight,
            ..
        } = *counters;
        let counts = [received, taken, sent, delivered, forwarded, answered, dropped, handed_on, in_flight];
        let counts = counts.map(grouped).into_iter().chain([counters.unaccounted.to_string()]);
        [thread.to_owned(), cpu].into_iter().chain(counts).collect::<Vec<_>>()
    };
    let head = [
        "thread",
        "CPU",
        "received",
        "taken",
        "sent",
        "delivered",
        "forwarded",
        "answered",
        "dropped",
        "handed on",
        "in flight",
        "unaccounted",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let each = shown.shards.iter();
    rows.extend(
        each.map(|shard| row(&format!("shard {}", shard.shard), shard.cpu.to_string(), &shard.counters)),
    );
    rows.push(row("controller", String::new(), &shown.controller));
    rows.push(row("fan-out", String::new(), &shown.fanout));
    rows.push(row("all", String::new(), &shown.all));
    let mut ports: Vec<&str> = shown.shards.iter().filter_map(|shard| shard.io.as_deref()).collect();
    ports.dedup();
    let mut lines = vec![format!("{} shards over {}", shown.shards.len(), ports.join("; "))];
    lines.extend(columns("<>>>>>>>>>>>", rows));
    let dropped = shown.dropped.iter().filter(|(_, count)| **count > 0);
    let dropped: Vec<String> =
        dropped.map(|(reason, count)| format!("{reason} {}", grouped(*count))).collect();
    if !dropped.is_empty() {
        lines.push(format!("  dropped: {}", dropped.join(", ")));
    }
    if shown.kernel_rx_drops > 0 {
        lines.push(format!(
            "  dropped by the kernel before they were received: {}",
            grouped(shown.kernel_rx_drops)
        ));
    }
    lines
}

/// Rows under each other, each column as wide as its longest: `<` to the left, `>` to the right.
fn columns<R: AsRef<[String]>>(sides: &str, rows: Vec<R>) -> Vec<String> {
    let longest =
        |column: usize| rows.iter().map(|row: &R| row.as_ref()[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..sides.len()).map(longest).collect();
    let line = |row: &R| {
        let mut line = String::new();
        for ((cell, side), width) in row.as_ref().iter().zip(sides.chars()).zip(&widths) {
            line += &if side == '<' { format!("  {cell:<width$}") } else { format!("  {cell:>width$}") };
        }
        line.trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// `3 d 4 h`, `4 h 5 min`, `5 min 6 s`, `6 s`.
fn duration(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, s) => format!("{s} s"),
        (0, 0, min, s) => format!("{min} min {s} s"),
        (0, h, min, _) => format!("{h} h {min} min"),
        (d, h, ..) => format!("{d} d {h} h"),
    }
}
