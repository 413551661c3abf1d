//! The house rules that no compiler knows: which room may import which, where `unsafe` may stand, how
//! long a file may get, and that no file holds what belongs elsewhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each room of `src` and the rooms that it may import. A room may name only rooms above it.
const ROOMS: &[(&str, &[&str])] = &[
    // Words.
    ("id", &[]),
    ("reason", &[]),
    ("clock", &[]),
    ("diagnostic", &[]),
    ("sync", &[]),
    ("metrics", &["reason", "sync"]),
    ("config", &["id", "diagnostic"]),
    // Formats.
    ("wire", &["id", "reason"]),
    // Tables.
    ("table", &["id", "sync", "config", "diagnostic", "wire"]),
    // Captured traffic: read, and turned into tables and pushes.
    ("capture", &["id", "wire", "table"]),
    // Packets, and who moves them: knows no message.
    ("packet", &["id"]),
    ("net", &["id", "config", "packet"]),
    // What was acknowledged, on disk: opaque records.
    ("journal", &[]),
    // The fast path: pure, knows no socket.
    ("plane", &["id", "reason", "clock", "metrics", "sync", "config", "wire", "table", "packet"]),
    // The one writer's brain: requests in, changes and answers out; knows no socket and no burst.
    ("control", &["id", "reason", "clock", "config", "wire", "table"]),
    // The only room that meets both net and plane.
    (
        "server",
        &[
            "id", "reason", "clock", "metrics", "sync", "config", "wire", "table", "packet", "net",
            "journal", "plane", "control",
        ],
    ),
    // Worlds: public doors only.
    (
        "sim",
        &[
            "id", "reason", "clock", "metrics", "config", "wire", "table", "packet", "net", "journal",
            "plane", "control", "server",
        ],
    ),
];

/// Files that may hold `unsafe`, each with what for. Everywhere else the compiler denies it.
const UNSAFE: &[&str] = &[
    "src/net/arrivals.rs",            // what the kernel wrote
    "src/net/header.rs",              // headers that point at each other
    "src/net/memory.rs",              // memory shared with the kernel
    "src/net/socket.rs",              // socket options that no library offers
    "src/net/udp.rs",                 // recvmmsg, sendmmsg
    "src/net/uring.rs",               // the ring
    "src/net/uring/receive.rs",       // buffers lent to the kernel
    "src/net/uring/send.rs",          // headers lent to the kernel
    "src/net/uring/shared.rs",        // memory shared with the kernel
    "src/packet/frame.rs",            // slots handed out and to the kernel
    "src/table/image.rs",             // the archive, once checked
    "src/table/memory.rs",            // huge pages, the prefetch hint
    "src/table/publish.rs",           // the published pointer
    "tests/common/counting.rs",       // a counting allocator
    "tests/common/netns.rs",          // entering a namespace
    "tests/loom.rs",                  // a cell that loom checks
    "tests/ports/denied.rs",          // denying ourselves a system call
    "tests/ports/harness.rs",         // leaving a namespace
    "tools/bench/forward/bare.rs",    // the peers' system calls and rings
    "tools/bench/forward/sockets.rs", // socket options that no library offers
];

/// Longest file, lines.
const LINES_MAX: usize = 830;

fn files() -> Vec<PathBuf> {
    fn walk(folder: &Path, out: &mut Vec<PathBuf>) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, out);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                out.push(path);
            }
        }
    }
    let mut out = Vec::new();
    for folder in ["src", "tools", "tests", "benches", "fuzz/fuzz_targets"] {
        walk(Path::new(folder), &mut out);
    }
    out.sort();
    assert!(out.len() > 30, "run from the repository's root");
    out
}

/// The file's lines without comments, and without its unit tests, which may import what they like.
fn code(path: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(path).unwrap();
    let body = text.split("\n#[cfg(test)]").next().unwrap_or_default();
    let body = body.split("\n#[cfg(all(test").next().unwrap_or_default();
    let lines = (1..).zip(body.lines());
    lines.map(|(n, line)| (n, line.split("//").next().unwrap_or_default().to_owned())).collect()
}

fn room_of(path: &Path) -> Option<String> {
    let inside = path.strip_prefix("src").ok()?;
    let first = inside.components().next()?.as_os_str().to_str()?;
    Some(first.trim_end_matches(".rs").to_owned()).filter(|room| room != "lib")
}

#[test]
fn rooms_import_only_rooms_above_them() {
    for (at, (room, may)) in ROOMS.iter().enumerate() {
        for other in *may {
            assert!(
                ROOMS[..at].iter().any(|(above, _)| above == other),
                "{room} may import {other}, which stands below it"
            );
        }
    }
    let mut wrong = Vec::new();
    for path in files() {
        let Some(room) = room_of(&path) else { continue };
        if path.ends_with("tests.rs") {
            continue;
        }
        let Some((_, may)) = ROOMS.iter().find(|(name, _)| *name == room) else {
            wrong.push(format!("{}: room {room} is not in the table of tests/tidy.rs", path.display()));
            continue;
        };
        for (line, text) in code(&path) {
            for import in text.split("crate::").skip(1) {
                let named: String = import.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let known = ROOMS.iter().any(|(name, _)| *name == named);
                if known && named != room && !may.contains(&named.as_str()) {
                    wrong.push(format!("{}:{line}: {room} may not import {named}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_stands_where_the_table_says() {
    let is_unsafe =
        |text: &str| text.contains("unsafe {") || text.contains("unsafe impl") || text.contains("unsafe fn");
    let all: BTreeSet<String> = files()
        .iter()
        .filter(|path| {
            let text = fs::read_to_string(path).unwrap();
            text.lines().map(|line| line.split("//").next().unwrap_or_default()).any(is_unsafe)
        })
        .map(|path| path.display().to_string())
        .filter(|path| path != "tests/tidy.rs")
        .collect();
    let allowed: BTreeSet<String> = UNSAFE.iter().map(|path| (*path).to_owned()).collect();
    let more: Vec<_> = all.difference(&allowed).collect();
    assert!(more.is_empty(), "unsafe outside the table of tests/tidy.rs: {more:?}");
    let less: Vec<_> = allowed.difference(&all).collect();
    assert!(less.is_empty(), "no unsafe any more; take it off the table: {less:?}");
}

#[test]
fn no_file_is_a_gravity_well() {
    let long: Vec<String> = files()
        .iter()
        .map(|path| (path, fs::read_to_string(path).unwrap().lines().count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(path, lines)| format!("{} has {lines} lines", path.display()))
        .collect();
    assert!(long.is_empty(), "split by phase of the packet: {long:?}");
}

#[test]
fn nothing_is_left_for_later_in_a_comment() {
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("todo", "!("),
        concat!("dbg", "!("),
    ];
    let mut wrong = Vec::new();
    for path in files() {
        for (n, line) in (1..).zip(fs::read_to_string(&path).unwrap().lines()) {
            if marks.iter().any(|mark| line.contains(mark)) {
                wrong.push(format!("{}:{n}: {}", path.display(), line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
