//! What a peer may send that costs it nothing: so many at once, and so many a second from then on.

/// A pace: `burst` at once, and `per_second` in the long run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many may come at once.
    pub burst: u32,
    /// How many may come in each second from then on.
    pub per_second: u32,
}

/// What is left of a [`Rate`].
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    rate: Rate,
    /// In thousandths, so that milliseconds count.
    left: u64,
    /// In milliseconds.
    as_of: u64,
}

impl Allowance {
    /// All of it, at `now` in milliseconds.
    pub fn new(rate: Rate, now: u64) -> Self {
        Self { rate, left: u64::from(rate.burst) * 1000, as_of: now }
    }

    /// Takes `count` of it; `false` if there is less, and then nothing is taken.
    pub fn take(&mut self, count: u32, now: u64) -> bool {
        let earned = now.saturating_sub(self.as_of).saturating_mul(u64::from(self.rate.per_second));
        self.left = self.left.saturating_add(earned).min(u64::from(self.rate.burst) * 1000);
        self.as_of = now;
        let left = self.left.checked_sub(u64::from(count) * 1000);
        self.left = left.unwrap_or(self.left);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_taken_and_then_the_pace_holds() {
        let mut allowance = Allowance::new(Rate { burst: 10, per_second: 2 }, 5_000);
        assert!(allowance.take(10, 5_000));
        assert!(!allowance.take(1, 5_499));
        assert!(allowance.take(1, 5_500));
        assert!(!allowance.take(1, 5_500));
        assert!(!allowance.take(11, 99_000), "never more than a burst");
        assert!(allowance.take(10, 99_000));
        assert!(!allowance.take(1, 1_000), "time does not run backwards");
    }
}
