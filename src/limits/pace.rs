//! A [`Rate`] as one number: the time up to which what was taken is paid for (the generic cell rate algorithm).
//!
//! One number fits into an atomic, so cores can share it; and an idle one is 0, so it need not be kept.

use crate::h2c::Rate;

/// How a rate moves its number on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Nanoseconds that one costs.
    each: u64,
    /// How far ahead of the clock the number may be, in nanoseconds.
    ahead_max: u64,
}

impl Pace {
    /// A rate of nothing is taken as one of one.
    pub(super) fn new(rate: Rate) -> Self {
        let each = 1_000_000_000 / u64::from(rate.per_second.max(1));
        Self { each, ahead_max: each * u64::from(rate.burst.max(1) - 1) }
    }

    /// The number after one more at `now`, in nanoseconds; `None` if that is too early.
    pub(super) fn take(&self, paid_until: u64, now: u64) -> Option<u64> {
        let paid_until = paid_until.max(now);
        (paid_until - now <= self.ahead_max).then_some(paid_until + self.each)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_taken_and_then_the_pace_holds() {
        const SECOND: u64 = 1_000_000_000;
        let pace = Pace::new(Rate { burst: 3, per_second: 2 });
        let mut paid_until = 0;
        let mut take = |now: u64| match pace.take(paid_until, now) {
            Some(next) => {
                paid_until = next;
                true
            }
            None => false,
        };
        let now = 100 * SECOND;
        assert_eq!([take(now), take(now), take(now), take(now)], [true, true, true, false]);
        assert!(!take(now + SECOND / 2 - 1));
        assert!(take(now + SECOND / 2));
        assert!(!take(now + SECOND / 2));
        let later = now + 60 * SECOND;
        assert_eq!([take(later), take(later), take(later), take(later)], [true, true, true, false]);
        assert!(!take(now), "time does not run backwards");
    }

    #[test]
    fn a_rate_of_nothing_is_one_of_one() {
        let pace = Pace::new(Rate { burst: 0, per_second: 0 });
        let next = pace.take(0, 5).unwrap();
        assert_eq!(pace.take(next, 6), None);
        assert!(pace.take(next, 1_000_000_005).is_some());
    }
}
