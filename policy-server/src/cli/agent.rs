//! `ostiary agent`.

mod cascade;
mod change;
pub(super) mod list;
mod show;

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::Outcome;
use super::keys::moment;
use super::output::Printer;
use authz::state::transition::Change;

/// The agents of a mesh, and whether they may act.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Agent {
    /// List agents and their states
    List(Box<list::List>),
    /// Show an agent, and who changed its state when and why
    Show(Box<show::Show>),
    /// Let a paused agent go on
    #[command(after_help = change::APPROVE_EXAMPLES)]
    Approve(Box<change::ChangeState>),
    /// Deny an agent's calls until a person has looked
    #[command(after_help = change::PAUSE_EXAMPLES)]
    Pause(Box<change::ChangeState>),
    /// Take back a suspension or a kill; the agent needs new tokens
    #[command(after_help = change::RESUME_EXAMPLES)]
    Resume(Box<change::ChangeState>),
    /// Kill an agent's tokens and end its calls
    #[command(after_help = change::SUSPEND_EXAMPLES)]
    Suspend(Box<cascade::Stop>),
    /// The switch: kill an agent's tokens and end its calls, for good
    #[command(after_help = change::KILL_EXAMPLES)]
    Kill(Box<cascade::Stop>),
}

impl Agent {
    pub(super) fn run(&self, printer: &mut Printer) -> Result<Outcome, super::Error> {
        match self {
            Self::List(list) => list.run(printer),
            Self::Show(show) => show.run(printer),
            Self::Approve(asked) => asked.run(Change::Approve, printer),
            Self::Pause(asked) => asked.run(Change::Pause, printer),
            Self::Resume(asked) => asked.run(Change::Resume, printer),
            Self::Suspend(asked) => asked.run(Change::Suspend, printer),
            Self::Kill(asked) => asked.run(Change::Kill, printer),
        }
    }
}

/// An agent as the server shows it.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct ShownAgent {
    pub(super) agent_id: String,
    pub(super) state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) identity: Option<String>,
    #[serde(default)]
    pub(super) score: u8,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) score_reasons: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last_change: Option<ShownChange>,
}

/// A change as the server shows it.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct ShownChange {
    change: String,
    from: String,
    to: String,
    role: String,
    by: String,
    reason: String,
    at: u64,
}

impl ShownAgent {
    /// One line, and a second one that says why it is in that state.
    pub(super) fn describe(&self, printer: &Printer, text: &mut String) {
        let state = match self.state.as_str() {
            "active" => printer.good(self.state.as_str()),
            _ => printer.bad(self.state.as_str()),
        };
        // Writing to a string cannot fail.
        let _ = write!(text, "{}  {state}", printer.strong(&self.agent_id));
        if self.score > 0 {
            let _ = write!(text, "  score {}", self.score);
        }
        if self.identity.is_none() {
            text.push_str("  (no file names it)");
        }
        text.push('\n');
        if let Some(change) = self.last_change.as_ref().filter(|_| self.state != "active") {
            change.describe(text);
        }
    }
}

impl ShownChange {
    pub(super) fn describe(&self, text: &mut String) {
        let Self {
            from,
            to,
            role,
            by,
            reason,
            at,
            ..
        } = self;
        let who = if by == role {
            by.clone()
        } else {
            format!("{by} ({role})")
        };
        let _ = writeln!(text, "  {}  {from} -> {to} by {who}: {reason}", moment(*at));
    }
}
