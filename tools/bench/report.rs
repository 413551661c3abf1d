//! What every measurement says at its end.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::host::Host;
use crate::Stop;
use crate::common::{self, grouped};
use crate::outcome::{Percentiles, Tally};

/// A whole measurement.
#[derive(Serialize)]
pub(crate) struct Report {
    /// Which.
    bench: &'static str,
    host: Host,
    /// What it was told, defaults included.
    settings: BTreeMap<&'static str, serde_json::Value>,
    /// The sums of all runs; late and latency are those of the first, which the bench is named after.
    #[serde(flatten)]
    total: Tally,
    runs: Vec<Run>,
}

/// One part of a measurement.
#[derive(Serialize)]
pub(crate) struct Run {
    pub(crate) name: &'static str,
    /// What it did, in words.
    #[serde(skip)]
    pub(crate) what: String,
    pub(crate) seconds: f64,
    #[serde(flatten)]
    pub(crate) tally: Tally,
    pub(crate) figures: Figures,
}

/// Figures by their names, in the order in which they were added.
#[derive(Default)]
pub(crate) struct Figures(Vec<Figure>);

struct Figure {
    name: &'static str,
    text: &'static str,
    value: f64,
}

impl Figures {
    /// Adds one: its name, which ends in its unit, for scripts; what it is, for people, after the number.
    pub(crate) fn add(&mut self, name: &'static str, text: &'static str, value: f64) {
        self.0.push(Figure { name, text, value });
    }

    /// One by its name.
    pub(crate) fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|figure| figure.name == name).map(|figure| figure.value)
    }
}

impl Serialize for Figures {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for figure in &self.0 {
            // What could not be measured is null, not a number.
            map.serialize_entry(figure.name, &Some(figure.value).filter(|value| value.is_finite()))?;
        }
        map.end()
    }
}

impl Report {
    pub(crate) fn new(
        bench: &'static str,
        settings: impl IntoIterator<Item = (&'static str, serde_json::Value)>,
        runs: Vec<Run>,
    ) -> Self {
        let mut total = Tally { valid: true, ..Tally::default() };
        for run in &runs {
            total.add(&run.tally);
        }
        if let Some(first) = runs.first() {
            (total.late, total.latency) = (first.tally.late, first.tally.latency);
        }
        Self { bench, host: Host::read(), settings: settings.into_iter().collect(), total, runs }
    }

    /// Prints it; the answer is no when a run is not valid.
    pub(crate) fn say(&self, json: bool) -> Result<(), Stop> {
        if json {
            common::print_json(self)?;
        } else {
            common::print(|out| self.print(out))?;
        }
        if self.total.valid { Ok(()) } else { Err(Stop::No) }
    }

    fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        self.host.print(out)?;
        let settings: Vec<String> =
            self.settings.iter().map(|(name, value)| format!("{name} {value}")).collect();
        writeln!(out, "bench {}: {}", self.bench, settings.join(", "))?;
        self.runs.iter().try_for_each(|run| run.print(out))
    }
}

/// A measurement that is one table.
#[derive(Serialize)]
pub(crate) struct Rows<R> {
    /// Which.
    bench: &'static str,
    host: Host,
    /// What the numbers of a row that has several are, in their order.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    columns: &'static [&'static str],
    /// Everything that arrived was right, and the accounts are closed.
    pub(crate) valid: bool,
    pub(crate) rows: Vec<R>,
}

impl<R: Serialize> Rows<R> {
    /// None so far.
    pub(crate) fn new(bench: &'static str, columns: &'static [&'static str]) -> Self {
        Self { bench, host: Host::read(), columns, valid: true, rows: Vec::new() }
    }

    /// Prints them, for people as this text below the machine; the answer is no when they are not valid.
    pub(crate) fn say(&self, json: bool, text: &str) -> Result<(), Stop> {
        if json {
            common::print_json(self)?;
        } else {
            common::print(|out| {
                self.host.print(out)?;
                write!(out, "\n{text}")
            })?;
        }
        if self.valid { Ok(()) } else { Err(Stop::No) }
    }
}

impl Run {
    fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let Tally { planned, sent, delivered, forwarded, answered, lost, .. } = self.tally;
        writeln!(out, "\n{}: {}, {:.2} s", self.name, self.what, self.seconds)?;
        let mut counts = vec![format!("{} planned", grouped(planned)), format!("{} sent", grouped(sent))];
        for (name, count) in
            [("delivered", delivered), ("forwarded", forwarded), ("answered", answered), ("lost", lost)]
        {
            counts.extend((count > 0).then(|| format!("{} {name}", grouped(count))));
        }
        let dropped = self.tally.dropped.iter();
        counts.extend(dropped.map(|(reason, count)| format!("{} dropped as {reason}", grouped(*count))));
        counts.push(if self.tally.valid { "valid" } else { "INVALID" }.to_owned());
        writeln!(out, "  {}", counts.join(", "))?;
        for (name, of) in [("latency", self.tally.latency), ("late", self.tally.late)] {
            if of.max > 0 {
                writeln!(out, "  {name} us: {}", microseconds(of))?;
            }
        }
        for Figure { text, value, .. } in &self.figures.0 {
            writeln!(out, "  {:>14} {text}", number(*value))?;
        }
        Ok(())
    }
}

fn microseconds(of: Percentiles) -> String {
    let Percentiles { p50, p90, p99, p999, max } = of;
    let parts = [("p50", p50), ("p90", p90), ("p99", p99), ("p99.9", p999), ("max", max)];
    parts.map(|(name, ns)| format!("{name} {}", number(ns as f64 / 1e3))).join(", ")
}

/// A number with as many digits as say something.
fn number(value: f64) -> String {
    match value {
        value if !value.is_finite() => "unknown".to_owned(),
        value if value.abs() >= 100.0 => grouped_signed(value),
        value if value.abs() >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.3}"),
    }
}

fn grouped_signed(value: f64) -> String {
    let sign = if value < 0.0 { "-" } else { "" };
    format!("{sign}{}", grouped(value.abs().round() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(planned: u64, answered: u64) -> Run {
        let mut tally = Tally { planned, sent: planned, answered, ..Tally::default() };
        tally.valid = tally.is_whole();
        tally.latency.p50 = planned;
        Run { name: "run", what: String::new(), seconds: 1.0, tally, figures: Figures::default() }
    }

    #[test]
    fn a_report_sums_its_runs_and_is_as_valid_as_the_worst() {
        let whole = Report::new("x", [], vec![run(3, 3), run(4, 4)]);
        assert_eq!((whole.total.sent, whole.total.latency.p50, whole.total.valid), (7, 3, true));
        let lossy = Report::new("x", [], vec![run(3, 3), run(4, 3)]);
        assert!(!lossy.total.valid);
    }

    #[test]
    fn figures_are_a_map_and_what_is_unknown_is_null() {
        let mut figures = Figures::default();
        figures.add("b_ns", "", 1.5);
        figures.add("a_ratio", "", f64::NAN);
        assert_eq!(serde_json::to_string(&figures).unwrap(), r#"{"b_ns":1.5,"a_ratio":null}"#);
    }

    #[test]
    fn numbers_keep_the_digits_that_say_something() {
        let texts = [1_234_567.8, -250.0, 12.34, 0.12345, f64::NAN].map(number);
        assert_eq!(texts, ["1 234 568", "-250", "12.3", "0.123", "unknown"]);
    }
}
