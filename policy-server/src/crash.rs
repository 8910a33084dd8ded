//! Moments at which tests end the server as a crash would. A build without debug assertions has none: what is shipped does not
//! look at the environment.

/// The variable that names a moment, and the time that it is come to: `committed:3`.
#[cfg(debug_assertions)]
const VARIABLE: &str = "OSTIARY_CRASH_AT";

/// Ends the process here and now, if this is the moment that a test wants.
#[cfg(debug_assertions)]
pub(crate) fn moment(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};
    static WANTED: OnceLock<Option<(String, AtomicU32)>> = OnceLock::new();
    let wanted = WANTED.get_or_init(|| {
        let text = std::env::var(VARIABLE).ok()?;
        let (name, times) = text.split_once(':')?;
        Some((name.to_owned(), AtomicU32::new(times.parse().ok()?)))
    });
    if let Some((_, left)) = wanted.as_ref().filter(|(wanted, _)| wanted == name)
        && left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        std::process::abort();
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub(crate) const fn moment(_: &str) {}
