//! Push clients as processes: `listen` and `send` in hosts of the network.

use std::process::{Command, Stdio};

use serde_json::Value;

use super::internet::{Internet, SERVER};
use super::listener::Listener;

/// A user: Push ID and key.
#[derive(Clone, Copy)]
pub(crate) struct User {
    pub(crate) id: &'static str,
    pub(crate) key: &'static str,
}

fn pushplane(internet: &Internet, host: &str, words: &str) -> Command {
    let mut command = internet.net.command(host, env!("CARGO_BIN_EXE_pushplane"));
    command.args(words.split_whitespace()).args(["--server", SERVER]).stdin(Stdio::null());
    command
}

/// Starts `pushplane listen` for a user inside a host, and waits until it is registered.
pub(crate) fn listen(internet: &Internet, host: &str, user: User, more: &str) -> Listener {
    let log = internet.net.folder.path().join(format!("listen-{host}-{}.log", &user.id[28..]));
    let command = pushplane(internet, host, &format!("listen --id {} --key {} {more}", user.id, user.key));
    let listener = Listener::start(command, &log);
    listener.wait_for("registered as device 1");
    listener
}

/// `pushplane send --json` inside a host, with these words; what it printed.
pub(crate) fn send(internet: &Internet, host: &str, words: &str) -> Value {
    let output = pushplane(internet, host, &format!("send --app 7 --json {words}")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{words}: {error}: {said}"))
}
