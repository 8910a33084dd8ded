//! The story of `make demo`: what one agent may do with its token, and everything else, which is denied.
//!
//! Each denial must come back with our own code, and the service's own log must not know the request. The agent's calls
//! come from inside its network namespace where there is one; most denials are shown again at the service's sidecar, by a
//! caller that has got around its own: that is the boundary that counts.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use serde_json::{Value, json};

use crate::backends::Backend;
use crate::client::{Answer, Call, Client};
use crate::mesh::{Agent, Mesh};
use crate::pki::Credential;
use crate::sidecar::POLICY_AUTHORITY;
use crate::{forgery, mcp, wait};

/// Marks each call, so that the service's log can be asked for it.
const CALL_HEADER: &str = "x-demo-call";

/// How long a changed policy may take to reach every worker of every sidecar.
const POLICY_LIMIT: Duration = Duration::from_secs(20);

/// Fresh connections that must all meet the changed policy, as each lands on a random worker.
const PROBES: usize = 12;

/// The lifetime of the token that is left to expire; sidecars allow for 5 s of clock skew on top.
const SHORT_TTL_SECONDS: u64 = 1;

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
            Self::NoConnection => "no connection",
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

/// One line of the table.
#[derive(Debug, Clone)]
pub struct Row {
    /// What was tried.
    pub call: String,
    /// At whose door.
    pub door: &'static str,
    /// What should come of it.
    pub expected: Expected,
    /// What came of it.
    pub got: &'static str,
    /// The HTTP status, 0 without an answer.
    pub status: u16,
    /// The code of the answer.
    pub code: String,
    /// How long it took.
    pub elapsed: Duration,
    /// What does not match; none if all does.
    pub mismatch: Option<String>,
}

/// Tells the whole story and hands each row to `tell` as it happens; answers with the number of mismatches.
///
/// # Errors
///
/// When the mesh breaks in a way that is no verdict.
pub async fn tell(mesh: &Mesh, tell: &mut dyn FnMut(&Row)) -> Result<usize> {
    let mut story = Story {
        mesh,
        tell,
        calls: 0,
        mismatches: 0,
    };
    let short = story.short_token().await?;
    let token = story.issuing().await?;
    story.allowed(&token).await?;
    story.not_granted(&token).await?;
    story.forged(&token).await?;
    story.stolen(&token).await?;
    story.around(&token).await?;
    story.own_process().await?;
    story.policy_change(&token).await?;
    story.expired(short).await?;
    Ok(story.mismatches)
}

/// The table's head.
pub fn head() -> String {
    let line = format_args!(
        "{:<58} {:<9} {:<28} {:<9} {:>6} {:<28} {:>7}",
        "call", "at", "expected", "got", "status", "code", "ms"
    );
    format!("{line}\n{}", "-".repeat(151))
}

/// A row of the table.
pub fn line(row: &Row) -> String {
    let milliseconds = row.elapsed.as_secs_f64() * 1000.0;
    let mut text = format!(
        "{:<58} {:<9} {:<28} {:<9} {:>6} {:<28} {milliseconds:>7.1}",
        row.call,
        row.door,
        row.expected.code(),
        row.got,
        row.status,
        row.code,
    );
    if let Some(mismatch) = &row.mismatch {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n  MISMATCH: {mismatch}");
    }
    text
}

/// What the orchestrator asks for on behalf of `analyst-7`, as the documentation tells it.
pub fn token_request() -> Value {
    json!({
        "agent_id": "analyst-7",
        "operation_id": "report-2026-q1",
        "scope": ["read:data.sales_q1_2026", "write:report.draft.2026q1"],
        "tools": ["pandas", "matplotlib"],
        "forbidden_tools": ["bash", "http"],
        "ttl_seconds": 300,
        "max_tokens": 50_000,
    })
}

fn with(mut request: Value, field: &str, value: Value) -> Value {
    if let Some(fields) = request.as_object_mut() {
        fields.insert(field.to_owned(), value);
    }
    request
}

struct ShortToken {
    token: String,
    expires_at: u64,
}

struct Story<'a> {
    mesh: &'a Mesh,
    tell: &'a mut dyn FnMut(&Row),
    calls: usize,
    mismatches: usize,
}

/// The calls of the story, each to its service.
impl Story<'_> {
    fn table(&self, table: &str) -> Result<(&'static str, Call)> {
        let authority = self.mesh.service("warehouse")?.authority();
        Ok((
            "warehouse",
            Call::new("GET", &authority, &format!("/v1/tables/{table}")),
        ))
    }

    fn report(&self, report: &str) -> Result<(&'static str, Call)> {
        let authority = self.mesh.service("reports")?.authority();
        let call = Call::new("PUT", &authority, &format!("/v1/reports/{report}"));
        Ok(("reports", call.json(&json!({"title": "Sales, first quarter"}))))
    }

    fn tool(&self, tool: &str, arguments: &Value) -> Result<(&'static str, Call)> {
        Ok((
            "mcp",
            mcp::call_tool(&self.mesh.service("mcp")?.authority(), tool, arguments),
        ))
    }

    fn analyst(&self) -> Result<&Agent> {
        self.mesh.agent("analyst-7")
    }
}

/// The chapters.
impl Story<'_> {
    async fn short_token(&mut self) -> Result<ShortToken> {
        let request = with(token_request(), "ttl_seconds", json!(SHORT_TTL_SECONDS));
        let token = self.mesh.token(&request).await?;
        Ok(ShortToken {
            token,
            expires_at: wait::unix_now() + SHORT_TTL_SECONDS,
        })
    }

    async fn issuing(&mut self) -> Result<String> {
        let mesh = self.mesh;
        let answer = mesh
            .policy_server
            .ask_token(&mesh.ca, &mesh.orchestrator, &token_request())
            .await?;
        let token = answer
            .json()
            .get("token")
            .and_then(Value::as_str)
            .map(ToOwned::to_owned);
        self.issued("orchestrator asks for analyst-7's token", Expected::Pass, answer);
        let wildcard = with(token_request(), "scope", json!(["read:data.*"]));
        self.ask(
            "... with the wildcard scope read:data.*",
            &mesh.orchestrator,
            &wildcard,
            "wildcard_refused",
        )
        .await?;
        let wider = with(token_request(), "scope", json!(["read:data.hr_salaries"]));
        self.ask(
            "... with a scope that the agent's policy lacks",
            &mesh.orchestrator,
            &wider,
            "scope_not_in_policy",
        )
        .await?;
        let call = "scheduler, not among the agent's issuers, asks";
        self.ask(call, &mesh.scheduler, &token_request(), "issuer_not_listed")
            .await?;
        token.ok_or_else(|| anyhow!("the orchestrator got no token, so there is no story to tell"))
    }

    async fn allowed(&mut self, token: &str) -> Result<()> {
        let pass = Expected::Pass;
        self.through("reads table sales_q1_2026", token, self.table("sales_q1_2026")?, pass)
            .await?;
        self.through("calls tool pandas", token, self.tool("pandas", &json!({}))?, pass)
            .await?;
        let legacy = mcp::call_tool_legacy(&self.mesh.service("mcp")?.authority(), "matplotlib", &json!({}));
        self.through("calls tool matplotlib (MCP of 2025)", token, ("mcp", legacy), pass)
            .await?;
        self.through("writes report 2026q1", token, self.report("2026q1")?, pass)
            .await
    }

    async fn not_granted(&mut self, token: &str) -> Result<()> {
        let no_scope = Expected::Deny("scope_not_granted");
        self.both("reads table hr_salaries", token, self.table("hr_salaries")?, no_scope)
            .await?;
        self.both("writes report 2026q2", token, self.report("2026q2")?, no_scope)
            .await?;
        let forbidden = Expected::Deny("tool_forbidden");
        self.both(
            "calls tool bash (forbidden)",
            token,
            self.tool("bash", &json!({}))?,
            forbidden,
        )
        .await?;
        let not_granted = Expected::Deny("tool_not_granted");
        let sql = self.tool("sql_query", &json!({"table": "sales_q1_2026"}))?;
        self.both("calls tool sql_query (on no list)", token, sql, not_granted)
            .await
    }

    async fn forged(&mut self, token: &str) -> Result<()> {
        let call = self.table("sales_q1_2026")?;
        self.bare("reads with no token", call, Expected::Deny("token_missing"))
            .await?;
        let jwks = Call::new("GET", POLICY_AUTHORITY, "/.well-known/jwks.json");
        let jwks = self
            .mesh
            .policy_server
            .client(&self.mesh.ca, &self.mesh.orchestrator)?
            .send(jwks)
            .await?
            .json();
        let text = |field| {
            jwks.pointer(&format!("/keys/0/{field}"))
                .and_then(Value::as_str)
                .context("no public key")
        };
        let forged = forgery::public_key_as_secret(token, text("kid")?, &BASE64URL.decode(text("x")?)?)?;
        let forgeries = [
            ("a garbled token", format!("{token}garbled%%"), "token_malformed"),
            (
                "one byte of the signature changed",
                forgery::signature_changed(token)?,
                "token_signature_invalid",
            ),
            ("alg: none", forgery::unsigned(token)?, "token_algorithm_refused"),
            ("HS256 keyed with the public key", forged, "token_algorithm_refused"),
        ];
        for (what, token, code) in forgeries {
            let call = self.table("sales_q1_2026")?;
            self.both(&format!("reads with {what}"), &token, call, Expected::Deny(code))
                .await?;
        }
        let other = json!(["spiffe://cluster.local/ns/data/sa/reports"]);
        let other = self.mesh.token(&with(token_request(), "aud", other)).await?;
        let call = self.table("sales_q1_2026")?;
        self.both(
            "reads with a token for reports only",
            &other,
            call,
            Expected::Deny("audience_mismatch"),
        )
        .await
    }

    async fn stolen(&mut self, token: &str) -> Result<()> {
        let expected = Expected::Deny("peer_mismatch");
        let (service, call) = self.table("sales_q1_2026")?;
        let writer = self.mesh.agent("writer-2")?;
        let door = "its own";
        self.shown(
            "writer-2 shows analyst-7's token",
            door,
            &writer.client(),
            service,
            call.bearer(token),
            expected,
        )
        .await?;
        let (service, call) = self.table("sales_q1_2026")?;
        let direct = self.mesh.direct(service, "writer-2")?;
        self.shown(
            "writer-2 shows analyst-7's token",
            "service's",
            &direct,
            service,
            call.bearer(token),
            expected,
        )
        .await
    }

    async fn around(&mut self, token: &str) -> Result<()> {
        let (name, call) = self.table("sales_q1_2026")?;
        let service = self.mesh.service(name)?;
        let without = Client::tls(service.address, &service.host, &self.mesh.ca, None)?;
        let no_way = Expected::NoConnection;
        let call = call.bearer(token);
        self.shown(
            "around the sidecar, without a certificate",
            "service's",
            &without,
            name,
            call.clone(),
            no_way,
        )
        .await?;
        let plain = Client::plain(service.address);
        self.shown(
            "around the sidecar, without TLS",
            "service's",
            &plain,
            name,
            call.clone(),
            no_way,
        )
        .await?;
        if let Some((netns, _)) = &self.analyst()?.inside {
            let direct = self.mesh.direct(name, "analyst-7")?.inside(netns);
            self.shown(
                "analyst-7's process, straight to the service",
                "service's",
                &direct,
                name,
                call,
                no_way,
            )
            .await?;
        }
        Ok(())
    }

    async fn own_process(&mut self) -> Result<()> {
        let client = self.analyst()?.client();
        let record = || json!({"hash": "forged", "record": {"v": 1, "seq": 0}}).to_string();
        let records = |body: String| {
            let call = Call::new("POST", POLICY_AUTHORITY, "/v1/records");
            call.header("content-type", "application/x-ndjson")
                .header("ostiary-callout", "1")
                .body(body)
        };
        let fork = records(format!("{}\n{}", record(), record()));
        let policy = Call::new("GET", POLICY_AUTHORITY, "/v1/policy?formats=1").header("ostiary-callout", "1");
        for (what, call) in [
            ("analyst-7's process asks for its policy", policy),
            ("analyst-7's process posts a record", records(record())),
            ("analyst-7's process forks its sidecar's chain", fork),
        ] {
            let answer = client.send(call).await;
            self.judge(what, "its own", Expected::Deny("endpoint_refused"), answer, None);
        }
        let ask = Call::new("POST", POLICY_AUTHORITY, "/v1/tokens").json(&token_request());
        let answer = client.send(ask).await;
        self.judge(
            "analyst-7's process asks for a token",
            "policy's",
            Expected::Refuse("role_missing"),
            answer,
            None,
        );
        Ok(())
    }

    async fn policy_change(&mut self, token: &str) -> Result<()> {
        let file = self.mesh.policy.join("agent-analyst-7.yaml");
        let before = std::fs::read_to_string(&file)?;
        let after = before.replace("tools: [pandas, matplotlib]", "tools: [matplotlib]");
        ensure!(
            before != after,
            "{} does not list the tools that the story takes away",
            file.display()
        );
        std::fs::write(&file, after)?;
        let doors = [
            ("its own", self.analyst()?.client()),
            ("service's", self.mesh.direct("mcp", "analyst-7")?),
        ];
        for (door, client) in &doors {
            let mut found = 0;
            wait::until("the changed policy", POLICY_LIMIT, async || {
                let (_, call) = self.tool("pandas", &json!({})).ok()?;
                let denied = client
                    .send(call.bearer(token))
                    .await
                    .is_ok_and(|answer| answer.status == 403);
                found = if denied { found + 1 } else { 0 };
                (found >= PROBES).then_some(())
            })
            .await?;
            let (service, call) = self.tool("pandas", &json!({}))?;
            let expected = Expected::Deny("tool_not_in_policy");
            let what = "calls tool pandas, since taken from its policy";
            self.shown(what, door, client, service, call.bearer(token), expected)
                .await?;
        }
        Ok(std::fs::write(&file, before)?)
    }

    async fn expired(&mut self, short: ShortToken) -> Result<()> {
        // Really waited for: sidecars read the real clock, and allow for 5 s of skew.
        wait::until("the short-lived token to expire", Duration::from_secs(30), async || {
            (wait::unix_now() > short.expires_at + 6).then_some(())
        })
        .await?;
        let call = self.table("sales_q1_2026")?;
        self.both(
            "reads with a token that has expired",
            &short.token,
            call,
            Expected::Deny("token_expired"),
        )
        .await
    }
}

/// Making calls and judging what comes of them.
impl Story<'_> {
    /// analyst-7 with a token, through its own sidecar.
    async fn through(&mut self, what: &str, token: &str, to: (&str, Call), expected: Expected) -> Result<()> {
        let client = self.analyst()?.client();
        self.shown(
            &format!("analyst-7 {what}"),
            "its own",
            &client,
            to.0,
            to.1.bearer(token),
            expected,
        )
        .await
    }

    /// The same, and again at the service's sidecar.
    async fn both(&mut self, what: &str, token: &str, to: (&str, Call), expected: Expected) -> Result<()> {
        self.bare(what, (to.0, to.1.bearer(token)), expected).await
    }

    async fn bare(&mut self, what: &str, (service, call): (&str, Call), expected: Expected) -> Result<()> {
        let what = format!("analyst-7 {what}");
        let (own, direct) = (self.analyst()?.client(), self.mesh.direct(service, "analyst-7")?);
        self.shown(&what, "its own", &own, service, call.clone(), expected)
            .await?;
        self.shown(&what, "service's", &direct, service, call, expected).await
    }

    /// A call to a service; its log is asked afterwards.
    async fn shown(
        &mut self,
        what: &str,
        door: &'static str,
        client: &Client,
        service: &str,
        call: Call,
        expected: Expected,
    ) -> Result<()> {
        self.calls += 1;
        let mark = self.calls.to_string();
        let answer = client.send(call.header(CALL_HEADER, &mark)).await;
        let backend = &self.mesh.service(service)?.backend;
        self.judge(what, door, expected, answer, Some((backend, &mark)));
        Ok(())
    }

    /// A request for a token that is refused.
    async fn ask(&mut self, what: &str, principal: &Credential, body: &Value, code: &'static str) -> Result<()> {
        let answer = self
            .mesh
            .policy_server
            .ask_token(&self.mesh.ca, principal, body)
            .await?;
        self.issued(what, Expected::Refuse(code), answer);
        Ok(())
    }

    fn issued(&mut self, what: &str, expected: Expected, answer: Answer) {
        self.judge(what, "policy's", expected, Ok(answer), None);
    }

    fn judge(
        &mut self,
        what: &str,
        door: &'static str,
        expected: Expected,
        answer: Result<Answer>,
        log: Option<(&Backend, &str)>,
    ) {
        let start = Instant::now();
        let got = outcome(answer.as_ref().ok());
        let (status, code, elapsed) = match &answer {
            Ok(answer) => (
                answer.status,
                answer.code().unwrap_or_else(|| got.to_owned()),
                answer.elapsed,
            ),
            Err(_) => (0, "no connection".to_owned(), start.elapsed()),
        };
        let wrong = mismatch(expected, answer.as_ref().ok()).or_else(|| log.and_then(|log| misplaced(expected, log)));
        self.mismatches += usize::from(wrong.is_some());
        let code = if code == "pass" { "ok".to_owned() } else { code };
        (self.tell)(&Row {
            call: what.to_owned(),
            door,
            expected,
            got,
            status,
            code,
            elapsed,
            mismatch: wrong,
        });
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
fn misplaced(expected: Expected, (backend, mark): (&Backend, &str)) -> Option<String> {
    let wanted = usize::from(expected == Expected::Pass);
    let seen = backend.seen_with(CALL_HEADER, mark).len();
    (seen != wanted).then(|| {
        format!(
            "the log of {} has the request {seen} times, not {wanted}",
            backend.name()
        )
    })
}

/// The last line, below the table.
pub fn foot(mesh: &Mesh, mismatches: usize, elapsed: Duration) -> String {
    let namespaces = match &mesh.without_netns {
        None => "agents' calls came from network namespaces that reach their own sidecar and nothing else".to_owned(),
        Some(reason) => format!("without network namespaces ({reason}): agents were held by certificates alone"),
    };
    let verdict = if mismatches == 0 {
        "every line as expected".to_owned()
    } else {
        format!("{mismatches} MISMATCHES")
    };
    format!(
        "{verdict}; {namespaces}; {:.1} s; logs in {}",
        elapsed.as_secs_f64(),
        mesh.run.path().display()
    )
}
