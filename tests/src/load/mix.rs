//! The calls, what each must be answered, and who makes them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::task::JoinSet;

use super::application::HANGING_TABLE;
use super::mesh::{LoadMesh, Served, TABLE};
use super::wire::{Http1, Http2, Reply, Request};
use crate::client::Client;
use crate::{forgery, mcp};

/// What a sidecar says when it has no room for records: come again.
const NO_ROOM: &str = "records_unavailable";
/// How often a call comes again, and after how long.
const MOST_RETRIES: usize = 1200;
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// What a call leaves behind in the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trace {
    /// A decision and a completion.
    Permit,
    /// A decision of its own.
    Denial,
    /// One more in a count.
    Counted,
}

/// A call with what it must be answered.
#[derive(Debug)]
pub struct Case {
    /// What it is.
    pub name: &'static str,
    /// What is sent.
    pub request: Request,
    /// The status that must come.
    pub status: u16,
    /// The code that must come; none for a permit.
    pub code: Option<&'static str>,
    /// What it must leave behind.
    pub trace: Trace,
}

impl Case {
    fn permit(name: &'static str, request: Request) -> Self {
        Self {
            name,
            request,
            status: 200,
            code: None,
            trace: Trace::Permit,
        }
    }

    fn deny(name: &'static str, request: Request, status: u16, code: &'static str, trace: Trace) -> Self {
        Self {
            name,
            request,
            status,
            code: Some(code),
            trace,
        }
    }

    fn fits(&self, reply: &Reply) -> bool {
        reply.status == self.status && reply.denial.as_deref() == self.code
    }
}

/// Reading tables: half of the calls are allowed. `other` is a token of another agent.
///
/// # Errors
///
/// When `token` is no token.
pub fn warehouse_cases(service: &Served, token: &str, other: &str) -> Result<Vec<Case>> {
    let get = |table: &str| Request::get(&service.authority, &format!("/v1/tables/{table}"));
    let mut cases: Vec<Case> = (0..7)
        .map(|_| Case::permit("read a table", get(TABLE).bearer(token)))
        .collect();
    let changed = forgery::signature_changed(token)?;
    cases.extend([
        Case::deny(
            "read another table",
            get("payroll").bearer(token),
            403,
            "scope_not_granted",
            Trace::Denial,
        ),
        Case::deny(
            "a path that is no route",
            Request::get(&service.authority, "/v2/tables").bearer(token),
            403,
            "route_unknown",
            Trace::Denial,
        ),
        Case::deny("no token", get(TABLE), 401, "token_missing", Trace::Counted),
        Case::deny(
            "a changed signature",
            get(TABLE).bearer(&changed),
            401,
            "token_signature_invalid",
            Trace::Counted,
        ),
        Case::deny(
            "another agent's token",
            get(TABLE).bearer(other),
            403,
            "peer_mismatch",
            Trace::Counted,
        ),
        Case::deny(
            "two tokens",
            get(TABLE).bearer(token).bearer(token),
            400,
            "header_duplicate",
            Trace::Counted,
        ),
    ]);
    Ok(cases)
}

/// Calling tools: half of the calls are allowed.
///
/// # Errors
///
/// When `token` is no token.
pub fn mcp_cases(service: &Served, token: &str, other: &str) -> Result<Vec<Case>> {
    let tool = |name: &'static str| tool_call(service, name);
    let mut cases: Vec<Case> = (0..5)
        .map(|_| Case::permit("call a tool", tool("pandas").bearer(token)))
        .collect();
    let post = |body: &'static str| {
        let request = Request::post(&service.authority, "/mcp", body);
        request
            .header("accept", "application/json, text/event-stream")
            .header("mcp-protocol-version", mcp::LEGACY)
    };
    cases.extend([
        Case::permit(
            "list the tools",
            post(r#"{"jsonrpc":"2.0","id":2,"method":"tools/list"}"#).bearer(token),
        ),
        Case::deny(
            "a forbidden tool",
            tool("bash").bearer(token),
            403,
            "tool_forbidden",
            Trace::Denial,
        ),
        Case::deny(
            "a tool that was not granted",
            tool("matplotlib").bearer(token),
            403,
            "tool_not_granted",
            Trace::Denial,
        ),
        Case::deny(
            "no JSON",
            post(r#"{"jsonrpc":"2.0","id":3,"#).bearer(token),
            400,
            "mcp_malformed",
            Trace::Denial,
        ),
        Case::deny("no token", tool("pandas"), 401, "token_missing", Trace::Counted),
        Case::deny(
            "an unsigned token",
            tool("pandas").bearer(&forgery::unsigned(token)?),
            401,
            "token_algorithm_refused",
            Trace::Counted,
        ),
        Case::deny(
            "another agent's token",
            tool("pandas").bearer(other),
            403,
            "peer_mismatch",
            Trace::Counted,
        ),
    ]);
    Ok(cases)
}

/// A `tools/call` of the newest revision.
pub fn tool_call(service: &Served, name: &'static str) -> Request {
    let params = json!({
        "name": name,
        "arguments": {"expression": "df.groupby('region').revenue.sum()"},
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": mcp::MODERN,
            "io.modelcontextprotocol/clientInfo": {"name": "load", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
        },
    });
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
    Request::post(&service.authority, "/mcp", body.to_string())
        .header("accept", "application/json, text/event-stream")
        .header("mcp-protocol-version", mcp::MODERN)
        .header("mcp-method", "tools/call")
        .header("mcp-name", name)
}

/// Bad tokens of every kind, on calls that would hang if one got through.
///
/// # Errors
///
/// When `token` is no token.
pub fn hostile_cases(service: &Served, token: &str, other: &str) -> Result<Vec<Case>> {
    let get = || Request::get(&service.authority, &format!("/v1/tables/{HANGING_TABLE}"));
    let counted = |name, token: &str, status, code| Case::deny(name, get().bearer(token), status, code, Trace::Counted);
    let changed = forgery::signature_changed(token)?;
    let unsigned = forgery::unsigned(token)?;
    let long = format!("{token}{}", "A".repeat(3000));
    Ok(vec![
        counted("a changed signature", &changed, 401, "token_signature_invalid"),
        counted("an unsigned token", &unsigned, 401, "token_algorithm_refused"),
        counted("another agent's token", other, 403, "peer_mismatch"),
        counted("garbage", "garbage", 401, "token_malformed"),
        counted("a long signature", &long, 401, "token_signature_invalid"),
        Case::deny("no token", get(), 401, "token_missing", Trace::Counted),
    ])
}

/// One connection and those who call on it.
#[derive(Debug, Clone)]
pub struct Line {
    /// Whom they are.
    pub agent: &'static str,
    /// Whom they call and how.
    pub client: Client,
    /// HTTP/2, on which all call at once; on HTTP/1.1 each has a connection of its own.
    pub http2: bool,
    /// How many they are.
    pub callers: usize,
    /// What they call.
    pub cases: Arc<Vec<Case>>,
    /// Whether the calls go out through the agent's own sidecar, which names them anew.
    pub outbound: bool,
    /// What each waits after a call.
    pub pause: Duration,
}

/// When to stop.
#[derive(Debug, Clone)]
pub struct Budget {
    next: Arc<AtomicU64>,
    end: u64,
    deadline: Option<Instant>,
}

impl Budget {
    /// As many calls, numbered from `first`.
    pub fn calls(first: u64, calls: u64) -> Self {
        Self {
            next: Arc::new(AtomicU64::new(first)),
            end: first + calls,
            deadline: None,
        }
    }

    /// As many calls as are made in a time, numbered from `first`.
    pub fn time(first: u64, time: Duration) -> Self {
        Self {
            deadline: Some(Instant::now() + time),
            ..Self::calls(first, u64::MAX / 2)
        }
    }

    /// Calls until [`Budget::stop`], numbered from `first`.
    pub fn endless(first: u64) -> Self {
        Self::calls(first, u64::MAX / 2)
    }

    /// Lets no more calls be made.
    pub fn stop(&self) {
        self.next.store(self.end, Ordering::Relaxed);
    }

    /// The number of the next call.
    pub fn next(&self) -> Option<u64> {
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return None;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (number < self.end).then_some(number)
    }
}

/// What callers were answered.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What each call that names itself must have left behind.
    pub traces: Vec<(u64, Trace)>,
    /// Denials by caller and code.
    pub denials: BTreeMap<(&'static str, &'static str), u64>,
    /// Denials by the caller's own sidecar, by code.
    pub outbound_denials: BTreeMap<&'static str, u64>,
    /// Permits by caller.
    pub permits: BTreeMap<&'static str, u64>,
    /// Permits that went out through the caller's own sidecar (counted in `permits` too).
    pub outbound_permits: u64,
    /// Times that a sidecar had no room for records.
    pub no_room: u64,
    /// From start to end.
    pub elapsed: Duration,
}

impl Outcome {
    /// All calls that were answered for good.
    pub fn calls(&self) -> u64 {
        self.permits
            .values()
            .chain(self.denials.values())
            .chain(self.outbound_denials.values())
            .sum()
    }

    /// Adds another part of the same run, or a later run.
    pub fn merge(&mut self, other: Self) {
        self.traces.extend(other.traces);
        add(&mut self.denials, other.denials);
        add(&mut self.outbound_denials, other.outbound_denials);
        add(&mut self.permits, other.permits);
        self.outbound_permits += other.outbound_permits;
        self.no_room += other.no_room;
        self.elapsed += other.elapsed;
    }

    fn count(&mut self, line: &Line, case: &Case, number: u64) {
        let denials = match case.code {
            None => {
                *self.permits.entry(line.agent).or_default() += 1;
                self.outbound_permits += u64::from(line.outbound);
                None
            }
            Some(code) if line.outbound => Some(self.outbound_denials.entry(code).or_default()),
            Some(code) => Some(self.denials.entry((line.agent, code)).or_default()),
        };
        if let Some(denials) = denials {
            *denials += 1;
        }
        if !line.outbound {
            self.traces.push((number, case.trace));
        }
    }
}

fn add<K: Ord>(to: &mut BTreeMap<K, u64>, from: BTreeMap<K, u64>) {
    for (key, count) in from {
        *to.entry(key).or_default() += count;
    }
}

/// Makes calls on all lines at once until the budget is used up; every answer must be the expected one.
///
/// # Errors
///
/// At the first answer that is not, or when a connection breaks.
pub async fn drive(lines: &[Line], budget: &Budget) -> Result<Outcome> {
    let start = Instant::now();
    let mut callers = JoinSet::new();
    for line in lines {
        let shared = match line.http2 {
            true => Some(Http2::open(&line.client).await?),
            false => None,
        };
        for _ in 0..line.callers {
            let connection = match &shared {
                Some(shared) => Connection::Http2(shared.clone()),
                None => Connection::Http1(Http1::new(line.client.clone())),
            };
            callers.spawn(call(line.clone(), connection, budget.clone()));
        }
    }
    let mut outcome = Outcome::default();
    while let Some(done) = callers.join_next().await {
        outcome.merge(done??);
    }
    outcome.elapsed = start.elapsed();
    Ok(outcome)
}

enum Connection {
    Http1(Http1),
    Http2(Http2),
}

impl Connection {
    async fn send(&mut self, request: &Request, number: u64) -> Result<Reply> {
        match self {
            Self::Http1(connection) => connection.send(request, number).await,
            Self::Http2(connection) => connection.send(request, number).await,
        }
    }
}

async fn call(line: Line, mut connection: Connection, budget: Budget) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    while let Some(number) = budget.next() {
        let case = line
            .cases
            .get(scattered(number, line.cases.len()))
            .context("no cases")?;
        let mut retries = 0;
        let reply = loop {
            let reply = connection
                .send(&case.request, number)
                .await
                .with_context(|| format!("{} called: {}", line.agent, case.name))?;
            if reply.denial.as_deref() != Some(NO_ROOM) || retries == MOST_RETRIES {
                break reply;
            }
            retries += 1;
            outcome.no_room += 1;
            tokio::time::sleep(RETRY_AFTER).await;
        };
        ensure!(
            case.fits(&reply),
            "{} called: {}; expected {} {:?}, got {reply:?}",
            line.agent,
            case.name,
            case.status,
            case.code
        );
        outcome.count(&line, case, number);
        if !line.pause.is_zero() {
            tokio::time::sleep(line.pause).await;
        }
    }
    Ok(outcome)
}

/// A place below `count`, the same for the same number and even over many.
pub fn scattered(number: u64, count: usize) -> usize {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    usize::try_from(mixed).unwrap_or_default() % count.max(1)
}

/// Ordinary callers: agents on both services, over HTTP/1.1 and HTTP/2, directly and through the analyst's own sidecar.
///
/// # Errors
///
/// When no token is to be had.
pub async fn ordinary_lines(
    mesh: &LoadMesh,
    agents: &[(&'static str, &'static str)],
    pause: Duration,
) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for (agent, other) in agents {
        let (token, other) = (mesh.token(agent).await?, mesh.token(other).await?);
        for (service, cases) in [
            (&mesh.warehouse, warehouse_cases(&mesh.warehouse, &token, &other)?),
            (&mesh.mcp, mcp_cases(&mesh.mcp, &token, &other)?),
        ] {
            let line = Line {
                agent,
                client: mesh.client(service, agent)?,
                http2: false,
                callers: 3,
                cases: Arc::new(cases),
                outbound: false,
                pause,
            };
            let http2 = Line {
                http2: true,
                callers: 6,
                ..line.clone()
            };
            lines.extend([line.clone(), http2.clone()]);
            if *agent == super::mesh::ANALYST {
                let client = Client::plain(mesh.outbound_address);
                let outbound = |line: Line| Line {
                    client: client.clone(),
                    callers: 1,
                    outbound: true,
                    ..line
                };
                lines.extend([outbound(line), outbound(http2)]);
            }
        }
    }
    Ok(lines)
}
