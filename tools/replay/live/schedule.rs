//! When each message is due: an absolute time since the start, never a sum of waits, so that nothing drifts.

/// How the times of a replay come about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Timing {
    /// As they were captured
    Original,
    /// As they were captured, --speed times as fast
    Multiplier,
    /// --speed messages a second, evenly
    Pps,
    /// As fast as it goes
    Topspeed,
    /// The next one when the one before was answered, or will not be
    Step,
}

/// A run's times.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    timing: Timing,
    /// Capture time a nanosecond of real time, or nanoseconds a message.
    pace: f64,
    /// The longest time between two messages, as captured.
    max_gap_ns: u64,
    loop_delay_ns: u64,
    /// Messages and real time of the loops before, and the waits between them.
    messages: u64,
    base_ns: u64,
    delays_ns: u64,
    /// Of this loop: when its last message was captured, and how far from its first that is, gaps shortened.
    last_ns: Option<u64>,
    offset_ns: u64,
}

impl Schedule {
    /// `speed` is the factor or the rate; None where the timing needs none.
    pub(crate) fn new(
        timing: Timing,
        speed: Option<f64>,
        max_gap_ns: Option<u64>,
        loop_delay_ns: u64,
    ) -> Result<Self, String> {
        let pace = match (timing, speed) {
            (Timing::Multiplier, Some(speed)) if is_pace(speed) => speed,
            (Timing::Pps, Some(speed)) if is_pace(speed) => 1e9 / speed,
            (Timing::Multiplier | Timing::Pps, Some(_)) => {
                return Err("--speed: expected a number above 0".to_owned());
            }
            (Timing::Multiplier, None) => {
                return Err("--timing multiplier needs --speed, how many times as fast".to_owned());
            }
            (Timing::Pps, None) => return Err("--timing pps needs --speed, messages a second".to_owned()),
            (_, Some(_)) => {
                return Err("--speed is for --timing multiplier and --timing pps; leave one out".to_owned());
            }
            (_, None) => 1.0,
        };
        Ok(Self {
            timing,
            pace,
            max_gap_ns: max_gap_ns.unwrap_or(u64::MAX),
            loop_delay_ns,
            messages: 0,
            base_ns: 0,
            delays_ns: 0,
            last_ns: None,
            offset_ns: 0,
        })
    }

    /// Whether messages have times at all; else the next is due when there is nothing in its way.
    pub(crate) const fn is_timed(&self) -> bool {
        !matches!(self.timing, Timing::Topspeed | Timing::Step)
    }

    /// When the next message, captured then, is due: nanoseconds since the start. Times that run backwards stand
    /// still.
    pub(crate) fn due(&mut self, captured_ns: u64) -> u64 {
        let gap = captured_ns.saturating_sub(self.last_ns.unwrap_or(captured_ns));
        self.offset_ns += gap.min(self.max_gap_ns);
        self.last_ns = Some(self.last_ns.map_or(captured_ns, |last| last.max(captured_ns)));
        let due = match self.timing {
            Timing::Original => self.base_ns + self.offset_ns,
            Timing::Multiplier => self.base_ns + (self.offset_ns as f64 / self.pace) as u64,
            Timing::Pps => self.delays_ns + (self.messages as f64 * self.pace) as u64,
            Timing::Topspeed | Timing::Step => self.delays_ns,
        };
        self.messages += 1;
        due
    }

    /// The capture begins anew.
    pub(crate) fn next_loop(&mut self) {
        let loop_ns = match self.timing {
            Timing::Multiplier => (self.offset_ns as f64 / self.pace) as u64,
            _ => self.offset_ns,
        };
        self.base_ns += loop_ns + self.loop_delay_ns;
        self.delays_ns += self.loop_delay_ns;
        (self.last_ns, self.offset_ns) = (None, 0);
    }
}

fn is_pace(speed: f64) -> bool {
    speed.is_finite() && speed > 0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dues(mut schedule: Schedule, loops: usize, captured_ms: &[u64]) -> Vec<u64> {
        let mut dues = Vec::new();
        for round in 0..loops {
            if round > 0 {
                schedule.next_loop();
            }
            dues.extend(captured_ms.iter().map(|ms| schedule.due(ms * 1_000_000) / 1000));
        }
        dues
    }

    fn schedule(timing: Timing, speed: f64) -> Schedule {
        let needs = matches!(timing, Timing::Multiplier | Timing::Pps);
        Schedule::new(timing, needs.then_some(speed), None, 7_000_000).unwrap()
    }

    #[test]
    fn times_are_those_of_the_capture_or_of_a_rate() {
        let captured = [1000, 1010, 1005, 1020];
        let original = dues(schedule(Timing::Original, 0.0), 2, &captured);
        assert_eq!(original, [0, 10_000, 10_000, 20_000, 27_000, 37_000, 37_000, 47_000]);
        let twice = dues(schedule(Timing::Multiplier, 2.0), 2, &captured);
        assert_eq!(twice, [0, 5_000, 5_000, 10_000, 17_000, 22_000, 22_000, 27_000]);
        let rate = dues(schedule(Timing::Pps, 250.0), 2, &captured);
        assert_eq!(rate, [0, 4_000, 8_000, 12_000, 23_000, 27_000, 31_000, 35_000]);
        for timing in [Timing::Topspeed, Timing::Step] {
            let schedule = schedule(timing, 0.0);
            assert!(!schedule.is_timed());
            assert_eq!(dues(schedule, 2, &captured), [0, 0, 0, 0, 7_000, 7_000, 7_000, 7_000]);
        }
        let shortened = Schedule::new(Timing::Original, None, Some(3_000_000), 0).unwrap();
        assert_eq!(dues(shortened, 1, &[1, 2, 100, 101, 9000]), [0, 1_000, 4_000, 5_000, 8_000]);
    }

    /// Ten thousand million messages, whose rate divides no nanosecond: the last is due when it should be.
    #[test]
    fn a_long_run_does_not_drift() {
        let mut schedule = schedule(Timing::Pps, 3_000_000.0);
        schedule.messages = 10_000_000_000;
        assert!(schedule.due(0).abs_diff(3_333_333_333_333) <= 1);
    }

    #[test]
    fn a_speed_that_cannot_be_is_refused() {
        for (timing, speed, words) in [
            (Timing::Pps, None, "needs --speed"),
            (Timing::Multiplier, None, "needs --speed"),
            (Timing::Multiplier, Some(0.0), "above 0"),
            (Timing::Pps, Some(f64::INFINITY), "above 0"),
            (Timing::Pps, Some(-3.0), "above 0"),
            (Timing::Original, Some(2.0), "leave one out"),
        ] {
            let error = Schedule::new(timing, speed, None, 0).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
