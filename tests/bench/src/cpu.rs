//! What a process has used of the processor, and where it may run.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// User and system time of all threads of a process that still live.
///
/// The scheduler's own count, in nanoseconds: `utime` and `stime` of `/proc/PID/stat` are the same time in steps of
/// 10 ms.
///
/// # Errors
///
/// When the process has ended, or the kernel keeps no such count.
pub(crate) fn used(process: i32) -> Result<Duration> {
    let mut nanoseconds = 0;
    for thread in threads(process)? {
        // A thread may end between the two reads.
        let Ok(text) = fs::read_to_string(format!("/proc/{process}/task/{thread}/schedstat")) else {
            continue;
        };
        let running = text
            .split_ascii_whitespace()
            .next()
            .and_then(|field| field.parse::<u64>().ok());
        nanoseconds += running.context("/proc/PID/task/TID/schedstat does not begin with a number")?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}

fn threads(process: i32) -> Result<Vec<i32>> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).with_context(|| format!("process {process} is gone"))?;
    let names = tasks.flatten().map(|task| task.file_name());
    Ok(names.filter_map(|name| name.to_str()?.parse().ok()).collect())
}

/// Which core is for what, where there are two.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cores {
    measured: usize,
    generator: usize,
}

impl Cores {
    /// Two cores that this process may use; none if it has only one.
    pub(crate) fn find() -> Result<Option<Self>> {
        let allowed = sched_getaffinity(Pid::from_raw(0))?;
        let mut cores = (0..CpuSet::count()).filter(|core| allowed.is_set(*core).unwrap_or(false));
        Ok(cores
            .next()
            .zip(cores.next())
            .map(|(measured, generator)| Self { measured, generator }))
    }

    /// Keeps what is measured, with all its threads, on its core.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub(crate) fn keep_measured(self, process: i32) -> Result<()> {
        for thread in threads(process)? {
            keep(Pid::from_raw(thread), self.measured)?;
        }
        Ok(())
    }

    /// Keeps this thread on the generator's core until the answer is dropped. What it starts inherits that.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub(crate) fn keep_generator(self) -> Result<Kept> {
        let before = sched_getaffinity(Pid::from_raw(0))?;
        keep(Pid::from_raw(0), self.generator)?;
        Ok(Kept(before))
    }
}

fn keep(thread: Pid, core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    sched_setaffinity(thread, &set).with_context(|| format!("cannot keep {thread} on core {core}"))
}

/// This thread is kept on a core.
#[derive(Debug)]
pub(crate) struct Kept(CpuSet);

impl Drop for Kept {
    fn drop(&mut self) {
        // It was allowed before.
        let _ = sched_setaffinity(Pid::from_raw(0), &self.0);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn work_is_counted() {
        let process = std::process::id() as i32;
        let (mut before, mut sum) = (used(process).unwrap(), 0_u64);
        // Threads of other tests may end meanwhile, and what they used is gone with them.
        let is_counted = (0..10_000).any(|_| {
            sum = (0..100_000).fold(sum, |sum, n| std::hint::black_box(sum ^ n));
            let now = used(process).unwrap();
            std::mem::replace(&mut before, now) < now
        });
        assert!(is_counted);
    }
}
