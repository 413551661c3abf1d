//! What opening a journal found, and why it may refuse.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::format::Fault;

/// Why a journal was not opened.
#[derive(Debug)]
pub enum JournalError {
    /// The system refused an operation on a file.
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// Another process has the journal.
    Locked {
        /// The lock file.
        path: PathBuf,
        /// The process, as the lock file has it.
        owner: String,
    },
    /// The files contradict what a crash can leave: something that was acknowledged is damaged or gone.
    Refused {
        /// The file.
        file: PathBuf,
        /// Where in it, bytes.
        offset: u64,
        /// What should stand there.
        expected: String,
        /// What does.
        found: String,
        /// What to do.
        remedy: String,
    },
}

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { path, action, error } => write!(f, "{}: cannot {action}: {error}", path.display()),
            Self::Locked { path, owner } => {
                write!(f, "{}: another process has the journal", path.display())?;
                if !owner.is_empty() {
                    write!(f, " (pid {owner})")?;
                }
                f.write_str("; stop it, or use another folder")
            }
            Self::Refused { file, offset, expected, found, remedy } => {
                write!(f, "{}, offset {offset}: expected {expected}, found {found}; {remedy}", file.display())
            }
        }
    }
}

impl std::error::Error for JournalError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// What opening a journal found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Recovery {
    /// Records replayed from segments.
    pub records: u64,
    /// Records replayed from the snapshot, before those.
    pub snapshot_records: u64,
    /// Bytes of the records replayed, with their frames.
    pub bytes: u64,
    /// What was cut off the last segment.
    pub cut: Option<Cut>,
    /// A damaged newest snapshot that an older one, with all segments since, stood in for: the refusal
    /// in words.
    pub passed_over: Vec<String>,
}

/// The torn tail of the last segment: part of a commit that was never acknowledged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cut {
    /// The segment.
    pub file: PathBuf,
    /// Where it now ends, bytes.
    pub offset: u64,
    /// Bytes cut, without the zeros behind them.
    pub bytes: u64,
    /// Sequence number of the first record lost; all before it were replayed.
    pub sequence: u64,
    /// Whole records among what was cut, of the same unfinished commit.
    pub whole: u64,
    /// What is wrong with the first one.
    pub why: Fault,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: cut {} bytes at offset {}, from record {} on ({}; {} whole records behind it): the last \
             commit was not finished, and none of it acknowledged",
            self.file.display(),
            self.bytes,
            self.offset,
            self.sequence,
            self.why,
            self.whole
        )
    }
}
