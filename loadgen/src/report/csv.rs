//! A line for each histogram, for spreadsheets. Times are in nanoseconds; what is not known is left empty.

use std::fmt::Write as _;

use super::Report;
use crate::record::percentile;

impl Report {
    pub(super) fn csv(&self) -> String {
        let mut out = String::from("histogram,count,min,mean,p50,p90,p99,p99.9,p99.99,max\n");
        for (name, times) in self.histograms() {
            if times.is_empty() {
                continue;
            }
            // Names of phases are checked: no commas, no quotes.
            let _ = write!(out, "{name},{},{},{:.0}", times.len(), times.min(), times.mean());
            for percent in [50.0, 90.0, 99.0, 99.9, 99.99] {
                let _ = write!(
                    out,
                    ",{}",
                    percentile(times, percent).map_or_else(String::new, |time| time.to_string())
                );
            }
            let _ = writeln!(out, ",{}", times.max());
        }
        out
    }
}
