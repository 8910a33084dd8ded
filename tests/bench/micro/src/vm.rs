//! Runs the functions in Envoy: each request names one, and is answered with how long it took.
//!
//! - `/ID?milliseconds=M&rounds=R` finds out how often the function runs in M milliseconds, then runs it so often R
//!   times over and answers `{"iterations": N, "nanoseconds": [a run's time in each round]}`.
//! - `/ID?times=N` runs it N times and answers nothing, for those who read Envoy's CPU time themselves.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, MapType};
use serde_json::json;

use crate::works::Work;

/// The longest that one request may keep its worker busy, in milliseconds a round, and in rounds.
const MOST: (u64, u64) = (2_000, 100);

thread_local! {
    /// The function that was asked for last: preparing one may take longer than running it.
    static READY: RefCell<Option<(String, Work)>> = const { RefCell::new(None) };
}

/// The plugin.
pub(crate) struct Root;

impl Context for Root {}

impl RootContext for Root {
    fn create_http_context(&self, _context_id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Request))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

struct Request;

impl Context for Request {}

impl HttpContext for Request {
    fn on_http_request_headers(&mut self, _num_headers: usize, _end_of_stream: bool) -> Action {
        let path = hostcalls::get_map_value_bytes(MapType::HttpRequestHeaders, ":path");
        let path = path.ok().flatten().unwrap_or_default();
        let (status, body) = match answer(&String::from_utf8_lossy(&path)) {
            Ok(body) => (200, body),
            Err(error) => (500, format!("{error:#}")),
        };
        let _ = hostcalls::send_http_response(status, Vec::new(), Some(body.as_bytes()));
        Action::Pause
    }
}

fn answer(path: &str) -> Result<String> {
    let (id, query) = path.trim_start_matches('/').split_once('?').context("no query")?;
    let number = |name: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let value = pairs.find(|(key, _)| *key == name).map(|(_, value)| value);
        value.and_then(|value| value.parse::<u64>().ok())
    };
    READY.with_borrow_mut(|ready| {
        let work = match ready {
            Some((name, work)) if name == id => work,
            _ => &mut ready.insert((id.to_owned(), Work::prepare(id)?)).1,
        };
        match (number("times"), number("milliseconds"), number("rounds")) {
            (Some(times), None, None) => {
                ensure!(repeat(work, times), "{id} does not do its work");
                Ok(String::new())
            }
            (None, Some(milliseconds), Some(rounds)) if milliseconds <= MOST.0 && rounds <= MOST.1 => {
                timed(work, Duration::from_millis(milliseconds), rounds)
            }
            _ => bail!("ask for `times`, or for `milliseconds` and `rounds`"),
        }
    })
}

fn timed(work: &mut Work, length: Duration, rounds: u64) -> Result<String> {
    let mut iterations = 1;
    loop {
        let took = clock(work, iterations)?;
        if took * 2 >= length || iterations >= 1 << 40 {
            break;
        }
        iterations *= 2;
    }
    let runs = (0..rounds).map(|_| Ok(clock(work, iterations)?.as_secs_f64() * 1e9 / iterations as f64));
    let nanoseconds = runs.collect::<Result<Vec<f64>>>()?;
    Ok(json!({"iterations": iterations, "nanoseconds": nanoseconds}).to_string())
}

fn clock(work: &mut Work, iterations: u64) -> Result<Duration> {
    let start = Instant::now();
    ensure!(repeat(work, iterations), "the work is not done");
    Ok(start.elapsed())
}

fn repeat(work: &mut Work, times: u64) -> bool {
    let mut done = true;
    for _ in 0..times {
        done &= work.run();
    }
    done
}
