//! What runs in the pods of the cluster: the applications behind the sidecars, and an agent that calls as it is told.
//!
//! Calls and answers travel as lines of JSON over `kubectl exec`, so that one exec makes many calls.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use tokio::time::MissedTickBehavior;

use crate::client::{Answer, Call, Client, Connection};

/// How long a call may take, a held one included.
const LIMIT: Duration = Duration::from_secs(20);

/// A call as a line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Line {
    method: String,
    authority: String,
    path: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl From<&Call> for Line {
    fn from(call: &Call) -> Self {
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        Self {
            method: call.method.clone(),
            authority: call.authority.clone(),
            path: call.path.clone(),
            headers: call
                .headers
                .iter()
                .map(|(name, value)| (name.clone(), text(value)))
                .collect(),
            body: BASE64.encode(call.chunks.concat()),
        }
    }
}

impl Line {
    fn call(&self) -> Result<Call> {
        let mut call = Call::new(&self.method, &self.authority, &self.path);
        for (name, value) in &self.headers {
            call = call.header(name, value);
        }
        let body = BASE64.decode(&self.body)?;
        Ok(if body.is_empty() { call } else { call.body(body) })
    }
}

/// An answer as a line, or why there is none.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Came {
    /// The answer.
    Answer {
        /// The HTTP status.
        status: u16,
        /// The headers.
        headers: Vec<(String, String)>,
        /// The body, in base64.
        body: String,
        /// How long it took.
        microseconds: u64,
    },
    /// There was none.
    Nothing {
        /// Why.
        error: String,
    },
}

impl From<Result<Answer>> for Came {
    fn from(answer: Result<Answer>) -> Self {
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                return Self::Nothing {
                    error: format!("{error:#}"),
                };
            }
        };
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        Self::Answer {
            status: answer.status,
            headers: answer
                .headers
                .iter()
                .map(|(name, value)| (name.to_string(), text(value)))
                .collect(),
            body: BASE64.encode(&answer.body),
            microseconds: u64::try_from(answer.elapsed.as_micros()).unwrap_or(u64::MAX),
        }
    }
}

impl Came {
    /// The answer, as if it had been received here.
    ///
    /// # Errors
    ///
    /// When there was none.
    pub fn answer(self) -> Result<Answer> {
        let (status, lines, body, microseconds) = match self {
            Self::Nothing { error } => return Err(anyhow::anyhow!(error)),
            Self::Answer {
                status,
                headers,
                body,
                microseconds,
            } => (status, headers, body, microseconds),
        };
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(http::HeaderName::try_from(name)?, http::HeaderValue::try_from(value)?);
        }
        Ok(Answer {
            status,
            headers,
            body: BASE64.decode(body)?.into(),
            elapsed: Duration::from_micros(microseconds),
        })
    }
}

/// Makes the calls that standard input names, one after another, each on a connection of its own.
///
/// # Errors
///
/// When a line is no call.
pub async fn call() -> Result<()> {
    for line in std::io::stdin().lines() {
        let line: Line = serde_json::from_str(&line?).context("no call")?;
        let came = Came::from(one(&line).await);
        println!("{}", serde_json::to_string(&came)?);
    }
    Ok(())
}

async fn one(line: &Line) -> Result<Answer> {
    client(&line.authority).await?.send(line.call()?).await
}

/// Plain HTTP/1.1 to wherever the name leads, as applications in a mesh do it.
async fn client(authority: &str) -> Result<Client> {
    let named = if authority.contains(':') {
        authority.to_owned()
    } else {
        format!("{authority}:80")
    };
    let mut addresses = tokio::net::lookup_host(&named)
        .await
        .with_context(|| format!("no such host: {authority}"))?;
    let address: SocketAddr = addresses.next().context("no address")?;
    Ok(Client::plain(address).within(LIMIT))
}

/// What a load is: calls made in turn, so many a second in all.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Load {
    /// The calls, and what each is called in the tally.
    pub calls: Vec<(String, Line)>,
    /// Calls a second, of all together.
    pub per_second: u32,
}

/// What came of a load: for each call, how often each outcome.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Call, then outcome (`200`, `403 scope_not_granted`, `error: …`), then how often.
    pub outcomes: BTreeMap<String, BTreeMap<String, u64>>,
    /// The longest time, in milliseconds, between two answers of 2xx to the same call.
    pub longest_gap_milliseconds: BTreeMap<String, u64>,
    #[serde(skip)]
    last: HashMap<String, Instant>,
}

impl Tally {
    /// Counts what came of a call.
    pub fn note(&mut self, name: &str, answer: &Result<Answer>) {
        let outcome = match answer {
            Ok(answer) => match answer.code() {
                Some(code) => format!("{} {code}", answer.status),
                // Envoy's own answers say what ailed it.
                None if answer.status >= 500 => format!("{} {}", answer.status, start(&answer.body)),
                None => answer.status.to_string(),
            },
            Err(error) => format!("error: {}", error.root_cause()),
        };
        if answer.as_ref().is_ok_and(|answer| answer.status < 300) {
            let now = Instant::now();
            if let Some(before) = self.last.insert(name.to_owned(), now) {
                let gap = u64::try_from((now - before).as_millis()).unwrap_or(u64::MAX);
                let longest = self.longest_gap_milliseconds.entry(name.to_owned()).or_default();
                *longest = gap.max(*longest);
            }
        }
        *self
            .outcomes
            .entry(name.to_owned())
            .or_default()
            .entry(outcome)
            .or_default() += 1;
    }

    /// How often a call came to an outcome that starts so.
    pub fn count(&self, name: &str, outcome: &str) -> u64 {
        let outcomes = self.outcomes.get(name).into_iter().flatten();
        outcomes
            .filter(|(came, _)| came.starts_with(outcome))
            .map(|(_, count)| count)
            .sum()
    }

    /// How often a call was made.
    pub fn made(&self, name: &str) -> u64 {
        self.count(name, "")
    }
}

/// The start of a body, on one line.
fn start(body: &[u8]) -> String {
    let body = String::from_utf8_lossy(body);
    body.chars().filter(|c| !c.is_control()).take(120).collect()
}

/// Makes the calls of the load on the first line of standard input until that is closed; then prints the tally.
///
/// Calls are made when they are due, however long others take, each call's on a connection of its own that is opened anew
/// when it breaks.
///
/// # Errors
///
/// When the first line is no load.
pub async fn load() -> Result<()> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    let load: Load = serde_json::from_str(&line).context("no load")?;
    let closed = tokio::task::spawn_blocking(|| std::io::stdin().lines().count());
    tokio::pin!(closed);
    let tally = Arc::new(Mutex::new(Tally::default()));
    let pool = Arc::new(Pool::default());
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / load.per_second.max(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut calls = load.calls.iter().cycle();
    let mut under_way = tokio::task::JoinSet::new();
    // What is printed first tells that the load has begun.
    println!("{{}}");
    loop {
        tokio::select! {
            _ = &mut closed => break,
            _ = ticks.tick() => {}
        }
        while under_way.try_join_next().is_some() {}
        let Some((name, line)) = calls.next().cloned() else {
            break;
        };
        let (tally, pool) = (tally.clone(), pool.clone());
        under_way.spawn(async move {
            let answer = pool.send(&name, &line).await;
            tally
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .note(&name, &answer);
        });
    }
    while under_way.join_next().await.is_some() {}
    let tally = tally.lock().unwrap_or_else(PoisonError::into_inner).clone();
    println!("{}", serde_json::to_string(&tally)?);
    Ok(())
}

/// Connections that wait for their next call.
#[derive(Debug, Default)]
struct Pool(Mutex<HashMap<String, Vec<Connection>>>);

impl Pool {
    async fn send(&self, name: &str, line: &Line) -> Result<Answer> {
        let call = line.call()?;
        let idle = self.idle(|idle| idle.get_mut(name).and_then(Vec::pop));
        let mut connection = match idle {
            Some(connection) => connection,
            None => client(&line.authority).await?.connect().await?,
        };
        let answer = tokio::time::timeout(LIMIT, connection.send(call))
            .await
            .context("no answer in time")??;
        self.idle(|idle| idle.entry(name.to_owned()).or_default().push(connection));
        Ok(answer)
    }

    fn idle<T>(&self, with: impl FnOnce(&mut HashMap<String, Vec<Connection>>) -> T) -> T {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
