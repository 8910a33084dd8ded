//! The last chapter: what is left of one user request, proven to somebody who has a file and a public key.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{ORCHESTRATOR, Stage as _, token_of, token_request};
use crate::client::Call;
use crate::mesh::Mesh;
use crate::{mcp, wait};

/// How long records may take to come, and to be signed.
const LIMIT: Duration = Duration::from_secs(30);

/// What the agent does for the user request: as many calls as [`Proof::work`] makes.
const CALLS: usize = 4;

/// Lets an agent work on one user request, and tells all that happened for it as a tree; then writes the log to a file, proves
/// it offline, decides it again, and flips one byte.
///
/// # Errors
///
/// When anything comes out otherwise than it should.
pub async fn prove(mesh: &Mesh, tell: &mut dyn FnMut(&str)) -> Result<()> {
    let mut proof = Proof {
        mesh,
        folder: mesh.run.file("proof"),
        tell,
    };
    std::fs::create_dir_all(&proof.folder)?;
    let txn = proof.work().await?;
    let last = proof.trace(&txn).await?;
    proof.export(last).await?;
    proof.flip(&txn)
}

const KEY: &str = "log.vkey";
const LOG: &str = "log.jsonl";
const CHANGED: &str = "changed.jsonl";
const EXPORT: [&str; 4] = ["audit", "export", "--out", LOG];
const VERIFY: [&str; 7] = ["audit", "verify", LOG, "--key", KEY, "--checkpoint", "checkpoint"];
const VERIFY_CHANGED: [&str; 5] = ["audit", "verify", CHANGED, "--key", KEY];

struct Proof<'a> {
    mesh: &'a Mesh,
    folder: PathBuf,
    tell: &'a mut dyn FnMut(&str),
}

/// What a command said.
struct Said {
    code: Option<i32>,
    text: String,
}

impl Proof<'_> {
    /// Makes the calls, and gives the user request that they are made for.
    async fn work(&self) -> Result<String> {
        let ask = Call::new("POST", &self.mesh.policy_authority(), "/v1/tokens").json(&token_request());
        let answer = self.mesh.principal(ORCHESTRATOR)?.send(ask).await?;
        let token = token_of(&answer)?;
        let txn = answer.json().get("txn").and_then(Value::as_str).map(str::to_owned);
        let table = |table: &str| -> Result<Call> {
            let authority = self.mesh.authority("warehouse")?;
            Ok(Call::new("GET", &authority, &format!("/v1/tables/{table}")))
        };
        let tool = |tool| Ok::<_, anyhow::Error>(mcp::call_tool(&self.mesh.authority("mcp")?, tool, &json!({})));
        let analyst = self.mesh.agent("analyst-7")?;
        let calls: [(Call, Option<&str>); CALLS] = [
            (table("sales_q1_2026")?, None),
            (tool("pandas")?, None),
            (table("hr_salaries")?, Some("scope_not_granted")),
            (tool("bash")?, Some("tool_forbidden")),
        ];
        for (call, denial) in calls {
            let answer = analyst.client().send(call.bearer(&token)).await?;
            ensure!(answer.denial() == denial, "{:?}, not {denial:?}", answer.denial());
        }
        txn.context("the token names no user request")
    }

    /// Waits until both sides have told all of it, and gives the place of its last record in the log.
    async fn trace(&mut self, txn: &str) -> Result<u64> {
        let mut told = String::new();
        let last = wait::until("all records of the user request", LIMIT, async || {
            let said = self.ostiary(&["--output", "json", "trace", txn], true).ok()?;
            told.clone_from(&said.text);
            let trace: Value = serde_json::from_str(&said.text).ok()?;
            let calls = trace.pointer("/agents/0/calls")?.as_array()?;
            let is_whole = calls.len() == CALLS && calls.iter().all(is_told);
            let attempts = calls.iter().filter_map(|call| call["attempts"].as_array()).flatten();
            let places = attempts.flat_map(|attempt| [attempt.pointer("/index"), attempt.pointer("/ended/index")]);
            is_whole.then(|| places.flatten().filter_map(Value::as_u64).max())?
        })
        .await
        .with_context(|| format!("told so far: {told}"))?;
        self.shown(&["trace", txn], true)?.expect(0)?;
        Ok(last)
    }

    /// Writes the log to a file, which a checkpoint from elsewhere shows to be whole.
    async fn export(&mut self, last: u64) -> Result<()> {
        let keys = self.ostiary(&["--output", "json", "keys", "show"], true)?;
        let keys: Value = serde_json::from_str(&keys.text)?;
        let key = keys.pointer("/log_keys/0").and_then(Value::as_str);
        std::fs::write(self.folder.join(KEY), key.context("the log has no key")?)?;
        let mirror = self.mesh.policy_server.mirror().join("checkpoint");
        // Until all records are signed, and nothing more between the mirror's checkpoint and the export.
        wait::until("a signed log", LIMIT, async || {
            std::fs::copy(&mirror, self.folder.join("checkpoint")).ok()?;
            self.ostiary(&EXPORT, true).ok()?;
            let proven = self.ostiary(&VERIFY, false).ok()?.code == Some(0);
            let size = std::fs::read_to_string(self.folder.join("checkpoint")).ok()?;
            let size: u64 = size.lines().nth(1)?.parse().ok()?;
            (proven && size > last).then_some(())
        })
        .await?;
        self.shown(&EXPORT, true)?.expect(0)?;
        self.shown(&VERIFY, false)?.expect(0)?;
        self.shown(&["audit", "replay", LOG], false)?.expect(0)
    }

    /// Flips a bit of the record of a denial, and has it found.
    fn flip(&mut self, txn: &str) -> Result<()> {
        let mut log = std::fs::read(self.folder.join(LOG))?;
        let lines = log.split_inclusive(|byte| *byte == b'\n');
        let (mut start, mut found) = (0, None);
        for (number, line) in (1_u64..).zip(lines) {
            let text = String::from_utf8_lossy(line);
            if let Some(at) = text.find("\"code\":\"tool_forbidden\"").filter(|_| text.contains(txn)) {
                found = Some((number, start + at + "\"code\":\"".len()));
            }
            start += line.len();
        }
        let (number, at) = found.context("the log does not have the denial")?;
        *log.get_mut(at).context("the log is shorter")? ^= 1;
        std::fs::write(self.folder.join(CHANGED), log)?;
        (self.tell)(&format!(
            "one bit of the record on line {number} is flipped (byte {at} of the file):\n"
        ));
        let said = self.shown(&VERIFY_CHANGED, false)?;
        said.expect(1)?;
        let place = format!("not proven: line {number} ");
        ensure!(
            said.text.starts_with(&place),
            "not found on line {number}: {}",
            said.text
        );
        Ok(())
    }

    /// Runs a command in the chapter's folder and tells it with what it says.
    fn shown(&mut self, arguments: &[&str], asks_server: bool) -> Result<Said> {
        let said = self.ostiary(arguments, asks_server)?;
        (self.tell)(&format!("$ ostiary {}\n{}", arguments.join(" "), said.text));
        Ok(said)
    }

    fn ostiary(&self, arguments: &[&str], asks_server: bool) -> Result<Said> {
        let mut command = Command::new(crate::built::ostiary()?);
        command.args(arguments).current_dir(&self.folder);
        if asks_server {
            command.arg("--config").arg(self.mesh.policy_server.config());
        }
        let output = command.output()?;
        Ok(Said {
            code: output.status.code(),
            text: String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        })
    }
}

impl Said {
    fn expect(&self, code: i32) -> Result<()> {
        ensure!(
            self.code == Some(code),
            "exit code {:?}, not {code}: {}",
            self.code,
            self.text
        );
        Ok(())
    }
}

/// Whether a call's sides have told all of it: a permitted one was seen by both, and has ended at both.
fn is_told(call: &Value) -> bool {
    let attempts = call["attempts"].as_array().map_or(&[][..], Vec::as_slice);
    let is_over = |attempt: &Value| attempt["verdict"] == "deny" || attempt["ended"].is_object();
    let is_denied = attempts.iter().any(|attempt| attempt["verdict"] == "deny");
    attempts.iter().all(is_over) && (is_denied || call["seen_by"] == "both")
}
