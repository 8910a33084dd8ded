//! What the filter asks of the proxy, and how Envoy answers.
//!
//! The rest of the crate speaks to [`Host`] alone and so runs natively under test. The implementation uses the raw
//! host calls: those of the SDK's traits unwrap errors, and a panic would cost the proxy the whole VM.

use std::time::{Duration, UNIX_EPOCH};

use authz::denial::Response;
use proxy_wasm::hostcalls;
use proxy_wasm::types::{BufferType, MapType, MetricType};

/// Name and value of one header, as received.
pub(crate) type HeaderPair = (String, Vec<u8>);

/// A request that the root context sends to the policy server.
#[derive(Debug)]
pub(crate) struct Callout<'a> {
    pub(crate) cluster: &'a str,
    pub(crate) headers: &'a [(&'a str, &'a str)],
    pub(crate) body: Option<&'a [u8]>,
    pub(crate) timeout: Duration,
}

/// The cluster is absent or has no endpoint; no answer will come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CalloutError;

/// Whose headers or body: the request's, the response's, or the answer's to a callout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Message {
    Request,
    Response,
    Answer,
}

/// How a metric counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MetricKind {
    Counter,
    Gauge,
}

/// The proxy, as seen by one callback.
///
/// Nothing here panics or reports a cause: what cannot be had is `None` or an error, and the caller denies.
pub(crate) trait Host {
    /// All headers of the request in order, duplicates and undecodable bytes included.
    fn request_headers(&self) -> Option<Vec<HeaderPair>>;
    /// The first value of a header, for answers of known peers only.
    fn header(&self, of: Message, name: &str) -> Option<Vec<u8>>;
    fn set_request_header(&self, name: &str, value: &str);
    fn remove_request_header(&self, name: &str);
    /// All headers of the response in order.
    fn response_headers(&self) -> Option<Vec<HeaderPair>>;
    fn set_response_header(&self, name: &str, value: &str);
    fn remove_response_header(&self, name: &str);
    /// Puts `bytes` in the place of the `size` bytes that are buffered of the response's body. Says whether it could.
    fn replace_response_body(&self, size: usize, bytes: &[u8]) -> bool;
    /// Puts `bytes` in the place of the `size` bytes that are buffered of the request's body. Says whether it could.
    fn replace_request_body(&self, size: usize, bytes: &[u8]) -> bool;
    /// All trailers of the request, once they are there.
    fn request_trailers(&self) -> Option<Vec<HeaderPair>>;
    fn remove_request_trailer(&self, name: &str);
    /// What is buffered of the body, at most `max` bytes.
    fn body(&self, of: Message, max: usize) -> Option<Vec<u8>>;
    fn property(&self, path: &[&str]) -> Option<Vec<u8>>;
    /// Puts `value` where access logs read it as `%FILTER_STATE(wasm.KEY:PLAIN)%`. Streams only, never the root.
    fn publish(&self, key: &str, value: &[u8]);
    /// Ends the stream with an answer of our own; once a stream at most, or the SDK panics.
    fn respond(&self, status: u16, headers: &[(&str, &str)], body: &[u8]);
    /// The same by a denial.
    fn deny(&self, response: &Response) {
        let headers = response.headers.iter();
        let headers: Vec<(&str, &str)> = headers.map(|(name, value)| (*name, value.as_str())).collect();
        self.respond(response.status, &headers, &response.body);
    }
    /// Breaks the stream off, both ways.
    fn reset(&self);
    /// Lets a request go on that was paused, once the callback has ended.
    fn resume(&self);
    /// Has the root context of a bell called at once, from whatever context this is.
    fn ring(&self, bell: u32);
    /// Makes what follows, to the end of the callback, happen in another context: a stream's, or the root's again. False
    /// if there is none of that id; then nothing has changed.
    fn act_in(&self, context: u32) -> bool;
    fn call(&self, callout: &Callout<'_>) -> Result<u32, CalloutError>;
    fn foreign(&self, function: &str, arguments: &[u8]) -> Option<Vec<u8>>;
    /// Fills `bytes` from a cryptographic source.
    fn random(&self, bytes: &mut [u8]) -> bool;
    /// Wall clock, since the Unix epoch.
    fn wall(&self) -> Duration;
    /// A clock that only advances, since an arbitrary start.
    fn monotonic(&self) -> Duration;
    fn define_metric(&self, kind: MetricKind, name: &str) -> Option<u32>;
    fn add_to_metric(&self, metric: u32, amount: i64);
    fn set_metric(&self, metric: u32, value: u64);
}

/// One reading of both clocks.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Moment {
    /// Since the Unix epoch.
    pub(crate) wall: Duration,
    /// Since an arbitrary start; only advances.
    pub(crate) monotonic: Duration,
}

impl Moment {
    pub(crate) fn now(host: &impl Host) -> Self {
        Self {
            wall: host.wall(),
            monotonic: host.monotonic(),
        }
    }

    /// The moment now, as far after this one as the clock says that only advances. One question less than
    /// [`Self::now`], for what is not decided on.
    pub(crate) fn until_now(self, host: &impl Host) -> Self {
        let monotonic = host.monotonic();
        Self {
            wall: self.wall + monotonic.saturating_sub(self.monotonic),
            monotonic,
        }
    }

    /// Unix time in seconds.
    pub(crate) fn seconds(self) -> u64 {
        self.wall.as_secs()
    }

    /// Unix time in milliseconds.
    pub(crate) fn millis(self) -> u64 {
        u64::try_from(self.wall.as_millis()).unwrap_or(u64::MAX)
    }

    /// Microseconds from an earlier moment to this one.
    pub(crate) fn micros_since(self, earlier: Self) -> u64 {
        u64::try_from(self.monotonic.saturating_sub(earlier.monotonic).as_micros()).unwrap_or(u64::MAX)
    }
}

/// Randomness that only spreads load; without a source it spreads nothing, which is safe.
pub(crate) fn jitter(host: &impl Host) -> u32 {
    let mut bytes = [0; 4];
    if host.random(&mut bytes) {
        u32::from_le_bytes(bytes)
    } else {
        u32::MAX
    }
}

/// Envoy through the proxy-wasm ABI.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Envoy;

impl Host for Envoy {
    fn request_headers(&self) -> Option<Vec<HeaderPair>> {
        hostcalls::get_map_bytes(MapType::HttpRequestHeaders).ok()
    }

    fn header(&self, of: Message, name: &str) -> Option<Vec<u8>> {
        let map = match of {
            Message::Request => MapType::HttpRequestHeaders,
            Message::Response => MapType::HttpResponseHeaders,
            Message::Answer => MapType::HttpCallResponseHeaders,
        };
        hostcalls::get_map_value_bytes(map, name).ok().flatten()
    }

    fn set_request_header(&self, name: &str, value: &str) {
        let _ = hostcalls::set_map_value(MapType::HttpRequestHeaders, name, Some(value));
    }

    fn remove_request_header(&self, name: &str) {
        let _ = hostcalls::remove_map_value(MapType::HttpRequestHeaders, name);
    }

    fn response_headers(&self) -> Option<Vec<HeaderPair>> {
        hostcalls::get_map_bytes(MapType::HttpResponseHeaders).ok()
    }

    fn set_response_header(&self, name: &str, value: &str) {
        let _ = hostcalls::set_map_value(MapType::HttpResponseHeaders, name, Some(value));
    }

    fn remove_response_header(&self, name: &str) {
        let _ = hostcalls::remove_map_value(MapType::HttpResponseHeaders, name);
    }

    fn replace_response_body(&self, size: usize, bytes: &[u8]) -> bool {
        hostcalls::set_buffer(BufferType::HttpResponseBody, 0, size, bytes).is_ok()
    }

    fn replace_request_body(&self, size: usize, bytes: &[u8]) -> bool {
        hostcalls::set_buffer(BufferType::HttpRequestBody, 0, size, bytes).is_ok()
    }

    fn request_trailers(&self) -> Option<Vec<HeaderPair>> {
        hostcalls::get_map_bytes(MapType::HttpRequestTrailers).ok()
    }

    fn remove_request_trailer(&self, name: &str) {
        let _ = hostcalls::remove_map_value(MapType::HttpRequestTrailers, name);
    }

    fn body(&self, of: Message, max: usize) -> Option<Vec<u8>> {
        let buffer = match of {
            Message::Request => BufferType::HttpRequestBody,
            Message::Response => BufferType::HttpResponseBody,
            Message::Answer => BufferType::HttpCallResponseBody,
        };
        hostcalls::get_buffer(buffer, 0, max).ok().flatten()
    }

    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        hostcalls::get_property(path.to_vec()).ok().flatten()
    }

    fn publish(&self, key: &str, value: &[u8]) {
        let _ = hostcalls::set_property(vec![key], Some(value));
    }

    fn respond(&self, status: u16, headers: &[(&str, &str)], body: &[u8]) {
        let _ = hostcalls::send_http_response(status.into(), headers.to_vec(), Some(body));
    }

    fn reset(&self) {
        let _ = hostcalls::reset_http_request();
    }

    fn resume(&self) {
        let _ = hostcalls::resume_http_request();
    }

    fn ring(&self, bell: u32) {
        let _ = hostcalls::enqueue_shared_queue(bell, Some(b"1"));
    }

    fn act_in(&self, context: u32) -> bool {
        hostcalls::set_effective_context(context).is_ok()
    }

    fn call(&self, callout: &Callout<'_>) -> Result<u32, CalloutError> {
        let headers = callout.headers.to_vec();
        hostcalls::dispatch_http_call(callout.cluster, headers, callout.body, Vec::new(), callout.timeout)
            .map_err(|_| CalloutError)
    }

    fn foreign(&self, function: &str, arguments: &[u8]) -> Option<Vec<u8>> {
        hostcalls::call_foreign_function(function, Some(arguments))
            .ok()
            .flatten()
    }

    fn random(&self, bytes: &mut [u8]) -> bool {
        getrandom::fill(bytes).is_ok()
    }

    fn wall(&self) -> Duration {
        hostcalls::get_current_time()
            .ok()
            .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
            .unwrap_or_default()
    }

    fn monotonic(&self) -> Duration {
        thread_local! {
            static START: std::time::Instant = std::time::Instant::now();
        }
        START.with(std::time::Instant::elapsed)
    }

    fn define_metric(&self, kind: MetricKind, name: &str) -> Option<u32> {
        let kind = match kind {
            MetricKind::Counter => MetricType::Counter,
            MetricKind::Gauge => MetricType::Gauge,
        };
        hostcalls::define_metric(kind, name).ok()
    }

    fn add_to_metric(&self, metric: u32, amount: i64) {
        let _ = hostcalls::increment_metric(metric, amount);
    }

    fn set_metric(&self, metric: u32, value: u64) {
        let _ = hostcalls::record_metric(metric, value);
    }
}
