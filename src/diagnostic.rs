//! What is wrong in a file that an operator wrote: where, what was expected, what was found, and
//! what to do. All of it is reported, then the file is refused.

use std::fmt;
use std::path::{Path, PathBuf};

/// One fault in one file. Shown as `FILE:LINE:COLUMN: sentence`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Diagnostic {
    /// The file.
    pub file: PathBuf,
    /// Its line, from 1.
    pub line: usize,
    /// The line's column in characters, from 1.
    pub column: usize,
    /// What was expected, what was found, what to do.
    pub sentence: String,
}

impl Diagnostic {
    /// A fault at this place.
    pub fn new(file: &Path, line: usize, column: usize, sentence: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, column, sentence: sentence.into() }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file.display(), self.line, self.column, self.sentence)
    }
}

/// Every fault found, in the order of files and lines; never empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            diagnostic.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}
