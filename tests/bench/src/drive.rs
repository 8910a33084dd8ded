//! The load generator: requests whose bytes are made beforehand, on connections that stay open.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hyper::body::Bytes;
use tests::client::{Client, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// The longest head of an answer.
const HEAD_LIMIT: usize = 64 << 10;

/// What ends a line of a head, a chunk's size and a chunk.
const LINE_END: &[u8] = b"\r\n";

/// How much is read at once.
const READ_BYTES: usize = 64 << 10;

/// tokio's timer wakes within a millisecond; what is left is waited for awake.
const TIMER_STEP: Duration = Duration::from_millis(2);

/// The bytes of requests, and how each must be answered.
#[derive(Debug, Clone)]
pub(crate) struct Requests {
    /// Sent one after the other; where `fresh`, none of them twice.
    pub(crate) bytes: Arc<Vec<Bytes>>,
    /// Every request is sent once only: running out of them is an error.
    pub(crate) fresh: bool,
    /// The status of every answer.
    pub(crate) status: u16,
}

impl Requests {
    fn at(&self, index: usize) -> Result<Bytes> {
        let place = if self.fresh {
            index
        } else {
            index % self.bytes.len().max(1)
        };
        self.bytes
            .get(place)
            .cloned()
            .context("there are no fresh requests left")
    }
}

/// What matters of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The head as it came.
    pub(crate) head: String,
    /// Whether the connection is closed after it.
    pub(crate) closes: bool,
}

/// An open HTTP/1.1 connection.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    unread: Vec<u8>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl Connection {
    /// Opens one.
    ///
    /// # Errors
    ///
    /// When the connection or its TLS fails.
    pub(crate) async fn open(client: &Client) -> Result<Self> {
        Ok(Self {
            stream: client.open().await?,
            unread: Vec::with_capacity(READ_BYTES),
        })
    }

    /// Makes a call and reads its whole answer.
    ///
    /// # Errors
    ///
    /// When the connection breaks, or the answer is not HTTP/1.1 with a content-length or in chunks.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> Result<Reply> {
        self.stream.write_all(request).await?;
        self.stream.flush().await?;
        let (end, head) = loop {
            if let Some(end) = find(&self.unread, b"\r\n\r\n") {
                let head = self.unread.get(..end).map(String::from_utf8_lossy).unwrap_or_default();
                break (end + 4, head.into_owned());
            }
            ensure!(self.unread.len() < HEAD_LIMIT, "a head without end");
            self.fill().await?;
        };
        let status = head
            .get(9..12)
            .and_then(|digits| digits.parse().ok())
            .context("no status line")?;
        self.unread.drain(..end);
        let length = |line: &str| line.strip_prefix("content-length: ")?.parse().ok();
        if head.lines().any(|line| line == "transfer-encoding: chunked") {
            self.skip_chunks().await?;
        } else {
            let bytes = head
                .lines()
                .find_map(length)
                .context("neither a content-length nor chunks")?;
            self.skip(bytes).await?;
        }
        let closes = head.contains("\r\nconnection: close");
        Ok(Reply { status, head, closes })
    }

    async fn skip(&mut self, mut bytes: usize) -> Result<()> {
        loop {
            let taken = bytes.min(self.unread.len());
            self.unread.drain(..taken);
            bytes -= taken;
            if bytes == 0 {
                return Ok(());
            }
            self.fill().await?;
        }
    }

    /// Reads to the end of a chunked body without trailers (RFC 9112 section 7.1).
    async fn skip_chunks(&mut self) -> Result<()> {
        loop {
            let end = loop {
                if let Some(end) = find(&self.unread, LINE_END) {
                    break end;
                }
                ensure!(self.unread.len() < HEAD_LIMIT, "a chunk's size without end");
                self.fill().await?;
            };
            let size = self.unread.get(..end).and_then(|size| std::str::from_utf8(size).ok());
            let size = size.and_then(|size| usize::from_str_radix(size, 16).ok());
            let size = size.context("a chunk without its size")?;
            self.skip(end + LINE_END.len() + size + LINE_END.len()).await?;
            if size == 0 {
                return Ok(());
            }
        }
    }

    async fn fill(&mut self) -> Result<()> {
        self.unread.reserve(READ_BYTES);
        if self.stream.read_buf(&mut self.unread).await? == 0 {
            bail!("the connection was closed");
        }
        Ok(())
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// Requests on many connections at once, each sending the next as soon as it has been answered.
///
/// # Errors
///
/// When a connection breaks or is closed, an answer has another status, or fresh requests run out.
pub(crate) async fn saturate(
    connections: &mut Vec<Connection>,
    requests: &Requests,
    from: usize,
    count: usize,
) -> Result<()> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut calls = JoinSet::new();
    for mut connection in connections.drain(..) {
        let (requests, next) = (requests.clone(), next.clone());
        calls.spawn(async move {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return Ok(connection);
                }
                call(&mut connection, &requests, from + index).await?;
            }
        });
    }
    take_back(connections, calls).await
}

/// How requests at a fixed rate wait until they are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// On a core that nobody else needs: to the microsecond, and it is busy all the time.
    Awake,
    /// On a core that what is measured needs too: a thread wakes them, some 0.1 ms late, which counts as theirs.
    Asleep,
}

/// Requests at a fixed rate, and how long each took from the moment when it was due.
///
/// # Errors
///
/// As [`saturate`].
pub(crate) async fn paced(
    connections: &mut Vec<Connection>,
    requests: &Requests,
    from: usize,
    count: usize,
    rate: f64,
    pace: Pace,
) -> Result<Vec<Duration>> {
    let (step, start) = (connections.len().max(1), Instant::now() + TIMER_STEP);
    let due = move |index: usize| start + Duration::from_secs_f64(index as f64 / rate);
    let mut calls = JoinSet::new();
    let mut clocks = Vec::new();
    for (first, mut connection) in connections.drain(..).enumerate() {
        let requests = requests.clone();
        let (clock, mut ticks) = mpsc::unbounded_channel();
        clocks.push(clock);
        calls.spawn(async move {
            let mut times = Vec::new();
            for index in (first..count).step_by(step) {
                let due = due(index);
                match pace {
                    Pace::Awake => wait_until(due).await,
                    Pace::Asleep => ticks.recv().await.context("the clock has stopped")?,
                }
                call(&mut connection, &requests, from + index).await?;
                times.push(due.elapsed());
            }
            anyhow::Ok((connection, times))
        });
    }
    if let Pace::Asleep = pace {
        std::thread::spawn(move || {
            for (index, clock) in (0..count).zip(clocks.iter().cycle()) {
                std::thread::sleep(due(index).saturating_duration_since(Instant::now()));
                // One whose call failed has gone.
                let _ = clock.send(());
            }
        });
    }
    let mut all = Vec::new();
    while let Some(done) = calls.join_next().await {
        let (connection, times) = done??;
        connections.push(connection);
        all.extend(times);
    }
    Ok(all)
}

async fn wait_until(due: Instant) {
    if let Some(rest) = due.checked_duration_since(Instant::now() + TIMER_STEP) {
        tokio::time::sleep(rest).await;
    }
    while Instant::now() < due {
        tokio::task::yield_now().await;
    }
}

async fn call(connection: &mut Connection, requests: &Requests, index: usize) -> Result<()> {
    let reply = connection.exchange(&requests.at(index)?).await?;
    ensure!(
        reply.status == requests.status && !reply.closes,
        "request {index} was not answered with {} on a connection that stays open, but with\n{}",
        requests.status,
        reply.head
    );
    Ok(())
}

async fn take_back(connections: &mut Vec<Connection>, mut calls: JoinSet<Result<Connection>>) -> Result<()> {
    while let Some(done) = calls.join_next().await {
        connections.push(done??);
    }
    Ok(())
}
