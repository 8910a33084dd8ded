//! What is to be measured, and how thoroughly.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::row::{ENDURANCE, Spec};

/// What the command line asked for.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    only: Vec<String>,
    /// Everything once with tiny counts: to see that the tool works.
    pub(crate) quick: bool,
    /// Where the results go.
    pub(crate) output: PathBuf,
}

impl Plan {
    /// Takes the names of sections, groups and rows; none of them for everything.
    ///
    /// # Errors
    ///
    /// When a name is none of these.
    pub(crate) fn new(only: Vec<String>, quick: bool, output: PathBuf, sections: &[(&str, &[Spec])]) -> Result<Self> {
        for name in &only {
            let known = sections
                .iter()
                .any(|(section, rows)| section == name || rows.iter().any(|row| row.id == name || row.group == name));
            if !known {
                bail!("there is no section, group or row `{name}`; `--list` prints the rows");
            }
        }
        Ok(Self { only, quick, output })
    }

    /// Whether a row is asked for by its own name, its group's or its section's.
    pub(crate) fn wants(&self, section: &str, row: &Spec) -> bool {
        let long = row.group == ENDURANCE;
        let named = |name: &String| (name == section && !long) || name == row.group || name == row.id;
        (self.only.is_empty() && (self.quick || !long)) || self.only.iter().any(named)
    }

    /// Whether any of these rows is asked for.
    pub(crate) fn wants_any(&self, section: &str, rows: &[Spec]) -> bool {
        rows.iter().any(|row| self.wants(section, row))
    }

    /// How many rounds.
    pub(crate) fn rounds(&self) -> usize {
        if self.quick { 2 } else { 11 }
    }

    /// So many agents in a policy, or in a quick run at most a few.
    pub(crate) fn agents(&self, full: usize) -> usize {
        if self.quick { full.min(20) } else { full }
    }

    /// So many, or in a quick run a few of them.
    pub(crate) fn count(&self, full: usize) -> usize {
        if self.quick { (full / 50).max(4) } else { full }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const ROWS: [Spec; 3] = [row("first", "left"), row("second", "right"), row("third", ENDURANCE)];

    const fn row(id: &'static str, group: &'static str) -> Spec {
        Spec {
            id,
            group,
            work: "",
            unit: "us",
            peer: None,
            bound: None,
        }
    }

    fn wanted(only: &[&str]) -> Vec<&'static str> {
        let only = only.iter().map(|name| (*name).to_owned()).collect();
        let plan = Plan::new(only, false, PathBuf::new(), &[("section", &ROWS)]).unwrap();
        let wanted = ROWS.iter().filter(|row| plan.wants("section", row));
        wanted.map(|row| row.id).collect()
    }

    #[test]
    fn a_row_is_asked_for_by_its_name_its_groups_or_its_sections() {
        assert_eq!(wanted(&[]), ["first", "second"]);
        assert_eq!(wanted(&["section"]), ["first", "second"]);
        assert_eq!(wanted(&["left"]), ["first"]);
        assert_eq!(wanted(&["second"]), ["second"]);
        assert_eq!(wanted(&["left", "second"]), ["first", "second"]);
        assert_eq!(wanted(&["third"]), ["third"], "only by name");
    }

    #[test]
    fn a_name_that_is_nowhere_is_an_error() {
        assert!(Plan::new(vec!["fourth".to_owned()], false, PathBuf::new(), &[("section", &ROWS)]).is_err());
    }
}
