//! On which CPUs the shards run, and who gives way to them.
//!
//! Cost: one system call at the start, one for each shard.
//!
//! The CPUs that a process may use are read once, before any thread is pinned: afterwards the kernel
//! shows a pinned thread its own CPU only. They are a set with holes (cgroup, taskset, CPUs that are
//! offline), never simply a count.

use std::fmt;
use std::sync::OnceLock;

use core_affinity::CoreId;
use rustix::process::{getpriority_process, setpriority_process};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::config::Shards;

static ALLOWED: OnceLock<Vec<usize>> = OnceLock::new();

/// The CPUs that this process may use, ascending. Empty when the kernel does not say.
///
/// The first call decides, for the process's whole life: make it before any thread is pinned by
/// other means than [`pin`].
pub fn allowed_cpus() -> &'static [usize] {
    ALLOWED.get_or_init(|| {
        core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect()
    })
}

/// Where shards go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placement {
    /// Each shard's CPU.
    pub cpus: Vec<usize>,
    /// What is unusual about it, one sentence each.
    pub warnings: Vec<String>,
}

/// Why shards cannot be placed: one sentence, with what to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AffinityError {
    /// The kernel does not say which CPUs may be used.
    Unknown,
    /// No shard at all.
    None,
    /// This CPU may not be used.
    NotAllowed {
        /// The CPU asked for.
        cpu: usize,
        /// Those that may be used.
        allowed: Vec<usize>,
    },
    /// This CPU is given twice.
    Twice(usize),
}

impl fmt::Display for AffinityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str(
                "the kernel does not say which CPUs this process may use: allow sched_getaffinity, and start it \
                 under taskset where there are more than 1024 CPUs",
            ),
            Self::None => f.write_str("no shard: expected at least one, or \"auto\""),
            Self::NotAllowed { cpu, allowed } => write!(
                f,
                "CPU {cpu} may not be used by this process: choose from {}, or widen its cgroup or taskset",
                ranges(allowed)
            ),
            Self::Twice(cpu) => write!(f, "CPU {cpu} is listed twice: one shard a CPU"),
        }
    }
}

impl std::error::Error for AffinityError {}

/// Chooses a CPU for each shard from `allowed` (ascending, of [`allowed_cpus`]).
///
/// More shards than CPUs are placed in turn, with a warning: they take each other's time.
///
/// # Errors
/// When there is no shard, or a CPU is asked for that may not be used or is asked for twice.
pub fn choose_cpus(shards: &Shards, allowed: &[usize]) -> Result<Placement, AffinityError> {
    if allowed.is_empty() {
        return Err(AffinityError::Unknown);
    }
    let mut warnings = Vec::new();
    let cpus = match shards {
        Shards::Auto => allowed.to_vec(),
        Shards::Count(0) => return Err(AffinityError::None),
        Shards::Count(count) => {
            if *count > allowed.len() {
                warnings.push(format!(
                    "{count} shards share {} CPUs ({}) and take each other's time: ask for {} shards, or allow \
                     more CPUs",
                    allowed.len(),
                    ranges(allowed),
                    allowed.len()
                ));
            }
            allowed.iter().copied().cycle().take(*count).collect()
        }
        Shards::Cpus(cpus) => {
            if cpus.is_empty() {
                return Err(AffinityError::None);
            }
            for (index, cpu) in cpus.iter().enumerate() {
                if !allowed.contains(cpu) {
                    return Err(AffinityError::NotAllowed { cpu: *cpu, allowed: allowed.to_vec() });
                }
                if cpus[..index].contains(cpu) {
                    return Err(AffinityError::Twice(*cpu));
                }
            }
            cpus.clone()
        }
    };
    Ok(Placement { cpus, warnings })
}

/// Pins the calling thread to this CPU. False, and nothing done, when it may not be used.
#[must_use]
pub fn pin(cpu: usize) -> bool {
    // Reads what is allowed before the first pin narrows it.
    allowed_cpus().contains(&cpu) && core_affinity::set_for_current(CoreId { id: cpu })
}

/// What is added to the nice value of a thread that gives way: on a CPU that is wanted by both it then gets a third of
/// what a shard gets, so it goes on even beside one that spins.
const NICER: i32 = 5;

/// CPUs without a shard that are enough for everybody else: the controller has one, and who sends its answers the other.
const ENOUGH: usize = 2;

/// Has the calling thread, and each that it starts, give way to shards on these CPUs: it keeps to the CPUs that have
/// none where these are enough, and counts for less on any. What the kernel refuses is left as it was.
pub fn give_way(shards: &[usize]) {
    let mut free = CpuSet::new();
    for cpu in allowed_cpus().iter().filter(|cpu| !shards.contains(cpu) && **cpu < CpuSet::MAX_CPU) {
        free.set(*cpu);
    }
    if free.count() as usize >= ENOUGH {
        let _ = sched_setaffinity(None, &free);
    }
    if let Ok(nice) = getpriority_process(None) {
        let _ = setpriority_process(None, nice + NICER);
    }
}

/// `0-3, 6`.
fn ranges(cpus: &[usize]) -> String {
    let mut text = String::new();
    let mut rest = cpus;
    while let Some(first) = rest.first() {
        let run = rest.iter().zip(*first..).take_while(|(cpu, expected)| **cpu == *expected).count();
        let separator = if text.is_empty() { "" } else { ", " };
        text += &match run {
            1 => format!("{separator}{first}"),
            _ => format!("{separator}{first}-{}", first + run - 1),
        };
        rest = &rest[run..];
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_go_to_allowed_cpus_with_holes() {
        let allowed = [0, 1, 2, 5];
        let cpus = |shards| choose_cpus(&shards, &allowed).map(|placement| placement.cpus);
        assert_eq!(cpus(Shards::Auto), Ok(vec![0, 1, 2, 5]));
        assert_eq!(cpus(Shards::Count(2)), Ok(vec![0, 1]));
        assert_eq!(cpus(Shards::Cpus(vec![5, 1])), Ok(vec![5, 1]));
        assert_eq!(cpus(Shards::Count(0)), Err(AffinityError::None));
        assert_eq!(cpus(Shards::Cpus(vec![])), Err(AffinityError::None));
        assert_eq!(cpus(Shards::Cpus(vec![1, 1])), Err(AffinityError::Twice(1)));
        assert_eq!(
            cpus(Shards::Cpus(vec![3])).unwrap_err().to_string(),
            "CPU 3 may not be used by this process: choose from 0-2, 5, or widen its cgroup or taskset"
        );
        assert_eq!(choose_cpus(&Shards::Auto, &[]), Err(AffinityError::Unknown));
    }

    #[test]
    fn more_shards_than_cpus_are_allowed_and_said() {
        let placement = choose_cpus(&Shards::Count(3), &[0, 1]).unwrap();
        assert_eq!(placement.cpus, [0, 1, 0]);
        assert!(placement.warnings[0].starts_with("3 shards share 2 CPUs (0-1)"), "{:?}", placement.warnings);
    }

    #[test]
    fn pinning_narrows_the_thread_and_not_the_list() {
        std::thread::spawn(|| {
            let before = allowed_cpus().to_vec();
            let last = *before.last().unwrap();
            assert!(pin(last));
            assert_eq!(core_affinity::get_core_ids().unwrap(), [CoreId { id: last }]);
            assert_eq!(allowed_cpus(), before);
            assert!(!pin(1 << 20));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn who_gives_way_keeps_off_shards_and_counts_for_less() {
        let cpus_and_nice = || {
            let cpus = core_affinity::get_core_ids().unwrap().into_iter().map(|core| core.id);
            (cpus.collect::<Vec<_>>(), getpriority_process(None).unwrap())
        };
        let (_, nice) = cpus_and_nice();
        let gives_way = |shards: Vec<usize>| {
            let here = move || {
                give_way(&shards);
                std::thread::spawn(cpus_and_nice).join().unwrap()
            };
            std::thread::spawn(here).join().unwrap()
        };
        let (allowed, nicer) = (allowed_cpus(), (nice + NICER).min(19));
        let (first, others) = allowed.split_first().unwrap();
        let left = if others.len() < ENOUGH { allowed } else { others };
        assert_eq!(gives_way(vec![*first]), (left.to_vec(), nicer), "the first CPU has a shard");
        assert_eq!(gives_way(vec![]), (allowed.to_vec(), nicer), "no CPU has one");
        assert_eq!(gives_way(allowed.to_vec()), (allowed.to_vec(), nicer), "every CPU has one");
        assert_eq!(cpus_and_nice(), (allowed.to_vec(), nice), "who starts shards stays as it was");
    }
}
