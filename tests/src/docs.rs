//! Tables of `docs/` that tests write, so that they say what was seen.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

/// Holds the table that follows the comment `written: NAME` on a page of `docs/` to what it must be. With `BLESS=1` it is
/// written in place of the one that is there.
///
/// # Errors
///
/// When the page has no such comment, or another table.
pub fn hold_table(page: &str, name: &str, table: &str) -> Result<()> {
    let path: PathBuf = crate::built::workspace().join("docs").join(page);
    let text = std::fs::read_to_string(&path).with_context(|| format!("docs/{page}"))?;
    let mark = format!("<!-- written: {name} -->\n");
    let (before, after) = text
        .split_once(&mark)
        .with_context(|| format!("docs/{page} has no `{}`", mark.trim_end()))?;
    let (_, after) = after.split_once("\n\n").unwrap_or_default();
    let whole = format!("{before}{mark}{}\n\n{after}", table.trim_end());
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &whole)?;
    }
    ensure!(
        std::env::var_os("BLESS").is_some() || whole == text,
        "the table `{name}` of docs/{page} is out of date; BLESS=1 writes it. It should be:\n{table}"
    );
    Ok(())
}
