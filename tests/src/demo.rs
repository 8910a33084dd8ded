//! The story of `make demo`: what one agent may do with its token, and everything else, which is denied.
//!
//! Each denial must come back with our own code, and the service's own log must not know the request. The agent's calls
//! come from inside its network namespace where there is one; most denials are shown again at the service's sidecar, by a
//! caller that has got around its own: that is the boundary that counts.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use serde_json::{Value, json};

use crate::client::{Answer, Call};
use crate::mesh::Mesh;
use crate::{forgery, mcp, wait};

pub use proof::prove;
pub use stage::{Caller, Stage};
pub use verdict::{Expected, Row, head};
use verdict::{ServiceLog, Try};

mod changes;
mod hijack;
mod proof;
mod stage;
mod verdict;

/// At whose door: the sidecar of the caller itself, of the service, of the policy server.
const OWN: &str = "its own";
const SERVICE: &str = "service's";
const POLICY: &str = "policy's";

const ORCHESTRATOR: &str = "orchestrator";

/// Marks each call, so that the service's log can be asked for it.
const CALL_HEADER: &str = "x-demo-call";

/// Where the calls of the hijack are counted from, so that no mark is used twice.
const HIJACK_CALLS: usize = 1000;

/// User requests that analyst-7 works on before the story, and between it and the hijack: all its past. At once they would be a
/// burst, which its score tells from work.
const EARLIER_REQUESTS: usize = 5;
const LATER_REQUESTS: usize = 3;

/// The lifetime of the token that is left to expire; sidecars allow for 5 s of clock skew on top.
const SHORT_TTL_SECONDS: u64 = 1;

/// Tells the whole story and hands each row to `tell` as it happens; answers with the number of mismatches.
///
/// # Errors
///
/// When the stage breaks in a way that is no verdict.
pub async fn tell<S: Stage>(stage: &S, tell: &mut dyn FnMut(&Row)) -> Result<usize> {
    let mut story = Story::new(stage, tell, 0);
    let short = story.short_token().await?;
    let dead = story.dead_token(&token_request()).await?;
    let token = story.issuing().await?;
    story.allowed(&token).await?;
    story.not_granted(&token).await?;
    story.forged(&token).await?;
    story.stolen(&token).await?;
    story.around(&token).await?;
    story.own_process().await?;
    story.policy_change(&token).await?;
    story.paused(&token, &dead).await?;
    story.killed(&token).await?;
    story.expired(short).await?;
    Ok(story.mismatches)
}

/// The same on a mini mesh with a memory, where analyst-7 works before it as every day.
///
/// # Errors
///
/// As [`tell`], or when its work is denied.
pub async fn tell_with_past(mesh: &Mesh, tell: &mut dyn FnMut(&Row)) -> Result<usize> {
    Story::new(mesh, tell, 0).works(EARLIER_REQUESTS).await?;
    self::tell(mesh, tell).await
}

/// Has scores act on that mesh, and tells how analyst-7 is hijacked: what its score does, and what people do then.
///
/// # Errors
///
/// As [`tell`], or when the score does not stop the agent.
pub async fn tell_of_hijack(mesh: &mut Mesh, tell: &mut dyn FnMut(&Row)) -> Result<usize> {
    let acting = json!({"risk": {"act": true}});
    mesh.policy_server.reconfigure(&acting).await?;
    let mut story = Story::new(mesh, tell, HIJACK_CALLS);
    story.records_again().await?;
    story.works(LATER_REQUESTS).await?;
    story.hijacked().await?;
    Ok(story.mismatches)
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

fn token_of(answer: &Answer) -> Result<String> {
    let token = answer
        .json()
        .get("token")
        .and_then(Value::as_str)
        .map(ToOwned::to_owned);
    token.ok_or_else(|| anyhow!("no token: {} {}", answer.status, String::from_utf8_lossy(&answer.body)))
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

struct Story<'a, S> {
    stage: &'a S,
    tell: &'a mut dyn FnMut(&Row),
    calls: usize,
    mismatches: usize,
    /// Why the next row comes to what it does.
    why: Option<String>,
}

impl<'a, S> Story<'a, S> {
    fn new(stage: &'a S, tell: &'a mut dyn FnMut(&Row), calls: usize) -> Self {
        Self {
            stage,
            tell,
            calls,
            mismatches: 0,
            why: None,
        }
    }
}

/// The calls of the story, each to its service.
impl<S: Stage> Story<'_, S> {
    fn table(&self, table: &str) -> Result<(&'static str, Call)> {
        let authority = self.stage.authority("warehouse")?;
        Ok((
            "warehouse",
            Call::new("GET", &authority, &format!("/v1/tables/{table}")),
        ))
    }

    fn report(&self, report: &str) -> Result<(&'static str, Call)> {
        let authority = self.stage.authority("reports")?;
        let call = Call::new("PUT", &authority, &format!("/v1/reports/{report}"));
        Ok(("reports", call.json(&json!({"title": "Sales, first quarter"}))))
    }

    fn tool(&self, tool: &str, arguments: &Value) -> Result<(&'static str, Call)> {
        Ok(("mcp", mcp::call_tool(&self.stage.authority("mcp")?, tool, arguments)))
    }

    fn analyst(&self) -> Result<Caller> {
        self.stage.agent("analyst-7")
    }

    fn policy_server(&self, method: &str, path: &str) -> Call {
        Call::new(method, &self.stage.policy_authority(), path)
    }
}

/// The chapters.
impl<S: Stage> Story<'_, S> {
    async fn short_token(&mut self) -> Result<ShortToken> {
        let request = with(token_request(), "ttl_seconds", json!(SHORT_TTL_SECONDS));
        Ok(ShortToken {
            token: self.token(&request).await?,
            expires_at: wait::unix_now() + SHORT_TTL_SECONDS,
        })
    }

    async fn issuing(&mut self) -> Result<String> {
        let refuse = Expected::Refuse;
        let tried = Try::new("orchestrator asks for analyst-7's token", POLICY, Expected::Pass);
        let answer = self.asked_token(tried, ORCHESTRATOR, &token_request()).await?;
        let tried = Try::new(
            "... with the wildcard scope read:data.*",
            POLICY,
            refuse("wildcard_refused"),
        );
        self.asked_token(
            tried,
            ORCHESTRATOR,
            &with(token_request(), "scope", json!(["read:data.*"])),
        )
        .await?;
        let tried = Try::new(
            "... with a scope that its policy lacks",
            POLICY,
            refuse("scope_not_in_policy"),
        );
        self.asked_token(
            tried,
            ORCHESTRATOR,
            &with(token_request(), "scope", json!(["read:data.hr_salaries"])),
        )
        .await?;
        let tried = Try::new(
            "scheduler, not among its issuers, asks",
            POLICY,
            refuse("issuer_not_listed"),
        );
        self.asked_token(tried, "scheduler", &token_request()).await?;
        token_of(&answer).context("the orchestrator got no token, so there is no story to tell")
    }

    async fn allowed(&mut self, token: &str) -> Result<()> {
        let pass = Expected::Pass;
        self.through("reads table sales_q1_2026", token, self.table("sales_q1_2026")?, pass)
            .await?;
        self.through("calls tool pandas", token, self.tool("pandas", &json!({}))?, pass)
            .await?;
        let legacy = mcp::call_tool_legacy(&self.stage.authority("mcp")?, "matplotlib", &json!({}));
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
        let jwks = self.policy_server("GET", "/.well-known/jwks.json");
        let jwks = self.stage.principal(ORCHESTRATOR)?.send(jwks).await?.json();
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
        let other = self.token(&with(token_request(), "aud", other)).await?;
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
        let (what, expected) = ("writer-2 shows analyst-7's token", Expected::Deny("peer_mismatch"));
        let call = || {
            self.table("sales_q1_2026")
                .map(|(service, call)| (service, call.bearer(token)))
        };
        let (first, second) = (call()?, call()?);
        let own = self.stage.agent("writer-2")?;
        self.shown(Try::new(what, OWN, expected), &own, first).await?;
        let direct = self.stage.direct("warehouse", "writer-2")?;
        self.shown(Try::new(what, SERVICE, expected), &direct, second).await
    }

    async fn around(&mut self, token: &str) -> Result<()> {
        let (service, call) = self.table("sales_q1_2026")?;
        for (what, stranger) in self.stage.strangers(service)? {
            let call = call.clone().bearer(token);
            self.shown(
                Try::new(what, SERVICE, Expected::NoConnection),
                &stranger,
                (service, call),
            )
            .await?;
        }
        Ok(())
    }

    async fn own_process(&mut self) -> Result<()> {
        let client = self.analyst()?;
        let record = json!({"hash": "forged", "record": {"v": 1, "seq": 0}});
        let records = |body: String| {
            let call = self.policy_server("POST", "/v1/records");
            call.header("content-type", "application/x-ndjson")
                .header("ostiary-callout", "1")
                .body(body)
        };
        let policy = self
            .policy_server("GET", "/v1/policy?formats=1")
            .header("ostiary-callout", "1");
        let refused = Expected::Deny("endpoint_refused");
        let calls = [
            ("analyst-7's process asks for its policy", policy),
            ("analyst-7's process posts a record", records(record.to_string())),
            (
                "analyst-7's process forks its sidecar's chain",
                records(format!("{record}\n{record}")),
            ),
        ];
        for (what, call) in calls {
            self.asked(Try::new(what, OWN, refused), &client, call).await?;
        }
        let ask = self.policy_server("POST", "/v1/tokens").json(&token_request());
        let tried = Try::new(
            "analyst-7's process asks for a token",
            POLICY,
            Expected::Refuse("role_missing"),
        );
        self.asked(tried, &client, ask).await?;
        Ok(())
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
impl<S: Stage> Story<'_, S> {
    /// analyst-7 with a token, through its own sidecar.
    async fn through(&mut self, what: &str, token: &str, to: (&str, Call), expected: Expected) -> Result<()> {
        let (what, client) = (format!("analyst-7 {what}"), self.analyst()?);
        self.shown(Try::new(&what, OWN, expected), &client, (to.0, to.1.bearer(token)))
            .await
    }

    /// The same, and again at the service's sidecar.
    async fn both(&mut self, what: &str, token: &str, to: (&str, Call), expected: Expected) -> Result<()> {
        self.bare(what, (to.0, to.1.bearer(token)), expected).await
    }

    /// The call as it is, at both sidecars.
    async fn bare(&mut self, what: &str, to: (&str, Call), expected: Expected) -> Result<()> {
        let what = format!("analyst-7 {what}");
        let (own, direct) = (self.analyst()?, self.stage.direct(to.0, "analyst-7")?);
        self.shown(Try::new(&what, OWN, expected), &own, to.clone()).await?;
        self.shown(Try::new(&what, SERVICE, expected), &direct, to).await
    }

    /// A call to a service, whose log is asked afterwards.
    async fn shown(&mut self, tried: Try<'_>, client: &Caller, (service, call): (&str, Call)) -> Result<()> {
        self.calls += 1;
        let mark = self.calls.to_string();
        let start = Instant::now();
        let answer = client.send(call.header(CALL_HEADER, &mark)).await;
        let elapsed = start.elapsed();
        let log = ServiceLog {
            service,
            seen: self.stage.seen(service, CALL_HEADER, &mark).await?,
            headers_may_pass: self.stage.headers_may_pass(),
        };
        self.record(Row::judge(tried, &answer, elapsed, Some(&log)));
        Ok(())
    }

    /// A request to the policy server.
    async fn asked(&mut self, tried: Try<'_>, client: &Caller, call: Call) -> Result<Answer> {
        let start = Instant::now();
        let answer = client.send(call).await;
        self.record(Row::judge(tried, &answer, start.elapsed(), None));
        answer
    }

    /// A request for a token, shown with its mutual TLS.
    async fn asked_token(&mut self, tried: Try<'_>, principal: &str, body: &Value) -> Result<Answer> {
        let (client, call) = (
            self.stage.principal(principal)?,
            self.policy_server("POST", "/v1/tokens").json(body),
        );
        self.asked(tried, &client, call).await
    }

    /// A token that is no row of the table.
    async fn token(&self, body: &Value) -> Result<String> {
        token_of(&self.ask_token(body).await?)
    }

    async fn ask_token(&self, body: &Value) -> Result<Answer> {
        let call = self.policy_server("POST", "/v1/tokens").json(body);
        self.stage.principal(ORCHESTRATOR)?.send(call).await
    }

    fn record(&mut self, mut row: Row) {
        row.why = self.why.take();
        self.mismatches += usize::from(row.mismatch.is_some());
        (self.tell)(&row);
    }
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
