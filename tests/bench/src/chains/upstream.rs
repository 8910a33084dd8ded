//! A real upstream that costs little: it reads what comes and answers the same to each.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use anyhow::{Context, Result};
use http::{HeaderValue, header};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

use super::traffic::{DOWNLOAD_PATH, IN_EVENTS, OFFERED, STREAM_BYTES, tool_names};

/// What it says to most.
const ANSWER: &[u8] = br#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"ok"}]}}"#;

/// Events that a call is answered in, if it asks for them; the last has the answer.
const EVENTS: usize = 100;

/// What it says to who asks for its tools, as an SDK writes it.
static LIST: LazyLock<Bytes> = LazyLock::new(|| {
    let tools = tool_names(OFFERED).into_iter().map(|name| {
        let schema =
            json!({"type": "object", "properties": {"table": {"type": "string"}, "limit": {"type": "integer"}}});
        json!({"name": name, "description": format!("Does what {name} does, to one table."), "inputSchema": schema})
    });
    let result = json!({"tools": tools.collect::<Vec<_>>()});
    json!({"jsonrpc": "2.0", "id": 1, "result": result}).to_string().into()
});

/// An event that tells how far a call has come.
const PROGRESS: &[u8] = b"event: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{\"progressToken\":1,\"progress\":1}}\n\n";

/// The upstream; it ends when it is dropped.
#[derive(Debug)]
pub(super) struct Upstream {
    socket: PathBuf,
    accepting: JoinHandle<()>,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Upstream {
    /// Listens on a Unix socket.
    ///
    /// # Errors
    ///
    /// When it cannot.
    pub(super) fn start(socket: &Path) -> Result<Self> {
        let listener = UnixListener::bind(socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut http = hyper::server::conn::http1::Builder::new();
                // An idle connection is Envoy's to close.
                http.header_read_timeout(None);
                let connection = http.serve_connection(TokioIo::new(stream), service_fn(answer));
                tokio::spawn(async move {
                    // Envoy closes connections as it likes.
                    let _ = connection.await;
                });
            }
        });
        Ok(Self {
            socket: socket.to_path_buf(),
            accepting,
        })
    }

    /// Its socket.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }
}

async fn answer(request: http::Request<Incoming>) -> Result<http::Response<Pieces>, hyper::Error> {
    let named = |name: &str| request.headers().get(name).is_some();
    let (media, pieces) = if request.uri().path() == DOWNLOAD_PATH {
        (JSON, vec![Bytes::from_static(&[b'x'; STREAM_BYTES])])
    } else if request
        .headers()
        .get("mcp-method")
        .is_some_and(|method| method == "tools/list")
    {
        (JSON, vec![LIST.clone()])
    } else if named(IN_EVENTS) {
        let last = [b"event: message\ndata: ", ANSWER, b"\n\n"].concat();
        let before = (1..EVENTS).map(|_| Bytes::from_static(PROGRESS));
        ("text/event-stream", before.chain([last.into()]).collect())
    } else {
        (JSON, vec![Bytes::from_static(ANSWER)])
    };
    let mut body = std::pin::pin!(request.into_body());
    while let Some(frame) = std::future::poll_fn(|task| body.as_mut().poll_frame(task)).await {
        frame?;
    }
    let mut response = http::Response::new(Pieces(pieces.into()));
    let media = HeaderValue::from_static(media);
    response.headers_mut().insert(header::CONTENT_TYPE, media);
    Ok(response)
}

const JSON: &str = "application/json";

/// A body piece by piece; of one piece, the length is told.
struct Pieces(VecDeque<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        std::task::Poll::Ready(self.0.pop_front().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        match self.0.len() {
            0 | 1 => SizeHint::with_exact(self.0.front().map_or(0, Bytes::len) as u64),
            _ => SizeHint::new(),
        }
    }
}
