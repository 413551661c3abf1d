//! Instructions a lookup, counted by callgrind: the one figure that does not depend on what else the machine does. Kept
//! in a file, and held to it.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use super::own::{Live, Part, World};
use super::routes::{Routes, Space};
use super::users::{Draw, Hits, Population, Users};

/// What is counted, each over [`LOOKUPS`] of [`USERS`].
const JOBS: [&str; 9] = [
    "resolution",
    "resolution, unknown users",
    "resolution beside registered users",
    "resolution of registered users",
    "binding",
    "prefix of a Push ID",
    "allowlist",
    "segment, IPv4",
    "segment, IPv6",
];

const USERS: u64 = 10_000;
const LOOKUPS: usize = 1 << 15;
const ROUTES: usize = 10_000;

/// What the file begins with.
const HEAD: &str = "\
# Instructions a lookup, counted by callgrind over the program that `cargo test` makes, within the lookups alone.
# .ci/run holds every change to them: a rise of more than 5 percent fails. Where one is meant, or a new compiler
# brings one, write this file anew and say in the commit what it buys:
#     cargo test --test commands --no-run
#     target/debug/pushplane bench lookup --instructions benches/lookup.instructions --bless
";

/// A rise beyond this is a fault.
const RISE_MAX: f64 = 1.05;

/// What callgrind counts: it knows it by its name.
#[inline(never)]
fn under_callgrind(answer: impl FnOnce() -> u64) -> u64 {
    std::hint::black_box(answer())
}

/// Does one of [`JOBS`], for callgrind to count.
///
/// # Errors
/// When there is no such job.
pub(crate) fn run(job: &str) -> Result<(), String> {
    let hits = if job.ends_with("unknown users") { Hits::None } else { Hits::All };
    let world = || World::new(USERS);
    // Without writers no key file of a DPDK program is needed: questions are asked as they are drawn.
    let mut users = Users::draw(USERS, Draw::Uniform, hits, LOOKUPS, 0);
    let alone = |part| {
        let world = world();
        under_callgrind(|| world.part(part, &users.ids))
    };
    match job {
        "resolution" | "resolution, unknown users" => {
            let world = world();
            under_callgrind(|| world.all(&users.ids));
        }
        "resolution beside registered users" | "resolution of registered users" => {
            // The first ones have registered; the others are in users.csv alone.
            let registered = USERS / 2;
            let first = if job.ends_with("of registered users") { 0 } else { registered };
            users = Users::range(first, registered, LOOKUPS);
            let live = Live::with(&Population::new(USERS), registered)?;
            under_callgrind(|| live.all(&users.ids));
        }
        "binding" => drop(alone(Part::Binding)),
        "prefix of a Push ID" => drop(alone(Part::Prefix)),
        "allowlist" => drop(alone(Part::Allowlist)),
        "segment, IPv4" | "segment, IPv6" => {
            let space = if job.ends_with('4') { Space::V4 } else { Space::V6 };
            let find = Routes::new(space, ROUTES).lookups(LOOKUPS);
            under_callgrind(find);
        }
        _ => return Err(format!("nothing is counted by the name {job:?}")),
    }
    Ok(())
}

/// Instructions a lookup of each job, by running `program` once for each under callgrind.
fn count(arguments: &[&str]) -> Result<Vec<(&'static str, f64)>, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let count = |job| {
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"])
            .arg("--toggle-collect=*under_callgrind*")
            .arg(&program)
            .args(arguments)
            .args(["--counted", job])
            .output()
            .map_err(|error| format!("valgrind: {error}; on Debian, apt-get install valgrind"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        let collected =
            said.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse::<u64>().ok());
        match collected.filter(|_| output.status.success()) {
            Some(instructions) if instructions > 0 => Ok((job, instructions as f64 / LOOKUPS as f64)),
            _ => Err(format!("{job}: callgrind counted nothing: {said}")),
        }
    };
    JOBS.into_iter().map(count).collect()
}

/// Counts, prints beside what the file says, and is an error when one has risen beyond what may be; with `bless` the
/// file is written anew. `arguments` lead this program to [`run`].
pub(crate) fn hold_to(file: &Path, bless: bool, arguments: &[&str]) -> Result<String, String> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let known = |job: &str| {
        text.lines().find_map(|line| line.strip_prefix(job)?.strip_prefix(": ")?.trim().parse::<f64>().ok())
    };
    let mut table = String::new();
    let mut lines = HEAD.to_owned();
    let mut risen = Vec::new();
    for (job, counted) in count(arguments)? {
        let _ = writeln!(lines, "{job}: {counted:.1}");
        let before = known(job);
        let change =
            before.map_or("new".to_owned(), |before| format!("{:+.1} %", (counted / before - 1.0) * 100.0));
        let _ = writeln!(table, "  {job:<36} {counted:>8.1} {change:>8}");
        if before.is_none_or(|before| counted > before * RISE_MAX) {
            risen.push(job);
        }
    }
    if bless {
        std::fs::write(file, lines).map_err(|error| format!("{}: {error}", file.display()))?;
    } else if !risen.is_empty() {
        return Err(format!(
            "{table}more instructions a lookup than {} allows: {}; make it cheaper, or write the file anew with --bless \
             and say why",
            file.display(),
            risen.join("; ")
        ));
    }
    Ok(format!("instructions a lookup, and what has changed\n{table}"))
}
