//! The commands as a person or a script meets them: exit status, standard output, standard error.
//!
//! Files under `tests/golden` hold what is long; `BLESS=1 cargo test --test commands` writes them anew.

mod bench;
mod check;
mod explain;
#[path = "../common/netns.rs"]
mod netns;
mod replay;
mod tables;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// The repository.
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// How a command ended.
struct Ran {
    command: String,
    status: i32,
    out: String,
    err: String,
}

impl Ran {
    /// It did what it should; what it printed.
    #[track_caller]
    fn ok(&self) -> &str {
        assert_eq!(self.status, 0, "{}\n{}\n{}", self.command, self.out, self.err);
        &self.out
    }

    /// The answer is no; what it printed.
    #[track_caller]
    fn no(&self) -> &str {
        assert_eq!(self.status, 1, "{}\n{}\n{}", self.command, self.out, self.err);
        &self.out
    }

    /// It refused: nothing on standard output, and this in one line of standard error.
    #[track_caller]
    fn wrong(&self, words: &str) {
        assert_eq!(self.status, 2, "{}\n{}\n{}", self.command, self.out, self.err);
        assert_eq!(self.out, "", "{}", self.command);
        assert!(self.err.lines().any(|line| line.contains(words)), "{}\n{}", self.command, self.err);
    }

    /// What it printed, as JSON.
    #[track_caller]
    fn json(&self) -> Value {
        assert!(self.status < 2, "{}\n{}", self.command, self.err);
        serde_json::from_str(&self.out)
            .unwrap_or_else(|error| panic!("{}: {error}\n{}", self.command, self.out))
    }
}

/// A folder of its own, with the lab's tables in `lab`.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        copy(&Path::new(ROOT).join("tables/lab"), &folder.path().join("lab"));
        fs::set_permissions(folder.path().join("lab/keys.toml"), fs::Permissions::from_mode(0o600)).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Runs `pushplane` in the folder; the arguments stand between spaces.
    fn run(&self, arguments: &str) -> Ran {
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        self.run_all(&arguments)
    }

    fn run_all(&self, arguments: &[&str]) -> Ran {
        let output = self.command().args(arguments).stdin(Stdio::null()).output().unwrap();
        Ran {
            command: arguments.join(" "),
            status: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pushplane"));
        command.current_dir(self.0.path());
        command
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Holds `found` against a golden file.
#[track_caller]
fn golden(name: &str, found: &str) {
    let path = Path::new(ROOT).join("tests/golden").join(name);
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, found).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    for (line, (found, expected)) in found.lines().zip(expected.lines()).enumerate() {
        assert_eq!(found, expected, "{name}:{}; BLESS=1 rewrites the file", line + 1);
    }
    assert_eq!(found.len(), expected.len(), "{name} is longer or shorter; BLESS=1 rewrites it");
}

/// Every command and what its help must show.
const COMMANDS: [&str; 13] = [
    "check",
    "explain",
    "listen",
    "replay",
    "send",
    "show",
    "tables build",
    "tables check",
    "tables size",
    "tables diff",
    "tables show",
    "tables generate",
    "tables learn",
];

#[test]
fn every_command_explains_itself_with_an_example() {
    let folder = Folder::new();
    for command in COMMANDS {
        let help = folder.run(&format!("{command} --help"));
        let help = help.ok();
        let example = help.split("Example:\n").nth(1).unwrap_or_else(|| panic!("{command}\n{help}"));
        assert!(example.contains(&format!("  pushplane {command} ")), "{command}");
        assert!(help.contains("--json"), "{command}");
        assert!(help.ends_with('\n'), "{command}");
    }
}

#[test]
fn a_wrong_command_line_is_refused() {
    let folder = Folder::new();
    for (arguments, words) in [
        ("", "Usage"),
        ("nonsense", "unrecognized subcommand"),
        ("check", "--config"),
        ("tables", "Usage"),
        ("tables build lab", "--output"),
        ("tables generate op", "--users"),
        ("tables generate op --users many", "invalid value 'many'"),
        ("tables generate op --users 99999999999", "invalid value"),
        ("tables show lab.ppt nothing", "expected one of servers, gateways"),
        ("tables learn -o learned", "<CAPTURE>"),
        ("tables learn x.pcap -o learned --segment 10.0.0.1/8", "has host bits set; write 10.0.0.0/8"),
        ("explain --tables lab", "--destination"),
        ("explain --destination 00000000000000000000000000000001", "--tables"),
        (
            "explain --tables lab --config c --destination 00000000000000000000000000000001",
            "cannot be used with",
        ),
        ("explain --tables lab --destination 1", "expected a Push ID of 32 hexadecimal digits"),
        (
            "explain --tables lab --destination 00000000000000000000000000000001 --from here",
            "expected an address",
        ),
        (
            "explain --tables lab --destination 00000000000000000000000000000001 --flags loud",
            "invalid value 'loud'",
        ),
        (
            "explain --tables lab --destination 00000000000000000000000000000001 --device 256",
            "invalid value '256'",
        ),
        ("explain --config c --as x --destination 00000000000000000000000000000001", "cannot be used with"),
        ("replay x.pcap", "--tables"),
        ("show", "pushplane.toml:1:1: expected a configuration file, found none"),
        ("show everything", "invalid value 'everything'"),
        ("show --config c --control s", "cannot be used with"),
        ("replay x.pcap --tables lab --app 1", "--as-push"),
        ("replay x.pcap --tables lab --verbose --json", "cannot be used with"),
    ] {
        folder.run(arguments).wrong(words);
    }
}

/// A reader that goes away ends a command without a word.
#[test]
fn a_closed_pipe_is_no_error() {
    let folder = Folder::new();
    folder.run("tables generate op --users 5000").ok();
    for arguments in
        ["tables show op users", "tables show op users --json", "tables diff op lab --limit 9999"]
    {
        let mut child = folder
            .command()
            .args(arguments.split(' '))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let ended = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8(ended.stderr).unwrap(), "", "{arguments}");
        let expected = i32::from(arguments.contains("diff"));
        assert_eq!(ended.status.code(), Some(expected), "{arguments}");
    }
}
