//! Calls that their callers break off: before the body, in it, while they wait, in the answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinSet;

use super::mix::{Budget, scattered};
use super::wire::{Begun, Http1, Http2, Request};
use crate::client::Client;

/// Envoy closes an HTTP/2 connection on which 500 streams were opened and most of them reset; leave before that.
const CALLS_A_CONNECTION: u64 = 400;

/// Callers at once on an HTTP/2 connection.
const CALLERS_A_CONNECTION: usize = 16;

/// The longest time before a caller gives up, in milliseconds.
const LONGEST_PATIENCE_MS: usize = 4;

/// An answer that takes longer than this is taken for one that never comes.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// Where a call is broken off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Break {
    /// After the headers; the body never starts.
    BeforeBody,
    /// After half of the body.
    InBody,
    /// After the whole request.
    BeforeAnswer,
    /// After the head of the answer.
    InAnswer,
}

const BREAKS: [Break; 4] = [Break::BeforeBody, Break::InBody, Break::BeforeAnswer, Break::InAnswer];

/// The calls of one service that are broken off.
#[derive(Debug, Clone)]
pub struct Target {
    /// Whom to call, as whom.
    pub client: Client,
    /// One with a body.
    pub with_body: Option<Request>,
    /// One whose answer never comes.
    pub hanging: Request,
    /// One whose answer never ends.
    pub endless: Request,
}

impl Target {
    /// What to send, and where to break off.
    fn pick(&self, number: u64) -> (&Request, Break) {
        let place = BREAKS.get(scattered(number, BREAKS.len())).copied();
        match (place, &self.with_body) {
            (Some(Break::InAnswer), _) => (&self.endless, Break::InAnswer),
            (Some(place @ (Break::BeforeBody | Break::InBody)), Some(request)) => (request, place),
            _ => (&self.hanging, Break::BeforeAnswer),
        }
    }
}

/// How many calls were broken off after a part of their answer had come.
#[derive(Debug, Default)]
pub struct Broken {
    /// All.
    pub calls: AtomicU64,
    /// Those that had been answered with a head.
    pub in_answer: AtomicU64,
}

/// Breaks calls off on `connections` HTTP/2 connections at once until the budget is used up.
///
/// # Errors
///
/// When no connection can be opened.
pub async fn http2(target: &Target, connections: usize, budget: &Budget, broken: &Arc<Broken>) -> Result<()> {
    let mut lanes = JoinSet::new();
    for _ in 0..connections {
        let (target, budget, broken) = (target.clone(), budget.clone(), broken.clone());
        lanes.spawn(async move {
            while break_off_on_one_connection(&target, &budget, &broken).await? {}
            anyhow::Ok(())
        });
    }
    while let Some(done) = lanes.join_next().await {
        done??;
    }
    Ok(())
}

/// False when the budget is used up.
async fn break_off_on_one_connection(target: &Target, budget: &Budget, broken: &Arc<Broken>) -> Result<bool> {
    let connection = Http2::open(&target.client).await?;
    let left = Arc::new(AtomicU64::new(CALLS_A_CONNECTION));
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS_A_CONNECTION {
        let (target, budget, broken) = (target.clone(), budget.clone(), broken.clone());
        let (connection, left) = (connection.clone(), left.clone());
        callers.spawn(async move {
            while left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                .is_ok()
            {
                let Some(number) = budget.next() else { return false };
                let (request, place) = target.pick(number);
                // A connection that Envoy closes breaks its calls off too.
                if let Ok(mut call) = connection.begin(request, number).await {
                    let answered = break_off(&mut call, request, place, number).await;
                    broken.in_answer.fetch_add(u64::from(answered), Ordering::Relaxed);
                }
                broken.calls.fetch_add(1, Ordering::Relaxed);
            }
            true
        });
    }
    let mut more = true;
    while let Some(done) = callers.join_next().await {
        more &= done?;
    }
    Ok(more)
}

async fn break_off(call: &mut Begun, request: &Request, place: Break, number: u64) -> bool {
    let sent = match place {
        Break::InBody => call
            .request
            .send_data(request.body.slice(..request.body.len() / 2), false),
        Break::BeforeAnswer | Break::InAnswer if !request.body.is_empty() => {
            call.request.send_data(request.body.clone(), true)
        }
        _ => Ok(()),
    };
    let answered = match place {
        Break::InAnswer => tokio::time::timeout(ANSWER_LIMIT, call.reply())
            .await
            .is_ok_and(|reply| reply.is_ok()),
        _ => false,
    };
    if sent.is_ok() && !answered {
        tokio::time::sleep(patience(number)).await;
    }
    call.reset();
    answered
}

/// Breaks calls off by closing HTTP/1.1 connections, `callers` at once, until the budget is used up.
///
/// # Errors
///
/// When no connection can be opened.
pub async fn http1(target: &Target, callers: usize, budget: &Budget, broken: &Arc<Broken>) -> Result<()> {
    let mut lanes = JoinSet::new();
    for _ in 0..callers {
        let (target, budget, broken) = (target.clone(), budget.clone(), broken.clone());
        lanes.spawn(async move {
            while let Some(number) = budget.next() {
                let answered = close_in_the_middle(&target, number).await?;
                broken.in_answer.fetch_add(u64::from(answered), Ordering::Relaxed);
                broken.calls.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = lanes.join_next().await {
        done??;
    }
    Ok(())
}

async fn close_in_the_middle(target: &Target, number: u64) -> Result<bool> {
    let (request, place) = target.pick(number);
    let bytes = request.bytes(number);
    let head_bytes = bytes.len() - request.body.len();
    let sent = match place {
        Break::BeforeBody => head_bytes,
        Break::InBody => head_bytes + request.body.len() / 2,
        Break::BeforeAnswer | Break::InAnswer => bytes.len(),
    };
    let mut connection = Http1::new(target.client.clone());
    connection.write(bytes.get(..sent).unwrap_or_default()).await?;
    if place == Break::InAnswer {
        let head = tokio::time::timeout(ANSWER_LIMIT, connection.read_head()).await;
        return Ok(head.is_ok_and(|head| head.is_ok()));
    }
    tokio::time::sleep(patience(number)).await;
    Ok(false)
}

/// A moment that differs from call to call.
fn patience(number: u64) -> Duration {
    Duration::from_millis(scattered(number.rotate_left(7), LONGEST_PATIENCE_MS + 1) as u64)
}
