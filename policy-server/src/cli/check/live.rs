//! `ostiary check --live`: asks every sidecar of a mesh what it runs.
//!
//! By `kubectl`, which knows how to reach the cluster and who the caller is there.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{CheckError, table};
use crate::cli::Outcome;
use crate::cli::output::{Printer, printable};
use crate::live::dump::Dump;
use crate::live::pods::{self, Pod, SIDECAR, Standing};
use crate::live::report::{Answer, Report};
use crate::render::Workload;

/// So many sidecars are asked at once: each is a process here and a stream through the API server.
const AT_ONCE: usize = 8;
/// A sidecar answers in milliseconds, the API server on the way to it in seconds at worst.
const PATIENCE: Duration = Duration::from_secs(30);
/// The dump of a sidecar that knows thousands of services; a pod that answers more fills nobody's memory.
const MAX_ANSWER_BYTES: u64 = 64 * 1024 * 1024;
/// The pods of a large cluster.
const MAX_LIST_BYTES: u64 = 1024 * 1024 * 1024;
/// Of what kubectl complains of, as much is told.
const MAX_COMPLAINT_BYTES: u64 = 4096;

/// Where to look.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "In a cluster")]
pub(in crate::cli) struct Live {
    /// Ask every sidecar of the mesh what it runs, by kubectl ($KUBECTL, or the one on the PATH)
    #[arg(long)]
    pub(super) live: bool,
    /// The context of the kubeconfig [default: the current one]
    #[arg(long, value_name = "NAME", requires = "live")]
    context: Option<String>,
    /// This namespace alone [default: all]
    #[arg(long, value_name = "NAME", requires = "live")]
    namespace: Option<String>,
}

/// Why it could not be looked.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum LiveError {
    #[error("cannot start the asynchronous runtime")]
    Runtime(#[source] io::Error),
    #[error("`{command}` cannot be run; install kubectl, or name it by KUBECTL=")]
    Kubectl { command: String, source: io::Error },
    #[error("`{command}` says: {complaint}")]
    Complaint { command: String, complaint: String },
    #[error("`{command}` has not answered after {} seconds", PATIENCE.as_secs())]
    Late { command: String },
    #[error("`{command}` answered more than {limit} bytes")]
    Long { command: String, limit: u64 },
    #[error("what kubectl lists is not a list of namespaces and one of pods")]
    List(#[from] serde_json::Error),
    #[error("there is no pod of the mesh there: neither pods nor namespaces are labelled `ostiary.dev/mesh: enabled`")]
    NoPods,
}

impl Live {
    /// The policy server's sidecar alone is without the filter.
    pub(super) fn run(&self, policy_server: &Workload, printer: &mut Printer) -> Result<Outcome, crate::cli::Error> {
        let report = self.look(policy_server).map_err(CheckError::from)?;
        printer.answer(table::render(&report, printer), &report)?;
        Ok(if report.ok { Outcome::Clean } else { Outcome::Finding })
    }

    fn look(&self, policy_server: &Workload) -> Result<Report, LiveError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(LiveError::Runtime)?;
        runtime.block_on(async {
            let pods = self.pods(policy_server).await?;
            if pods.is_empty() {
                return Err(LiveError::NoPods);
            }
            Ok(Report::new(self.ask_all(pods).await))
        })
    }

    async fn pods(&self, policy_server: &Workload) -> Result<Vec<Pod>, LiveError> {
        let scope: &[&str] = match &self.namespace {
            Some(namespace) => &["--namespace", namespace],
            None => &["--all-namespaces"],
        };
        let json = "--output=json";
        let namespaces = self.kubectl(&["get", "namespaces", json], MAX_LIST_BYTES).await?;
        let pods = self
            .kubectl(&[&["get", "pods", json], scope].concat(), MAX_LIST_BYTES)
            .await?;
        let Workload {
            namespace,
            service_account,
        } = policy_server;
        Ok(pods::select(&namespaces, &pods, (namespace, service_account))?)
    }

    /// Asks the pods that can be asked, several at a time; the answers are in the order of the pods.
    async fn ask_all(&self, pods: Vec<Pod>) -> Vec<(Pod, Answer)> {
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        let mut asked = JoinSet::new();
        for (position, pod) in pods.into_iter().enumerate() {
            let (turns, command) = (Arc::clone(&turns), self.question(&pod));
            asked.spawn(async move {
                // Nobody closes it: the question would be asked out of turn, no worse.
                let _turn = turns.acquire().await;
                let answer = match pod.standing {
                    Standing::Ask | Standing::Ending => ask(command).await,
                    _ => Answer::NotAsked,
                };
                (position, pod, answer)
            });
        }
        let mut progress = Progress::new(asked.len());
        let mut answers = Vec::new();
        while let Some(Ok(answer)) = asked.join_next().await {
            progress.step();
            answers.push(answer);
        }
        progress.end();
        answers.sort_by_key(|(position, ..)| *position);
        answers.into_iter().map(|(_, pod, answer)| (pod, answer)).collect()
    }

    fn question(&self, pod: &Pod) -> Question {
        let exec = [
            "--namespace",
            &pod.namespace,
            "exec",
            &pod.name,
            "--container",
            SIDECAR,
            "--",
        ];
        let request = ["pilot-agent", "request", "GET", "config_dump"];
        self.command(&[&exec[..], &request[..]].concat(), MAX_ANSWER_BYTES)
    }

    async fn kubectl(&self, arguments: &[&str], limit: u64) -> Result<Vec<u8>, LiveError> {
        self.command(arguments, limit).answer().await
    }

    fn command(&self, arguments: &[&str], limit: u64) -> Question {
        let kubectl = std::env::var_os("KUBECTL").unwrap_or_else(|| "kubectl".into());
        let context = self.context.iter().map(|context| format!("--context={context}"));
        Question {
            kubectl,
            arguments: context
                .chain(arguments.iter().map(|&argument| argument.to_owned()))
                .collect(),
            limit,
        }
    }
}

async fn ask(question: Question) -> Answer {
    match question.answer().await {
        Ok(answer) => match Dump::parse(&answer) {
            Ok(dump) => Answer::Dump(dump),
            Err(error) => Answer::Nothing(error.to_string()),
        },
        Err(LiveError::Complaint { complaint, .. }) => Answer::Nothing(complaint),
        Err(error) => Answer::Nothing(error.to_string()),
    }
}

/// A call of kubectl.
struct Question {
    kubectl: OsString,
    arguments: Vec<String>,
    limit: u64,
}

impl Question {
    /// What it prints, if it prints it in time and ends well.
    async fn answer(&self) -> Result<Vec<u8>, LiveError> {
        let command = || format!("{} {}", self.kubectl.display(), self.arguments.join(" "));
        match tokio::time::timeout(PATIENCE, self.output(&command)).await {
            Ok(answer) => answer,
            Err(_) => Err(LiveError::Late { command: command() }),
        }
    }

    async fn output(&self, command: &impl Fn() -> String) -> Result<Vec<u8>, LiveError> {
        let failed = |source| LiveError::Kubectl {
            command: command(),
            source,
        };
        let mut child = Command::new(&self.kubectl)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (answer, complaint) =
            tokio::try_join!(read(stdout, self.limit + 1), read(stderr, MAX_COMPLAINT_BYTES)).map_err(failed)?;
        if answer.len() as u64 > self.limit {
            return Err(LiveError::Long {
                command: command(),
                limit: self.limit,
            });
        }
        match child.wait().await.map_err(failed)?.success() {
            true => Ok(answer),
            false => Err(LiveError::Complaint {
                command: command(),
                complaint: printable(String::from_utf8_lossy(&complaint).trim()),
            }),
        }
    }
}

async fn read(pipe: Option<impl tokio::io::AsyncRead + Unpin>, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(limit).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

/// How far it is, for who looks at a terminal.
struct Progress {
    done: usize,
    of: usize,
    is_shown: bool,
}

impl Progress {
    fn new(of: usize) -> Self {
        Self {
            done: 0,
            of,
            is_shown: io::stderr().is_terminal(),
        }
    }

    fn step(&mut self) {
        self.done += 1;
        self.show(&format!("asked {} of {} pods", self.done, self.of));
    }

    fn end(&self) {
        self.show("");
    }

    /// Over what was there; a terminal that is gone misses nothing.
    fn show(&self, text: &str) {
        if self.is_shown {
            let mut stderr = io::stderr();
            let _ = write!(stderr, "\r\x1b[K{text}");
            let _ = stderr.flush();
        }
    }
}
