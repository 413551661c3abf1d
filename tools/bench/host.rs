//! The machine that a figure is of: without it none can be compared.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use pushplane::net;

use crate::common::grouped;

/// What the figures depend on besides the program.
#[derive(serde::Serialize, Debug)]
pub(crate) struct Host {
    /// The processor's name, by its own account.
    pub(crate) cpu: String,
    /// CPUs that this process may use.
    pub(crate) cpus: usize,
    /// CPUs that were busy on average within the last minute, by anybody.
    pub(crate) load: f64,
    pub(crate) kernel: String,
    /// What the kernel does, or does not, about each fault of the processor that concerns it.
    pub(crate) mitigations: BTreeMap<String, String>,
    /// Who chooses the clock's frequency; none where the host of a virtual machine does.
    pub(crate) governor: Option<String>,
    pub(crate) memory_bytes: u64,
    pub(crate) page_bytes: u64,
    /// Transparent huge pages: always, madvise or never.
    pub(crate) huge_pages: String,
    /// This program.
    pub(crate) version: &'static str,
    /// Figures of a debug build say nothing.
    pub(crate) optimised: bool,
}

impl Host {
    pub(crate) fn read() -> Self {
        Self {
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cpus: net::allowed_cpus().len(),
            load: text("/proc/loadavg")
                .and_then(|load| load.split(' ').next()?.parse().ok())
                .unwrap_or_default(),
            kernel: text("/proc/sys/kernel/osrelease").unwrap_or_default(),
            mitigations: mitigations(Path::new("/sys/devices/system/cpu/vulnerabilities")),
            governor: text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            memory_bytes: kib("/proc/meminfo", "MemTotal"),
            page_bytes: kib("/proc/self/smaps", "KernelPageSize"),
            huge_pages: text("/sys/kernel/mm/transparent_hugepage/enabled")
                .map_or_else(String::new, |choices| chosen(&choices)),
            version: env!("CARGO_PKG_VERSION"),
            optimised: !cfg!(debug_assertions),
        }
    }

    /// For people.
    pub(crate) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let governor = self.governor.as_deref().unwrap_or("unknown");
        let build = if self.optimised { "" } else { ", DEBUG BUILD: figures say nothing" };
        writeln!(
            out,
            "{}, {} CPUs (load {:.2}), governor {governor}, {} MiB, pages of {} KiB, huge pages {}",
            self.cpu,
            self.cpus,
            self.load,
            grouped(self.memory_bytes >> 20),
            self.page_bytes >> 10,
            self.huge_pages,
        )?;
        let faults: Vec<String> =
            self.mitigations.iter().map(|(name, what)| format!("{name}: {what}")).collect();
        let faults = if faults.is_empty() { "none needed".to_owned() } else { faults.join("; ") };
        writeln!(out, "Linux {}, mitigations: {faults}", self.kernel)?;
        writeln!(out, "pushplane {}{build}", self.version)
    }
}

/// A file's text without the end of its line; none where the kernel has no such file.
fn text(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned()).filter(|text| !text.is_empty())
}

/// The first value of this name in a file of `name: value` lines.
fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        (found.trim() == name).then(|| value.trim().to_owned())
    })
}

/// A value in kB, in bytes.
pub(crate) fn kib(path: &str, name: &str) -> u64 {
    let value = field(path, name).and_then(|value| value.split(' ').next()?.parse::<u64>().ok());
    value.unwrap_or_default() << 10
}

/// The word in brackets: how the kernel marks which of several holds.
fn chosen(choices: &str) -> String {
    let inside = choices.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    inside.map_or(choices, |(chosen, _)| chosen).to_owned()
}

fn mitigations(folder: &Path) -> BTreeMap<String, String> {
    let Ok(entries) = fs::read_dir(folder) else { return BTreeMap::new() };
    let read = |path: PathBuf| Some((path.file_name()?.to_str()?.to_owned(), text(path.to_str()?)?));
    let found = entries.filter_map(|entry| read(entry.ok()?.path()));
    found.filter(|(_, what)| what != "Not affected").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chosen_word_is_the_one_in_brackets() {
        assert_eq!(chosen("always [madvise] never"), "madvise");
        assert_eq!(chosen("never"), "never");
    }

    #[test]
    fn a_host_knows_itself() {
        let host = Host::read();
        assert!(host.cpus > 0 && host.page_bytes >= 4096 && host.memory_bytes > host.page_bytes);
        assert!(!host.kernel.is_empty() && !host.cpu.is_empty());
    }
}
