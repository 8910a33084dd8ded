//! `ostiary pin`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use authz::claims::ServiceRef;
use authz::definition::DefinitionDigest;
use authz::identity::ToolName;
use authz::policy::{Protocol, ServiceClaims};
use authz::protocol::list::{self, ListError, MAX_LIST_BYTES};
use serde::Serialize;
use serde_json::json;

use super::output::Printer;
use super::past;
use super::{Error, Outcome};

/// Pins the definitions of a service's tools: prints the `tools` of its file with the digests of what the service tells of
/// them, to be put into the file once a person has read it.
///
/// What the service tells is read from answers to `tools/list` as the service sends them: the whole message or its result
/// alone, a file for each page. A digest covers the whole entry of a tool. Ask the application itself and not through a
/// sidecar, which leaves out what its caller may not use; and take the answer as it is, since tools that print it often leave
/// members out.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Pin {
    /// The service, by its name or as `namespace/name`
    service: String,
    /// Files and folders of the mesh, the service's among them
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Answers to `tools/list`; `-` reads one from the standard input
    #[arg(long, value_name = "FILE", default_value = "-")]
    list: Vec<PathBuf>,
    /// The trust domain of the mesh
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    trust_domain: String,
}

const EXAMPLES: &str = "Examples:
  ostiary pin mcp policy/ --list tools.json
  curl -s http://127.0.0.1:8080/mcp -H 'content-type: application/json' -H 'accept: application/json, text/event-stream' \\
    -d '{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/list\"}' | ostiary pin mcp policy/
  ostiary --output json pin mcp policy/ --list tools.json | jq -r '.tools[] | select(.state == \"drifted\") | .tool'

Exit codes: 0 every tool of the file is pinned as it is defined, 1 one is not, or the files have mistakes, 2 there is no such
service, or nothing could be read";

/// Why nothing could be pinned.
#[derive(Debug, thiserror::Error)]
pub(super) enum PinError {
    #[error("there is no file of an MCP service `{0}`, or several")]
    ServiceUnknown(String),
    #[error("cannot read `{}`: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("`{}` is no answer to `tools/list`: {source}", path.display())]
    List { path: PathBuf, source: ListError },
    #[error("the tool `{0}` is listed twice")]
    Twice(ToolName),
}

/// How a tool of the file stands to what the service tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// Pinned as it is defined.
    Pinned,
    /// Defined otherwise.
    Drifted,
    /// Not pinned yet.
    Unpinned,
    /// Not listed by the service.
    Absent,
}

#[derive(Debug, Serialize)]
struct Told<'a> {
    tool: &'a ToolName,
    state: State,
    scope: Option<&'a str>,
    /// What is to be written; of a tool that is not listed, what is written.
    definition: Option<DefinitionDigest>,
}

impl Pin {
    pub(super) fn run(&self, printer: &mut Printer) -> Result<Outcome, Error> {
        let loaded = past::load(&self.paths, &self.trust_domain)?;
        let mesh = match past::mesh(&loaded) {
            Ok(mesh) => mesh,
            Err(diagnostics) => return past::refuse(diagnostics, printer),
        };
        let service = named(mesh.services(), &self.service)?;
        let listed = self.listed()?;
        let tools: Vec<Told<'_>> = service
            .tools
            .iter()
            .map(|(tool, claims)| {
                let (state, definition) = match (claims.definition, listed.get(tool)) {
                    (pinned, None) => (State::Absent, pinned),
                    (Some(pinned), Some(listed)) if pinned == *listed => (State::Pinned, Some(pinned)),
                    (Some(_), Some(listed)) => (State::Drifted, Some(*listed)),
                    (None, Some(listed)) => (State::Unpinned, Some(*listed)),
                };
                Told {
                    tool,
                    state,
                    scope: claims.scope.as_deref(),
                    definition,
                }
            })
            .collect();
        let others: Vec<&ToolName> = listed
            .keys()
            .filter(|tool| !service.tools.contains_key(*tool))
            .collect();
        let value = json!({ "service": service.id, "tools": tools, "not_offered": others });
        printer.answer(describe(service, &tools, &others).trim_end(), &value)?;
        Ok(if tools.iter().all(|told| told.state == State::Pinned) {
            Outcome::Clean
        } else {
            Outcome::Finding
        })
    }

    /// What the service tells, page by page.
    fn listed(&self) -> Result<BTreeMap<ToolName, DefinitionDigest>, PinError> {
        let mut listed = BTreeMap::new();
        for path in &self.list {
            let text = read(path).map_err(|source| PinError::Read {
                path: path.clone(),
                source,
            })?;
            let page = list::definitions(&text).map_err(|source| PinError::List {
                path: path.clone(),
                source,
            })?;
            for (tool, definition) in page {
                if listed.insert(tool.clone(), definition).is_some() {
                    return Err(PinError::Twice(tool));
                }
            }
        }
        Ok(listed)
    }
}

/// The one service of that name.
fn named<'m>(services: &'m [ServiceClaims], name: &str) -> Result<&'m ServiceClaims, PinError> {
    let unknown = || PinError::ServiceUnknown(name.to_owned());
    let wanted = ServiceRef::parse(name).map_err(|_| unknown())?;
    let mut found = services
        .iter()
        .filter(|service| wanted.names(&service.id) && service.protocol == Protocol::Mcp);
    match (found.next(), found.next()) {
        (Some(service), None) => Ok(service),
        _ => Err(unknown()),
    }
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    // One byte more than fits, so that a longer answer is refused and not cut.
    let most = MAX_LIST_BYTES as u64 + 1;
    if path == Path::new("-") {
        std::io::stdin().lock().take(most).read_to_end(&mut text)?;
    } else {
        std::fs::File::open(path)?.take(most).read_to_end(&mut text)?;
    }
    Ok(text)
}

/// The `tools` of the file as they are to be.
// Writing to a string cannot fail.
fn describe(service: &ServiceClaims, tools: &[Told<'_>], others: &[&ToolName]) -> String {
    let mut text = format!("# Of `{}`, by `ostiary pin`.\n  tools:\n", service.id);
    for told in tools {
        let scope = told.scope.map(|scope| format!("scope: \"{scope}\""));
        let definition = told.definition.map(|digest| format!("definition: \"{digest}\""));
        let fields: Vec<String> = [scope, definition].into_iter().flatten().collect();
        let note = match told.state {
            State::Pinned => "",
            State::Drifted => "  # it was pinned to another definition",
            State::Unpinned => "  # not pinned before",
            State::Absent => "  # the service does not list it",
        };
        let _ = match fields.is_empty() {
            true => writeln!(text, "    {}: {{}}{note}", told.tool),
            false => writeln!(text, "    {}: {{ {} }}{note}", told.tool, fields.join(", ")),
        };
    }
    for tool in others {
        let _ = writeln!(text, "    # listed, but not offered by the file: {tool}");
    }
    text
}
