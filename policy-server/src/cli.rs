//! The command line of `ostiary`.
//!
//! Every command answers on the standard output, as text for people or as JSON (`--output json`) for programs, and
//! says by its exit code how it went: 0 all is well, 1 there is a finding or a denial, 2 it could not be run (with
//! the reason on the standard error), 3 nothing is wrong, but not all that was asked can be shown. Nothing is printed in colour unless it goes to a terminal.

mod agent;
mod audit;
mod check;
mod decide;
mod issue;
mod keys;
mod kinds;
mod output;
mod past;
mod pin;
mod render;
mod report;
mod review;
mod revoke;
mod serve;
mod server;
mod shrink;
mod state;
pub(crate) mod tls;
mod trace;

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use output::{Format, Printer};

/// Zero trust for AI agents in a service mesh: the policy server and its tools.
#[derive(Debug, Parser)]
#[command(name = "ostiary", version, propagate_version = true, max_term_width = 100, after_help = EXAMPLES)]
struct Arguments {
    /// How to answer: text for people, json for programs
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  ostiary check policy/
  ostiary render policy/ --out manifests/
  ostiary serve --config ostiary.yaml
  ostiary decide --cases cases.jsonl

Exit codes: 0 all is well, 1 a finding or a denial, 2 wrong usage or it could not be run, 3 not all
can be shown (audit verify)";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the policy server
    Serve(serve::Serve),
    /// Ask the policy server for a capability token
    Issue(Box<issue::Issue>),
    /// Show, make, rotate and retire the keys of a policy server
    #[command(subcommand)]
    Keys(keys::Keys),
    /// Read the log of records, and prove offline what it holds
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Show all that happened for one user request
    Trace(Box<trace::ShowTrace>),
    /// See which agents may act; approve, pause, resume, suspend and kill them
    #[command(subcommand)]
    Agent(agent::Agent),
    /// List the agents that wait for a person, and why
    Review(Box<review::Review>),
    /// Revoke one capability token, or all of an operation or a user request
    Revoke(Box<revoke::Revoke>),
    /// Go on with what was restored from an older copy
    #[command(subcommand)]
    State(state::State),
    /// Check agent and service files before they are applied
    Check(check::Check),
    /// Pin what a service tells of its tools
    Pin(pin::Pin),
    /// List what a log tells a person who has to decide something
    #[command(subcommand)]
    Report(report::Report),
    /// Propose the smallest file of an agent that explains a log
    Shrink(shrink::Shrink),
    /// Write the NetworkPolicies and Istio policies that agent and service files stand for
    Render(render::Render),
    /// Decide a request offline, with the same code as the filter in the sidecar
    Decide(Box<decide::Decide>),
    /// Print a completion script for a shell
    #[command(after_help = COMPLETION_EXAMPLES)]
    Completion {
        /// The shell to complete in
        shell: Shell,
    },
}

const COMPLETION_EXAMPLES: &str = "Examples:
  source <(ostiary completion bash)
  ostiary completion zsh > ~/.zfunc/_ostiary
  ostiary completion fish > ~/.config/fish/completions/ostiary.fish";

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl From<Shell> for clap_complete::Shell {
    fn from(shell: Shell) -> Self {
        match shell {
            Shell::Bash => Self::Bash,
            Shell::Zsh => Self::Zsh,
            Shell::Fish => Self::Fish,
        }
    }
}

/// How a command ended that could be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Nothing to object to.
    Clean,
    /// A mistake was found, or the answer is no.
    Finding,
    /// Nothing is wrong, but not all that was asked can be shown.
    Unshown,
    /// Done as far as it went, but part of the input could not be used; what was wrong is on the standard error.
    Incomplete,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        Self::from(match outcome {
            Outcome::Clean => 0,
            Outcome::Finding => 1,
            Outcome::Unshown => UNSHOWN,
            Outcome::Incomplete => CANNOT_RUN,
        })
    }
}

const CANNOT_RUN: u8 = 2;
const UNSHOWN: u8 = 3;

/// Why a command could not be run.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Serve(#[from] serve::ServeError),
    #[error(transparent)]
    Server(#[from] server::ServerError),
    #[error(transparent)]
    Keys(#[from] keys::KeysError),
    #[error(transparent)]
    State(#[from] state::StateError),
    #[error(transparent)]
    Audit(#[from] audit::AuditError),
    #[error(transparent)]
    Check(#[from] check::CheckError),
    #[error(transparent)]
    Past(#[from] past::PastError),
    #[error(transparent)]
    Pin(#[from] pin::PinError),
    #[error(transparent)]
    Render(#[from] render::RenderError),
    #[error(transparent)]
    Decide(#[from] decide::DecideError),
    #[error("cannot write the answer")]
    Output(#[from] io::Error),
}

/// Runs the command that the arguments ask for (the first is the program's name) and returns its exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version go to the standard output and are no failure; clap knows which is which.
            let code = if error.use_stderr() { CANNOT_RUN } else { 0 };
            return error
                .print()
                .map_or(ExitCode::from(CANNOT_RUN), |()| ExitCode::from(code));
        }
    };
    let mut printer = Printer::standard(arguments.output);
    match dispatch(arguments.command, &mut printer) {
        Ok(outcome) => outcome.into(),
        // The reader has seen enough (`| head`): nobody is left to tell.
        Err(Error::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::from(CANNOT_RUN),
        Err(error) => {
            output::complain(&error);
            ExitCode::from(CANNOT_RUN)
        }
    }
}

fn dispatch(command: Command, printer: &mut Printer) -> Result<Outcome, Error> {
    let outcome = match command {
        Command::Serve(serve) => serve.run()?,
        Command::Issue(issue) => issue.run(printer)?,
        Command::Keys(keys) => keys.run(printer)?,
        Command::Audit(audit) => audit.run(printer)?,
        Command::Trace(trace) => trace.run(printer)?,
        Command::Agent(agent) => agent.run(printer)?,
        Command::Review(review) => review.run(printer)?,
        Command::Revoke(revoke) => revoke.run(printer)?,
        Command::State(state) => state.run(printer)?,
        Command::Check(check) => check.run(printer)?,
        Command::Pin(pin) => pin.run(printer)?,
        Command::Report(report) => report.run(printer)?,
        Command::Shrink(shrink) => shrink.run(printer)?,
        Command::Render(render) => render.run(printer)?,
        Command::Decide(decide) => decide.run(printer)?,
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(
                clap_complete::Shell::from(shell),
                &mut Arguments::command(),
                "ostiary",
                &mut script,
            );
            printer.raw(&script)?;
            Outcome::Clean
        }
    };
    printer.finish()?;
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }
}
