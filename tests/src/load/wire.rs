//! HTTP/1.1 and HTTP/2 with little more than the bytes: a call costs the generator less than it costs a sidecar.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use authz::denial::DENIAL_HEADER;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use hyper::body::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use crate::client::{Client, Stream};

/// The longest head or body of an answer; ours are short.
const ANSWER_LIMIT: usize = 1 << 20;

/// The digits of a call id, which must have the form of 128 bits in base64url.
const CALL_ID_DIGITS: usize = 22;

/// The call id that carries a number.
pub fn call_id(number: u64) -> String {
    format!("{number:0CALL_ID_DIGITS$}")
}

/// The number that a call id carries, if it is one of ours.
pub fn call_number(id: &str) -> Option<u64> {
    let ours = id.len() == CALL_ID_DIGITS && id.bytes().all(|byte| byte.is_ascii_digit());
    if ours { id.parse().ok() } else { None }
}

/// A request that is sent again and again under different call ids.
#[derive(Debug, Clone)]
pub struct Request {
    /// The method.
    pub method: &'static str,
    /// `Host` or `:authority`.
    pub authority: String,
    /// The path.
    pub path: String,
    /// Headers in order; a name may come twice.
    pub headers: Vec<(&'static str, String)>,
    /// The body; empty for none.
    pub body: Bytes,
}

impl Request {
    /// A GET without headers.
    pub fn get(authority: &str, path: &str) -> Self {
        Self {
            method: "GET",
            authority: authority.to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }

    /// A POST of JSON.
    pub fn post(authority: &str, path: &str, body: impl Into<Bytes>) -> Self {
        let request = Self {
            method: "POST",
            body: body.into(),
            ..Self::get(authority, path)
        };
        request.header("content-type", "application/json")
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Adds `authorization: Bearer TOKEN`.
    #[must_use]
    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", format!("Bearer {token}"))
    }

    /// The bytes for HTTP/1.1.
    pub fn bytes(&self, number: u64) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\nhost: {}\r\n", self.method, self.path, self.authority);
        for (name, value) in &self.headers {
            head.extend([name, ": ", value, "\r\n"]);
        }
        if !self.body.is_empty() {
            head.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        head.push_str(&format!("ostiary-call: {}\r\n\r\n", call_id(number)));
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// The head for HTTP/2.
    fn head(&self, number: u64) -> Result<http::Request<()>> {
        let uri = format!("http://{}{}", self.authority, self.path);
        let mut head = http::Request::builder().method(self.method).uri(uri);
        for (name, value) in &self.headers {
            head = head.header(*name, value);
        }
        Ok(head.header("ostiary-call", call_id(number)).body(())?)
    }
}

/// What matters of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The code of a denial.
    pub denial: Option<String>,
}

/// A connection that speaks HTTP/1.1 and opens itself again when the other side has closed it.
pub struct Http1 {
    client: Client,
    stream: Option<Box<dyn Stream>>,
    unread: Vec<u8>,
}

impl std::fmt::Debug for Http1 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http1")
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

impl Http1 {
    /// One that is opened by the first call.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            stream: None,
            unread: Vec::new(),
        }
    }

    /// Makes a call.
    ///
    /// # Errors
    ///
    /// When the connection breaks, or the answer is not HTTP/1.1 with a content-length.
    pub async fn send(&mut self, request: &Request, number: u64) -> Result<Reply> {
        self.write(&request.bytes(number)).await?;
        let head = self.read_head().await?;
        while self.unread.len() < head.body_bytes {
            self.fill().await.context("the answer's body broke off")?;
        }
        self.unread.drain(..head.body_bytes);
        if head.closes {
            self.close();
        }
        Ok(head.reply)
    }

    /// Writes bytes, on a new connection if there is none.
    ///
    /// # Errors
    ///
    /// When the connection breaks.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.stream.is_none() {
            self.stream = Some(self.client.open().await?);
        }
        let stream = self.stream.as_mut().context("no connection")?;
        stream.write_all(bytes).await?;
        Ok(stream.flush().await?)
    }

    /// Reads the head of an answer.
    ///
    /// # Errors
    ///
    /// When the connection breaks, or it is not HTTP/1.1 with a content-length or chunks.
    pub async fn read_head(&mut self) -> Result<Head> {
        loop {
            if let Some(end) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                let bytes: Vec<u8> = self.unread.drain(..end + 4).collect();
                return Head::parse(&bytes);
            }
            self.fill().await.context("no answer")?;
        }
    }

    /// Closes the connection, in the middle of whatever was on it.
    pub fn close(&mut self) {
        self.stream = None;
        self.unread.clear();
    }

    async fn fill(&mut self) -> Result<()> {
        let stream = self.stream.as_mut().context("no connection")?;
        if self.unread.len() > ANSWER_LIMIT || stream.read_buf(&mut self.unread).await? == 0 {
            bail!("the connection was closed");
        }
        Ok(())
    }
}

/// The head of an HTTP/1.1 answer.
#[derive(Debug)]
pub struct Head {
    /// Status and code.
    pub reply: Reply,
    body_bytes: usize,
    closes: bool,
}

impl Head {
    fn parse(bytes: &[u8]) -> Result<Self> {
        let text = std::str::from_utf8(bytes)?;
        let mut lines = text.split("\r\n");
        let status = lines.next().unwrap_or_default();
        let mut head = Self {
            reply: Reply {
                status: status.split(' ').nth(1).unwrap_or_default().parse()?,
                denial: None,
            },
            body_bytes: 0,
            closes: false,
        };
        for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
            match name {
                "content-length" => head.body_bytes = value.parse()?,
                "connection" => head.closes = value == "close",
                DENIAL_HEADER => head.reply.denial = Some(value.to_owned()),
                _ => {}
            }
        }
        Ok(head)
    }
}

/// An HTTP/2 connection; clones share it.
#[derive(Debug, Clone)]
pub struct Http2 {
    sender: SendRequest<Bytes>,
    _connection: Arc<AbortOnDrop>,
}

#[derive(Debug)]
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Http2 {
    /// Opens one; it is closed when the last clone is gone.
    ///
    /// # Errors
    ///
    /// When the connection or its TLS fails.
    pub async fn open(client: &Client) -> Result<Self> {
        let stream = client.clone().http2().open().await?;
        let (sender, connection) = h2::client::handshake(stream).await?;
        let connection = tokio::spawn(async move {
            // Callers see a broken connection by their calls.
            let _ = connection.await;
        });
        Ok(Self {
            sender,
            _connection: Arc::new(AbortOnDrop(connection)),
        })
    }

    /// Makes a call.
    ///
    /// # Errors
    ///
    /// When the stream or the connection breaks.
    pub async fn send(&self, request: &Request, number: u64) -> Result<Reply> {
        let mut call = self.begin(request, number).await?;
        if !request.body.is_empty() {
            // A sidecar that denies by the head has ended the stream by now, perhaps: the answer says what came of it.
            let _ = call.request.send_data(request.body.clone(), true);
        }
        let (reply, mut body) = call.reply().await?;
        while let Some(chunk) = body.data().await {
            body.flow_control().release_capacity(chunk?.len())?;
        }
        Ok(reply)
    }

    /// Starts a call; its body, if it has one, is for the caller to send.
    ///
    /// # Errors
    ///
    /// When the connection is broken.
    pub async fn begin(&self, request: &Request, number: u64) -> Result<Begun> {
        let mut sender = self.sender.clone().ready().await?;
        let (response, stream) = sender.send_request(request.head(number)?, request.body.is_empty())?;
        Ok(Begun {
            request: stream,
            response,
        })
    }
}

/// A call on its way.
#[derive(Debug)]
pub struct Begun {
    /// Its body.
    pub request: SendStream<Bytes>,
    response: ResponseFuture,
}

impl Begun {
    /// Waits for the head of the answer.
    ///
    /// # Errors
    ///
    /// When the stream or the connection breaks.
    pub async fn reply(&mut self) -> Result<(Reply, RecvStream)> {
        let (head, body) = (&mut self.response).await?.into_parts();
        let denial = head.headers.get(DENIAL_HEADER);
        let reply = Reply {
            status: head.status.as_u16(),
            denial: denial.map(|code| String::from_utf8_lossy(code.as_bytes()).into_owned()),
        };
        Ok((reply, body))
    }

    /// Resets the stream.
    pub fn reset(&mut self) {
        self.request.send_reset(Reason::CANCEL);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_call_id_carries_its_number() {
        assert_eq!(call_number(&call_id(200_000)), Some(200_000));
        assert_eq!(call_number("AAECAwQFBgcICQoLDA0ODw"), None);
    }

    #[test]
    fn a_head_tells_what_matters() {
        let head = Head::parse(
            b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 7\r\nostiary-denial: token_missing\r\nconnection: close\r\n\r\n",
        )
        .unwrap();
        assert_eq!((head.reply.status, head.body_bytes, head.closes), (401, 7, true));
        assert_eq!(head.reply.denial.as_deref(), Some("token_missing"));
    }
}
