//! One kind in one namespace, or in all: listed, watched, and listed again after every trouble.

use std::error::Error;
use std::pin::pin;

use futures_util::StreamExt;
use kube::api::{Api, DynamicObject};
use kube::runtime::watcher::{self, Config, DefaultBackoff, Event, watcher};
use tokio::sync::mpsc;

use super::AT_MOST;

/// How long a watch may last before it is asked for anew; and so, with a margin, how long one that has fallen silent is
/// taken for one on which nothing happens.
const WATCH_SECONDS: u32 = 45;

/// What the API server says; or that it says nothing, and why.
pub(super) type News = Result<Event<DynamicObject>, String>;

/// Tells what the API server says, until nobody listens any more.
///
/// After a trouble everything is listed again, after a pause that grows: a whole list is what tells that it is over, since
/// a watch that goes on where it broke off says nothing until something changes.
pub(super) async fn run(stream: usize, api: Api<DynamicObject>, news: mpsc::Sender<(usize, News)>) {
    let mut pauses = DefaultBackoff::default();
    while let Some(trouble) = until_trouble(stream, &api, &news).await {
        tracing::warn!(trouble, kind = %api.resource_url(), "the API server does not say what the policy is");
        if news.send((stream, Err(trouble))).await.is_err() {
            return;
        }
        tokio::time::sleep(pauses.next().unwrap_or(AT_MOST)).await;
    }
}

/// What ended the watch; `None` if nobody listens any more.
async fn until_trouble(stream: usize, api: &Api<DynamicObject>, news: &mpsc::Sender<(usize, News)>) -> Option<String> {
    let mut events = pin!(watcher(api.clone(), Config::default().timeout(WATCH_SECONDS)));
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => news.send((stream, Ok(event))).await.ok()?,
            // The watch lost its place in the log; the next thing that it does is to list.
            Err(watcher::Error::WatchError(status)) if status.code == 410 => {}
            Err(error) => return Some(describe(&error)),
        }
    }
    Some("the watch ended".to_owned())
}

/// The outermost and the innermost of an error; what is between says the same in other words.
fn describe(error: &watcher::Error) -> String {
    let what = match error {
        watcher::Error::InitialListFailed(_) => "cannot list",
        watcher::Error::WatchStartFailed(_) | watcher::Error::WatchError(_) | watcher::Error::WatchFailed(_) => {
            "cannot watch"
        }
        watcher::Error::NoResourceVersion => "not a list of an API server",
    };
    let status = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status),
        _ => None,
    };
    match status {
        Some(status) => format!("{what}: {} ({})", status.message.trim(), status.code),
        None => match innermost(error) {
            Some(innermost) => format!("{what}: {innermost}"),
            None => what.to_owned(),
        },
    }
}

fn innermost(error: &dyn Error) -> Option<&dyn Error> {
    let mut innermost = error.source()?;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    Some(innermost)
}
