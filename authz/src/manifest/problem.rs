//! What is wrong with a file, and what to write instead.

use std::fmt;

/// A document of [`super::Manifests`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DocumentRef {
    /// The place of an agent's file in `agents`.
    Agent(usize),
    /// The place of a service's file in `services`.
    Service(usize),
}

/// A fault in a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The document.
    pub document: DocumentRef,
    /// The field, as a JSON pointer (RFC 6901) into the document, such as `/spec/routes/0/path`.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub advice: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.field, self.message, self.advice)
    }
}

/// Collects the problems of one document.
pub(super) struct Report<'p> {
    document: DocumentRef,
    problems: &'p mut Vec<Problem>,
}

impl<'p> Report<'p> {
    pub(super) fn new(document: DocumentRef, problems: &'p mut Vec<Problem>) -> Self {
        Self { document, problems }
    }

    /// Adds a problem.
    pub(super) fn add(&mut self, field: impl Into<String>, message: impl Into<String>, advice: impl Into<String>) {
        let (document, field) = (self.document, field.into());
        self.problems.push(Problem {
            document,
            field,
            message: message.into(),
            advice: advice.into(),
        });
    }

    /// Passes a value on, or adds the problem that its error is.
    pub(super) fn take<T, E: fmt::Display>(
        &mut self,
        field: impl Into<String>,
        text: &str,
        result: Result<T, E>,
        advice: impl Into<String>,
    ) -> Option<T> {
        result
            .map_err(|error| self.add(field, format!("`{text}`: {error}"), advice))
            .ok()
    }
}

/// A key as a token of a JSON pointer.
pub(super) fn pointer_token(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}
