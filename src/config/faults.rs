//! Faults as they are found: sorted, bounded, made safe to print.

use crate::diagnostic::{Diagnostic, Diagnostics};

/// How many faults are told; the rest is counted. A file of ten million wrong rows must not fill
/// the memory with sentences.
const TOLD: usize = 1000;

/// Characters of one sentence. What was found is part of it, and may be a whole file.
const SENTENCE_MAX: usize = 400;

/// Collects faults (or warnings) in any order, keeps the first [`TOLD`] by file, line and column.
#[derive(Default)]
pub(crate) struct Faults {
    kept: Vec<Diagnostic>,
    more: usize,
    found: usize,
}

impl Faults {
    /// One more.
    pub(crate) fn push(&mut self, mut fault: Diagnostic) {
        if !fault.sentence.contains(';') {
            // The reader of a word knows what it expected, and nothing better to do.
            fault.sentence.push_str("; correct it");
        }
        tame(&mut fault.sentence);
        self.found += 1;
        self.kept.push(fault);
        if self.kept.len() >= 2 * TOLD {
            self.cut();
        }
    }

    /// So many more that nobody will write sentences for.
    pub(crate) fn count(&mut self, more: usize) {
        self.more += more;
        self.found += more;
    }

    /// How many so far: by comparing, a reader knows whether what it called found one.
    pub(crate) const fn found(&self) -> usize {
        self.found
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    fn cut(&mut self) {
        self.kept.sort();
        self.kept.dedup();
        self.more += self.kept.len().saturating_sub(TOLD);
        self.kept.truncate(TOLD);
    }

    /// In order of file, line and column; where some were left out, the last says how many.
    pub(crate) fn into_vec(mut self) -> Vec<Diagnostic> {
        self.cut();
        if self.more > 0
            && let Some(last) = self.kept.last()
        {
            let sentence = format!("and {} more; correct the ones above first", self.more);
            let more = Diagnostic::new(&last.file, last.line, last.column, sentence);
            self.kept.push(more);
        }
        self.kept
    }

    /// `value`, unless there is a fault.
    pub(crate) fn into_result<T>(self, value: T) -> Result<T, Diagnostics> {
        if self.is_empty() { Ok(value) } else { Err(Diagnostics(self.into_vec())) }
    }
}

/// No control characters (a terminal obeys them) and no endless line.
fn tame(sentence: &mut String) {
    if sentence.len() > SENTENCE_MAX && sentence.chars().count() > SENTENCE_MAX {
        let head: String = sentence.chars().take(SENTENCE_MAX * 3 / 4).collect();
        let tail: Vec<char> = sentence.chars().rev().take(SENTENCE_MAX / 4).collect();
        *sentence = format!("{head} … {}", tail.iter().rev().collect::<String>());
    }
    if sentence.chars().any(char::is_control) {
        *sentence = sentence
            .chars()
            .flat_map(|c| {
                let escaped = c.is_control();
                c.escape_default().take(if escaped { usize::MAX } else { 0 }).chain((!escaped).then_some(c))
            })
            .collect();
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn many_faults_are_cut_to_the_first_and_counted() {
        let mut faults = Faults::default();
        for line in (1..=5000).rev() {
            faults.push(Diagnostic::new(Path::new("f"), line, 1, "no"));
        }
        faults.count(7);
        let told = faults.into_vec();
        assert_eq!(told.len(), TOLD + 1);
        assert_eq!((told[0].line, told[TOLD - 1].line), (1, TOLD));
        assert_eq!(told[TOLD].sentence, "and 4007 more; correct the ones above first");
    }

    #[test]
    fn sentences_are_safe_to_print() {
        let mut sentence = "found \u{1b}[2J".to_owned();
        tame(&mut sentence);
        assert_eq!(sentence, "found \\u{1b}[2J");
        let mut sentence = format!("{}; remedy", "ü".repeat(10_000));
        tame(&mut sentence);
        assert!(sentence.chars().count() < 410 && sentence.ends_with("; remedy"));
    }
}
