//! A real upstream that costs little: it reads what comes and answers the same to each.

use std::convert::Infallible;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use http::{HeaderValue, header};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

use super::traffic::{DOWNLOAD_PATH, STREAM_BYTES};

/// What it says to most.
const ANSWER: &[u8] = br#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"ok"}]}}"#;

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

async fn answer(request: http::Request<Incoming>) -> Result<http::Response<Whole>, hyper::Error> {
    let answer = if request.uri().path() == DOWNLOAD_PATH {
        &[b'x'; STREAM_BYTES]
    } else {
        ANSWER
    };
    let mut body = std::pin::pin!(request.into_body());
    while let Some(frame) = std::future::poll_fn(|task| body.as_mut().poll_frame(task)).await {
        frame?;
    }
    let mut response = http::Response::new(Whole(Some(Bytes::from_static(answer))));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
}

/// A body in one piece.
struct Whole(Option<Bytes>);

impl Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        std::task::Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, Bytes::len) as u64)
    }
}
