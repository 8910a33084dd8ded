//! How commands answer.

use std::error::Error;
use std::fmt;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::time::{Duration, Instant};

use serde::Serialize;

/// For whom to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// For people.
    Text,
    /// For programs: one JSON value a line.
    Json,
}

/// The standard output.
pub(super) struct Printer {
    out: BufWriter<Stdout>,
    format: Format,
    coloured: bool,
}

impl Printer {
    /// The process's standard output, coloured if it is a terminal and `NO_COLOR` is not set.
    pub(super) fn standard(format: Format) -> Self {
        let out = io::stdout();
        let coloured = out.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            out: BufWriter::new(out),
            format,
            coloured,
        }
    }

    /// Prints `text` or, for programs, `value`.
    pub(super) fn answer(&mut self, text: impl fmt::Display, value: &impl Serialize) -> io::Result<()> {
        match self.format {
            Format::Text => writeln!(self.out, "{text}"),
            Format::Json => self.json(value),
        }
    }

    /// Whether the answer is for programs.
    pub(super) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Prints one line of JSON.
    pub(super) fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, value).map_err(io::Error::from)?;
        writeln!(self.out)
    }

    /// Prints bytes as they are.
    pub(super) fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)
    }

    /// Hands on what was printed.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    pub(super) fn good<T: fmt::Display>(&self, value: T) -> Painted<T> {
        self.paint("32", value)
    }

    pub(super) fn bad<T: fmt::Display>(&self, value: T) -> Painted<T> {
        self.paint("31", value)
    }

    pub(super) fn strong<T: fmt::Display>(&self, value: T) -> Painted<T> {
        self.paint("1", value)
    }

    fn paint<T: fmt::Display>(&self, style: &'static str, value: T) -> Painted<T> {
        Painted {
            style: (self.coloured && self.format == Format::Text).then_some(style),
            value,
        }
    }
}

/// A value in a colour, where colours are wanted.
pub(super) struct Painted<T> {
    style: Option<&'static str>,
    value: T,
}

impl<T: fmt::Display> fmt::Display for Painted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.style {
            Some(style) => write!(f, "\x1b[{style}m{}\x1b[0m", self.value),
            None => self.value.fmt(f),
        }
    }
}

/// Says on the standard error why a command could not be run, down to the first cause.
pub(super) fn complain(error: &dyn Error) {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !message.ends_with(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
        cause = error.source();
    }
    note(format_args!("ostiary: {message}"));
}

/// Writes a line to the standard error; if even that is gone there is nobody left to tell.
pub(super) fn note(line: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "{}", printable(&line.to_string()));
}

/// Text that may come from a server or a file, without what would move the cursor or recolour the terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() && c != '\n' && c != '\t' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

/// How far something long is, on the standard error if that is a terminal, and nowhere if not.
pub(super) struct Progress {
    what: &'static str,
    all: u64,
    calls: u32,
    shown: Option<Instant>,
    terminal: bool,
}

impl Progress {
    /// Looking at the clock takes longer than a line of a log.
    const LOOK_EVERY: u32 = 1024;

    const SHOW_EVERY: Duration = Duration::from_millis(200);

    /// Before the first of `all`.
    pub(super) fn new(what: &'static str, all: u64) -> Self {
        Self {
            what,
            all,
            calls: 0,
            shown: None,
            terminal: io::stderr().is_terminal(),
        }
    }

    /// Shows how far it is, unless that was done just now.
    pub(super) fn show(&mut self, done: u64) {
        if self.terminal && self.shown.is_none_or(|shown| shown.elapsed() > Self::SHOW_EVERY) {
            self.shown = Some(Instant::now());
            let percent = done.saturating_mul(100).checked_div(self.all).unwrap_or(0);
            let _ = write!(
                io::stderr(),
                "\r{} {percent:>3} % ({done} of {})\x1b[K",
                self.what,
                self.all
            );
        }
    }

    /// The same for what is called very often, and learns only later how many there are.
    pub(super) fn show_of(&mut self, done: u64, all: u64) {
        self.calls += 1;
        if self.terminal && self.calls.is_multiple_of(Self::LOOK_EVERY) {
            self.calls = 0;
            self.all = all;
            self.show(done);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
