//! A running `pushplane listen`, and what it says.

#![allow(dead_code, reason = "each test that includes this module uses a part of it")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

/// How long anything may take before the test gives up on it.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(20);

/// Asks again and again until there is something.
pub(crate) fn until<T>(mut done: impl FnMut() -> Option<T>) -> Option<T> {
    (0..PATIENCE.as_millis() / PAUSE.as_millis()).find_map(|_| {
        let found = done();
        if found.is_none() {
            thread::sleep(PAUSE);
        }
        found
    })
}

/// The process; killed when dropped.
pub(crate) struct Listener {
    process: Child,
    lines: Receiver<String>,
    log: PathBuf,
}

impl Listener {
    /// Starts the command; its standard error goes to this file.
    pub(crate) fn start(mut command: Command, log: &Path) -> Self {
        let errors = File::create(log).unwrap();
        let mut process = command.stdout(Stdio::piped()).stderr(errors).spawn().unwrap();
        let out = BufReader::new(process.stdout.take().unwrap()).lines();
        let (said, lines) = channel();
        thread::spawn(move || out.map_while(Result::ok).for_each(|line| drop(said.send(line))));
        Self { process, lines, log: log.to_owned() }
    }

    /// What it wrote to standard error.
    pub(crate) fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits for these words on standard error.
    #[track_caller]
    pub(crate) fn wait_for(&self, words: &str) {
        self.wait_for_times(words, 1);
    }

    /// Waits until these words were there so often.
    #[track_caller]
    pub(crate) fn wait_for_times(&self, words: &str, times: usize) {
        let heard = until(|| (self.said().matches(words).count() >= times).then_some(()));
        assert!(heard.is_some(), "not said {times} times: {words}\n{}", self.said());
    }

    /// Where the server sees it: what the last such line says.
    pub(crate) fn seen(&self) -> SocketAddr {
        let said = self.said();
        let last = said.lines().rev().find_map(|line| line.split("seen as ").nth(1));
        let address = last.unwrap_or_else(|| panic!("{said}"));
        address.split(": ").next().unwrap_or(address).parse().unwrap_or_else(|_| panic!("{address}"))
    }

    /// The next line of standard output.
    #[track_caller]
    pub(crate) fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no line:\n{}", self.said()))
    }

    /// Types a line, where standard input is a pipe.
    pub(crate) fn type_in(&mut self, line: &str) {
        writeln!(self.process.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// SIGTERM.
    pub(crate) fn interrupt(&self) {
        let status = Command::new("kill").args(["-TERM", &self.process.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// SIGTERM; how it ended, and the lines that nobody has read.
    pub(crate) fn terminate(self) -> (ExitStatus, Vec<String>) {
        self.interrupt();
        self.wait()
    }

    /// How it ends, and the lines that nobody has read.
    pub(crate) fn wait(mut self) -> (ExitStatus, Vec<String>) {
        let ended = until(|| self.process.try_wait().unwrap());
        let ended = ended.unwrap_or_else(|| panic!("it does not end:\n{}", self.said()));
        (ended, self.lines.iter().collect())
    }

    /// Ends it: it releases what it holds, and has shown nothing more.
    #[track_caller]
    pub(crate) fn end(self) {
        let log = self.log.clone();
        let (status, more) = self.terminate();
        let said = fs::read_to_string(log).unwrap();
        assert!(status.success() && said.contains("released"), "{said}");
        assert!(more.is_empty(), "shown and not expected: {more:?}");
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
