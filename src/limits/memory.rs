//! What the process occupies, against what it may.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

/// How often it is measured, in nanoseconds, by whichever core comes first.
const MEASURE_EACH: u64 = 50_000_000;

#[derive(Debug)]
pub(super) struct Memory {
    max: u64,
    /// `/proc/self/statm`, kept open; `None` without a limit, or where there is none.
    statm: Option<File>,
    page: u64,
    measured: AtomicU64,
    is_over: AtomicBool,
}

impl Memory {
    pub(super) fn new(max: u64) -> Self {
        let statm = if max == 0 { None } else { File::open("/proc/self/statm").ok() };
        if max > 0 && statm.is_none() {
            tracing::warn!("/proc/self/statm cannot be read, so the memory budget does not hold");
        }
        let page = rustix::param::page_size() as u64;
        Self { max, statm, page, measured: AtomicU64::new(0), is_over: AtomicBool::new(false) }
    }

    /// Whether it occupies more than it may, as of the last measurement.
    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Measures, if it is time to.
    pub(super) fn tick(&self, now: u64) {
        let Some(statm) = &self.statm else { return };
        let measured = self.measured.load(Ordering::Relaxed);
        if now < measured + MEASURE_EACH
            || self.measured.compare_exchange(measured, now, Ordering::Relaxed, Ordering::Relaxed).is_err()
        {
            return;
        }
        let mut text = [0; 128];
        let Ok(size) = statm.read_at(&mut text, 0) else { return };
        if let Some(pages) = resident(&text[..size]) {
            self.judge(pages * self.page);
        }
    }

    fn judge(&self, resident: u64) {
        let was_over = self.is_over();
        // Not on and off with each measurement: it has to fall by a twentieth.
        let limit = if was_over { self.max - self.max / 20 } else { self.max };
        let is_over = resident > limit;
        self.is_over.store(is_over, Ordering::Relaxed);
        match (was_over, is_over) {
            (false, true) => {
                tracing::warn!(resident, max = self.max, "over the memory budget; new work is refused")
            }
            (true, false) => tracing::info!(resident, max = self.max, "within the memory budget again"),
            _ => {}
        }
    }
}

/// The second number of `/proc/self/statm`: resident pages (proc(5)).
fn resident(statm: &[u8]) -> Option<u64> {
    str::from_utf8(statm).ok()?.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_understood() {
        assert_eq!(resident(b"2133 577 490 4 0 114 0\n"), Some(577));
        assert_eq!(resident(b""), None);
        assert_eq!(resident(b"x y"), None);
    }

    #[test]
    fn it_is_over_until_it_has_fallen_by_a_twentieth() {
        let memory = Memory::new(1000);
        let judged = [999, 1000, 1001, 990, 951, 950, 1000].map(|resident| {
            memory.judge(resident);
            memory.is_over()
        });
        assert_eq!(judged, [false, false, true, true, true, false, false]);
    }

    #[test]
    fn a_process_measures_itself_and_no_more_often_than_it_should() {
        let memory = Memory::new(1);
        assert!(!memory.is_over());
        memory.tick(MEASURE_EACH - 1);
        assert!(!memory.is_over());
        memory.tick(MEASURE_EACH);
        assert!(memory.is_over());
        let without = Memory::new(0);
        without.tick(MEASURE_EACH);
        assert!(!without.is_over());
    }
}
