//! Clients: HTTP/1.1 and HTTP/2, plain or over mTLS, from the host or from inside a namespace; and raw bytes.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::netns::Netns;
use crate::pki::{Ca, Credential};

/// The largest answer that is read.
const ANSWER_LIMIT: usize = 64 << 20;

/// What a call sends.
#[derive(Debug, Clone)]
pub struct Call {
    /// The method.
    pub method: String,
    /// The `Host` or `:authority`.
    pub authority: String,
    /// Path and query as they are sent.
    pub path: String,
    /// Headers in order; a name may come twice.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body in the chunks (or DATA frames) that are sent; empty for none.
    pub chunks: Vec<Vec<u8>>,
    /// Trailers after the body; empty for none.
    pub trailers: Vec<(String, String)>,
}

impl Call {
    /// A call without headers and body.
    pub fn new(method: &str, authority: &str, path: &str) -> Self {
        Self {
            method: method.to_owned(),
            authority: authority.to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
            chunks: Vec::new(),
            trailers: Vec::new(),
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// Adds `authorization: Bearer TOKEN`.
    #[must_use]
    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", format!("Bearer {token}"))
    }

    /// Sets the body, sent as one chunk.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.chunks = vec![body.into()];
        self
    }

    /// Sets a JSON body and its content type.
    #[must_use]
    pub fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json").body(body.to_string())
    }

    /// Sets the body, sent in these chunks.
    #[must_use]
    pub fn chunks(mut self, chunks: Vec<Vec<u8>>) -> Self {
        self.chunks = chunks;
        self
    }

    /// Adds a trailer, sent after the body.
    #[must_use]
    pub fn trailer(mut self, name: &str, value: &str) -> Self {
        self.trailers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn request(self, http2: bool) -> Result<http::Request<Payload>> {
        // HTTP/2 takes the authority from the URI, HTTP/1.1 from the Host header.
        let uri: Uri = if http2 {
            format!("http://{}{}", self.authority, self.path)
        } else {
            self.path
        }
        .parse()?;
        let mut builder = http::Request::builder().method(self.method.as_str()).uri(uri);
        if !http2 {
            builder = builder.header("host", self.authority);
        }
        for (name, value) in self.headers {
            builder = builder.header(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
        }
        let mut trailers = HeaderMap::new();
        for (name, value) in self.trailers {
            trailers.append(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
        }
        Ok(builder.body(Payload::new(self.chunks, trailers))?)
    }
}

/// A request body: chunks, then trailers.
#[derive(Debug)]
struct Payload(VecDeque<Frame<Bytes>>);

impl Payload {
    fn new(chunks: Vec<Vec<u8>>, trailers: HeaderMap) -> Self {
        let mut frames: VecDeque<_> = chunks
            .into_iter()
            .map(|chunk| Frame::data(Bytes::from(chunk)))
            .collect();
        if !trailers.is_empty() {
            frames.push_back(Frame::trailers(trailers));
        }
        Self(frames)
    }
}

impl hyper::body::Body for Payload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        let lengths = self
            .0
            .iter()
            .map(|frame| frame.data_ref().map(|data| data.len() as u64));
        // With trailers the length is unknown, so that HTTP/1.1 sends chunks.
        lengths
            .sum::<Option<u64>>()
            .map_or_else(hyper::body::SizeHint::new, hyper::body::SizeHint::with_exact)
    }
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// From sending the request to the end of the answer.
    pub elapsed: Duration,
}

impl Answer {
    /// A header as text, the first if there are several.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as JSON; the `data:` line of an event stream counts too. Null when it is neither.
    pub fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        let event = || {
            text.lines()
                .filter_map(|line| line.strip_prefix("data:"))
                .find_map(|data| parsed(data.trim()))
        };
        parsed(&text).or_else(event).unwrap_or_default()
    }

    /// The code of a denial, from a problem document or from a JSON-RPC error.
    pub fn code(&self) -> Option<String> {
        let body = self.json();
        let code = body.get("code").or_else(|| body.pointer("/error/data/code"))?;
        code.as_str().map(ToOwned::to_owned)
    }

    /// The code of a denial as the filter's `ostiary-denial` header says it.
    pub fn denial(&self) -> Option<&str> {
        self.header("ostiary-denial")
    }
}

fn parsed(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok()
}

#[derive(Debug, Clone)]
enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// A start for a configuration of TLS, by the library's own cryptography.
///
/// # Errors
///
/// When the library refuses its own defaults.
pub fn tls_builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?)
}

/// One certificate as the only root of trust.
///
/// # Errors
///
/// When it is no certificate.
pub fn trusting(root: CertificateDer<'static>) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(root)?;
    Ok(roots)
}

/// Whom to call and how; every call opens a connection of its own unless [`Client::connect`] is used.
#[derive(Clone)]
pub struct Client {
    target: Target,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    http2: bool,
    netns: Option<Netns>,
    limit: Duration,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("target", &self.target)
            .field("http2", &self.http2)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Speaks plain HTTP/1.1 over TCP.
    pub fn plain(address: SocketAddr) -> Self {
        Self::to(Target::Tcp(address))
    }

    /// Speaks plain HTTP/1.1 over a Unix socket.
    pub fn unix(path: &Path) -> Self {
        Self::to(Target::Unix(path.to_path_buf()))
    }

    fn to(target: Target) -> Self {
        Self {
            target,
            tls: None,
            http2: false,
            netns: None,
            limit: Duration::from_secs(30),
        }
    }

    /// Speaks over TLS to `host`, whose certificate `ca` has signed, showing `credential` if there is one.
    ///
    /// # Errors
    ///
    /// When the host is no name or the credential does not fit together.
    pub fn tls(address: SocketAddr, host: &str, ca: &Ca, credential: Option<&Credential>) -> Result<Self> {
        let builder = tls_builder()?.with_root_certificates(trusting(ca.certificate())?);
        let config = match credential {
            Some(shown) => builder.with_client_auth_cert(vec![shown.certificate()], shown.key())?,
            None => builder.with_no_client_auth(),
        };
        Self::plain(address).over(config, host)
    }

    /// Speaks over TLS that is configured so.
    ///
    /// # Errors
    ///
    /// When the host is no name.
    pub fn over(mut self, config: ClientConfig, host: &str) -> Result<Self> {
        self.tls = Some((Arc::new(config), ServerName::try_from(host.to_owned())?));
        Ok(self)
    }

    /// Speaks HTTP/2 (with prior knowledge where there is no TLS).
    #[must_use]
    pub fn http2(mut self) -> Self {
        self.http2 = true;
        self
    }

    /// Connects from inside a namespace.
    #[must_use]
    pub fn inside(mut self, netns: &Netns) -> Self {
        self.netns = Some(netns.clone());
        self
    }

    /// Gives up after `limit` (30 s by default).
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Makes one call on a connection of its own.
    ///
    /// # Errors
    ///
    /// When no complete answer comes in time.
    pub async fn send(&self, call: Call) -> Result<Answer> {
        let exchange = async { self.connect().await?.send(call).await };
        tokio::time::timeout(self.limit, exchange)
            .await
            .context("no answer in time")?
    }

    /// Opens a connection for several calls.
    ///
    /// # Errors
    ///
    /// When the connection or its TLS fails.
    pub async fn connect(&self) -> Result<Connection> {
        let io = TokioIo::new(self.open().await?);
        if self.http2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(connection);
            return Ok(Connection(Sender::Http2(sender)));
        }
        let (sender, connection) = http1::handshake(io).await?;
        tokio::spawn(connection);
        Ok(Connection(Sender::Http1(sender)))
    }

    /// Writes `bytes` as they are and reads until the other side closes or nothing comes for `quiet`.
    ///
    /// # Errors
    ///
    /// When the connection or its TLS fails.
    pub async fn raw(&self, bytes: &[u8], quiet: Duration) -> Result<Vec<u8>> {
        let mut stream = self.open().await?;
        stream.write_all(bytes).await?;
        stream.flush().await?;
        let (mut answer, mut buffer) = (Vec::new(), vec![0; 16 << 10]);
        // A reset after the answer ends it as a close does.
        while let Ok(Ok(count @ 1..)) = tokio::time::timeout(quiet, stream.read(&mut buffer)).await {
            answer.extend(buffer.iter().take(count));
        }
        Ok(answer)
    }

    /// Opens the stream under HTTP: TCP or Unix, TLS on it if asked for.
    ///
    /// # Errors
    ///
    /// When the connection or its TLS fails.
    pub async fn open(&self) -> Result<Box<dyn Stream>> {
        let address = match &self.target {
            Target::Unix(path) => return Ok(Box::new(UnixStream::connect(path).await?)),
            Target::Tcp(address) => *address,
        };
        let tcp = match &self.netns {
            None => TcpStream::connect(address)
                .await
                .with_context(|| format!("cannot connect to {address}"))?,
            Some(netns) => {
                let stream = netns.connect(address)?;
                stream.set_nonblocking(true)?;
                TcpStream::from_std(stream)?
            }
        };
        tcp.set_nodelay(true)?;
        let Some((config, name)) = &self.tls else {
            return Ok(Box::new(tcp));
        };
        let mut config = ClientConfig::clone(config);
        config.alpn_protocols = vec![if self.http2 {
            b"h2".to_vec()
        } else {
            b"http/1.1".to_vec()
        }];
        Ok(Box::new(
            TlsConnector::from(Arc::new(config))
                .connect(name.clone(), tcp)
                .await
                .context("TLS failed")?,
        ))
    }
}

/// Bytes both ways.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

enum Sender {
    Http1(http1::SendRequest<Payload>),
    Http2(http2::SendRequest<Payload>),
}

/// An open connection; calls on HTTP/1.1 follow one another, on HTTP/2 a [`Connection::fork`] sends beside it.
pub struct Connection(Sender);

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Connection").finish_non_exhaustive()
    }
}

impl Connection {
    /// Makes a call and reads its whole answer.
    ///
    /// # Errors
    ///
    /// When the connection breaks.
    pub async fn send(&mut self, call: Call) -> Result<Answer> {
        let start = Instant::now();
        let response = self.begin(call).await?;
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(axum::body::Body::new(body), ANSWER_LIMIT).await?;
        Ok(Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body,
            elapsed: start.elapsed(),
        })
    }

    /// Makes a call and answers as soon as the response's headers are there; dropping the response aborts it.
    ///
    /// # Errors
    ///
    /// When the connection breaks.
    pub async fn begin(&mut self, call: Call) -> Result<http::Response<Incoming>> {
        Ok(match &mut self.0 {
            Sender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(call.request(false)?).await?
            }
            Sender::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(call.request(true)?).await?
            }
        })
    }

    /// Another sender on the same HTTP/2 connection.
    ///
    /// # Errors
    ///
    /// On HTTP/1.1, which has no streams.
    pub fn fork(&self) -> Result<Self> {
        match &self.0 {
            Sender::Http2(sender) => Ok(Self(Sender::Http2(sender.clone()))),
            Sender::Http1(_) => bail!("HTTP/1.1 has no streams"),
        }
    }
}

/// Splits a raw HTTP/1.1 answer into status and the rest.
///
/// # Errors
///
/// When it does not start with a status line.
pub fn raw_status(answer: &[u8]) -> Result<u16> {
    let text = String::from_utf8_lossy(answer);
    let status = text
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3)?.parse().ok());
    status.ok_or_else(|| anyhow!("no status line in `{}`", text.chars().take(80).collect::<String>()))
}
