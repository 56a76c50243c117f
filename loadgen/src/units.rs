//! Times, sizes, rates and counts, as people write them and as they are printed.

use std::time::Duration;

/// Nanoseconds; since the run began, where it is an instant.
pub(crate) type Nanos = u64;

/// As many as there are; what is longer than 584 years is as long as that.
pub(crate) fn nanos(time: Duration) -> Nanos {
    Nanos::try_from(time.as_nanos()).unwrap_or(Nanos::MAX)
}

/// `500us`, `10s`, `2m`; a plain 0 is none.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(text).map_err(|error| format!("{error}; a time is such as 500us, 10s or 2m"))
}

/// A time that is not 0.
pub(crate) fn some_time(text: &str) -> Result<Duration, String> {
    let time = time(text)?;
    if time.is_zero() { Err("no time is not enough".into()) } else { Ok(time) }
}

/// Bytes: `64`, `16KiB`, `1M`.
pub(crate) fn size(text: &str) -> Result<usize, String> {
    let size = parse_size::parse_size(text)
        .map_err(|error| format!("{error}; a size is a number such as 64, 16KiB or 1MiB"))?;
    if size > SIZE_MAX {
        return Err("messages of more than 1 GiB are not supported".into());
    }
    Ok(size as usize)
}

const SIZE_MAX: u64 = 1 << 30;

/// A number with `k` or `M` behind it, if need be: `50k`, `1.5M`.
pub(crate) fn count(text: &str) -> Result<u64, String> {
    let number = scaled(text)?;
    if number.fract() != 0.0 || !(1.0..=1e15).contains(&number) {
        return Err("it has to be a whole number of at least 1, such as 500, 50k or 2M".into());
    }
    Ok(number as u64)
}

/// [`count`] of something that is numbered by 32 bits.
pub(crate) fn count32(text: &str) -> Result<u32, String> {
    u32::try_from(count(text)?).map_err(|_| "that is too many".into())
}

/// Events a second: `2000`, `50k/s`, `0.5`.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    let rate = scaled(text.strip_suffix("/s").unwrap_or(text))?;
    if rate > RATE_MAX {
        return Err("rates of more than 100 M/s are not supported".into());
    }
    Ok(rate)
}

const RATE_MAX: f64 = 1e8;

fn scaled(text: &str) -> Result<f64, String> {
    let (digits, scale) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1e3),
        Some(b'M') => (&text[..text.len() - 1], 1e6),
        _ => (text, 1.0),
    };
    match digits.parse::<f64>() {
        Ok(number) if number.is_finite() && number >= 0.0 => Ok(number * scale),
        _ => Err(format!("`{text}` is not a number such as 500, 50k or 2M")),
    }
}

/// Digits in threes: `1 234 567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// `1 connection`, `2 connections`.
pub(crate) fn plural(count: u64, one: &str) -> String {
    format!("{} {one}{}", grouped(count), if count == 1 { "" } else { "s" })
}

/// Three digits and a unit: `1.23 ms`.
pub(crate) fn short(time: Nanos) -> String {
    let (value, unit) = match time {
        0..1_000 => return format!("{time} ns"),
        1_000..999_500 => (time as f64 / 1e3, "\u{b5}s"),
        999_500..999_500_000 => (time as f64 / 1e6, "ms"),
        _ => (time as f64 / 1e9, "s"),
    };
    let decimals = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    format!("{value:.decimals$} {unit}")
}

/// A rate as people read it: `50 000`, `0.5`.
pub(crate) fn rate_text(rate: f64) -> String {
    if rate >= 10.0 || rate.fract() == 0.0 { grouped(rate.round() as u64) } else { format!("{rate:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_readable() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1 000", "1 234 567"]);
        let times = [0, 999, 1_000, 9_994, 9_996, 99_960, 999_499, 999_500, 12_345_678, 1_500_000_000];
        let expected = [
            "0 ns", "999 ns", "1.00 µs", "9.99 µs", "10.0 µs", "100 µs", "999 µs", "1.00 ms", "12.3 ms",
            "1.50 s",
        ];
        assert_eq!(times.map(short), expected);
        assert_eq!([0.5, 50_000.0, 12.3].map(rate_text), ["0.50", "50 000", "12"]);
    }

    #[test]
    fn numbers_are_read_as_they_are_written() {
        assert_eq!(count("50k"), Ok(50_000));
        assert_eq!(count32("1.5M"), Ok(1_500_000));
        assert_eq!(rate("2k/s"), Ok(2000.0));
        assert_eq!(rate("0.5"), Ok(0.5));
        assert_eq!(time("500us"), Ok(Duration::from_micros(500)));
        assert_eq!(size("1KiB"), Ok(1024));
        for wrong in ["", "-1", "0.5", "1e99", "x", "0"] {
            assert!(count(wrong).is_err(), "{wrong}");
        }
        assert!(
            rate("1e12").is_err() && time("0s").is_ok() && some_time("0s").is_err() && size("2GiB").is_err()
        );
    }
}
