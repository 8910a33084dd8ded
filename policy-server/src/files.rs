//! Agent and service files: from a folder of YAML to a checked [`Mesh`], with every mistake told by file, line and
//! column, and what to write instead.
//!
//! The server reads its policy through the same [`load`] as `ostiary check`, so what passes the check is what is
//! served; what it has from an API server goes the same way ([`read_objects`]). Files are bounded in number, size, depth and nesting, links out of the folder are not followed, and
//! YAML's ways to say one thing and mean another (aliases, tags, duplicate keys) are refused.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use authz::manifest::{AgentManifest, DocumentRef, Manifests, Mesh, Problem, ServiceManifest};
use serde::Serialize;

pub use cluster::inspect;
pub use objects::{MAX_OBJECTS, ObjectMistake, read_objects};

use de::{Mistake, MistakeKind, Step, Wanted};
use walk::ReadError;
use yaml::{Fault, Node, Place, Value};

mod advice;
mod cluster;
mod de;
mod nearest;
mod objects;
mod repair;
mod walk;
mod yaml;

/// A mesh with ten thousand agents has ten thousand files; more is a wrong path, and would hold up the server.
pub const MAX_FILES: usize = 10_000;

/// An agent's file has twenty lines; a megabyte holds some thousand of them.
pub const MAX_FILE_BYTES: u64 = 1 << 20;

/// What files there were, and what they say.
#[derive(Debug)]
pub struct Loaded {
    /// How many files were read.
    pub files: usize,
    /// What was read, with repairs where a file is wrong: only for counting and for tools that show it.
    pub manifests: Manifests,
    /// The agents and services, or everything that is wrong with the files.
    pub mesh: Result<Mesh, Diagnostics>,
    origins: Origins,
}

impl Loaded {
    /// Places problems that a further rule found in [`Loaded::manifests`].
    #[must_use]
    pub fn diagnose(&self, problems: Vec<Problem>) -> Diagnostics {
        let found = problems.into_iter().map(|problem| self.origins.place(problem));
        self.origins.diagnostics(found.collect(), true)
    }
}

/// All mistakes of a set of files, in the order of files and lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
    #[serde(skip)]
    complete: bool,
}

impl Diagnostics {
    /// The mistakes.
    #[must_use]
    pub fn list(&self) -> &[Diagnostic] {
        &self.list
    }

    /// Whether the rules over all files were checked as well. They are not where a document could not be read whole:
    /// every name in it would be missing elsewhere.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.complete
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.list.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// One mistake: where it is, what is wrong, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// The file, as it was named.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it, such as `write instead …`.
    pub advice: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            line,
            column,
            message,
            advice,
        } = self;
        write!(f, "{}:{line}:{column}: {message}; {advice}", file.display())
    }
}

/// Why files could not even be looked at.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A path does not exist or may not be read.
    #[error("cannot read `{}`", path.display())]
    Unreadable {
        /// The path.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// More files than a policy folder may hold.
    #[error("more than {MAX_FILES} files")]
    TooManyFiles,
}

impl LoadError {
    fn unreadable(path: &Path, source: io::Error) -> Self {
        Self::Unreadable {
            path: path.to_owned(),
            source,
        }
    }
}

/// Reads the agent and service files of a mesh: each path a file, or a folder with everything below it.
///
/// # Errors
///
/// If a path cannot be read at all. Mistakes in files are not errors of this function: they are in [`Loaded::mesh`].
pub fn load<P: AsRef<Path>>(paths: &[P], trust_domain: &str) -> Result<Loaded, LoadError> {
    let paths: Vec<_> = paths.iter().map(|path| path.as_ref().to_owned()).collect();
    let found = walk::walk(&paths)?;
    let mut loader = Loader {
        complete: true,
        ..Loader::default()
    };
    for refused in found.refused {
        loader.complete = false;
        loader
            .file(refused.path)
            .report(Place::START, refused.message, refused.advice);
    }
    let files = found.files.len();
    for path in found.files {
        let source = walk::read(&path);
        loader.file(path).read(source)?;
    }
    Ok(loader.finish(files, trust_domain))
}

#[derive(Default)]
struct Loader {
    origins: Origins,
    manifests: Manifests,
    found: Vec<Found>,
    complete: bool,
}

/// What is wrong: the file, the place in it, the message and the advice.
type Found = (usize, Place, String, String);

/// Where manifests come from.
#[derive(Debug, Default)]
struct Origins {
    files: Vec<PathBuf>,
    agents: Vec<Origin>,
    services: Vec<Origin>,
}

/// The document that a manifest was read from.
#[derive(Debug)]
struct Origin {
    file: usize,
    node: Node,
}

impl Origins {
    fn place(&self, problem: Problem) -> Found {
        let origin = match problem.document {
            DocumentRef::Agent(index) => self.agents.get(index),
            DocumentRef::Service(index) => self.services.get(index),
        };
        let (file, place) = origin.map_or((0, Place::START), |origin| {
            (origin.file, repair::place_of(&origin.node, &problem.field))
        });
        (file, place, problem.message, problem.advice)
    }

    fn diagnostics(&self, mut found: Vec<Found>, complete: bool) -> Diagnostics {
        found.sort();
        found.dedup();
        let list = found.into_iter().map(|(file, place, message, advice)| Diagnostic {
            file: self.files.get(file).cloned().unwrap_or_default(),
            line: place.line,
            column: place.column,
            message,
            advice,
        });
        Diagnostics {
            list: list.collect(),
            complete,
        }
    }
}

impl Loader {
    fn file(&mut self, path: PathBuf) -> FileLoader<'_> {
        let file = self.origins.files.len();
        self.origins.files.push(path);
        FileLoader { loader: self, file }
    }

    fn finish(mut self, files: usize, trust_domain: &str) -> Loaded {
        let judged = self.judge(trust_domain);
        let mesh = judged.map_err(|found| self.origins.diagnostics(found, self.complete));
        Loaded {
            files,
            manifests: self.manifests,
            mesh,
            origins: self.origins,
        }
    }

    /// The mesh that was read, or all that is wrong.
    fn judge(&mut self, trust_domain: &str) -> Result<Mesh, Vec<Found>> {
        let checked = if self.complete {
            self.manifests.check(trust_domain)
        } else {
            Err(Vec::new())
        };
        match checked {
            Ok(mesh) if self.found.is_empty() => Ok(mesh),
            checked => {
                let mut found = std::mem::take(&mut self.found);
                let problems = checked.err().unwrap_or_default().into_iter();
                found.extend(problems.map(|problem| self.origins.place(problem)));
                Err(found)
            }
        }
    }
}

struct FileLoader<'l> {
    loader: &'l mut Loader,
    file: usize,
}

impl FileLoader<'_> {
    fn report(&mut self, place: Place, message: impl Into<String>, instead: impl fmt::Display) {
        let advice = format!("write instead {instead}");
        self.loader.found.push((self.file, place, message.into(), advice));
    }

    fn read(mut self, source: Result<String, ReadError>) -> Result<(), LoadError> {
        match source {
            Ok(source) => self.documents(&source),
            Err(ReadError::Io(error)) => {
                let path = self.loader.origins.files.get(self.file).cloned().unwrap_or_default();
                return Err(LoadError::unreadable(&path, error));
            }
            Err(ReadError::TooLong) => {
                self.loader.complete = false;
                self.report(
                    Place::START,
                    format!("the file has more than {MAX_FILE_BYTES} bytes"),
                    "several files",
                );
            }
            Err(ReadError::NotUtf8 { line, column }) => {
                self.loader.complete = false;
                self.report(Place { line, column }, "this is not UTF-8 text", "the file in UTF-8");
            }
        }
        Ok(())
    }

    fn documents(&mut self, source: &str) {
        let stream = yaml::read(source);
        for Fault {
            place,
            message,
            advice,
            fatal,
        } in stream.faults
        {
            self.loader.complete &= !fatal;
            self.report(place, message, advice);
        }
        for node in stream.documents {
            self.document(node);
        }
    }

    fn document(&mut self, mut node: Node) {
        match self.kind(&mut node) {
            Some(Kind::Agent) => {
                if let Some(manifest) = self.manifest::<AgentManifest>(&mut node) {
                    self.loader.manifests.agents.push(manifest);
                    self.loader.origins.agents.push(Origin { file: self.file, node });
                }
            }
            Some(Kind::Service) => {
                if let Some(manifest) = self.manifest::<ServiceManifest>(&mut node) {
                    self.loader.manifests.services.push(manifest);
                    self.loader.origins.services.push(Origin { file: self.file, node });
                }
            }
            None => self.loader.complete = false,
        }
    }

    /// Which type the document is of; a misspelled kind is told and corrected.
    fn kind(&mut self, node: &mut Node) -> Option<Kind> {
        let mistake = |place, path, kind| Mistake { place, path, kind };
        let path = || vec![Step::Key("kind".to_owned())];
        if !matches!(node.value, Value::Mapping(_)) {
            self.mistake(&mistake(
                node.place,
                Vec::new(),
                MistakeKind::wrong_type(node, Wanted::Mapping),
            ));
            return None;
        }
        let Some(entry) = node.entry("kind") else {
            self.mistake(&mistake(
                node.place,
                Vec::new(),
                MistakeKind::MissingField("kind".to_owned()),
            ));
            return None;
        };
        let Some(text) = entry.value.text().map(str::to_owned) else {
            self.mistake(&mistake(
                entry.place(),
                path(),
                MistakeKind::wrong_type(&entry.value, Wanted::Text),
            ));
            return None;
        };
        if let Some((_, kind)) = KINDS.iter().find(|(name, _)| *name == text) {
            return Some(*kind);
        }
        let unknown = MistakeKind::UnknownVariant {
            variant: text.clone(),
            known: &["Agent", "Service"],
        };
        self.mistake(&mistake(entry.place(), path(), unknown));
        let (name, kind) = KINDS
            .iter()
            .find(|(name, _)| nearest::nearest(&text, [*name]).is_some())?;
        repair::set_text(node, &path(), name)?;
        Some(*kind)
    }

    fn manifest<T: serde::de::DeserializeOwned>(&mut self, node: &mut Node) -> Option<T> {
        let reading = repair::read(node);
        for mistake in &reading.mistakes {
            self.mistake(mistake);
        }
        self.loader.complete &= reading.whole;
        reading.value
    }

    fn mistake(&mut self, mistake: &Mistake) {
        let (message, advice) = advice::explain(mistake);
        self.report(mistake.place, message, advice);
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Agent,
    Service,
}

const KINDS: [(&str, Kind); 2] = [("Agent", Kind::Agent), ("Service", Kind::Service)];
