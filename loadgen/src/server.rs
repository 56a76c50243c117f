//! What the server's process uses, out of `/proc`: its CPU time, beside the replies that came in the same time.
//!
//! Both are read at two instants within the measurement, so what was in flight at either end does not matter.

use std::{fs, io, net::SocketAddr};

use crate::units::Nanos;

/// The CPU time of all threads of a process so far. A thread that ends takes its time with it.
pub(crate) fn cpu_time(pid: u32) -> io::Result<Nanos> {
    let unknown = |why| io::Error::other(format!("process {pid}, whose CPU time is wanted: {why}"));
    let mut times = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task")).map_err(|error| unknown(error.to_string()))? {
        // Where it cannot be read, the thread has ended since it was listed.
        if let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) {
            times.extend(text.split(' ').next().and_then(|time| time.parse::<Nanos>().ok()));
        }
    }
    if times.is_empty() {
        Err(unknown("the kernel does not tell".to_owned()))
    } else {
        Ok(times.iter().sum())
    }
}

/// The process that listens on a port of this machine.
///
/// # Errors
/// None is seen to: another user's processes do not show what is theirs.
pub(crate) fn listening_at(address: SocketAddr) -> io::Result<u32> {
    let port = format!(":{:04X}", address.port());
    let mut sockets = Vec::new();
    for file in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = fs::read_to_string(file).unwrap_or_default();
        // Local address, remote address, state (0A is LISTEN), and further on the inode.
        for line in text.lines().skip(1) {
            let columns: Vec<&str> = line.split_ascii_whitespace().collect();
            if let [_, local, _, "0A", _, _, _, _, _, inode, ..] = columns[..]
                && local.ends_with(&port)
            {
                sockets.push(format!("socket:[{inode}]"));
            }
        }
    }
    let pids = fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let holds = |pid: &u32| {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.filter_map(|entry| fs::read_link(entry.path()).ok())
            .any(|link| sockets.iter().any(|socket| link.as_os_str() == socket.as_str()))
    };
    pids.into_iter().find(holds).ok_or_else(|| {
        io::Error::other(format!(
            "--server-pid auto: no process of this machine is seen to listen on port {}; say --server-pid PID",
            address.port()
        ))
    })
}

/// The resident memory of a process, in bytes; 0 where it cannot be read.
pub(crate) fn memory(pid: u32) -> u64 {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

/// What was so at an instant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    pub(crate) at: Nanos,
    pub(crate) replies: u64,
    pub(crate) cpu: Nanos,
    pub(crate) memory: u64,
}

/// What was used between two instants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub(crate) time: Nanos,
    pub(crate) replies: u64,
    pub(crate) cpu: Nanos,
    /// At the end.
    pub(crate) memory: u64,
}

impl Usage {
    pub(crate) fn between(begin: Reading, end: Reading) -> Self {
        Self {
            time: end.at - begin.at,
            replies: end.replies - begin.replies,
            cpu: end.cpu.saturating_sub(begin.cpu),
            memory: end.memory,
        }
    }

    /// In nanoseconds.
    pub(crate) fn cpu_per_message(&self) -> Option<f64> {
        (self.replies > 0).then(|| self.cpu as f64 / self.replies as f64)
    }

    /// How many cores were busy.
    pub(crate) fn cores(&self) -> f64 {
        self.cpu as f64 / self.time.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_time_and_nobody_takes_none() {
        let pid = std::process::id();
        let begin = cpu_time(pid).unwrap();
        let end = std::iter::repeat_with(|| cpu_time(pid).unwrap()).find(|end| *end > begin).unwrap();
        assert!(end - begin < 10_000_000_000);
        assert!((1 << 20..1 << 40).contains(&memory(pid)) && memory(u32::MAX) == 0);
        let error = cpu_time(u32::MAX).unwrap_err().to_string();
        assert!(error.contains("process 4294967295"), "{error}");
    }

    #[test]
    fn who_listens_is_found_by_the_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(listening_at(address).unwrap(), std::process::id());
        drop(listener);
        let error = listening_at(address).unwrap_err().to_string();
        assert!(error.contains(&format!("port {}", address.port())), "{error}");
    }

    #[test]
    fn usage_is_what_lies_between() {
        let begin = Reading { at: 1_000, replies: 7, cpu: 500, memory: 1 };
        let usage = Usage::between(begin, Reading { at: 3_000, replies: 11, cpu: 1_500, memory: 2 });
        assert_eq!((usage.cpu_per_message(), usage.cores()), (Some(250.0), 0.5));
        assert_eq!(Usage::between(begin, begin).cpu_per_message(), None);
    }
}
