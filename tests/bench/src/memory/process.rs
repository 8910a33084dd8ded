//! The memory of a process, from /proc.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often memory is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Memory is at rest when it has not moved by more than this, in bytes, for some looks.
const REST_BYTES: u64 = 128 << 10;

/// Resident memory, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Memory {
    pub(super) resident: u64,
    /// The most since the last [`reset_peak`].
    pub(super) peak: u64,
}

/// Reads it.
///
/// # Errors
///
/// When the process has ended.
pub(super) fn memory(process: i32) -> Result<Memory> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let bytes = |name: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.map(|kib| kib << 10)
            .with_context(|| format!("/proc/{process}/status has no {name}"))
    };
    Ok(Memory {
        resident: bytes("VmRSS")?,
        peak: bytes("VmHWM")?,
    })
}

/// Has the peak begin again at what is resident now.
///
/// # Errors
///
/// When the kernel refuses.
pub(super) fn reset_peak(process: i32) -> Result<()> {
    std::fs::write(format!("/proc/{process}/clear_refs"), "5").context("cannot reset the peak of memory")
}

/// Waits until resident memory has been at rest for so many looks, and answers it.
///
/// # Errors
///
/// When it does not come to rest.
pub(super) async fn settled(process: i32, rest_looks: usize) -> Result<u64> {
    let start = Instant::now();
    let (mut base, mut looks) = (memory(process)?.resident, 0);
    while start.elapsed() < super::LIMIT {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = memory(process)?.resident;
        if now.abs_diff(base) <= REST_BYTES {
            looks += 1;
        } else {
            (base, looks) = (now, 0);
        }
        if looks >= rest_looks {
            return Ok(now);
        }
    }
    bail!("the memory of process {process} does not come to rest")
}
