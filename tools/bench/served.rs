//! A real `pushplane serve`, as its own process: what it counts, what its threads cost, and how it is killed.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pushplane::clock::Clock;

use super::host::kib;
use crate::Stop;

/// How long a page of metrics may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A running server; killed when dropped.
pub(crate) struct Served {
    child: Child,
    /// Where its metrics are.
    metrics: String,
    /// From its start until it said that it serves.
    pub(crate) start_ns: u64,
}

impl Served {
    /// Starts this very program on a configuration that has `metrics`, and waits until it serves.
    pub(crate) fn start(config: &Path, clock: Clock) -> Result<Self, Stop> {
        let failed = |why: String| Stop::Failed(format!("the server did not start: {why}"));
        let program = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
        let start = clock.now().mono_ns;
        let mut child = Command::new(program)
            .arg("serve")
            .arg("--config")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let mut ready = String::new();
        if let Some(out) = child.stdout.take() {
            let read = BufReader::new(out).read_line(&mut ready);
            read.map_err(|error| failed(error.to_string()))?;
        }
        let start_ns = clock.now().mono_ns - start;
        let metrics = ready.split("http://").nth(1).and_then(|rest| rest.trim().strip_suffix("/metrics"));
        let Some(metrics) = metrics.map(str::to_owned) else {
            let _ = child.kill();
            let _ = child.wait();
            return Err(failed("standard error says why".to_owned()));
        };
        Ok(Self { child, metrics, start_ns })
    }

    /// Everything that it counts now.
    pub(crate) fn counts(&self) -> Result<Counts, Stop> {
        let failed = |error| Stop::Failed(format!("{}: its metrics cannot be read: {error}", self.metrics));
        self.page().map(|page| Counts::parse(&page)).map_err(failed)
    }

    fn page(&self) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(&self.metrics)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        Ok(page)
    }

    /// CPU time of its threads whose names begin so, nanoseconds, since they started.
    pub(crate) fn cpu_ns(&self, name: &str) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let threads = tasks.into_iter().flatten().flatten().map(|entry| entry.path());
        let own = threads.filter(|thread| {
            fs::read_to_string(thread.join("comm")).is_ok_and(|found| found.starts_with(name))
        });
        let times = own.filter_map(|thread| {
            // The first number is the time on a CPU.
            fs::read_to_string(thread.join("schedstat")).ok()?.split(' ').next()?.parse::<u64>().ok()
        });
        times.sum()
    }

    /// Memory that it holds now, and the most that it held, bytes.
    pub(crate) fn memory(&self) -> (u64, u64) {
        let status = format!("/proc/{}/status", self.child.id());
        (kib(&status, "VmRSS"), kib(&status, "VmHWM"))
    }

    /// Ends it as a crash would: SIGKILL.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A page of metrics: numbers by name, labels included.
pub(crate) struct Counts(HashMap<String, i64>);

impl Counts {
    fn parse(page: &str) -> Self {
        let lines = page.lines().filter(|line| line.starts_with("pushplane_"));
        let pairs = lines.filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.trim_start_matches("pushplane_").to_owned(), value.parse().ok()?))
        });
        Self(pairs.collect())
    }

    /// A value, by its name without `pushplane_`; 0 when there is none.
    pub(crate) fn of(&self, name: &str) -> u64 {
        self.0.get(name).map_or(0, |value| u64::try_from(*value).unwrap_or(0))
    }

    /// Whether every datagram is in exactly one counter.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.get("unaccounted") == Some(&0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_by_name_and_label() {
        let counts = Counts::parse(
            "HTTP/1.1 200 OK\r\n\r\n# HELP pushplane_x y\npushplane_x_total 7\n\
             pushplane_dropped_total{reason=\"no-route\"} 3\npushplane_unaccounted 0\n",
        );
        assert_eq!((counts.of("x_total"), counts.of("absent")), (7, 0));
        assert_eq!(counts.of("dropped_total{reason=\"no-route\"}"), 3);
        assert!(counts.is_closed());
    }
}
