//! Push clients as processes: `listen` and `send` in hosts of the network.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use serde_json::Value;

use super::internet::Internet;
use super::netns::{PATIENCE, eventually};

/// A user: Push ID and key.
#[derive(Clone, Copy)]
pub(crate) struct User {
    pub(crate) id: &'static str,
    pub(crate) key: &'static str,
}

/// A running `pushplane listen`.
pub(crate) struct Listener {
    process: Child,
    lines: Receiver<String>,
    log: PathBuf,
}

impl Listener {
    /// Starts one for a user inside a host, and waits until it is registered.
    pub(crate) fn start(internet: &Internet, host: &str, user: User, more: &str) -> Self {
        let log = internet.net.folder.path().join(format!("listen-{host}-{}.log", &user.id[28..]));
        let mut command =
            pushplane(internet, host, &format!("listen --id {} --key {} {more}", user.id, user.key));
        let errors = File::create(&log).unwrap();
        let mut process = command.stdout(Stdio::piped()).stderr(errors).spawn().unwrap();
        let out = BufReader::new(process.stdout.take().unwrap()).lines();
        let (said, lines) = channel();
        thread::spawn(move || out.map_while(Result::ok).for_each(|line| drop(said.send(line))));
        let listener = Self { process, lines, log };
        listener.wait_for("registered as device 1");
        listener
    }

    /// What it wrote to standard error.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for these words on standard error.
    pub(crate) fn wait_for(&self, words: &str) {
        let heard = eventually(words, || self.said().contains(words).then_some(()));
        heard.unwrap_or_else(|why| panic!("{why}:\n{}", self.said()));
    }

    /// Where the server sees it: what the last such line says.
    pub(crate) fn seen(&self) -> SocketAddr {
        let said = self.said();
        let last = said.lines().rev().find_map(|line| line.split("seen as ").nth(1));
        let address = last.unwrap_or_else(|| panic!("{said}"));
        address.split(": ").next().unwrap_or(address).parse().unwrap_or_else(|_| panic!("{address}"))
    }

    /// The next payload.
    pub(crate) fn payload(&self) -> String {
        self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no payload:\n{}", self.said()))
    }

    /// Ends it: it releases what it holds, and has shown nothing more.
    pub(crate) fn end(mut self) {
        let status = Command::new("kill").args(["-TERM", &self.process.id().to_string()]).status().unwrap();
        assert!(status.success());
        let ended = eventually("end of listen", || self.process.try_wait().unwrap());
        assert!(ended.unwrap().success(), "{}", self.said());
        assert!(self.said().contains("released"), "{}", self.said());
        let more: Vec<String> = self.lines.iter().collect();
        assert!(more.is_empty(), "shown and not expected: {more:?}");
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn pushplane(internet: &Internet, host: &str, words: &str) -> Command {
    let mut command = internet.net.command(host, env!("CARGO_BIN_EXE_pushplane"));
    command.args(words.split_whitespace()).stdin(Stdio::null());
    if !words.contains("--server") {
        command.args(["--server", super::internet::SERVER]);
    }
    command
}

/// `pushplane send --json` inside a host, with these words; what it printed.
pub(crate) fn send(internet: &Internet, host: &str, words: &str) -> Value {
    let output = pushplane(internet, host, &format!("send --app 7 --json {words}")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{words}: {error}: {said}"))
}
