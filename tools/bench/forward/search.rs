//! The highest rates with no loss and with little, sought with few trials: each says something about every bound.

/// What a rate brought.
#[derive(Clone, Copy, Debug)]
struct Trial {
    /// A second, reached.
    rate: f64,
    /// Of what was sent, the part that did not arrive.
    loss: f64,
}

/// Trials at rates between two ends. Rates are halved by their ratio.
#[derive(Debug)]
pub(super) struct Search {
    trials: Vec<Trial>,
    ends: (f64, f64),
    left: usize,
}

/// Two rates whose ratio is less are one.
const CLOSE: f64 = 1.05;

impl Search {
    /// Between these rates, with at most so many trials.
    pub(super) const fn between(low: f64, high: f64, trials: usize) -> Self {
        Self { trials: Vec::new(), ends: (low, high), left: trials }
    }

    /// The next rate to try, when the highest one that loses at most this part is sought; `None` when it is found, or
    /// no trial is left.
    pub(super) fn next(&self, loss_max: f64) -> Option<f64> {
        let (low, high) = self.bounds(loss_max);
        (self.left > 0 && high / low > CLOSE).then(|| (low * high).sqrt())
    }

    /// What a trial brought; a generator that did not keep the rate says nothing about the forwarder above what it
    /// reached.
    pub(super) fn tried(&mut self, wanted: f64, reached: f64, loss: f64) {
        self.left = self.left.saturating_sub(1);
        if reached < 0.9 * wanted {
            self.ends.1 = self.ends.1.min(wanted);
        }
        self.trials.push(Trial { rate: reached.min(wanted), loss });
    }

    /// The highest rate that lost at most this part, and no lower one more; 0 when there is none.
    pub(super) fn best(&self, loss_max: f64) -> f64 {
        let fail = self.bounds(loss_max).1;
        let good = self.trials.iter().filter(|trial| trial.loss <= loss_max && trial.rate < fail);
        good.map(|trial| trial.rate).fold(0.0, f64::max)
    }

    /// What was tried, by rising rate: a second, and the part that was lost.
    pub(super) fn into_trials(mut self) -> Vec<(f64, f64)> {
        self.trials.sort_by(|one, other| one.rate.total_cmp(&other.rate));
        self.trials.iter().map(|trial| (trial.rate, trial.loss)).collect()
    }

    fn bounds(&self, loss_max: f64) -> (f64, f64) {
        let bad = self.trials.iter().filter(|trial| trial.loss > loss_max).map(|trial| trial.rate);
        let high = bad.fold(self.ends.1, f64::min);
        let good = self.trials.iter().filter(|trial| trial.loss <= loss_max && trial.rate < high);
        (good.map(|trial| trial.rate).fold(self.ends.0, f64::max), high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A forwarder that loses what exceeds its rate.
    fn sought(search: &mut Search, capacity: f64, generator: f64, loss_max: f64) -> f64 {
        while let Some(rate) = search.next(loss_max) {
            let reached = rate.min(generator);
            search.tried(rate, reached, (1.0 - capacity / reached).max(0.0));
        }
        search.best(loss_max)
    }

    #[test]
    fn both_rates_are_found_with_shared_trials() {
        let mut search = Search::between(1e3, 1e6, 40);
        let partial = sought(&mut search, 123_456.0, 1e9, 0.005);
        let left = search.left;
        let none = sought(&mut search, 123_456.0, 1e9, 0.0);
        assert!((117_000.0..=124_100.0).contains(&partial) && (117_000.0..=123_456.0).contains(&none));
        assert!(left - search.left <= 2, "the second search begins where the first ended");
    }

    #[test]
    fn a_slow_generator_bounds_what_can_be_said() {
        let found = sought(&mut Search::between(1e3, 1e6, 40), 1e9, 50_000.0, 0.0);
        assert!((45_000.0..=50_000.0).contains(&found), "{found}");
        assert!(sought(&mut Search::between(1e3, 1e6, 40), 1.0, 1e9, 0.0) < 1.0);
    }
}
