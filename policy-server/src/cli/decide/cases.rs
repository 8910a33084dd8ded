//! A file of cases: one verdict a line.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use authz::case::{self, Case, CaseError, Verdict};
use authz::manifest::Mesh;
use serde_json::{Map, Value};

use super::super::Outcome;
use super::super::output::{Printer, note};
use super::DecideError;
use crate::files;
use crate::verifier::NativeVerifier;

/// A case may hold the largest bundle and the largest body in base64, and no more.
const MAX_LINE_BYTES: u64 = 64 << 20;

/// Decides every case of a file and prints the verdicts.
///
/// A line that cannot be read is told on the standard error, and the others are still decided.
pub(super) fn run(path: &Path, printer: &mut Printer) -> Result<Outcome, super::super::Error> {
    let read = |source| DecideError::Read {
        path: path.to_owned(),
        source,
    };
    // Folders are named beside the file, so that cases and policy can move together.
    let (mut input, folder): (BufReader<Box<dyn Read>>, PathBuf) = if path == Path::new("-") {
        (BufReader::new(Box::new(io::stdin())), PathBuf::new())
    } else {
        let file = File::open(path).map_err(read)?;
        (
            BufReader::new(Box::new(file)),
            path.parent().unwrap_or(Path::new("")).to_owned(),
        )
    };
    let mut cases = Cases {
        folder,
        meshes: HashMap::new(),
    };
    let mut outcome = Outcome::Clean;
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let taken = input
            .by_ref()
            .take(MAX_LINE_BYTES + 1)
            .read_until(b'\n', &mut line)
            .map_err(read)?;
        if taken == 0 {
            break;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let place = format!("{}:{number}", path.display());
        if taken as u64 > MAX_LINE_BYTES {
            note(format_args!(
                "ostiary: {place}: more than {MAX_LINE_BYTES} bytes in one line; what follows is not read"
            ));
            outcome = Outcome::Incomplete;
            break;
        }
        match cases.decide(line.trim_ascii()) {
            Ok((verdict, differences)) => {
                printer.json(&verdict)?;
                for difference in &differences {
                    note(format_args!("ostiary: {place}: case `{}`: {difference}", verdict.id));
                }
                if !differences.is_empty() && outcome == Outcome::Clean {
                    outcome = Outcome::Finding;
                }
            }
            Err(error) => {
                note(format_args!("ostiary: {place}: {error}"));
                outcome = Outcome::Incomplete;
            }
        }
        // Whoever feeds cases one by one waits for each verdict.
        if input.buffer().is_empty() {
            printer.finish()?;
        }
    }
    Ok(outcome)
}

struct Cases {
    folder: PathBuf,
    /// Thousands of cases name one folder; it is read once.
    meshes: HashMap<(String, String), Result<Arc<Mesh>, String>>,
}

impl Cases {
    fn decide(&mut self, line: &[u8]) -> Result<(Verdict, Vec<String>), CaseError> {
        let case = Case::read(line, |policy, trust_domain| self.mesh(policy, trust_domain))?;
        let verdict = case::run(&case, &NativeVerifier)?;
        let differences = expectation(line)?
            .map(|expected| compare(&expected, &verdict))
            .unwrap_or_default();
        Ok((verdict, differences))
    }

    fn mesh(&mut self, policy: &str, trust_domain: &str) -> Result<Arc<Mesh>, String> {
        let folder = self.folder.join(policy);
        let key = (policy.to_owned(), trust_domain.to_owned());
        self.meshes
            .entry(key)
            .or_insert_with(|| load(&folder, trust_domain))
            .clone()
    }
}

fn load(folder: &Path, trust_domain: &str) -> Result<Arc<Mesh>, String> {
    let loaded = files::load(&[folder], trust_domain).map_err(|error| error.to_string())?;
    loaded.mesh.map(Arc::new).map_err(|diagnostics| diagnostics.to_string())
}

/// What the case says that its verdict should be: an object with any of the verdict's members.
fn expectation(line: &[u8]) -> Result<Option<Map<String, Value>>, CaseError> {
    #[derive(serde::Deserialize)]
    struct Expectation {
        #[serde(default)]
        expect: Option<Map<String, Value>>,
    }
    let refuse = |problem: String| CaseError::Field {
        field: "expect",
        problem,
    };
    let Expectation { expect } = serde_json::from_slice(line).map_err(|error| refuse(error.to_string()))?;
    let unknown = expect
        .iter()
        .flat_map(Map::keys)
        .find(|name| !MEMBERS.contains(&name.as_str()));
    match unknown {
        Some(name) => Err(refuse(format!("`{name}` is no member of a verdict"))),
        None => Ok(expect),
    }
}

const MEMBERS: [&str; 7] = ["verdict", "code", "status", "needed", "agent_id", "scope", "tool"];

fn compare(expected: &Map<String, Value>, verdict: &Verdict) -> Vec<String> {
    let verdict = serde_json::to_value(verdict).unwrap_or_default();
    let got = |name: &str| verdict.get(name).unwrap_or(&Value::Null);
    expected
        .iter()
        .filter(|(name, value)| got(name) != *value)
        .map(|(name, value)| format!("`{name}` should be {value}, but is {}", got(name)))
        .collect()
}
