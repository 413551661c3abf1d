//! What the commands share: opening tables, printing, showing that something takes its time.

use std::cell::RefCell;
use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::ops::RangeInclusive;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::str::FromStr;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pushplane::config::{Config, Places};
use pushplane::diagnostic::{Diagnostic, Diagnostics};
use pushplane::id::Endpoint;
use pushplane::table::rows::{Rows, Table};
use pushplane::table::source::{self, Packed};
use pushplane::table::{Image, Rib, Step};

use crate::Stop;

/// A fault of a whole file.
pub(crate) fn fault(path: &Path, sentence: impl Display) -> Stop {
    Diagnostics(vec![Diagnostic::new(path, 1, 1, sentence.to_string())]).into()
}

/// Tables that were opened.
pub(crate) struct Opened {
    /// What can be served.
    pub(crate) image: Image,
    /// What is allowed in the sources but probably not meant.
    pub(crate) warnings: Vec<Diagnostic>,
}

impl Opened {
    /// Holds them to a configuration; warnings when they agree.
    pub(crate) fn check_against(
        &self,
        config: &Config,
        places: &Places,
    ) -> Result<Vec<Diagnostic>, Diagnostics> {
        let rib = self.image.to_rib_without_users();
        source::check_against(config, places, &rib, self.image.users())
    }
}

/// The tables of a directory of sources, or of an image.
pub(crate) fn open(path: &Path) -> Result<Opened, Stop> {
    if path.is_dir() {
        let (image, warnings) = build_sources(path)?;
        return Ok(Opened { image, warnings });
    }
    let _progress = Progress::start("reading the image");
    let image = Image::open(path).map_err(|error| {
        let sentence = error.to_string();
        if path.exists() {
            return fault(path, sentence);
        }
        fault(path, format!("expected an image or a directory of table sources, found none ({sentence})"))
    })?;
    let mut warnings = Vec::new();
    if image.has_keys() && std::fs::metadata(path).is_ok_and(|facts| facts.permissions().mode() & 0o077 != 0)
    {
        let sentence = "the image holds keys and others than its owner can read it; run chmod 600";
        warnings.push(Diagnostic::new(path, 1, 1, sentence));
    }
    Ok(Opened { image, warnings })
}

/// As [`open`]: warnings go to standard error.
pub(crate) fn open_tables(path: &Path) -> Result<Image, Stop> {
    let Opened { image, warnings, .. } = open(path)?;
    warn(&warnings);
    Ok(image)
}

/// Reads and compiles a directory of table sources; what is allowed in it but probably not meant.
pub(crate) fn build_sources(dir: &Path) -> Result<(Image, Vec<Diagnostic>), Stop> {
    let bytes = std::fs::metadata(dir.join("users.csv")).map_or(0, |facts| facts.len());
    let progress = RefCell::new(Progress::bytes("reading users.csv", bytes));
    let told = |step| match step {
        Step::Read(bytes) => progress.borrow().reach(bytes),
        Step::Begins(what) => drop(progress.replace(Progress::start(what))),
    };
    let Packed { rib, users, warnings } = source::load_packed(dir, &told)?;
    Ok((Image::build_with(&rib, users, &told).map_err(|error| fault(dir, error))?, warnings))
}

/// Compiles rows that belong to `dir`.
pub(crate) fn build(dir: &Path, rib: &Rib) -> Result<Image, Stop> {
    let _progress = Progress::start("compiling the tables");
    Image::build(rib).map_err(|error| fault(dir, error))
}

/// Warnings, to standard error.
pub(crate) fn warn(warnings: &[Diagnostic]) {
    for warning in warnings {
        note(format_args!("warning: {warning}"));
    }
}

/// A text without what a terminal would obey: control characters are escaped.
pub(crate) fn harmless(text: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escape).collect()
}

/// A line on standard error; nothing when nobody reads it any more.
pub(crate) fn note(line: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Rows of each table.
pub(crate) struct Entries(Vec<(Table, usize)>);

/// Counts the rows of each table.
pub(crate) fn entries(image: &Image) -> Entries {
    let rows = Rows::new(image);
    Entries(Table::ALL.map(|table| (table, rows.len(table))).into())
}

impl Entries {
    /// `3 servers, 4 gateways, …`.
    pub(crate) fn text(&self) -> String {
        let text = |(table, rows): &(Table, usize)| format!("{} {}", grouped(*rows as u64), table.name());
        self.0.iter().map(text).collect::<Vec<_>>().join(", ")
    }
}

impl serde::Serialize for Entries {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(table, rows)| (table.name(), rows)))
    }
}

/// The server that a command stands for: the one asked for, else the first.
pub(crate) fn own_server(image: &Image, tables: &Path, asked: Option<&str>) -> Result<String, Stop> {
    let mut names = image.server_names();
    match asked {
        None => names.next().map(str::to_owned).ok_or_else(|| {
            fault(tables, "expected at least one [[server]] in servers.toml, found none; add the one that this is to be")
        }),
        Some(asked) if image.server_names().any(|name| name == asked) => Ok(asked.to_owned()),
        Some(asked) => {
            let known: Vec<&str> = names.by_ref().take(20).collect();
            let more = if names.len() > 0 { format!(" and {} more", names.len()) } else { String::new() };
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") + &more };
            Err(Stop::Wrong(format!("--as {asked}: expected a [[server]] of {} ({known})", tables.display())))
        }
    }
}

/// Listening addresses for a server that is not running: its own, and of the other family any, so that
/// whatever its tables name can be reached.
pub(crate) fn listen_of(own: Endpoint) -> Vec<Endpoint> {
    let other = if own.is_ipv4() { "[::]:0" } else { "0.0.0.0:0" };
    let other: Option<Endpoint> = other.parse().ok();
    let other = other.map(|endpoint| endpoint.with_port(own.port()));
    std::iter::once(own).chain(other).collect()
}

/// Refuses a folder that holds something already.
pub(crate) fn expect_empty(dir: &Path, force: bool) -> Result<(), Stop> {
    match std::fs::read_dir(dir).map(Iterator::count) {
        Ok(entries) if entries > 0 && !force => Err(fault(
            dir,
            "expected an empty or a new directory, found files in it; name another one or add --force",
        )),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(fault(dir, format!("expected an empty or a new directory, found none ({error})"))),
    }
}

/// Prints a result. Who reads it may stop reading: that ends the command quietly.
pub(crate) fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Stop> {
    let mut out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    let result = write(&mut out).and_then(|()| out.flush());
    // What could not be written is not tried again when the buffer goes.
    let (_, _) = out.into_parts();
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Stop::Wrong(format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Prints a result as JSON, on one line.
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<(), Stop> {
    print(|out| {
        serde_json::to_writer(&mut *out, value).map_err(io::Error::from)?;
        writeln!(out)
    })
}

/// How clap reads a number of these: what is none, or another, is answered by what is expected.
pub(crate) fn number<N>(of: RangeInclusive<N>) -> impl Fn(&str) -> Result<N, String> + Clone
where
    N: FromStr + PartialOrd + Display + Clone,
{
    move |text| {
        let number = text.parse().ok().filter(|number| of.contains(number));
        number.ok_or_else(|| format!("expected a number from {} to {}", of.start(), of.end()))
    }
}

/// A count with its digits in groups of three.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// What a command is doing, shown on a terminal's standard error when it takes longer than a second.
pub(crate) struct Progress {
    bar: ProgressBar,
    ended: Option<Sender<()>>,
    waiter: Option<JoinHandle<()>>,
}

impl Progress {
    /// Something whose end is not known.
    pub(crate) fn start(what: &'static str) -> Self {
        Self::show(what, None, "{spinner} {msg}, {elapsed}")
    }

    /// Something that ends when so many are done: [`Progress::reach`] says how many are.
    pub(crate) fn of(what: &'static str, total: u64) -> Self {
        Self::show(what, Some(total), "{msg} {wide_bar} {human_pos} of {human_len}, {eta} left")
    }

    /// Something that ends when so many bytes are read.
    pub(crate) fn bytes(what: &'static str, total: u64) -> Self {
        Self::show(what, Some(total), "{msg} {wide_bar} {bytes} of {total_bytes}, {eta} left")
    }

    fn show(what: &'static str, total: Option<u64>, template: &str) -> Self {
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden())
            .with_style(style)
            .with_message(what);
        if !io::stderr().is_terminal() {
            return Self { bar, ended: None, waiter: None };
        }
        let (ended, end) = channel();
        let shown = bar.clone();
        let waiter = std::thread::spawn(move || {
            if end.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
                shown.set_draw_target(ProgressDrawTarget::stderr());
                shown.enable_steady_tick(Duration::from_millis(120));
                let _ = end.recv();
                shown.finish_and_clear();
            }
        });
        Self { bar, ended: Some(ended), waiter: Some(waiter) }
    }

    /// How many are done.
    pub(crate) fn reach(&self, done: u64) {
        if self.ended.is_some() {
            self.bar.set_position(done);
        }
    }

    /// How far it is, in words.
    pub(crate) fn say(&self, how_far: impl FnOnce() -> String) {
        if self.ended.is_some() {
            self.bar.set_message(how_far());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.ended.take());
        if let Some(waiter) = self.waiter.take() {
            let _ = waiter.join();
        }
    }
}
