//! Rows of a CSV file (RFC 4180, one row a line), streamed: a line is read into one buffer and
//! split in place.
//!
//! Not the `csv` crate, which is the oracle of the tests below: it does not know the column of a
//! field, counts a row's line from the comments before it, and takes a quote that never ends.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use ahash::AHashMap;

use crate::config::document::{characters, open, unreadable};
use crate::config::faults::Faults;
use crate::diagnostic::Diagnostic;

/// The longest line, bytes.
const LINE_MAX: usize = 1 << 16;

/// No such column in this file.
const ABSENT: usize = usize::MAX;

/// A column that a table knows.
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) required: bool,
}

/// Reads the rows of a file whose first row names its columns.
pub(super) struct Rows<'p, R> {
    path: &'p Path,
    columns: &'static [Column],
    reader: R,
    line: usize,
    /// Bytes read so far.
    read: u64,
    /// The line as it stands.
    raw: Vec<u8>,
    /// The fields' text, one after another, where a quote was in the line.
    unquoted: Vec<u8>,
    /// Whether that is where the fields of this line are.
    quoted: bool,
    fields: Vec<Field>,
    /// For each known column, which field of a row it is.
    order: Vec<usize>,
    /// Fields of the first row.
    width: usize,
}

#[derive(Clone, Copy)]
struct Field {
    /// Where in the line it stands.
    at: u32,
    /// Its text, in `raw` or `unquoted`.
    start: u32,
    end: u32,
}

/// One row: the fields of the known columns, in the order of these.
#[derive(Clone, Copy)]
pub(super) struct Row<'r> {
    path: &'r Path,
    pub(super) line: usize,
    raw: &'r [u8],
    text: &'r [u8],
    fields: &'r [Field],
    order: &'r [usize],
}

/// What [`Rows::next`] found.
pub(super) enum Next<'r> {
    Row(Row<'r>),
    /// A row that could not be split; it was told.
    Fault,
    End,
}

impl<'p> Rows<'p, BufReader<File>> {
    /// Opens the file and reads its first row. `None` when it is absent, empty or unusable, the
    /// latter told.
    pub(super) fn open(path: &'p Path, columns: &'static [Column], faults: &mut Faults) -> Option<Self> {
        match open(path) {
            Ok(file) => Rows::new(path, columns, BufReader::with_capacity(1 << 18, file?), faults),
            Err(fault) => {
                faults.push(fault);
                None
            }
        }
    }
}

impl<'p, R: BufRead> Rows<'p, R> {
    /// Reads the first row, which names the columns.
    pub(super) fn new(
        path: &'p Path,
        columns: &'static [Column],
        reader: R,
        faults: &mut Faults,
    ) -> Option<Self> {
        let mut rows = Self {
            path,
            columns,
            reader,
            line: 0,
            read: 0,
            raw: Vec::new(),
            unquoted: Vec::new(),
            quoted: false,
            fields: Vec::new(),
            order: vec![ABSENT; columns.len()],
            width: 0,
        };
        match rows.split_next(faults) {
            Some(true) => rows.header(faults).then_some(rows),
            Some(false) => None,
            // A copy that was cut, most likely: only an absent file is an empty table.
            None => {
                let names: Vec<&str> = columns.iter().map(|column| column.name).collect();
                let sentence = format!(
                    "expected a first row that names the columns ({}), found an empty file; write it or \
                     remove the file",
                    names.join(",")
                );
                faults.push(Diagnostic::new(path, 1, 1, sentence));
                None
            }
        }
    }

    /// How many bytes have been read.
    pub(super) fn read(&self) -> u64 {
        self.read
    }

    /// About how many rows are still to come in a file of `bytes`, from those that were read.
    pub(super) fn remaining_estimate(&self, bytes: u64) -> usize {
        let rows = bytes.saturating_mul(self.line as u64) / self.read.max(1);
        usize::try_from(rows.saturating_sub(self.line as u64)).unwrap_or(0)
    }

    fn header(&mut self, faults: &mut Faults) -> bool {
        let before = faults.found();
        let mut order = vec![ABSENT; self.columns.len()];
        let known = || self.columns.iter().map(|column| column.name).collect::<Vec<_>>().join(", ");
        let row = self.row();
        for (index, field) in self.fields.iter().enumerate() {
            let name = row.trimmed(*field);
            let shown = String::from_utf8_lossy(name);
            match self.columns.iter().position(|column| column.name.as_bytes() == name) {
                None => faults.push(row.fault_in(
                    *field,
                    format!(
                        "unknown column {shown:?}; the first row names the columns, expected some of {}; remove it or \
                         correct its name",
                        known()
                    ),
                )),
                Some(column) if order[column] != ABSENT => faults
                    .push(row.fault_in(*field, format!("column {shown} for the second time; remove one of the two"))),
                Some(column) => order[column] = index,
            }
        }
        // The first row gives all others their meaning: with a fault in it none is read.
        for (column, index) in self.columns.iter().zip(&order) {
            if column.required && *index == ABSENT {
                faults.push(Diagnostic::new(
                    self.path,
                    self.line,
                    1,
                    format!("expected a column {}, found none in the first row; add it", column.name),
                ));
            }
        }
        self.width = self.fields.len();
        self.order = order;
        faults.found() == before
    }

    /// The next row. Empty lines and lines that start with `#` are none.
    pub(super) fn next(&mut self, faults: &mut Faults) -> Next<'_> {
        match self.split_next(faults) {
            None => Next::End,
            Some(false) => Next::Fault,
            Some(true) if self.fields.len() == self.width => Next::Row(self.row()),
            Some(true) => {
                let row = self.row();
                let found = self.fields.len();
                let place = match self.fields.get(self.width) {
                    Some(extra) => row.column(extra.at as usize),
                    None => row.column(row.raw.len()),
                };
                let remedy =
                    if found > self.width { "remove the rest" } else { "write an empty one for none" };
                faults.push(Diagnostic::new(
                    self.path,
                    self.line,
                    place,
                    format!("expected {} fields as in the first row, found {found}; {remedy}", self.width),
                ));
                Next::Fault
            }
        }
    }

    fn row(&self) -> Row<'_> {
        Row {
            path: self.path,
            line: self.line,
            raw: &self.raw,
            text: if self.quoted { &self.unquoted } else { &self.raw },
            fields: &self.fields,
            order: &self.order,
        }
    }

    /// Reads and splits the next line that is a row: `Some(false)` when it cannot be split.
    fn split_next(&mut self, faults: &mut Faults) -> Option<bool> {
        loop {
            match self.read_line() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    let mut fault = unreadable(self.path, &error);
                    fault.line = self.line.max(1);
                    faults.push(fault);
                    return None;
                }
            }
            if self.raw.len() > LINE_MAX {
                let sentence = format!("expected lines of at most {LINE_MAX} bytes; break it up");
                faults.push(Diagnostic::new(self.path, self.line, 1, sentence));
                return None;
            }
            if self.raw.first() != Some(&b'#') && !self.raw.iter().all(u8::is_ascii_whitespace) {
                break;
            }
        }
        match split(&self.raw, &mut self.unquoted, &mut self.fields) {
            Ok(quoted) => {
                self.quoted = quoted;
                Some(true)
            }
            Err((at, sentence)) => {
                let column = characters(self.raw.get(..at).unwrap_or_default()) + 1;
                faults.push(Diagnostic::new(self.path, self.line, column, sentence));
                Some(false)
            }
        }
    }

    /// The next line without its end into `raw`; `false` at the end of the file.
    fn read_line(&mut self) -> io::Result<bool> {
        self.raw.clear();
        let limit = LINE_MAX as u64 + 2;
        if self.reader.by_ref().take(limit).read_until(b'\n', &mut self.raw)? == 0 {
            return Ok(false);
        }
        self.line += 1;
        self.read += self.raw.len() as u64;
        if self.raw.last() == Some(&b'\n') {
            self.raw.pop();
            if self.raw.last() == Some(&b'\r') {
                self.raw.pop();
            }
        }
        if self.line == 1 && self.raw.starts_with(b"\xEF\xBB\xBF") {
            self.raw.drain(..3);
        }
        Ok(true)
    }
}

/// Splits a line at its commas. `true` when there is a quote: then the text of all fields is in
/// `unquoted`.
fn split(raw: &[u8], unquoted: &mut Vec<u8>, fields: &mut Vec<Field>) -> Result<bool, (usize, &'static str)> {
    fields.clear();
    let mut start = 0;
    for (at, byte) in raw.iter().enumerate() {
        match byte {
            b',' => {
                fields.push(Field { at: start, start, end: at as u32 });
                start = at as u32 + 1;
            }
            b'"' => return split_quoted(raw, unquoted, fields).map(|()| true),
            _ => {}
        }
    }
    fields.push(Field { at: start, start, end: raw.len() as u32 });
    Ok(false)
}

#[cold]
fn split_quoted(
    raw: &[u8],
    unquoted: &mut Vec<u8>,
    fields: &mut Vec<Field>,
) -> Result<(), (usize, &'static str)> {
    fields.clear();
    unquoted.clear();
    let mut at = 0;
    loop {
        let (from, start) = (at, unquoted.len() as u32);
        if raw.get(at) == Some(&b'"') {
            at += 1;
            loop {
                match (raw.get(at), raw.get(at + 1)) {
                    (None, _) => {
                        return Err((
                            from,
                            "expected a quote at the end of the field, found the end of the line; add it",
                        ));
                    }
                    (Some(b'"'), Some(b'"')) => {
                        unquoted.push(b'"');
                        at += 2;
                    }
                    (Some(b'"'), _) => {
                        at += 1;
                        break;
                    }
                    (Some(byte), _) => {
                        unquoted.push(*byte);
                        at += 1;
                    }
                }
            }
        } else {
            while let Some(byte) = raw.get(at).filter(|byte| **byte != b',') {
                if *byte == b'"' {
                    return Err((
                        at,
                        "expected no quote inside a field; put the whole field in quotes and double it",
                    ));
                }
                unquoted.push(*byte);
                at += 1;
            }
        }
        fields.push(Field { at: from as u32, start, end: unquoted.len() as u32 });
        match raw.get(at) {
            None => return Ok(()),
            Some(b',') => at += 1,
            Some(_) => {
                return Err((
                    at,
                    "expected a comma or the end of the line after a quote; double quotes inside a field",
                ));
            }
        }
    }
}

impl<'r> Row<'r> {
    /// The text of a known column, without spaces around it; empty when the file has no such column.
    pub(super) fn get(&self, column: usize) -> &'r [u8] {
        self.field(column).map_or(&[], |field| self.trimmed(field))
    }

    fn field(&self, column: usize) -> Option<Field> {
        self.fields.get(*self.order.get(column)?).copied()
    }

    fn trimmed(&self, field: Field) -> &'r [u8] {
        self.text.get(field.start as usize..field.end as usize).unwrap_or_default().trim_ascii()
    }

    /// The column in characters, from 1, of a byte of the line.
    fn column(&self, at: usize) -> usize {
        characters(self.raw.get(..at).unwrap_or_default()) + 1
    }

    fn fault_in(&self, field: Field, sentence: impl Into<String>) -> Diagnostic {
        let at = field.at as usize;
        let rest = self.raw.get(at..).unwrap_or_default();
        let spaces = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        let blank = matches!(rest.get(spaces), None | Some(b','));
        Diagnostic::new(self.path, self.line, self.column(if blank { at } else { at + spaces }), sentence)
    }

    /// Where a known column stands in this row: its column in characters, from 1.
    pub(super) fn place(&self, column: usize) -> usize {
        self.field(column).map_or(1, |field| self.fault_in(field, "").column)
    }

    /// A fault in a known column.
    pub(super) fn fault(&self, column: usize, sentence: impl Into<String>) -> Diagnostic {
        Diagnostic::new(self.path, self.line, self.place(column), sentence)
    }
}

/// Where known columns stand in some lines: the file is read again, to the last of these lines.
pub(super) fn columns(
    path: &Path,
    columns: &'static [Column],
    wanted: impl Iterator<Item = (usize, usize)>,
) -> AHashMap<(usize, usize), usize> {
    let mut by_line: AHashMap<usize, Vec<usize>> = AHashMap::new();
    for (line, column) in wanted {
        by_line.entry(line).or_default().push(column);
    }
    let mut found = AHashMap::new();
    let mut ignored = Faults::default();
    if by_line.is_empty() {
        return found;
    }
    let Some(mut rows) = Rows::open(path, columns, &mut ignored) else { return found };
    while !by_line.is_empty() {
        match rows.next(&mut ignored) {
            Next::Row(row) => {
                for column in by_line.remove(&row.line).unwrap_or_default() {
                    found.insert((row.line, column), row.place(column));
                }
            }
            Next::Fault => {}
            Next::End => break,
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const COLUMNS: &[Column] = &[Column { name: "a", required: true }, Column { name: "b", required: false }];

    /// Rows as `line: a|b`, faults as `line:column: sentence`.
    fn read(text: &[u8]) -> (Vec<String>, Vec<String>) {
        let mut faults = Faults::default();
        let mut found = Vec::new();
        if let Some(mut rows) = Rows::new(Path::new("f"), COLUMNS, text, &mut faults) {
            loop {
                match rows.next(&mut faults) {
                    Next::Row(row) => {
                        let [a, b] = [0, 1].map(|column| String::from_utf8_lossy(row.get(column)));
                        found.push(format!("{}: {a}|{b}", row.line));
                    }
                    Next::Fault => {}
                    Next::End => break,
                }
            }
        }
        let faults = faults.into_vec().iter().map(|fault| fault.to_string()[2..].to_owned()).collect();
        (found, faults)
    }

    #[test]
    fn rows_know_their_lines_and_columns() {
        let (rows, faults) = read(
            b"\xEF\xBB\xBF# comment\r\n\r\nb,a\r\n1,2\n#x\n\n 3 ,\t4\n\"5,\"\"\",6\n7\n8,9,10\n\"11\n\"1\"2,\n1\"2,\n\xC3\xBC,\"1",
        );
        assert_eq!(rows, ["4: 2|1", "7: 4|3", "8: 6|5,\""]);
        let places: Vec<_> = faults.iter().map(|fault| fault.split(": ").next().unwrap()).collect();
        assert_eq!(places, ["9:2", "10:5", "11:1", "12:4", "13:2", "14:3"]);
    }

    #[test]
    fn the_first_row_is_held_to_the_known_columns() {
        for nothing in [&b""[..], b"# nothing\n\n"] {
            let (rows, faults) = read(nothing);
            assert!(rows.is_empty() && faults[0].starts_with("1:1: expected a first row"), "{faults:?}");
        }
        assert!(read(b"b\n1\n").1[0].starts_with("1:1: expected a column a"));
        assert!(read(b"a,c\n1,2\n").1[0].starts_with("1:3: unknown column \"c\""));
        assert!(read(b"a,b, a\n1,2,3\n").1[0].starts_with("1:6: column a for the second time"));
        assert_eq!(read(b"\"a\"\n1").0, ["2: 1|"]);
    }

    #[test]
    fn lines_are_bounded() {
        let mut text = b"a\n".to_vec();
        text.resize(LINE_MAX * 3, b'x');
        let (rows, faults) = read(&text);
        assert!(rows.is_empty() && faults[0].starts_with("2:1: expected lines of at most 65536 bytes"));
    }

    proptest! {
        /// What the `csv` crate writes, both read alike.
        #[test]
        fn the_csv_crate_agrees(rows in proptest::collection::vec(("[ -~üß]{0,6}", "[,\" x]{0,4}", "[ -~ü\"]{0,12}"), 0..8)) {
            let mut writer = csv::Writer::from_writer(Vec::new());
            writer.write_record(["a", "b"]).unwrap();
            for (first, second, third) in &rows {
                // A line that starts with # is a comment here.
                writer.write_record([format!("_{first}{second}"), third.clone()]).unwrap();
            }
            let text = writer.into_inner().unwrap();
            let mut expected = Vec::new();
            let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(&text[..]);
            for (index, record) in reader.byte_records().enumerate() {
                let record = record.unwrap();
                let [a, b] = [0, 1].map(|column| String::from_utf8_lossy(&record[column]).trim_ascii().to_owned());
                expected.push(format!("{}: {a}|{b}", index + 2));
            }
            prop_assert_eq!(read(&text), (expected, vec![]));
        }

        #[test]
        fn any_bytes_are_split_or_refused(text in proptest::collection::vec(
            prop_oneof![Just(b'"'), Just(b','), Just(b'\n'), Just(b'\r'), Just(b'#'), any::<u8>()], 0..200,
        )) {
            let mut file = b"a,b\n".to_vec();
            file.extend(text);
            read(&file);
        }
    }
}
