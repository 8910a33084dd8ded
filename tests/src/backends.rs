//! The applications behind the service sidecars: each logs every request that reaches it.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use hyper::body::Body as _;
use serde_json::{Value, json};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;

use crate::client::{Call, Client};
use crate::process::Process;
use crate::run::RunDirectory;
use crate::wait;

/// The largest body that a backend reads.
const BODY_LIMIT: usize = 64 << 20;

/// A request with this header is answered late: `head` waits with the whole answer, `body` with all but its beginning, and
/// `events` is a stream of events without an end.
pub const WAIT_HEADER: &str = "x-wait";

/// Longer than any test waits for a call to be ended.
const WAIT: Duration = Duration::from_secs(60);

/// A body that begins and never ends.
struct Endless(Option<Bytes>);

impl hyper::body::Body for Endless {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        match self.0.take() {
            Some(begun) => std::task::Poll::Ready(Some(Ok(hyper::body::Frame::data(begun)))),
            None => std::task::Poll::Pending,
        }
    }
}

/// An event now and then, for ever.
struct Events(tokio::time::Interval);

impl hyper::body::Body for Events {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        let event = Bytes::from_static(b"data: tick\n\n");
        self.0
            .poll_tick(context)
            .map(|_| Some(Ok(hyper::body::Frame::data(event))))
    }
}

/// A request as a backend saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Headers in order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, as far as it came.
    pub body: Bytes,
    /// What came after the body, names in lower case.
    pub trailers: Vec<(String, String)>,
    /// Whether the body came to its end.
    pub complete: bool,
}

impl Seen {
    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(seen, _)| seen == name)
            .map(|(_, value)| value.as_str())
    }

    fn whole(self, body: Bytes, trailers: Vec<(String, String)>) -> Self {
        Self {
            body,
            trailers,
            complete: true,
            ..self
        }
    }

    fn to_json(&self) -> Value {
        json!({
            "method": self.method,
            "path": self.path,
            "headers": self.headers,
            "body": String::from_utf8_lossy(&self.body),
            "trailers": self.trailers,
            "complete": self.complete,
        })
    }

    /// Reads a line of a log.
    pub fn from_json(entry: &Value) -> Option<Self> {
        let text = |name| entry.get(name).and_then(Value::as_str).map(ToOwned::to_owned);
        let headers = serde_json::from_value(entry.get("headers")?.clone()).ok()?;
        let body = text("body").unwrap_or_default().into();
        // The MCP server's log has none.
        let trailers = entry.get("trailers").cloned().unwrap_or_else(|| json!([]));
        Some(Self {
            method: text("method")?,
            path: text("path")?,
            headers,
            body,
            trailers: serde_json::from_value(trailers).ok()?,
            complete: entry.get("complete")?.as_bool()?,
        })
    }
}

/// How an application answers what reached it.
pub type Handler = Arc<dyn Fn(&Seen) -> Response + Send + Sync>;

/// An application, on a Unix socket that only its sidecar should reach.
#[derive(Debug)]
pub struct Backend {
    name: String,
    socket: PathBuf,
    log: Log,
    running: Running,
}

#[derive(Debug)]
enum Log {
    Memory(Arc<Mutex<Vec<Seen>>>),
    File(PathBuf),
}

#[derive(Debug)]
enum Running {
    Task(#[expect(dead_code, reason = "held so that it ends with the backend")] AbortOnDrop),
    Process(Process),
}

#[derive(Debug)]
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Clone)]
struct Application {
    seen: Arc<Mutex<Vec<Seen>>>,
    log: PathBuf,
    handler: Handler,
}

/// Answers `GET /v1/tables/{table}`.
pub fn table() -> Handler {
    Arc::new(|seen| {
        let table = seen.path.strip_prefix("/v1/tables/").unwrap_or_default();
        axum::Json(json!({"table": table, "rows": [{"region": "north", "revenue": 1204}]})).into_response()
    })
}

/// Answers `PUT /v1/reports/{id}` and `GET`.
pub fn report() -> Handler {
    Arc::new(|seen| {
        let id = seen.path.strip_prefix("/v1/reports/").unwrap_or_default();
        axum::Json(json!({"report": id, "bytes": seen.body.len()})).into_response()
    })
}

/// Answers `PUT /memory/{namespace}/{key}`, and `GET` with what was put there.
pub fn remembered() -> Handler {
    let memory = Mutex::new(BTreeMap::<String, Bytes>::new());
    Arc::new(move |seen| {
        let mut memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.method == "PUT" {
            memory.insert(seen.path.clone(), seen.body.clone());
            return StatusCode::NO_CONTENT.into_response();
        }
        match memory.get(&seen.path) {
            Some(body) => body.clone().into_response(),
            None => StatusCode::NOT_FOUND.into_response(),
        }
    })
}

/// Serves an application over TCP, each request a line on standard output when its head is there and again when its body is.
///
/// # Errors
///
/// When the address is taken.
pub async fn serve_tcp(address: &str, handler: Handler) -> Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))?;
    let router = Router::new().fallback(serve_logged).with_state(handler);
    Ok(axum::serve(listener, router).await?)
}

async fn serve_logged(State(handler): State<Handler>, request: Request<Body>) -> Response {
    let (seen, body) = head(request);
    println!("{}", seen.to_json());
    let Some((body, trailers)) = read(body).await else {
        return (StatusCode::BAD_REQUEST, "the body broke off").into_response();
    };
    let seen = seen.whole(body, trailers);
    println!("{}", seen.to_json());
    handler(&seen)
}

/// A request before its body is read: a test must see headers that came without a body.
fn head(request: Request<Body>) -> (Seen, Body) {
    let (parts, body) = request.into_parts();
    let seen = Seen {
        method: parts.method.to_string(),
        path: parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        headers: fields(&parts.headers),
        body: Bytes::new(),
        trailers: Vec::new(),
        complete: false,
    };
    (seen, body)
}

impl Backend {
    /// Starts an application that answers by `handler`.
    ///
    /// # Errors
    ///
    /// When its socket cannot be made.
    pub fn start(name: &str, run: &RunDirectory, handler: Handler) -> Result<Self> {
        let socket = run.socket(name);
        let listener = UnixListener::bind(&socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = run.file(&format!("{name}.requests.jsonl"));
        let application = Application {
            seen: seen.clone(),
            log,
            handler,
        };
        let router = Router::new().fallback(serve).with_state(application);
        let task = tokio::spawn(async move {
            // Serving ends only with the task.
            let _ = axum::serve(listener, router).await;
        });
        let running = Running::Task(AbortOnDrop(task));
        Ok(Self {
            name: name.to_owned(),
            socket,
            log: Log::Memory(seen),
            running,
        })
    }

    /// The data service: `GET /v1/tables/{table}`.
    ///
    /// # Errors
    ///
    /// When its socket cannot be made.
    pub fn warehouse(run: &RunDirectory) -> Result<Self> {
        Self::start("warehouse", run, table())
    }

    /// The storage service: `PUT /v1/reports/{id}` and `GET`.
    ///
    /// # Errors
    ///
    /// When its socket cannot be made.
    pub fn reports(run: &RunDirectory) -> Result<Self> {
        Self::start("reports", run, report())
    }

    /// An application that says what it saw.
    ///
    /// # Errors
    ///
    /// When its socket cannot be made.
    pub fn echo(name: &str, run: &RunDirectory) -> Result<Self> {
        Self::start(name, run, Arc::new(|seen| axum::Json(seen.to_json()).into_response()))
    }

    /// The MCP server, on the official Python SDK, with or without sessions. It takes a while to start: see [`Backend::ready`].
    ///
    /// # Errors
    ///
    /// When set-up has not made its virtual environment.
    pub fn mcp(run: &RunDirectory, sessions: bool) -> Result<Self> {
        let more: &[&str] = if sessions { &["sessions"] } else { &[] };
        Self::python("mcp", "mcp_server.py", more, run)
    }

    /// An agent that others call, on the official A2A SDK; its card says that it is at `authority`. As for [`Backend::mcp`],
    /// it takes a while to start.
    ///
    /// # Errors
    ///
    /// When set-up has not made its virtual environment.
    pub fn a2a(name: &str, authority: &str, run: &RunDirectory) -> Result<Self> {
        Self::python(name, "a2a_server.py", &[authority], run)
    }

    /// A WebDAV server over a folder of its own, with these folders in it.
    ///
    /// # Errors
    ///
    /// When set-up has not made its virtual environment.
    pub fn dav(name: &str, folders: &[&str], run: &RunDirectory) -> Result<Self> {
        let root = run.file(&format!("{name}.files"));
        for folder in folders {
            std::fs::create_dir_all(root.join(folder))?;
        }
        Self::python(name, "dav_server.py", &[&root.to_string_lossy()], run)
    }

    fn python(name: &str, script: &str, more: &[&str], run: &RunDirectory) -> Result<Self> {
        let mut command = Command::new(crate::built::python()?);
        command
            .arg(crate::built::mesh_files().join(script))
            .env("PYTHONDONTWRITEBYTECODE", "1");
        Self::process(name, command, more, run)
    }

    /// An MCP server that offers one of everything, on the TypeScript SDK. It listens on a port of loopback too, for who goes
    /// around the sidecar, and writes that port beside its socket ([`Backend::port`]).
    ///
    /// # Errors
    ///
    /// When set-up has not fetched the SDK.
    pub fn everything(name: &str, run: &RunDirectory) -> Result<Self> {
        Self::process(name, crate::built::node("everything.mjs")?, &[], run)
    }

    /// Starts a server that is told where to listen, and where to write down what reaches it.
    fn process(name: &str, mut command: Command, more: &[&str], run: &RunDirectory) -> Result<Self> {
        let (socket, requests) = (run.socket(name), run.file(&format!("{name}.requests.jsonl")));
        command.arg(&socket).arg(&requests).args(more);
        let process = Process::spawn(name, &command, &run.file(&format!("{name}.log")))?;
        let running = Running::Process(process);
        Ok(Self {
            name: name.to_owned(),
            socket,
            log: Log::File(requests),
            running,
        })
    }

    /// Waits until it answers.
    ///
    /// # Errors
    ///
    /// When it has ended or does not answer in time; the error carries its log.
    pub async fn ready(&self) -> Result<()> {
        let Running::Process(process) = &self.running else {
            return Ok(());
        };
        let probe = Client::unix(&self.socket);
        wait::until(&self.name, Duration::from_secs(60), async || {
            let answers = probe.send(Call::new("GET", "probe", "/healthz")).await.is_ok();
            (answers || process.check_alive().is_err()).then_some(())
        })
        .await?;
        process.check_alive()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The socket that its sidecar forwards to.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The port of loopback that it has written beside its socket.
    ///
    /// # Errors
    ///
    /// When it has written none.
    pub fn port(&self) -> Result<u16> {
        let path = format!("{}.port", self.socket.display());
        Ok(std::fs::read_to_string(path)?.parse()?)
    }

    /// Every request that reached it, oldest first; also one whose body never came.
    pub fn seen(&self) -> Vec<Seen> {
        match &self.log {
            Log::Memory(seen) => seen.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            Log::File(path) => {
                let text = std::fs::read_to_string(path).unwrap_or_default();
                let entries = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
                let numbered =
                    entries.filter_map(|entry| Some((entry.get("number")?.as_u64()?, Seen::from_json(&entry)?)));
                // A request is logged twice, the second time with its body.
                numbered.collect::<BTreeMap<u64, Seen>>().into_values().collect()
            }
        }
    }

    /// Those of its requests that carry this header.
    pub fn seen_with(&self, name: &str, value: &str) -> Vec<Seen> {
        self.seen()
            .into_iter()
            .filter(|seen| seen.header(name) == Some(value))
            .collect()
    }
}

async fn serve(State(application): State<Application>, request: Request<Body>) -> Response {
    let (seen, body) = head(request);
    let index = application.note(seen.clone());
    let Some((body, trailers)) = read(body).await else {
        return (StatusCode::BAD_REQUEST, "the body broke off").into_response();
    };
    let seen = seen.whole(body, trailers);
    application.complete(index, &seen);
    let mut response = match seen.header(WAIT_HEADER) {
        Some("head") => {
            tokio::time::sleep(WAIT).await;
            (application.handler)(&seen)
        }
        Some("body") => Response::new(Body::new(Endless(Some(Bytes::from_static(b"begun"))))),
        Some("events") => {
            let events = Events(tokio::time::interval(Duration::from_millis(10)));
            let mut response = Response::new(Body::new(events));
            let media = http::HeaderValue::from_static("text/event-stream");
            response.headers_mut().insert(header::CONTENT_TYPE, media);
            response
        }
        _ => (application.handler)(&seen),
    };
    response
        .headers_mut()
        .insert(header::SERVER, http::HeaderValue::from_static("backend"));
    response
}

/// A body and its trailers; None if it breaks off or is too long.
async fn read(mut body: Body) -> Option<(Bytes, Vec<(String, String)>)> {
    let (mut bytes, mut trailers) = (Vec::new(), Vec::new());
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        match frame.ok()?.into_data() {
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => trailers.extend(frame.into_trailers().iter().flat_map(fields)),
        }
        if bytes.len() > BODY_LIMIT {
            return None;
        }
    }
    Some((bytes.into(), trailers))
}

fn fields(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers
        .iter()
        .map(|(name, value)| (name.to_string(), text(value)))
        .collect()
}

impl Application {
    fn note(&self, seen: Seen) -> usize {
        let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(seen);
        all.len() - 1
    }

    fn complete(&self, index: usize, seen: &Seen) {
        use std::io::Write;
        let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = all.get_mut(index) {
            *entry = seen.clone();
        }
        let file = std::fs::File::options().create(true).append(true).open(&self.log);
        // The file is for people; tests read the memory.
        let _ = file.and_then(|mut file| writeln!(file, "{}", seen.to_json()));
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_log_tells_a_whole_request_from_one_whose_body_never_came() {
        for complete in [true, false] {
            let seen = Seen {
                method: "POST".to_owned(),
                path: "/mcp".to_owned(),
                headers: vec![("x-mark".to_owned(), "1".to_owned())],
                body: Bytes::from_static(b"{}"),
                trailers: vec![("x-end".to_owned(), "1".to_owned())],
                complete,
            };
            let read = Seen::from_json(&seen.to_json()).unwrap();
            assert_eq!((read.complete, &read.body), (complete, &seen.body));
            assert_eq!(read.header("x-mark"), Some("1"));
            assert_eq!(read.trailers, seen.trailers);
        }
    }
}
