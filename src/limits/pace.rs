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
    /// `None` for a rate that is no limit.
    pub(super) fn new(rate: Rate) -> Option<Self> {
        let each = 1_000_000_000_u64.checked_div(rate.per_second.into())?;
        let burst = if rate.burst == 0 { rate.per_second } else { rate.burst };
        Some(Self { each, ahead_max: each * u64::from(burst - 1) })
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
        let pace = Pace::new(Rate { burst: 3, per_second: 2 }).unwrap();
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
    fn nothing_a_second_is_no_limit_and_no_burst_is_that_of_a_second() {
        assert!(Pace::new(Rate { burst: 5, per_second: 0 }).is_none());
        let pace = Pace::new(Rate { burst: 0, per_second: 2 }).unwrap();
        let first = pace.take(0, 5).unwrap();
        let second = pace.take(first, 5).unwrap();
        assert_eq!(pace.take(second, 5), None);
    }
}
