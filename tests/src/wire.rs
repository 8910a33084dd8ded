//! Requests as bytes on the wire, in HTTP/1.1 and HTTP/2: no library makes them better than they are, or says no in Envoy's
//! place.

use anyhow::{Context, Result, bail};
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::client::{self, Client, Stream};

/// A request, before it is written.
#[derive(Debug, Clone)]
pub struct Written {
    /// The method.
    pub method: String,
    /// The target as it is sent.
    pub path: String,
    /// Header fields in order, `host` among them, which is `:authority` to HTTP/2.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// How a request is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// HTTP/1.1, with the length of a body that comes in one piece.
    Http1,
    /// HTTP/1.1 in chunks of a few bytes, each written by itself, and a trailer.
    Http1Chunks,
    /// HTTP/2, its body in one frame.
    Http2,
    /// HTTP/2 in frames of a few bytes, each written by itself, and trailers.
    Http2Frames,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// An answer. Of HTTP/2 the headers are not decoded.
    Answer {
        /// The status.
        status: u16,
        /// The headers of HTTP/1.1.
        headers: HeaderMap,
        /// The body; one in chunks is left in chunks.
        body: Vec<u8>,
    },
    /// The stream or the connection was ended instead.
    Ended,
}

/// What says how long a body is, which the wire decides.
const FRAMING: [&str; 2] = ["content-length", "transfer-encoding"];

/// What HTTP/2 has no place for (RFC 9113, section 8.2.2).
const OF_THE_CONNECTION: [&str; 6] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

impl Wire {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Http1, Self::Http1Chunks, Self::Http2, Self::Http2Frames];

    /// Whether it is HTTP/2.
    pub fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Http2Frames)
    }

    fn is_split(self) -> bool {
        matches!(self, Self::Http1Chunks | Self::Http2Frames)
    }

    /// Whether it can say all that a request says.
    pub fn can_write(self, request: &Written) -> bool {
        let has = |names: &[&str]| {
            let mut headers = request.headers.iter();
            headers.any(|(name, _)| names.iter().any(|other| name.eq_ignore_ascii_case(other)))
        };
        let split = !self.is_split() || (!request.body.is_empty() && !has(&FRAMING));
        split && !(self.is_http2() && has(&OF_THE_CONNECTION))
    }

    /// Sends a request on a connection of its own and reads what comes back.
    ///
    /// # Errors
    ///
    /// When there is no connection, or nothing that can be read comes back.
    pub async fn exchange(self, client: &Client, request: &Written) -> Result<Told> {
        let client = client.clone();
        if self.is_http2() {
            let mut stream = client.http2().open().await?;
            write_all(&mut stream, self.frames(request)).await;
            return read_http2(&mut stream).await;
        }
        let mut stream = client.open().await?;
        write_all(&mut stream, self.lines(request)).await;
        read_http1(&mut stream, request.method == "HEAD").await
    }

    /// The pieces of a request of HTTP/1.1.
    fn lines(self, request: &Written) -> Vec<Vec<u8>> {
        let mut head = format!("{} {} HTTP/1.1\r\n", request.method, request.path);
        for (name, value) in &request.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if self.is_split() {
            head += "transfer-encoding: chunked\r\nconnection: close\r\n\r\n";
            let chunks = pieces(&request.body).map(|chunk| {
                let size = format!("{:x}\r\n", chunk.len());
                [size.as_bytes(), chunk, b"\r\n"].concat()
            });
            let end = b"0\r\nx-end: 1\r\n\r\n".to_vec();
            return [head.into_bytes()].into_iter().chain(chunks).chain([end]).collect();
        }
        if !request.body.is_empty() || matches!(request.method.as_str(), "POST" | "PUT") {
            head += &format!("content-length: {}\r\n", request.body.len());
        }
        head += "connection: close\r\n\r\n";
        vec![[head.as_bytes(), &request.body].concat()]
    }

    /// The pieces of a request of HTTP/2, on the first stream.
    fn frames(self, request: &Written) -> Vec<Vec<u8>> {
        let mut block = Vec::new();
        literal(&mut block, ":method", &request.method);
        literal(&mut block, ":scheme", "https");
        literal(&mut block, ":path", &request.path);
        let (pseudo, fields): (Vec<_>, Vec<_>) = request.headers.iter().partition(|(name, _)| name.starts_with(':'));
        for (name, value) in pseudo {
            literal(&mut block, name, value);
        }
        let mut has_authority = false;
        for (name, value) in fields {
            // The first `host` is the authority, which stands before all other fields.
            if !has_authority && name == "host" {
                has_authority = true;
                let mut front = Vec::new();
                literal(&mut front, ":authority", value);
                drop(block.splice(0..0, front));
            } else {
                literal(&mut block, name, value);
            }
        }
        let has_body = !request.body.is_empty();
        let mut first = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        frame(&mut first, SETTINGS, 0, 0, &[]);
        headers(&mut first, &block, !has_body);
        let mut all = vec![first];
        if has_body && self.is_split() {
            all.extend(pieces(&request.body).map(|piece| framed(DATA, 0, piece)));
            let mut trailers = Vec::new();
            literal(&mut trailers, "x-end", "1");
            let mut last = Vec::new();
            headers(&mut last, &trailers, true);
            all.push(last);
        } else if has_body {
            let frames: Vec<&[u8]> = request.body.chunks(MOST_FRAME_BYTES).collect();
            let last = frames.len() - 1;
            let flags = |index| if index == last { END_STREAM } else { 0 };
            all.extend(
                frames
                    .into_iter()
                    .enumerate()
                    .map(|(index, data)| framed(DATA, flags(index), data)),
            );
        }
        all
    }
}

/// Some twenty pieces of a body, of a byte at least.
fn pieces(body: &[u8]) -> std::slice::Chunks<'_, u8> {
    body.chunks((body.len() / 20).max(1))
}

/// Writes as much as the other side takes: it may have answered before the end.
async fn write_all(stream: &mut Box<dyn Stream>, pieces: Vec<Vec<u8>>) {
    for piece in pieces {
        if stream.write_all(&piece).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

async fn read_http1(stream: &mut Box<dyn Stream>, is_head: bool) -> Result<Told> {
    let (mut bytes, mut buffer) = (Vec::new(), vec![0; 16 << 10]);
    loop {
        let count = stream.read(&mut buffer).await?;
        bytes.extend(buffer.iter().take(count));
        match parsed(&bytes, is_head) {
            Some(told) => return Ok(told),
            None if count == 0 && bytes.is_empty() => return Ok(Told::Ended),
            None if count == 0 => bail!("broke off: {}", String::from_utf8_lossy(&bytes)),
            None => {}
        }
    }
}

/// The answer, once it is whole.
fn parsed(bytes: &[u8], is_head: bool) -> Option<Told> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let (head, body) = bytes.split_at_checked(end)?;
    let mut headers = HeaderMap::new();
    for line in std::str::from_utf8(head).ok()?.trim_end().lines().skip(1) {
        let (name, value) = line.split_once(':')?;
        headers.append(
            HeaderName::try_from(name).ok()?,
            HeaderValue::try_from(value.trim()).ok()?,
        );
    }
    let length = headers
        .get("content-length")
        .and_then(|length| length.to_str().ok()?.parse().ok());
    let whole = match length {
        _ if is_head => true,
        Some(length) => body.len() >= length,
        None => body.ends_with(b"0\r\n\r\n"),
    };
    let status = client::raw_status(bytes).ok()?;
    let body = body.to_vec();
    whole.then_some(Told::Answer { status, headers, body })
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// The longest frame that every peer takes.
const MOST_FRAME_BYTES: usize = 16 << 10;

/// Appends a frame (RFC 9113, section 4.1).
fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    out.extend(length.iter().skip(1));
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
}

/// A frame of the first stream.
fn framed(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame(&mut out, kind, flags, 1, payload);
    out
}

/// Appends a header block, in as many frames as it takes.
fn headers(out: &mut Vec<u8>, block: &[u8], end_stream: bool) {
    let parts: Vec<&[u8]> = block.chunks(MOST_FRAME_BYTES).collect();
    let last = parts.len().saturating_sub(1);
    for (index, part) in parts.into_iter().enumerate() {
        let kind = if index == 0 { HEADERS } else { CONTINUATION };
        let mut flags = if index == last { END_HEADERS } else { 0 };
        if index == 0 && end_stream {
            flags |= END_STREAM;
        }
        frame(out, kind, flags, 1, part);
    }
}

/// Appends a field that no table holds (RFC 7541, section 6.2.2), byte for byte.
fn literal(out: &mut Vec<u8>, name: &str, value: &str) {
    out.push(0);
    for text in [name, value] {
        integer(out, text.len());
        out.extend(text.bytes());
    }
}

/// Appends an integer with a prefix of seven bits (RFC 7541, section 5.1).
fn integer(out: &mut Vec<u8>, value: usize) {
    let low = |value: usize| u8::try_from(value & 0x7f).unwrap_or_default();
    if value < 0x7f {
        return out.push(low(value));
    }
    out.push(0x7f);
    let mut rest = value - 0x7f;
    while rest >= 0x80 {
        out.push(low(rest) | 0x80);
        rest >>= 7;
    }
    out.push(low(rest));
}

/// Reads frames until the first stream ends.
async fn read_http2(stream: &mut Box<dyn Stream>) -> Result<Told> {
    let (mut status, mut body) = (None, Vec::new());
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).await.is_err() {
            return Ok(Told::Ended);
        }
        let [a, b, c, kind, flags, ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload).await.context("half a frame")?;
        match kind {
            SETTINGS if flags & ACK == 0 => {
                let mut ack = Vec::new();
                frame(&mut ack, SETTINGS, ACK, 0, &[]);
                write_all(stream, vec![ack]).await;
            }
            HEADERS if status.is_none() => {
                status = Some(status_of(&payload).with_context(|| format!("no status in {payload:x?}"))?);
            }
            DATA if flags & PADDED == 0 => body.extend(&payload),
            DATA => bail!("a padded frame"),
            RST_STREAM | GOAWAY if status.is_none() => return Ok(Told::Ended),
            _ => {}
        }
        let ended = flags & END_STREAM != 0 && matches!(kind, DATA | HEADERS);
        match status {
            Some(status) if ended || matches!(kind, RST_STREAM | GOAWAY) => {
                let headers = HeaderMap::new();
                return Ok(Told::Answer { status, headers, body });
            }
            _ => {}
        }
    }
}

/// The status, which is the first field of an answer: indexed, or a literal whose name is indexed.
fn status_of(block: &[u8]) -> Option<u16> {
    const STATIC: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    let mut rest = block;
    // An update of the dynamic table's size may come first.
    while let [0x20..=0x3f, after @ ..] = rest {
        rest = after;
    }
    match rest {
        [index @ 0x88..=0x8e, ..] => STATIC.get(usize::from(index - 0x88)).copied(),
        [0x08 | 0x18 | 0x48, 3, digits @ ..] => std::str::from_utf8(digits.get(..3)?).ok()?.parse().ok(),
        [0x08 | 0x18 | 0x48, length, coded @ ..] if length & 0x80 != 0 => {
            digits(coded.get(..usize::from(length & 0x7f))?)
        }
        _ => None,
    }
}

/// Three digits in the Huffman code of HPACK: `0` to `2` have five bits, the others six (RFC 7541, appendix B).
fn digits(coded: &[u8]) -> Option<u16> {
    let mut bits = coded
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1));
    let mut number = 0;
    for _ in 0..3 {
        let mut code: u16 = 0;
        for _ in 0..5 {
            code = code << 1 | u16::from(bits.next()?);
        }
        let digit = if code <= 2 {
            code
        } else {
            (code << 1 | u16::from(bits.next()?)).checked_sub(0b01_0110)?
        };
        number = number * 10 + digit;
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn request() -> Written {
        Written {
            method: "POST".to_owned(),
            path: "/mcp".to_owned(),
            headers: vec![("host".to_owned(), "a".to_owned()), ("x".to_owned(), "1".to_owned())],
            body: b"hello".to_vec(),
        }
    }

    #[test]
    fn what_is_written_is_what_was_asked_for() {
        let whole = Wire::Http1.lines(&request()).concat();
        let expected = "POST /mcp HTTP/1.1\r\nhost: a\r\nx: 1\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello";
        assert_eq!(String::from_utf8(whole).unwrap(), expected);
        let chunks = Wire::Http1Chunks.lines(&request());
        assert_eq!(chunks.len(), 1 + 5 + 1);
        assert_eq!(chunks.get(1).unwrap(), b"1\r\nh\r\n");
        let frames = Wire::Http2Frames.frames(&request());
        assert_eq!(frames.len(), 1 + 5 + 1);
        assert_eq!(frames.get(1).unwrap(), b"\0\0\x01\0\0\0\0\0\x01h");
        let whole = Wire::Http2.frames(&request());
        assert_eq!(whole.get(1).unwrap(), b"\0\0\x05\0\x01\0\0\0\x01hello");
    }

    #[test]
    fn a_wire_leaves_out_what_it_cannot_say() {
        let with = |name: &str| {
            let mut request = request();
            request.headers.push((name.to_owned(), "1".to_owned()));
            Wire::ALL.map(|wire| wire.can_write(&request))
        };
        assert_eq!(with("accept"), [true; 4]);
        assert_eq!(with("upgrade"), [true, true, false, false]);
        assert_eq!(with("content-length"), [true, false, true, false]);
    }

    #[test]
    fn long_lengths_take_more_bytes() {
        let mut out = Vec::new();
        integer(&mut out, 126);
        integer(&mut out, 127);
        integer(&mut out, 127 + 128);
        assert_eq!(out, [126, 127, 0, 127, 128, 1]);
    }

    #[test]
    fn a_status_is_read_however_it_is_written() {
        for (block, status) in [
            (&[0x88][..], 200),
            (&[0x8c], 400),
            (b"\x48\x03403", 403),
            (b"\x20\x08\x03502", 502),
            // `403` in Huffman's code.
            (&[0x48, 0x83, 0x68, 0x0c, 0xff], 403),
        ] {
            assert_eq!(status_of(block).unwrap_or_default(), status, "{block:x?}");
        }
    }
}
