//! When: the instants at which messages, or connections, are due. Data in, instants out; nobody waits here.
//!
//! The k-th instant is computed from k, so nothing drifts: a late one does not make the next one late.

use crate::{
    content::Random,
    units::{Nanos, nanos},
};
use std::{f64::consts::LN_10, fmt, str::FromStr, time::Duration};

/// Rates over time: pieces in each of which the rate is constant or changes linearly.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Profile(Vec<Piece>);

#[derive(Clone, Copy, Debug, PartialEq)]
struct Piece {
    /// Where it begins, and what is due before that.
    from: Nanos,
    before: f64,
    time: Nanos,
    /// Events a second at its begin and at its end.
    begin: f64,
    end: f64,
}

impl Piece {
    /// What is due up to `at`, which lies in it.
    fn due_by(&self, at: Nanos) -> f64 {
        let seconds = (at - self.from) as f64 / 1e9;
        let length = self.time as f64 / 1e9;
        self.before + self.begin * seconds + (self.end - self.begin) * seconds * seconds / (2.0 * length)
    }

    /// When the `event`th is due, if that is within it.
    fn instant(&self, event: f64) -> Option<Nanos> {
        let left = event - self.before;
        let length = self.time as f64 / 1e9;
        let slope = (self.end - self.begin) / length;
        let seconds = if slope == 0.0 {
            left / self.begin
        } else {
            // The root that does not cancel where the slope is small.
            let under = self.begin * self.begin + 2.0 * slope * left;
            2.0 * left / (self.begin + under.max(0.0).sqrt())
        };
        let time = (seconds * 1e9).round();
        // No rate at all gives infinity, or nothing by nothing.
        (time.is_finite() && time < self.time as f64).then(|| self.from + time as Nanos)
    }
}

impl Profile {
    /// One rate for all the time.
    pub(crate) fn constant(rate: f64, time: Duration) -> Self {
        Self::new([(time, rate, rate)])
    }

    fn new(pieces: impl IntoIterator<Item = (Duration, f64, f64)>) -> Self {
        let (mut from, mut before) = (0, 0.0);
        let mut all = Vec::new();
        for (time, begin, end) in pieces {
            let piece = Piece { from, before, time: nanos(time), begin, end };
            (from, before) = (from + piece.time, piece.due_by(from + piece.time));
            all.push(piece);
        }
        Self(all)
    }

    /// Events a second, on average.
    pub(crate) fn mean(&self) -> f64 {
        let last = self.0.last().expect("a profile has a piece");
        let end = last.from + last.time;
        last.due_by(end) / (end as f64 / 1e9)
    }

    fn instant(&self, event: f64, piece: &mut usize) -> Option<Nanos> {
        while let Some(current) = self.0.get(*piece) {
            let end = current.due_by(current.from + current.time);
            if event < end
                && let Some(instant) = current.instant(event)
            {
                return Some(instant);
            }
            *piece += 1;
        }
        None
    }
}

/// How the rate changes; a number alone is constant.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Shape {
    Constant,
    /// From one rate to another.
    Ramp(f64, f64),
    /// One rate after the other, each for a time.
    Steps(Vec<f64>, Duration),
    /// A rate for a time in the middle, above the plan's own.
    Spike(f64, Duration),
}

impl Shape {
    /// The profile over `time`. `rate` is the command line's; only [`Self::Constant`] and [`Self::Spike`] look at it.
    pub(crate) fn profile(&self, rate: f64, time: Duration) -> Profile {
        match self {
            Self::Constant => Profile::constant(rate, time),
            Self::Ramp(begin, end) => Profile::new([(time, *begin, *end)]),
            Self::Steps(rates, each) => Profile::new(rates.iter().map(|rate| (*each, *rate, *rate))),
            Self::Spike(high, length) => {
                let length = (*length).min(time);
                let calm = (time - length) / 2;
                let pieces = [(calm, rate, rate), (length, *high, *high), (time - length - calm, rate, rate)];
                Profile::new(pieces.into_iter().filter(|(time, ..)| !time.is_zero()))
            }
        }
    }

    /// How long it is by itself.
    pub(crate) fn time(&self) -> Option<Duration> {
        match self {
            Self::Steps(rates, each) => Some(*each * rates.len() as u32),
            _ => None,
        }
    }
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hint = "a profile is `const`, `ramp:1k..10k`, `steps:1k,2k,4k@10s` or `spike:20k@2s`";
        let rate = |text: &str| {
            crate::units::rate(text)
                .and_then(|rate| if rate > 0.0 { Ok(rate) } else { Err(format!("a rate of 0; {hint}")) })
        };
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        let timed = || rest.split_once('@').ok_or_else(|| hint.to_owned());
        match kind {
            "const" if rest.is_empty() => Ok(Self::Constant),
            "ramp" => {
                let (begin, end) = rest.split_once("..").ok_or_else(|| hint.to_owned())?;
                Ok(Self::Ramp(rate(begin)?, rate(end)?))
            }
            "steps" => {
                let (rates, each) = timed()?;
                let rates = rates.split(',').map(rate).collect::<Result<_, _>>()?;
                Ok(Self::Steps(rates, crate::units::some_time(each)?))
            }
            "spike" => {
                let (high, length) = timed()?;
                Ok(Self::Spike(rate(high)?, crate::units::some_time(length)?))
            }
            _ => Err(hint.to_owned()),
        }
    }
}

/// What lies between one event and the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Always the same.
    Fixed,
    /// As of many users that know nothing of each other.
    Poisson,
    /// So many at once.
    Burst(u32),
}

impl fmt::Display for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed => f.write_str("fixed"),
            Self::Poisson => f.write_str("poisson"),
            Self::Burst(count) => write!(f, "burst:{count}"),
        }
    }
}

impl FromStr for Arrival {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "fixed" => Ok(Self::Fixed),
            None if text == "poisson" => Ok(Self::Poisson),
            Some(("burst", count)) => Ok(Self::Burst(crate::units::count32(count)?)),
            _ => Err("arrivals are `fixed`, `poisson` or `burst:N`".into()),
        }
    }
}

/// The instants of one thread of several, one after the other, from 0 on.
#[derive(Clone, Debug)]
pub(crate) struct Arrivals {
    profile: Profile,
    arrival: Arrival,
    piece: usize,
    /// The next event of all threads that is ours.
    event: u64,
    threads: u64,
    /// Of a Poisson process with one event a unit of time, thinned to our part.
    elapsed: f64,
    random: Random,
    next: Option<Nanos>,
}

impl Arrivals {
    pub(crate) fn new(profile: Profile, arrival: Arrival, thread: u32, threads: u32, seed: u64) -> Self {
        let random = Random::new(seed ^ (u64::from(thread) + 1) << 40);
        let (event, threads) = (u64::from(thread), u64::from(threads));
        let mut arrivals =
            Self { profile, arrival, piece: 0, event, threads, elapsed: 0.0, random, next: None };
        arrivals.next = arrivals.find();
        arrivals
    }

    /// When the next one is due, and no more after `None`.
    #[inline]
    pub(crate) fn peek(&self) -> Option<Nanos> {
        self.next
    }

    /// Goes on to the one behind it.
    #[inline]
    pub(crate) fn advance(&mut self) {
        self.event += self.threads;
        self.next = self.find();
    }

    #[inline]
    fn find(&mut self) -> Option<Nanos> {
        let event = match self.arrival {
            Arrival::Fixed => self.event as f64,
            Arrival::Burst(count) => (self.event / u64::from(count) * u64::from(count)) as f64,
            Arrival::Poisson => {
                self.elapsed += exponential(&mut self.random) * self.threads as f64;
                self.elapsed
            }
        };
        self.profile.instant(event, &mut self.piece)
    }
}

/// With mean 1.
fn exponential(random: &mut Random) -> f64 {
    // Never 0, whose logarithm is not a number.
    let uniform = ((random.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64;
    -uniform.log10() * LN_10
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn all(profile: &Profile, arrival: Arrival, threads: u32, seed: u64) -> Vec<Nanos> {
        let mut all = Vec::new();
        for thread in 0..threads {
            let mut arrivals = Arrivals::new(profile.clone(), arrival, thread, threads, seed);
            while let Some(due) = arrivals.peek() {
                all.push(due);
                arrivals.advance();
            }
        }
        all.sort_unstable();
        all
    }

    #[test]
    fn a_constant_rate_is_exact_to_the_nanosecond_and_never_drifts() {
        for rate in [1_u64, 3, 100, 1000, 50_000, 500_000] {
            let due = all(&Profile::constant(rate as f64, SECOND * 10), Arrival::Fixed, 1, 0);
            assert_eq!(due.len() as u64, rate * 10);
            for (event, due) in due.iter().enumerate() {
                let exact = (event as u128 * 1_000_000_000 + u128::from(rate) / 2) / u128::from(rate);
                assert!(u128::from(*due).abs_diff(exact) <= 1, "{rate} {event}");
            }
        }
        // After an hour, too.
        let hour = Profile::constant(333.0, SECOND * 3600);
        assert_eq!(hour.instant(1_198_799.0, &mut 0), Some(3_599_996_996_997));
    }

    #[test]
    fn threads_share_the_same_process() {
        for (arrival, threads) in [(Arrival::Fixed, 3), (Arrival::Burst(10), 4)] {
            let profile = Profile::constant(997.0, SECOND * 2);
            assert_eq!(all(&profile, arrival, threads, 1), all(&profile, arrival, 1, 1));
        }
    }

    #[test]
    fn shapes_have_the_area_that_they_promise() {
        for (shape, rate, seconds, expected) in [
            ("ramp:100..300", 0.0, 10, 2000),
            ("ramp:300..100", 0.0, 10, 2000),
            ("ramp:100..100.0001", 0.0, 10, 1000),
            ("steps:100,200,400@1s", 0.0, 3, 700),
            ("spike:1000@2s", 100.0, 10, 2800),
            ("const", 0.5, 10, 5),
        ] {
            let profile = shape.parse::<Shape>().unwrap().profile(rate, SECOND * seconds);
            let due = all(&profile, Arrival::Fixed, 1, 0);
            assert!(due.len().abs_diff(expected) <= 1, "{shape}: {}", due.len());
            assert!(due.is_sorted() && *due.last().unwrap() < u64::from(seconds) * 1_000_000_000);
            assert!((profile.mean() * f64::from(seconds) - expected as f64).abs() < 1.0, "{shape}");
        }
        let steps = "steps:100,200@1s".parse::<Shape>().unwrap().profile(0.0, SECOND * 2);
        let due = all(&steps, Arrival::Fixed, 1, 0);
        assert_eq!(due.iter().filter(|due| **due < 1_000_000_000).count(), 100);
        for wrong in ["", "ramp", "ramp:1", "steps:1,2", "steps:1,x@1s", "spike:0@1s", "wave:1"] {
            assert!(wrong.parse::<Shape>().is_err(), "{wrong}");
        }
    }

    /// T8p: counts in bins of 10 ms are as spread as those of a Poisson process, and fixed ones are not.
    #[test]
    fn poisson_is_dispersed_like_poisson_and_fixed_is_not() {
        let dispersion = |arrival, seed| {
            let mut bins = vec![0_f64; 3000];
            for due in all(&Profile::constant(10_000.0, SECOND * 30), arrival, 1, seed) {
                bins[(due / 10_000_000) as usize] += 1.0;
            }
            let mean = bins.iter().sum::<f64>() / bins.len() as f64;
            bins.iter().map(|bin| (bin - mean).powi(2)).sum::<f64>() / (bins.len() - 1) as f64 / mean
        };
        assert!(dispersion(Arrival::Fixed, 0) <= 0.05);
        // One seed's has a standard deviation of 0.026; the mean of twenty, of 0.006.
        let mean = (0..20).map(|seed| dispersion(Arrival::Poisson, seed)).sum::<f64>() / 20.0;
        assert!((mean - 1.0).abs() < 0.05, "{mean}");
    }

    /// T8p: Anderson–Darling against the exponential distribution with an estimated rate, at 1 %.
    #[test]
    fn the_gaps_of_a_poisson_process_are_exponential() {
        let is_rejected = |arrival, seed| {
            let due = all(&Profile::constant(1000.0, SECOND), arrival, 1, seed);
            let mut gaps: Vec<f64> = due.windows(2).map(|pair| (pair[1] - pair[0]) as f64).collect();
            gaps.sort_unstable_by(f64::total_cmp);
            let count = gaps.len() as f64;
            let mean = gaps.iter().sum::<f64>() / count;
            let part = |gap: f64| (1.0 - (-gap / mean).exp()).clamp(1e-12, 1.0 - 1e-12);
            let sum: f64 = (0..gaps.len())
                .map(|at| {
                    let weight = (2 * at + 1) as f64;
                    weight * (part(gaps[at]).ln() + (1.0 - part(gaps[gaps.len() - 1 - at])).ln())
                })
                .sum();
            let statistic = (-count - sum / count) * (1.0 + 0.6 / count);
            statistic > 1.959
        };
        let rejected = (0..100).filter(|seed| is_rejected(Arrival::Poisson, *seed)).count();
        assert!(rejected <= 5, "{rejected} of 100");
        assert!(is_rejected(Arrival::Fixed, 0), "the test can fail");
    }

    /// T7: the time in a queue of one whose service takes 1 ms on average is exponential, with the mean 1 / (μ - λ) = 2 ms.
    #[test]
    fn arrivals_queue_as_theory_says() {
        let mut random = Random::new(41);
        let (mut free, mut times) = (0.0_f64, Vec::new());
        for due in all(&Profile::constant(500.0, SECOND * 4000), Arrival::Poisson, 2, 7) {
            let due = due as f64 / 1e6;
            free = free.max(due) + exponential(&mut random);
            times.push(free - due);
        }
        times.sort_unstable_by(f64::total_cmp);
        let quantile = |part: f64| times[(times.len() as f64 * part) as usize];
        let mean = times.iter().sum::<f64>() / times.len() as f64;
        for (got, expected) in
            [(quantile(0.5), 1.386), (quantile(0.9), 4.605), (quantile(0.99), 9.210), (mean, 2.0)]
        {
            assert!((got / expected - 1.0).abs() < 0.03, "{got} instead of {expected}");
        }
    }

    #[test]
    fn a_seed_decides_the_schedule() {
        let profile = Profile::constant(1000.0, SECOND);
        let with = |seed| all(&profile, Arrival::Poisson, 2, seed);
        assert_eq!(with(7), with(7));
        assert_ne!(with(7), with(8));
    }
}
