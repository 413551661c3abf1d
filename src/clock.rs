//! Time. Everything below the outermost loops is handed a [`Now`]; only [`Clock::now`] reads one.

/// One instant, as both clocks that a Push server needs show it. Read once a burst.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Now {
    /// Nanoseconds on the monotonic clock: intervals, rates, windows.
    pub mono_ns: u64,
    /// Milliseconds since 1970 on the wall clock: Deadline, Auth and validity (PROTOCOL.md).
    pub unix_ms: u64,
}

impl Now {
    /// The same instant `ns` nanoseconds later.
    #[must_use]
    pub const fn plus_ns(self, ns: u64) -> Self {
        Self { mono_ns: self.mono_ns + ns, unix_ms: self.unix_ms + ns / 1_000_000 }
    }

    /// Whole seconds since 1970.
    pub const fn unix_s(self) -> u64 {
        self.unix_ms / 1000
    }
}

/// The process's clocks.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: std::time::Instant,
}

impl Clock {
    /// A clock whose monotonic time starts at one second, so that 0 can mean "never".
    #[expect(clippy::disallowed_methods, reason = "the one place where time enters")]
    pub fn start() -> Self {
        Self { start: std::time::Instant::now() }
    }

    /// Both clocks, now.
    #[expect(clippy::disallowed_methods, reason = "the one place where time enters")]
    pub fn now(&self) -> Now {
        let mono = self.start.elapsed().as_nanos() as u64 + 1_000_000_000;
        let unix = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as u64);
        Now { mono_ns: mono, unix_ms: unix }
    }
}
