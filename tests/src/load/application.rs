//! An application that costs next to nothing, so that what is measured is the sidecar.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use http::{HeaderValue, header};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

/// A table that never comes.
pub const HANGING_TABLE: &str = "hanging";
/// A table that comes without end.
pub const ENDLESS_TABLE: &str = "endless";

/// An application that costs nothing: it counts its requests and answers the same to each.
#[derive(Debug)]
pub struct Application {
    counters: Arc<Counters>,
    accepting: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    active: AtomicU64,
}

impl Drop for Application {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A request that the application is busy with.
struct Active(Arc<Counters>);

impl Active {
    fn new(counters: &Arc<Counters>) -> Self {
        counters.requests.fetch_add(1, Ordering::Relaxed);
        counters.active.fetch_add(1, Ordering::Relaxed);
        Self(counters.clone())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Application {
    /// Starts one that listens on a Unix socket.
    ///
    /// # Errors
    ///
    /// When the socket cannot be made.
    pub fn start(socket: &Path) -> Result<Self> {
        let listener = UnixListener::bind(socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
        let counters = Arc::new(Counters::default());
        let shared = counters.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let counters = shared.clone();
                let service = service_fn(move |request| {
                    let active = Active::new(&counters);
                    async move { answer(request, active).await }
                });
                let mut http = hyper::server::conn::http1::Builder::new();
                // An idle connection is the sidecar's to close: a call must not find it half closed.
                http.header_read_timeout(None);
                let connection = http.serve_connection(TokioIo::new(stream), service);
                tokio::spawn(async move {
                    // A sidecar that breaks off is what some tests are about.
                    let _ = connection.await;
                });
            }
        });
        Ok(Self { counters, accepting })
    }

    /// Requests that have reached it.
    pub fn requests(&self) -> u64 {
        self.counters.requests.load(Ordering::Relaxed)
    }

    /// Requests that it is busy with.
    pub fn active(&self) -> u64 {
        self.counters.active.load(Ordering::Relaxed)
    }
}

async fn answer(request: http::Request<Incoming>, active: Active) -> Result<http::Response<AnswerBody>, hyper::Error> {
    let table = request.uri().path().rsplit('/').next().unwrap_or_default();
    let (hanging, endless) = (table == HANGING_TABLE, table == ENDLESS_TABLE);
    let mut body = request.into_body();
    let mut lists = false;
    while let Some(frame) =
        std::future::poll_fn(|task| hyper::body::Body::poll_frame(std::pin::Pin::new(&mut body), task)).await
    {
        // Requests for lists come in one frame.
        lists |= frame?.data_ref().is_some_and(|data| contains(data, b"\"tools/list\""));
    }
    if hanging {
        std::future::pending::<()>().await;
    }
    let body = if endless {
        AnswerBody::Endless {
            first: true,
            _active: active,
        }
    } else if lists {
        AnswerBody::Whole(Some(Bytes::from_static(LIST)))
    } else {
        AnswerBody::Whole(Some(Bytes::from_static(
            br#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"ok"}]}}"#,
        )))
    };
    let mut response = http::Response::new(body);
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
}

/// The answer to a `tools/list` whose id is 2.
const LIST: &[u8] = br#"{"jsonrpc":"2.0","id":2,"result":{"tools":[{"name":"pandas"},{"name":"bash"}]}}"#;

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// What the application says.
enum AnswerBody {
    Whole(Option<Bytes>),
    /// One chunk, and then nothing more and no end.
    Endless {
        first: bool,
        _active: Active,
    },
}

impl hyper::body::Body for AnswerBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        use std::task::Poll;
        let frame = match &mut *self {
            Self::Whole(bytes) => bytes.take(),
            Self::Endless { first, .. } => {
                if !std::mem::take(first) {
                    // hyper drops the body when the sidecar goes away.
                    return Poll::Pending;
                }
                Some(Bytes::from_static(&[b'x'; 4096]))
            }
        };
        Poll::Ready(frame.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match self {
            Self::Whole(bytes) => hyper::body::SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Endless { .. } => hyper::body::SizeHint::new(),
        }
    }
}
