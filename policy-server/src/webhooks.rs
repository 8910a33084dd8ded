//! Tells other systems of each change of an agent's state: signed, in order, and again until they have it.
//!
//! The form is that of Standard Webhooks: `webhook-id`, `webhook-timestamp`, and `webhook-signature`, an HMAC-SHA256 over both
//! and the body. What was told is stored, so that a restart goes on where it was; a change whose answer was lost is told
//! twice, with the same id. A receiver that does not answer holds up what comes after for itself, and for nobody else.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::{Client, Url, redirect};
use serde::Serialize;
use sha2::Sha256;
use tokio::sync::watch;

use crate::app::App;
use crate::cli::tls::{self, TlsError};
use crate::store::StoreError;
use crate::store::agents::AgentChange;

/// A receiver does its work later; one that does not answer by then is asked again.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Between two attempts, doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Changes read at once.
const CHANGES: u32 = 64;

/// Whom to tell.
#[derive(Clone)]
pub struct Webhook {
    /// Where it listens.
    pub url: Url,
    /// What signs.
    pub secret: Vec<u8>,
    /// The authority of its certificate (PEM), where it is `https`.
    pub authority: Option<Vec<u8>>,
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Webhook")
            .field("url", &self.url.as_str())
            .finish_non_exhaustive()
    }
}

/// Why a change was not told.
#[derive(Debug, thiserror::Error)]
enum TellError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the receiver cannot be reached: {0}")]
    Http(#[from] reqwest::Error),
    #[error("the receiver answered with status {0}")]
    Status(u16),
    #[error("a certificate cannot be used: {0}")]
    Tls(#[from] TlsError),
}

/// What a receiver is told.
#[derive(Debug, Serialize)]
struct Event<'a> {
    /// `agent.` and the state from then on.
    r#type: String,
    /// In seconds since 1970.
    timestamp: u64,
    data: Data<'a>,
}

#[derive(Debug, Serialize)]
struct Data<'a> {
    number: u64,
    agent_id: &'a str,
    change: &'static str,
    from: &'static str,
    to: &'static str,
    role: &'a str,
    by: &'a str,
    reason: &'a str,
    at: u64,
}

/// Tells one receiver until the server stops.
pub(crate) async fn run(app: Arc<App>, webhook: Webhook, mut stop: watch::Receiver<bool>) {
    let mut changes = app.feed.changes();
    let mut pause = FIRST_PAUSE;
    loop {
        let told = tokio::select! {
            told = tell(&app, &webhook) => told,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let again = match told {
            Ok(()) => {
                pause = FIRST_PAUSE;
                None
            }
            Err(error) => {
                app.metrics.webhook_failures.inc();
                tracing::warn!(%error, url = %webhook.url, "a change of an agent's state was not told");
                let again = pause;
                pause = (pause * 2).min(LONGEST_PAUSE);
                Some(again)
            }
        };
        tokio::select! {
            () = async { tokio::time::sleep(again.unwrap_or_default()).await }, if again.is_some() => {}
            // Every change makes a new state list.
            _ = changes.changed(), if again.is_none() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Tells all that has not been told.
async fn tell(app: &App, webhook: &Webhook) -> Result<(), TellError> {
    let mut told = app.store().webhook_told(webhook.url.as_str()).await?;
    loop {
        let changes = app.store().agent_changes_after(told, CHANGES).await?;
        if changes.is_empty() {
            return Ok(());
        }
        let client = client(webhook)?;
        for change in &changes {
            post(&client, webhook, change, app.clock.seconds()).await?;
            told = change.number;
            app.store().save_webhook_told(webhook.url.as_str(), told).await?;
        }
    }
}

fn client(webhook: &Webhook) -> Result<Client, TellError> {
    let tls = tls::client_config(webhook.authority.as_deref(), None, None)?;
    // What is told is for this receiver, and for none that it names.
    let client = Client::builder()
        .timeout(TIMEOUT)
        .redirect(redirect::Policy::none())
        .no_proxy()
        .tls_backend_preconfigured(tls);
    Ok(client.build()?)
}

async fn post(client: &Client, webhook: &Webhook, change: &AgentChange, now: u64) -> Result<(), TellError> {
    let id = format!("agent-change-{}", change.number);
    let body = body(change);
    let response = client
        .post(webhook.url.clone())
        .header("content-type", "application/json")
        .header("webhook-id", &id)
        .header("webhook-timestamp", now)
        .header("webhook-signature", signature(&webhook.secret, &id, now, &body))
        .body(body)
        .send()
        .await?;
    if response.status().is_success() {
        Ok(())
    } else {
        Err(TellError::Status(response.status().as_u16()))
    }
}

fn body(change: &AgentChange) -> String {
    let event = Event {
        r#type: format!("agent.{}", change.to),
        timestamp: change.at,
        data: Data {
            number: change.number,
            agent_id: change.agent.as_str(),
            change: change.change.as_str(),
            from: change.from.as_str(),
            to: change.to.as_str(),
            role: &change.role,
            by: &change.by,
            reason: &change.reason,
            at: change.at,
        },
    };
    // INVARIANT: a struct of strings and numbers always serialises.
    serde_json::to_string(&event).unwrap_or_default()
}

/// Version 1 of Standard Webhooks.
fn signature(secret: &[u8], id: &str, timestamp: u64, body: &str) -> String {
    // INVARIANT: an HMAC takes a key of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else {
        return String::new();
    };
    mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

/// Reads a secret as Standard Webhooks writes it: `whsec_` and 24 to 64 bytes as base64.
pub fn secret(text: &str) -> Option<Vec<u8>> {
    let bytes = STANDARD.decode(text.trim().strip_prefix("whsec_")?).ok()?;
    (24..=64).contains(&bytes.len()).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's own libraries.
    #[test]
    fn signatures_are_those_of_standard_webhooks() {
        let secret = secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n");
        let signed = secret.map(|secret| {
            signature(
                &secret,
                "msg_p5jXN8AQM9LWM0D4loKWxJek",
                1_614_265_330,
                r#"{"test": 2432232314}"#,
            )
        });
        assert_eq!(
            signed.as_deref(),
            Some("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")
        );
    }

    #[test]
    fn what_is_no_secret_is_none() {
        for text in [
            "",
            "whsec_",
            "whsec_AAAA",
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "whsec_!!!!",
        ] {
            assert_eq!(secret(text), None, "{text}");
        }
    }
}
