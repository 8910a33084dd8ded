//! What a call of the demo should come to, what it came to, and how that is shown.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;

use crate::backends::Seen;
use crate::client::Answer;

/// What a call should come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// It passes, and the service's log has it once.
    Pass,
    /// A sidecar denies it with this code, and the service's log does not have it.
    Deny(&'static str),
    /// The policy server refuses it with this code.
    Refuse(&'static str),
    /// No connection comes about.
    NoConnection,
}

impl Expected {
    fn code(self) -> &'static str {
        match self {
            Self::Pass => "ok",
            Self::Deny(code) | Self::Refuse(code) => code,
            Self::NoConnection => NO_CONNECTION,
        }
    }

    fn verdict(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Deny(_) => "deny",
            Self::Refuse(_) => "refuse",
            Self::NoConnection => "no way in",
        }
    }
}

const NO_CONNECTION: &str = "no connection";

/// What is tried, at whose door, and what should come of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Try<'a> {
    pub(super) what: &'a str,
    pub(super) door: &'static str,
    pub(super) expected: Expected,
}

impl<'a> Try<'a> {
    pub(super) fn new(what: &'a str, door: &'static str, expected: Expected) -> Self {
        Self { what, door, expected }
    }
}

/// One line of the table.
#[derive(Debug, Clone)]
pub struct Row {
    /// What was tried.
    pub call: String,
    /// At whose door: the agent's own sidecar, the service's, or the policy server's.
    pub door: &'static str,
    /// What should come of it.
    pub expected: Expected,
    /// What came of it.
    pub got: &'static str,
    /// The HTTP status, 0 without an answer.
    pub status: u16,
    /// The code of the answer.
    pub code: String,
    /// How long it took, the connection included.
    pub elapsed: Duration,
    /// What does not match; none if all does.
    pub mismatch: Option<String>,
    /// Why it came to that, where somebody said so.
    pub why: Option<String>,
}

impl Row {
    /// Judges an answer, and what the service's own log has of a call so marked.
    pub(super) fn judge(
        tried: Try<'_>,
        answer: &Result<Answer>,
        elapsed: Duration,
        log: Option<&ServiceLog<'_>>,
    ) -> Self {
        let answer = answer.as_ref().ok();
        let got = outcome(answer);
        let passed = if got == "pass" { "ok" } else { "none" };
        let code = answer.map_or(NO_CONNECTION.to_owned(), |answer| {
            answer.code().unwrap_or_else(|| passed.to_owned())
        });
        let in_log = || log.and_then(|log| misplaced(tried.expected, log));
        Self {
            call: tried.what.to_owned(),
            door: tried.door,
            expected: tried.expected,
            got,
            status: answer.map_or(0, |answer| answer.status),
            code,
            elapsed,
            mismatch: mismatch(tried.expected, answer).or_else(in_log),
            why: None,
        }
    }
}

/// The table's head.
pub fn head() -> String {
    let columns = ["call", "at", "expected", "got", "status", "code", "ms"];
    let [call, door, expected, got, status, code, ms] = columns;
    let line = format!("{call:<55} {door:<9} {expected:<24} {got:<9} {status:>6} {code:<24} {ms:>7}");
    format!("{line}\n{}", "-".repeat(line.len()))
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            call,
            door,
            expected,
            got,
            status,
            code,
            elapsed,
            mismatch,
            why,
        } = self;
        let (expected, milliseconds) = (expected.code(), elapsed.as_secs_f64() * 1000.0);
        let mut line =
            format!("{call:<55} {door:<9} {expected:<24} {got:<9} {status:>6} {code:<24} {milliseconds:>7.1}");
        if let Some(mismatch) = mismatch {
            write!(line, "\n  MISMATCH: {mismatch}")?;
        }
        if let Some(why) = why {
            write!(line, "\n  {why}")?;
        }
        f.write_str(&line)
    }
}

fn outcome(answer: Option<&Answer>) -> &'static str {
    match answer {
        None => "no way in",
        Some(answer) if answer.denial().is_some() => "deny",
        Some(answer) if answer.status < 300 => "pass",
        Some(_) => "refuse",
    }
}

/// What is wrong with an answer.
fn mismatch(expected: Expected, answer: Option<&Answer>) -> Option<String> {
    let got = outcome(answer);
    if got != expected.verdict() {
        let body = answer
            .map(|answer| String::from_utf8_lossy(&answer.body).into_owned())
            .unwrap_or_default();
        return Some(format!("expected {}, got {got}: {body}", expected.verdict()));
    }
    let answer = answer?;
    let code = answer.code();
    match expected {
        Expected::Deny(expected) if answer.denial() != Some(expected) => {
            Some(format!("the ostiary-denial header says {:?}", answer.denial()))
        }
        Expected::Deny(expected) | Expected::Refuse(expected) if code.as_deref() != Some(expected) => {
            Some(format!("the body's code is {code:?}"))
        }
        Expected::Deny(_) if matches!(answer.status, 401 | 403) && answer.header("www-authenticate").is_none() => {
            Some("there is no WWW-Authenticate".to_owned())
        }
        _ => None,
    }
}

/// What is wrong with the service's own log.
fn misplaced(expected: Expected, log: &ServiceLog<'_>) -> Option<String> {
    let wanted = usize::from(expected == Expected::Pass);
    let seen = log
        .seen
        .iter()
        .filter(|seen| seen.complete || !log.headers_may_pass)
        .count();
    (seen != wanted).then(|| format!("the log of {} has the request {seen} times, not {wanted}", log.service))
}

/// What a service's own log has of a marked call.
#[derive(Debug)]
pub(super) struct ServiceLog<'a> {
    pub(super) service: &'a str,
    pub(super) seen: Vec<Seen>,
    /// Where filters cannot hold headers back, the application may see those of a request whose body is then denied.
    pub(super) headers_may_pass: bool,
}
