//! As much of statistics as honest percentiles need.

use crate::{
    content::Random,
    record::{Packed, Times},
    units::Nanos,
};

/// Between which values a quantile lies with 95 % confidence, by order statistics: right for samples that do not depend
/// on one another, too narrow for those that do.
pub(crate) fn interval(times: &Times, quantile: f64) -> Option<(Nanos, Nanos)> {
    let count = times.len() as f64;
    if count < 1.0 {
        return None;
    }
    let width = Z * (quantile * (1.0 - quantile) / count).sqrt();
    let at = |quantile: f64| times.value_at_quantile(quantile.clamp(0.0, 1.0));
    Some((at(quantile - width), at(quantile + width)))
}

/// Seconds of a run, made ready for drawing them again and again.
pub(crate) struct Blocks {
    /// All values that occur, in order.
    values: Vec<Nanos>,
    /// By second: the place in `values`, and how many.
    seconds: Vec<Vec<(u32, u64)>>,
}

impl Blocks {
    pub(crate) fn new(seconds: &[Packed]) -> Self {
        let recorded = |second: &Packed| -> Vec<(Nanos, u64)> {
            let times = second.times();
            times.iter_recorded().map(|value| (value.value_iterated_to(), value.count_at_value())).collect()
        };
        let seconds: Vec<Vec<(Nanos, u64)>> = seconds.iter().map(recorded).collect();
        let mut values: Vec<Nanos> = seconds.iter().flatten().map(|(value, _)| *value).collect();
        values.sort_unstable();
        values.dedup();
        let place = |value: &Nanos| values.binary_search(value).expect("all values are there") as u32;
        let seconds =
            seconds.iter().map(|second| second.iter().map(|(value, count)| (place(value), *count)).collect());
        Self { seconds: seconds.collect(), values }
    }

    /// Quantiles of as many seconds, drawn again: the block bootstrap. What hangs together within a second stays together,
    /// and so do seconds that follow one another, as many as the cube root of all.
    pub(crate) fn draw(&self, quantiles: &[f64], random: &mut Random) -> Vec<Nanos> {
        let all = self.seconds.len();
        let length = (all as f64).cbrt().ceil() as usize;
        let mut counts = vec![0; self.values.len()];
        let mut drawn = 0;
        while drawn < all {
            let from = (random.next() % all as u64) as usize;
            for at in (from..from + length).take(all - drawn) {
                for (place, count) in &self.seconds[at % all] {
                    counts[*place as usize] += count;
                }
                drawn += 1;
            }
        }
        let total: u64 = counts.iter().sum();
        let quantile = |quantile: &f64| {
            let mut left = ((total as f64 * quantile).ceil() as u64).max(1);
            for (value, count) in self.values.iter().zip(&counts) {
                if *count >= left {
                    return *value;
                }
                left -= count;
            }
            self.values.last().copied().unwrap_or(0)
        };
        quantiles.iter().map(quantile).collect()
    }

    /// How many of them may be thought of as independent.
    pub(crate) fn blocks(&self) -> f64 {
        self.seconds.len() as f64 / (self.seconds.len() as f64).cbrt().ceil()
    }
}

/// The middle of sorted values, as large a part as `part`.
pub(crate) fn middle<T: Copy>(sorted: &[T], part: f64) -> (T, T) {
    let cut = (sorted.len() as f64 * (1.0 - part) / 2.0) as usize;
    (sorted[cut], sorted[sorted.len() - 1 - cut])
}

/// 95 % of a normal distribution lie within so many standard deviations.
const Z: f64 = 1.96;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::times;

    #[test]
    fn the_interval_holds_the_true_value_nineteen_times_in_twenty() {
        let mut random = Random::new(1);
        let mut held = 0;
        for _ in 0..200 {
            let mut times = times();
            (0..5000).for_each(|_| times.record(1 + random.next() % 1_000_000).unwrap());
            let (low, high) = interval(&times, 0.99).unwrap();
            held += usize::from((low..=high + 1000).contains(&990_000));
        }
        assert!((180..=200).contains(&held), "{held}");
        assert!(interval(&times(), 0.99).is_none());
    }

    #[test]
    fn seconds_that_are_alike_draw_alike() {
        let mut second = times();
        (1..=1000).for_each(|value| second.record(value * 1000).unwrap());
        let blocks = Blocks::new(&vec![Packed::new(&second); 3]);
        let drawn = blocks.draw(&[0.99], &mut Random::new(3))[0];
        assert!(drawn.abs_diff(990_000) < 2_000, "{drawn}");
    }
}
