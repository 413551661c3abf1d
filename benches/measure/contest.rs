//! Contestants at one job, round after round, and the table of what they took.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What all contestants of one contest are asked.
pub(crate) trait Questions {
    /// How many.
    fn len(&self) -> usize;
    /// What the answers to this add up to; none where nothing is to be found.
    fn expected(&self, job: Job) -> Option<u64>;
}

/// What a contestant does for each question.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Job {
    /// Reads a random cache line.
    Line,
    /// Finds a value.
    Value,
    /// Finds where a user is.
    Binding,
    /// Says yes.
    Yes,
    /// Everything that a push needs: allowlist, prefix, binding, reverse check, segment, gateway.
    Resolution,
}

impl Job {
    const fn name(self) -> &'static str {
        match self {
            Self::Line => "a line",
            Self::Value => "a value",
            Self::Binding => "a binding",
            Self::Yes => "yes or no",
            Self::Resolution => "resolution",
        }
    }
}

/// What answering all questions once took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) time: Duration,
    /// What the answers add up to.
    pub(crate) sum: u64,
}

impl Run {
    /// Times answers that add up.
    pub(crate) fn of(answer: impl FnOnce() -> u64) -> Self {
        let start = now();
        let sum = answer();
        Self { time: start.elapsed(), sum }
    }
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// A run while somebody changed the table as fast as it went.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beside {
    pub(crate) run: Run,
    pub(crate) writes_per_s: f64,
}

impl Beside {
    /// Runs `read` while `write` is called again and again on another CPU.
    pub(crate) fn of(mut write: impl FnMut() + Send, read: impl FnOnce() -> Run) -> Self {
        let (stop, writes) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                pin(Place::Writer);
                while !stop.load(Ordering::Relaxed) {
                    write();
                    writes.fetch_add(1, Ordering::Relaxed);
                }
            });
            while writes.load(Ordering::Relaxed) == 0 {
                std::hint::spin_loop();
            }
            let (before, start) = (writes.load(Ordering::Relaxed), now());
            let run = read();
            let written = writes.load(Ordering::Relaxed) - before;
            let writes_per_s = written as f64 / start.elapsed().as_secs_f64();
            stop.store(true, Ordering::Relaxed);
            Self { run, writes_per_s }
        })
    }
}

/// Who runs where.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Who is measured.
    Reader,
    /// Who writes meanwhile.
    Writer,
}

/// The last CPU is the reader's, the one before the writer's.
pub(crate) fn cpu(place: Place) -> usize {
    let cpus = pushplane::net::allowed_cpus();
    let from_end = if place == Place::Reader { 1 } else { 2 };
    cpus[cpus.len().saturating_sub(from_end)]
}

/// Keeps the calling thread on its CPU.
pub(crate) fn pin(place: Place) {
    core_affinity::set_for_current(core_affinity::CoreId { id: cpu(place) });
}

/// Somebody who answers questions.
pub(crate) trait Contestant<Q> {
    /// Answers all of them once.
    fn run(&mut self, questions: &Q) -> Run;

    /// As [`Contestant::run`] beside a writer, if there can be one.
    fn beside_writer(&mut self, questions: &Q) -> Option<Beside> {
        let _ = questions;
        None
    }

    /// Bytes an entry, where that can be told.
    fn bytes(&self) -> Option<f64> {
        None
    }
}

/// A contestant who is asked to come: `make` may say why it cannot.
pub(crate) struct Entrant<P, Q> {
    pub(crate) name: &'static str,
    pub(crate) job: Job,
    /// Has a table of its own: it comes alone when there are very many entries, and takes it along when it goes.
    pub(crate) heavy: bool,
    #[expect(clippy::type_complexity, reason = "said once")]
    pub(crate) make: Box<dyn Fn(&P) -> Result<Box<dyn Contestant<Q>>, String>>,
}

impl<P, Q> Entrant<P, Q> {
    pub(crate) fn new<C: Contestant<Q> + 'static>(
        name: &'static str,
        job: Job,
        make: impl Fn(&P) -> Result<C, String> + 'static,
    ) -> Self {
        let make = move |population: &P| -> Result<Box<dyn Contestant<Q>>, String> {
            Ok(Box::new(make(population)?))
        };
        Self { name, job, heavy: false, make: Box::new(make) }
    }

    pub(crate) fn heavy(self) -> Self {
        Self { heavy: true, ..self }
    }
}

/// How a contest is held.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) rounds: usize,
    pub(crate) writer: bool,
    /// Heavy contestants come one at a time, when those before have gone with what they had.
    pub(crate) apart: bool,
}

/// What a contestant took, at best.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) job: Job,
    /// Nanoseconds a lookup.
    pub(crate) ns: f64,
    /// The same beside a writer.
    pub(crate) beside_writer_ns: Option<f64>,
    pub(crate) writes_per_s: Option<f64>,
    pub(crate) bytes_an_entry: Option<f64>,
}

/// A contest's result.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Table {
    pub(crate) title: String,
    pub(crate) rows: Vec<Row>,
    /// Who could not come, and why.
    pub(crate) absent: Vec<(&'static str, String)>,
}

/// Holds a contest: in each round everybody answers the same new questions, one after another. Wrong answers end the
/// program.
pub(crate) fn hold<P, Q: Questions>(
    title: String,
    population: &P,
    entrants: Vec<Entrant<P, Q>>,
    rules: Rules,
    ask: impl Fn(usize) -> Q,
) -> Table {
    let mut table = Table { title, rows: Vec::new(), absent: Vec::new() };
    let mut groups: Vec<Vec<Entrant<P, Q>>> = vec![Vec::new()];
    for entrant in entrants {
        if entrant.heavy && rules.apart {
            groups.push(vec![entrant]);
        } else {
            groups[0].push(entrant);
        }
    }
    for group in groups {
        let mut present = Vec::new();
        for entrant in group {
            match (entrant.make)(population) {
                Ok(contestant) => {
                    let bytes_an_entry = contestant.bytes();
                    let (name, job) = (entrant.name, entrant.job);
                    let row = Row {
                        name,
                        job,
                        ns: f64::MAX,
                        beside_writer_ns: None,
                        writes_per_s: None,
                        bytes_an_entry,
                    };
                    present.push((contestant, row));
                }
                Err(why) => table.absent.push((entrant.name, why)),
            }
        }
        for round in 0..rules.rounds {
            let questions = ask(round);
            for (contestant, row) in &mut present {
                row.ns = row.ns.min(checked(row, contestant.run(&questions), &questions));
                if !rules.writer {
                    continue;
                }
                if let Some(Beside { run, writes_per_s }) = contestant.beside_writer(&questions) {
                    let ns = checked(row, run, &questions);
                    if row.beside_writer_ns.is_none_or(|best| ns < best) {
                        (row.beside_writer_ns, row.writes_per_s) = (Some(ns), Some(writes_per_s));
                    }
                }
            }
        }
        table.rows.extend(present.into_iter().map(|(_, row)| row));
    }
    table
}

/// Nanoseconds a question, of right answers.
fn checked<Q: Questions>(row: &Row, run: Run, questions: &Q) -> f64 {
    if let Some(expected) = questions.expected(row.job) {
        assert_eq!(run.sum, expected, "{}: the answers are wrong", row.name);
    }
    run.time.as_nanos() as f64 / questions.len() as f64
}

impl Table {
    fn best(&self, job: Job) -> Option<f64> {
        self.rows.iter().filter(|row| row.job == job).map(|row| row.ns).reduce(f64::min)
    }
}

impl std::fmt::Display for Table {
    /// Ratios are of the first row of ours: how many times as long another takes.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}", self.title)?;
        let limit = self.best(Job::Line);
        let own = self.rows.iter().find(|row| row.job != Job::Line).map_or(f64::NAN, |row| row.ns);
        writeln!(
            f,
            "  {:<34} {:<10} {:>7} {:>7} {:>6} {:>6} {:>9} {:>7} {:>7}",
            "", "finds", "ns", "M/s", "limit", "ours", "beside a", "writes", "bytes"
        )?;
        writeln!(
            f,
            "  {:<34} {:<10} {:>7} {:>7} {:>6} {:>6} {:>9} {:>7} {:>7}",
            "", "", "", "", "share", "×", "writer ns", "M/s", "each"
        )?;
        let optional = |value: Option<f64>, digits: usize| {
            value.map_or_else(String::new, |value| format!("{value:.digits$}"))
        };
        for row in &self.rows {
            writeln!(
                f,
                "  {:<34} {:<10} {:>7.1} {:>7.1} {:>6} {:>6.2} {:>9} {:>7} {:>7}",
                row.name,
                row.job.name(),
                row.ns,
                1e3 / row.ns,
                optional(limit.map(|limit| limit / row.ns), 2),
                row.ns / own,
                optional(row.beside_writer_ns, 1),
                optional(row.writes_per_s.map(|writes| writes / 1e6), 2),
                optional(row.bytes_an_entry, 1),
            )?;
        }
        for (name, why) in &self.absent {
            writeln!(f, "  {name}: not there: {why}")?;
        }
        Ok(())
    }
}
