//! What the kernel has counted during a run, which may explain its tail: all of it is the whole machine's.

use std::{borrow::Cow, fs};

use serde::{Deserialize, Serialize};

/// Counters at an instant, or what lies between two.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Counters {
    values: Vec<(Cow<'static, str>, u64)>,
    /// In clock ticks: all of it, and what the hypervisor took.
    ticks: (u64, u64),
}

/// Those that stand for a loss or a wait.
const NAMES: [&str; 9] = [
    "ListenOverflows",
    "ListenDrops",
    "TCPReqQFullDrop",
    "TCPTimeouts",
    "TCPSynRetrans",
    "TCPBacklogDrop",
    "TCPRcvQDrop",
    "TCPAbortOnMemory",
    "RetransSegs",
];

impl Counters {
    /// Where one cannot be read, it is left out.
    pub(crate) fn read() -> Self {
        let mut values = Vec::new();
        for file in ["/proc/net/netstat", "/proc/net/snmp"] {
            let text = fs::read_to_string(file).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            // A line of names, then a line of numbers, for each group.
            for pair in lines.chunks_exact(2) {
                for (name, value) in pair[0].split(' ').zip(pair[1].split(' ')).skip(1) {
                    let known = NAMES.iter().find(|known| **known == name);
                    values.extend(known.and_then(|known| Some((Cow::Borrowed(*known), value.parse().ok()?))));
                }
            }
        }
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let ticks: Vec<u64> = stat
            .lines()
            .next()
            .unwrap_or_default()
            .split_ascii_whitespace()
            .skip(1)
            .take(8)
            .filter_map(|ticks| ticks.parse().ok())
            .collect();
        Self { values, ticks: (ticks.iter().sum(), ticks.get(7).copied().unwrap_or(0)) }
    }

    /// What was counted since `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let before = |name: &str| {
            earlier.values.iter().find(|(known, _)| known == name).map_or(0, |(_, value)| *value)
        };
        let values =
            self.values.iter().map(|(name, value)| (name.clone(), value.saturating_sub(before(name))));
        let ticks = (self.ticks.0 - earlier.ticks.0, self.ticks.1.saturating_sub(earlier.ticks.1));
        Self { values: values.collect(), ticks }
    }

    /// Those of another machine, or of the same one: of each counter the highest stays, and the larger part that was stolen.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (name, value) in &other.values {
            match self.values.iter_mut().find(|(known, _)| known == name) {
                Some((_, mine)) => *mine = (*mine).max(*value),
                None => self.values.push((name.clone(), *value)),
            }
        }
        if other.stolen() > self.stolen() {
            self.ticks = other.ticks;
        }
    }

    /// Each counter and its value.
    pub(crate) fn values(&self) -> &[(Cow<'static, str>, u64)] {
        &self.values
    }

    /// The part of the machine's time that the hypervisor gave to others.
    pub(crate) fn stolen(&self) -> f64 {
        self.ticks.1 as f64 / self.ticks.0.max(1) as f64
    }
}

/// What the machine is.
pub(crate) fn environment() -> Vec<(&'static str, String)> {
    let read = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let cpu = read("/proc/cpuinfo").and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let found = [
        ("kernel", read("/proc/sys/kernel/osrelease")),
        ("cpu", cpu),
        ("cores", Some(cores.to_string())),
        ("governor", read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        ("clocksource", read("/sys/devices/system/clocksource/clocksource0/current_clocksource")),
        ("somaxconn", read("/proc/sys/net/core/somaxconn")),
        ("tcp_max_syn_backlog", read("/proc/sys/net/ipv4/tcp_max_syn_backlog")),
        ("ip_local_port_range", read("/proc/sys/net/ipv4/ip_local_port_range")),
    ];
    found.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_and_subtracted() {
        let counters = Counters::read();
        assert!(counters.values().iter().any(|(name, _)| name == "ListenOverflows"));
        assert!(counters.values().iter().any(|(name, _)| name == "RetransSegs"));
        let none = counters.since(&counters);
        assert!(none.values().iter().all(|(_, value)| *value == 0) && none.stolen() == 0.0);
        let mut most = Counters { values: vec![("A".into(), 3), ("B".into(), 1)], ticks: (100, 1) };
        most.merge(&Counters { values: vec![("B".into(), 2), ("C".into(), 4)], ticks: (50, 2) });
        assert_eq!(most.values(), [("A".into(), 3), ("B".into(), 2), ("C".into(), 4)]);
        assert_eq!(most.stolen(), 0.04);
        assert!(environment().iter().any(|(name, value)| *name == "kernel" && !value.is_empty()));
    }
}
