//! A TOML file whose every key and value knows its place, read key by key, so that each fault is
//! told with line and column and reading goes on to the next.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::faults::Faults;
use crate::diagnostic::Diagnostic;

/// The longest TOML file read, bytes. Tables of users are CSV and have no such limit.
const FILE_MAX: u64 = 64 << 20;

/// The text of a TOML file and where its lines start.
pub(crate) struct Document {
    path: PathBuf,
    text: String,
    lines: Vec<usize>,
    /// The file's mode, where others than its owner can read it.
    shared_mode: Option<u32>,
}

/// A value and the byte offset at which it stands.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct At<T> {
    pub(crate) offset: usize,
    pub(crate) value: T,
}

impl Document {
    /// Opens and reads. `None` when there is no such file.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, Diagnostic> {
        match open(path)? {
            Some(file) => Self::read_open(path, file).map(Some),
            None => Ok(None),
        }
    }

    /// Reads a file that is open already.
    pub(crate) fn read_open(path: &Path, file: File) -> Result<Self, Diagnostic> {
        let mut bytes = Vec::new();
        let shared_mode = shared_mode(&file);
        file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(|error| unreadable(path, &error))?;
        if bytes.len() as u64 > FILE_MAX {
            let sentence = format!("expected at most {} MiB; split the file or shorten it", FILE_MAX >> 20);
            return Err(Diagnostic::new(path, 1, 1, sentence));
        }
        Ok(Self { shared_mode, ..Self::from_bytes(path, bytes)? })
    }

    /// From bytes that must be UTF-8; a byte order mark is dropped.
    pub(crate) fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self, Diagnostic> {
        let (mut text, bad) = match String::from_utf8(bytes) {
            Ok(text) => (text, None),
            Err(error) => {
                let bad = error.utf8_error().valid_up_to();
                let mut bytes = error.into_bytes();
                let byte = bytes.get(bad).copied().unwrap_or_default();
                bytes.truncate(bad);
                (String::from_utf8(bytes).unwrap_or_default(), Some(byte))
            }
        };
        if text.starts_with('\u{feff}') {
            text.drain(..'\u{feff}'.len_utf8());
        }
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        let lines = std::iter::once(0).chain(ends).collect();
        let document = Self { path: path.to_owned(), text, lines, shared_mode: None };
        match bad {
            None => Ok(document),
            Some(byte) => Err(document.fault(
                document.text.len(),
                format!("expected UTF-8, found the byte 0x{byte:02x}; save the file as UTF-8"),
            )),
        }
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file's mode, where others than its owner can read it; none also of what was no file.
    pub(crate) fn shared_mode(&self) -> Option<u32> {
        self.shared_mode
    }

    /// Line and column, both from 1, of a byte offset.
    pub(crate) fn place(&self, offset: usize) -> (usize, usize) {
        let line = self.lines.partition_point(|start| *start <= offset).max(1);
        let start = self.lines.get(line - 1).copied().unwrap_or_default();
        let before = self.text.as_bytes().get(start..offset.min(self.text.len())).unwrap_or_default();
        (line, characters(before) + 1)
    }

    /// A fault at a byte offset.
    pub(crate) fn fault(&self, offset: usize, sentence: impl Into<String>) -> Diagnostic {
        let (line, column) = self.place(offset);
        Diagnostic::new(&self.path, line, column, sentence)
    }

    /// The whole file as a table; `None` when it is no TOML, each line with a syntax error told.
    pub(crate) fn parse(&self, faults: &mut Faults) -> Option<DeTable<'_>> {
        let (table, errors) = DeTable::parse_recoverable(&self.text);
        if errors.is_empty() {
            return Some(table.into_inner());
        }
        let mut told = 0;
        let mut places: Vec<_> =
            errors.iter().map(|error| (error.span().map_or(0, |span| span.start), error.message())).collect();
        places.sort_unstable();
        for (offset, message) in places {
            // What follows on the same line mostly follows from the first.
            let fault = self.fault(offset, format!("not TOML: {message}; correct or remove it"));
            if fault.line != told {
                told = fault.line;
                faults.push(fault);
            }
        }
        None
    }

    /// The elements of the array of tables `name`, the only key that may be there.
    pub(crate) fn elements<'d>(
        &'d self,
        root: &'d DeTable<'d>,
        name: &'static str,
        faults: &mut Faults,
    ) -> Vec<Section<'d>> {
        let mut sections = Vec::new();
        for (key, value) in root {
            if key.get_ref() != name {
                faults.push(self.fault(
                    key.span().start,
                    format!(
                        "expected only [[{name}]] here, found {:?}; remove it or correct the name",
                        key.get_ref()
                    ),
                ));
                continue;
            }
            self.tables(name, key.span().start, value, faults, &mut sections);
        }
        sections.sort_by_key(|section| section.offset);
        sections
    }

    /// The elements of an array of tables called `name`, whose key stands at `key`.
    fn tables<'d>(
        &'d self,
        name: &str,
        key: usize,
        value: &'d Spanned<DeValue<'d>>,
        faults: &mut Faults,
        sections: &mut Vec<Section<'d>>,
    ) {
        let Some(items) = value.get_ref().as_array() else {
            let sentence = format!(
                "expected a list of tables, found {}; write [[{name}]] over each",
                describe(value.get_ref())
            );
            faults.push(self.fault(key, sentence));
            return;
        };
        for item in items {
            match item.get_ref().as_table() {
                Some(table) => {
                    sections.push(Section::new(self, format!("[[{name}]]"), table, item.span().start))
                }
                None => faults.push(self.fault(
                    item.span().start,
                    format!("expected a table, found {}; write [[{name}]]", describe(item.get_ref())),
                )),
            }
        }
    }
}

/// Opens a plain file; `None` when there is none.
pub(crate) fn open(path: &Path) -> Result<Option<File>, Diagnostic> {
    // Asked before opening: a FIFO would wait for its writer.
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(path, &error)),
        Ok(metadata) if !metadata.is_file() => {
            return Err(Diagnostic::new(
                path,
                1,
                1,
                "expected a plain file, found something else; replace it",
            ));
        }
        Ok(_) => {}
    }
    File::open(path).map(Some).map_err(|error| unreadable(path, &error))
}

/// The mode of a file that others than its owner can read: no place for a secret.
pub(crate) fn shared_mode(file: &File) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    file.metadata().ok().map(|metadata| metadata.mode() & 0o7777).filter(|mode| mode & 0o077 != 0)
}

/// A file that is there and cannot be read.
pub(crate) fn unreadable(path: &Path, error: &io::Error) -> Diagnostic {
    Diagnostic::new(
        path,
        1,
        1,
        format!("expected a readable file, found: {error}; check its permissions and its disk"),
    )
}

/// How many characters stand in these bytes of UTF-8.
pub(crate) fn characters(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte & 0xC0 != 0x80).count()
}

/// A table of a document: keys are taken one by one, what was never asked for is refused at the end.
pub(crate) struct Section<'d> {
    document: &'d Document,
    title: String,
    table: &'d DeTable<'d>,
    offset: usize,
    asked: Vec<&'static str>,
}

impl<'d> Section<'d> {
    pub(crate) fn new(document: &'d Document, title: String, table: &'d DeTable<'d>, offset: usize) -> Self {
        Self { document, title, table, offset, asked: Vec::new() }
    }

    /// Whether the key is there, rightly written or not.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Where the key itself stands, else where the table starts.
    pub(crate) fn place_of_key(&self, key: &str) -> usize {
        self.table.get_key_value(key).map_or(self.offset, |(key, _)| key.span().start)
    }

    /// Where the key's value stands, else where the table starts.
    pub(crate) fn place_of(&self, key: &str) -> usize {
        self.table.get(key).map_or(self.offset, |value| value.span().start)
    }

    /// A fault of this table as a whole.
    pub(crate) fn fault(&self, sentence: impl Into<String>) -> Diagnostic {
        self.document.fault(self.offset, sentence)
    }

    /// A fault at a byte offset.
    pub(crate) fn fault_at(&self, offset: usize, sentence: impl Into<String>) -> Diagnostic {
        self.document.fault(offset, sentence)
    }

    /// The folder that the file lies in.
    pub(crate) fn folder(&self) -> &'d Path {
        self.document.path.parent().unwrap_or(Path::new(""))
    }

    /// The raw value of a key.
    pub(crate) fn get(&mut self, key: &'static str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.asked.push(key);
        self.table.get(key)
    }

    /// The elements of the array of tables `key`, none when it is absent; `name` is what an operator calls it.
    pub(crate) fn tables(&mut self, faults: &mut Faults, key: &'static str, name: &'static str) -> Vec<Self> {
        let mut sections = Vec::new();
        if let Some(value) = self.get(key) {
            self.document.tables(name, self.place_of_key(key), value, faults, &mut sections);
        }
        sections
    }

    /// A value that may be absent; `None` also when it is wrong, which is told.
    pub(crate) fn optional<T>(
        &mut self,
        faults: &mut Faults,
        key: &'static str,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, String>,
    ) -> Option<At<T>> {
        let value = self.get(key)?;
        match read(value.get_ref()) {
            Ok(read) => Some(At { offset: value.span().start, value: read }),
            Err(sentence) => {
                faults.push(self.document.fault(value.span().start, format!("{key}: {sentence}")));
                None
            }
        }
    }

    /// A value that must be there.
    pub(crate) fn required<T>(
        &mut self,
        faults: &mut Faults,
        key: &'static str,
        example: &str,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, String>,
    ) -> Option<At<T>> {
        if !self.has(key) {
            self.asked.push(key);
            faults.push(
                self.fault(format!("expected the key {key} in {}, found none; add {example}", self.title)),
            );
            return None;
        }
        self.optional(faults, key, read)
    }

    /// A list of strings; with `single`, one string is a list too. `None` when it is absent or
    /// no list; items that are wrong are told and left out.
    pub(crate) fn list<T>(
        &mut self,
        faults: &mut Faults,
        key: &'static str,
        single: bool,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<At<T>>> {
        let value = self.get(key)?;
        let items = match value.get_ref() {
            DeValue::Array(items) => items.iter().collect(),
            DeValue::String(_) if single => vec![value],
            other => {
                let what = if single { "a string or a list of strings" } else { "a list of strings" };
                let remedy = if other.is_str() { "; put it in brackets" } else { "" };
                let sentence = format!("{key}: expected {what}, found {}{remedy}", describe(other));
                faults.push(self.document.fault(value.span().start, sentence));
                return None;
            }
        };
        let mut list = Vec::with_capacity(items.len());
        for item in items {
            let offset = item.span().start;
            match string(item.get_ref()).and_then(|text| read(&text)) {
                Ok(value) => list.push(At { offset, value }),
                Err(sentence) => faults.push(self.document.fault(offset, format!("{key}: {sentence}"))),
            }
        }
        Some(list)
    }

    /// Tells every key that nobody asked for.
    pub(crate) fn finish(self, faults: &mut Faults) {
        for key in self.table.keys() {
            if !self.asked.iter().any(|asked| asked == key.get_ref()) {
                let mut known = self.asked.clone();
                known.sort_unstable();
                known.dedup();
                faults.push(self.document.fault(
                    key.span().start,
                    format!(
                        "unknown key {:?} in {}; expected {}; remove it or correct its name",
                        key.get_ref(),
                        self.title,
                        if known.is_empty() { "none".to_owned() } else { known.join(", ") }
                    ),
                ));
            }
        }
    }
}

/// What a value is, for the sentence that refuses it.
pub(crate) fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// A string.
pub(crate) fn string(value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) => Ok(Cow::clone(text).into_owned()),
        other => Err(format!("expected a string, found {}; put it in quotes", describe(other))),
    }
}

/// A name: a string with something in it, and nothing that a table or a terminal would trip over.
pub(crate) fn name(value: &DeValue<'_>) -> Result<String, String> {
    let text = string(value)?;
    if text.trim().is_empty() {
        return Err("expected a name, found an empty one; write at least one character".to_owned());
    }
    if text.trim() != text || text.chars().any(char::is_control) || text.len() > 255 {
        return Err(format!(
            "expected a name of at most 255 bytes without spaces around it and without control characters, found {text:?}; rename it"
        ));
    }
    Ok(text)
}

/// `true` or `false`.
pub(crate) fn boolean(value: &DeValue<'_>) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| format!("expected true or false, found {}", describe(value)))
}

/// A whole number between two bounds, both included.
pub(crate) fn number(range: std::ops::RangeInclusive<u64>) -> impl Fn(&DeValue<'_>) -> Result<u64, String> {
    move |value| {
        let found = value.as_integer().and_then(|number| {
            u64::from_str_radix(number.as_str().trim_start_matches('+'), number.radix()).ok()
        });
        found.filter(|number| range.contains(number)).ok_or_else(|| {
            let quoted = value
                .as_str()
                .is_some_and(|text| text.parse::<u64>().is_ok_and(|number| range.contains(&number)));
            format!(
                "expected a whole number from {} to {}, found {}{}",
                range.start(),
                range.end(),
                describe(value),
                if quoted { "; remove the quotes" } else { "" }
            )
        })
    }
}

/// What a string parses to by `read`.
pub(crate) fn parsed<T>(
    read: impl FnOnce(&str) -> Result<T, String>,
) -> impl FnOnce(&DeValue<'_>) -> Result<T, String> {
    move |value| string(value).and_then(|text| read(&text))
}
