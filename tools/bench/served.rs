//! A real `pushplane serve`, as its own process: what it counts, what its threads cost, and how it is killed.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use pushplane::clock::Clock;
use rustix::process::{Pid, Signal, kill_process};

use super::host::kib;
use crate::Stop;

/// How long a page of metrics may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A running server; killed when dropped.
pub(crate) struct Served {
    child: Child,
    /// When it last said that other tables serve; 0: never.
    swapped_ns: Arc<AtomicU64>,
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
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let swapped_ns = Arc::default();
        let errors = child.stderr.take().map(|errors| repeat(errors, clock, Arc::clone(&swapped_ns)));
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
            let _ = errors.map(JoinHandle::join);
            return Err(failed("standard error says why".to_owned()));
        };
        Ok(Self { child, swapped_ns, metrics, start_ns })
    }

    /// Has it read its tables again.
    pub(crate) fn reload(&self) -> Result<(), Stop> {
        let process = Pid::from_child(&self.child);
        let failed = |error| Stop::Failed(format!("the server cannot be told to read its tables: {error}"));
        kill_process(process, Signal::HUP).map_err(failed)
    }

    /// When it last said that other tables serve; 0: never.
    pub(crate) fn swapped_ns(&self) -> u64 {
        self.swapped_ns.load(Ordering::Acquire)
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
        let times = self.threads(name).filter_map(|thread| {
            // The first number is the time on a CPU.
            fs::read_to_string(thread.join("schedstat")).ok()?.split(' ').next()?.parse::<u64>().ok()
        });
        times.sum()
    }

    /// What its threads whose names begin so met since they started.
    pub(crate) fn met(&self, name: &str) -> Met {
        let mut met = Met::default();
        for thread in self.threads(name) {
            let read = |file| fs::read_to_string(thread.join(file)).unwrap_or_default();
            let number = |text: &str, at| text.split(' ').nth(at).and_then(|word| word.parse::<u64>().ok());
            met.waited_ns += number(&read("schedstat"), 1).unwrap_or(0);
            // Behind the name, which may have any character in it, the eighth and the tenth (proc(5), stat).
            let stat = read("stat");
            let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
            met.faults += number(rest, 7).unwrap_or(0) + number(rest, 9).unwrap_or(0);
        }
        met
    }

    /// Its threads whose names begin so, as folders of `/proc`.
    fn threads(&self, name: &str) -> impl Iterator<Item = PathBuf> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let threads = tasks.into_iter().flatten().flatten().map(|entry| entry.path());
        threads.filter(move |thread| {
            fs::read_to_string(thread.join("comm")).is_ok_and(|found| found.starts_with(name))
        })
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

/// What threads met besides work.
#[derive(Clone, Copy, Default)]
pub(crate) struct Met {
    /// Ready to run, on no CPU.
    pub(crate) waited_ns: u64,
    /// Pages that were not there.
    pub(crate) faults: u64,
}

/// Passes on what a server says on standard error, but for when other tables serve: that is kept.
fn repeat(errors: ChildStderr, clock: Clock, swapped_ns: Arc<AtomicU64>) -> JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(errors).lines().map_while(Result::ok) {
            if line.starts_with("generation ") {
                swapped_ns.store(clock.now().mono_ns, Ordering::Release);
            } else {
                eprintln!("{line}");
            }
        }
    })
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
