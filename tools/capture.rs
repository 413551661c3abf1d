//! Captures on the command line: a file, a pipe, or standard input as `-`; and how far they are read.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pushplane::capture::{Damage, Reader};

use crate::Stop;
use crate::common::{self, Progress};

/// A capture's bytes, counted while they are read.
pub(crate) struct Input {
    bytes: Box<dyn Read + Send>,
    read: Arc<AtomicU64>,
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.bytes.read(buffer)?;
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// How far a capture is read.
pub(crate) struct Position {
    read: Arc<AtomicU64>,
    /// Bytes of the file, as it lies there; none of what is no file.
    size: Option<u64>,
}

impl Position {
    /// A bar when the end is known, else a sign of life.
    pub(crate) fn progress(&self, what: &'static str) -> Progress {
        self.size.map_or_else(|| Progress::start(what), |size| Progress::bytes(what, size))
    }

    /// Moves the bar.
    pub(crate) fn show(&self, progress: &Progress) {
        progress.reach(self.read.load(Ordering::Relaxed));
    }
}

/// Whether a path means standard input.
pub(crate) fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// What a capture is called.
pub(crate) fn name(path: &Path) -> String {
    if is_stdin(path) { "standard input".to_owned() } else { path.display().to_string() }
}

/// Opens a capture.
pub(crate) fn open(path: &Path) -> Result<(Reader<Input>, Position), Stop> {
    let wrong = |error: &dyn std::fmt::Display| Stop::Wrong(format!("{}:1:1: {error}", name(path)));
    let (bytes, size): (Box<dyn Read + Send>, _) = if is_stdin(path) {
        (Box::new(io::stdin()), None)
    } else {
        let file = File::open(path).map_err(|error| wrong(&format_args!("cannot be opened: {error}")))?;
        let size = file.metadata().ok().filter(std::fs::Metadata::is_file).map(|facts| facts.len());
        (Box::new(file), size)
    };
    let read = Arc::new(AtomicU64::new(0));
    let position = Position { read: Arc::clone(&read), size };
    let reader = Reader::new(Input { bytes, read }).map_err(|error| wrong(&error))?;
    Ok((reader, position))
}

/// Says where a capture is damaged, and where its times run backwards.
pub(crate) fn warn(name: &str, reader: &Reader<impl Read>) {
    let (damage, damages) = reader.damage();
    for place in damage {
        common::note(format_args!("warning: {name}:1:1: damaged at {place}"));
    }
    if damages > damage.len() as u64 {
        let more = damages - damage.len() as u64;
        common::note(format_args!("warning: {name}:1:1: damaged at {more} more places"));
    }
    if let Some(backwards) = reader.backwards() {
        common::note(format_args!(
            "warning: {name}:1:1: times run backwards at {} frames, first at frame {}, by up to {:.6} s; they are \
             taken to stand still there",
            common::grouped(reader.counts().backwards),
            backwards.first_frame,
            backwards.longest_ns as f64 / 1e9,
        ));
    }
}

/// What a report says of a capture's faults.
#[derive(serde::Serialize, Clone)]
pub(crate) struct Faults {
    /// The first places where it is damaged.
    damage: Vec<Damage>,
    /// How many there are.
    damages: u64,
    /// Where and how far times run backwards.
    backwards: Option<pushplane::capture::Backwards>,
}

impl Faults {
    pub(crate) fn of(reader: &Reader<impl Read>) -> Self {
        let (damage, damages) = reader.damage();
        Self { damage: damage.to_vec(), damages, backwards: reader.backwards() }
    }
}
