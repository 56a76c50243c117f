//! What the kernel says of this process.

use std::{fs, path::Path};

/// Facts of one moment; what cannot be read is 0.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Process {
    pub(crate) cpu_seconds: f64,
    pub(crate) resident_bytes: u64,
    pub(crate) virtual_bytes: u64,
    pub(crate) open_fds: u64,
    pub(crate) max_fds: u64,
    pub(crate) threads: u64,
    /// Since 1970.
    pub(crate) start_time_seconds: f64,
}

impl Process {
    pub(crate) fn now() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // proc_pid_stat(5): the name, in parentheses, may have spaces; the field behind it is the third.
        let behind = stat.rsplit_once(')').map_or("", |(_, behind)| behind);
        let fields: Vec<u64> = behind.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
        let field = |number: usize| fields.get(number - 3).copied().unwrap_or(0);
        let ticks = rustix::param::clock_ticks_per_second().max(1) as f64;
        Self {
            cpu_seconds: (field(14) + field(15)) as f64 / ticks,
            resident_bytes: field(24) * rustix::param::page_size() as u64,
            virtual_bytes: field(23),
            open_fds: open_fds(Path::new("/proc/self/fd")),
            max_fds: rustix::process::getrlimit(rustix::process::Resource::Nofile)
                .current
                .unwrap_or(u64::MAX),
            threads: field(20),
            start_time_seconds: boot_time() + field(22) as f64 / ticks,
        }
    }
}

/// Since Linux 6.2 the directory's size says it; before, each has to be looked at.
fn open_fds(directory: &Path) -> u64 {
    match fs::metadata(directory) {
        Ok(metadata) if metadata.len() > 0 => metadata.len(),
        _ => fs::read_dir(directory).map_or(0, |entries| entries.count() as u64),
    }
}

fn boot_time() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "));
    line.and_then(|seconds| seconds.trim().parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn the_facts_are_those_of_this_process() {
        let _held: Vec<fs::File> = (0..20).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        let process = Process::now();
        assert!(process.resident_bytes > 1 << 20 && process.virtual_bytes >= process.resident_bytes);
        assert!(process.open_fds >= 20 && process.open_fds <= process.max_fds, "{process:?}");
        assert!(process.threads >= 1);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        assert!((0.0..86_400.0).contains(&(now - process.start_time_seconds)), "{process:?}");
    }
}
