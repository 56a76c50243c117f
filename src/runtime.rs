//! The monoio runtime of a core: io_uring with the flags that were measured best, or epoll.
//!
//! SINGLE_ISSUER and COOP_TASKRUN cost the least for each message; DEFER_TASKRUN gains nothing over them and
//! delivers no completion while tasks keep waking each other. A kernel that refuses the flags gets a plain ring;
//! one that refuses rings (Docker's default seccomp profile, a small RLIMIT_MEMLOCK) gets epoll.

use std::{fmt, io, str::FromStr};

use monoio::{FusionRuntime, IoUringDriver, LegacyDriver, RuntimeBuilder, time::TimeDriver};

/// A runtime for one thread, whichever driver it stands on.
pub type Runtime = FusionRuntime<TimeDriver<IoUringDriver>, TimeDriver<LegacyDriver>>;

/// Which driver waits for the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Driver {
    /// io_uring where the kernel allows it, else epoll.
    #[default]
    Auto,
    /// io_uring, or an error that says why not.
    Uring,
    /// epoll, always: 8 to 12 % more CPU for each message, allowed everywhere.
    Epoll,
}

impl Driver {
    /// Builds the runtime for the calling thread, which has to be the one that runs it.
    ///
    /// # Errors
    /// With [`Driver::Uring`] what the kernel answered; otherwise only when epoll fails, too.
    pub fn build(self) -> io::Result<Runtime> {
        match self {
            Self::Epoll => epoll(),
            Self::Uring => uring(),
            Self::Auto => uring().or_else(|_| epoll()),
        }
    }
}

fn uring() -> io::Result<Runtime> {
    if !monoio::utils::detect_uring() {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "io_uring is not available: the kernel is too old or a seccomp profile forbids it (--driver epoll works everywhere)",
        ));
    }
    let mut flags = io_uring::IoUring::builder();
    flags.setup_single_issuer().setup_coop_taskrun();
    let with_flags = RuntimeBuilder::<IoUringDriver>::new()
        .with_entries(RING_ENTRIES)
        .uring_builder(flags)
        .enable_timer()
        .build();
    match with_flags {
        Ok(runtime) => Ok(runtime.into()),
        // Before 5.19 and 6.0 the flags are unknown; a plain ring still works.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            let plain = RuntimeBuilder::<IoUringDriver>::new().with_entries(RING_ENTRIES);
            Ok(plain.enable_timer().build()?.into())
        }
        Err(error) => Err(error),
    }
}

/// 1024 submissions: a ring of this size is charged about 100 KiB of RLIMIT_MEMLOCK.
const RING_ENTRIES: u32 = 1024;

fn epoll() -> io::Result<Runtime> {
    Ok(RuntimeBuilder::<LegacyDriver>::new().enable_timer().build()?.into())
}

/// What a built runtime stands on, for the line at start.
pub(crate) fn driver_of(runtime: &Runtime) -> Driver {
    match runtime {
        FusionRuntime::Uring(_) => Driver::Uring,
        FusionRuntime::Legacy(_) => Driver::Epoll,
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Uring => "io_uring",
            Self::Epoll => "epoll",
        })
    }
}

impl FromStr for Driver {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "auto" => Ok(Self::Auto),
            "uring" | "io_uring" => Ok(Self::Uring),
            "epoll" => Ok(Self::Epoll),
            _ => Err("the drivers are `auto`, `uring` and `epoll`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_driver_that_is_named_can_be_asked_for() {
        for driver in [Driver::Auto, Driver::Uring, Driver::Epoll] {
            assert_eq!(driver.to_string().parse(), Ok(driver));
        }
        assert!("kqueue".parse::<Driver>().is_err());
    }

    #[test]
    fn auto_builds_everywhere_and_epoll_is_epoll() {
        let on_its_own_thread = |driver: Driver| {
            std::thread::spawn(move || driver.build().map(|runtime| driver_of(&runtime))).join().unwrap()
        };
        assert_eq!(on_its_own_thread(Driver::Epoll).unwrap(), Driver::Epoll);
        assert_ne!(on_its_own_thread(Driver::Auto).unwrap(), Driver::Auto);
    }
}
