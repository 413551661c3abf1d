//! Who watches a replay: lines for people, lines of JSON, a capture of what left, an earlier run.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use pushplane::capture::CommentedWriter;

use super::compare::Differences;
use super::decision::Decision;
use super::engine::{Detail, Watch};
use crate::Stop;
use crate::common;

/// Where lines and captures go: a file, or standard output as `-`.
pub(super) fn create(path: &Path) -> Result<Box<dyn Write>, Stop> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(BufWriter::with_capacity(1 << 16, io::stdout())));
    }
    let file =
        File::create(path).map_err(|error| common::fault(path, format!("cannot be written: {error}")))?;
    Ok(Box::new(BufWriter::with_capacity(1 << 16, file)))
}

/// A line a message, for people.
pub(super) struct Lines(pub(super) Box<dyn Write>);

impl Lines {
    fn decided(&mut self, decision: &Decision<'_>) -> io::Result<()> {
        writeln!(self.0, "{decision}")
    }
}

/// A line of JSON a message.
pub(super) struct Verdicts(pub(super) Box<dyn Write>);

impl Verdicts {
    fn decided(&mut self, decision: &Decision<'_>) -> io::Result<()> {
        serde_json::to_writer(&mut self.0, decision)?;
        self.0.write_all(b"\n")
    }
}

/// A capture: what left, as the interface `sent`; what was dropped, as it came, as `dropped`. Comments say of which
/// message it is and why.
pub(super) struct Datagrams(CommentedWriter<Box<dyn Write>>);

const SENT: u32 = 0;
const DROPPED: u32 = 1;

impl Datagrams {
    pub(super) fn new(out: Box<dyn Write>) -> io::Result<Self> {
        CommentedWriter::new(out, &["sent", "dropped"]).map(Self)
    }

    fn decided(&mut self, decision: &Decision<'_>, detail: &Detail<'_>) -> io::Result<()> {
        let Decision { frame, time_ns, from, verdict, .. } = decision;
        if let Some(reason) = &decision.reason {
            let comment = format!("frame {frame}: dropped: {reason}");
            self.0.write(DROPPED, *time_ns, *from, detail.to, detail.bytes, &comment)?;
        }
        for outgoing in detail.sent {
            let comment = match &decision.reason {
                None => format!("frame {frame}: {verdict}"),
                Some(reason) => format!("frame {frame}: rejected: {reason}"),
            };
            self.0.write(SENT, *time_ns, outgoing.from, outgoing.to, &outgoing.bytes, &comment)?;
        }
        Ok(())
    }
}

/// The decisions of an earlier run, read along.
pub(super) struct Earlier {
    name: String,
    lines: BufReader<File>,
    line: String,
    number: u64,
    next: Option<Decision<'static>>,
    pub(super) differences: Differences,
}

impl Earlier {
    pub(super) fn open(path: &Path) -> Result<Self, Stop> {
        let file =
            File::open(path).map_err(|error| common::fault(path, format!("cannot be read: {error}")))?;
        let mut earlier = Self {
            name: path.display().to_string(),
            lines: BufReader::with_capacity(1 << 16, file),
            line: String::new(),
            number: 0,
            next: None,
            differences: Differences::default(),
        };
        earlier.read().map_err(|error| Stop::Wrong(error.to_string()))?;
        Ok(earlier)
    }

    fn read(&mut self) -> io::Result<()> {
        let before = self.next.take().map(|decision| decision.frame);
        self.line.clear();
        self.number += 1;
        let wrong = |column: usize, what: String| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{}:{}:{column}: {what}", self.name, self.number),
            )
        };
        let read = self.lines.read_line(&mut self.line);
        if read.map_err(|error| wrong(1, format!("cannot be read: {error}")))? == 0 {
            return Ok(());
        }
        let decision: Decision<'_> = serde_json::from_str(&self.line).map_err(|error| {
            wrong(error.column().max(1), format!("expected a line of --verdicts: {error}"))
        })?;
        if before.is_some_and(|before| decision.frame <= before) {
            let frame = decision.frame;
            return Err(wrong(1, format!("expected a later frame than the line before, found {frame}")));
        }
        self.next = Some(decision.kept());
        Ok(())
    }

    fn decided(&mut self, decision: &Decision<'_>) -> io::Result<()> {
        while self.next.as_ref().is_some_and(|earlier| earlier.frame < decision.frame) {
            self.differences.compare(self.next.as_ref(), None);
            self.read()?;
        }
        let earlier = self.next.as_ref().filter(|earlier| earlier.frame == decision.frame);
        let is_same = earlier.is_some();
        self.differences.compare(earlier, Some(decision));
        if is_same { self.read() } else { Ok(()) }
    }

    fn end(&mut self) -> io::Result<()> {
        while self.next.is_some() {
            self.differences.compare(self.next.as_ref(), None);
            self.read()?;
        }
        Ok(())
    }
}

/// Everybody who watches.
#[derive(Default)]
pub(super) struct Audience {
    pub(super) lines: Option<Lines>,
    pub(super) verdicts: Option<Verdicts>,
    pub(super) datagrams: Option<Datagrams>,
    pub(super) earlier: Option<Earlier>,
}

impl Audience {
    /// Whether somebody compares or shows the datagrams.
    pub(super) fn wants_detail(&self) -> bool {
        self.verdicts.is_some() || self.datagrams.is_some() || self.earlier.is_some()
    }

    /// The capture has ended.
    pub(super) fn end(&mut self) -> io::Result<()> {
        if let Some(Lines(out)) = &mut self.lines {
            out.flush()?;
        }
        if let Some(Verdicts(out)) = &mut self.verdicts {
            out.flush()?;
        }
        if let Some(Datagrams(out)) = &mut self.datagrams {
            out.flush()?;
        }
        self.earlier.as_mut().map_or(Ok(()), Earlier::end)
    }
}

impl<'t> Watch<'t> for Audience {
    fn decided(&mut self, decision: &Decision<'t>, detail: Option<Detail<'_>>) -> io::Result<()> {
        if let Some(lines) = &mut self.lines {
            lines.decided(decision)?;
        }
        if let Some(verdicts) = &mut self.verdicts {
            verdicts.decided(decision)?;
        }
        if let (Some(datagrams), Some(detail)) = (&mut self.datagrams, detail) {
            datagrams.decided(decision, &detail)?;
        }
        self.earlier.as_mut().map_or(Ok(()), |earlier| earlier.decided(decision))
    }
}
