//! Webhooks: what a receiver is told of agents' states, and when.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::{NOW, Place, Server};
use authz::state::transition::Change;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, StatusCode};
use serde_json::Value;
use sha2::Sha256;

const SECRET: &[u8] = b"a secret of thirty-two bytes.....";

/// A receiver, and what it was told; the first answers are failures.
#[derive(Clone, Default)]
struct Receiver {
    told: Arc<Mutex<Vec<(String, Value)>>>,
    failures: Arc<Mutex<u32>>,
}

impl Receiver {
    async fn listen(&self, place: &Place) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/hook", post(receive)).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        std::fs::write(place.path("hook.key"), format!("whsec_{}\n", STANDARD.encode(SECRET))).unwrap();
        place.configure(&format!(
            "webhooks:\n- {{ url: \"http://{address}/hook\", secret: hook.key }}\n"
        ));
    }

    /// Waits until so many have been told, and gives their ids and states.
    async fn told(&self, count: usize) -> Vec<(String, String)> {
        for _ in 0..3000 {
            let told = self.told.lock().unwrap().clone();
            if told.len() >= count {
                let state = |event: &Value| event["type"].as_str().unwrap().to_owned();
                return told.iter().map(|(id, event)| (id.clone(), state(event))).collect();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not told: {:?}", self.told.lock().unwrap());
    }
}

async fn receive(State(receiver): State<Receiver>, headers: HeaderMap, body: Bytes) -> StatusCode {
    {
        let mut failures = receiver.failures.lock().unwrap();
        if *failures > 0 {
            *failures -= 1;
            return StatusCode::INTERNAL_SERVER_ERROR;
        }
    }
    let header = |name: &str| headers[name].to_str().unwrap().to_owned();
    let (id, timestamp) = (header("webhook-id"), header("webhook-timestamp"));
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET).unwrap();
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(&body);
    let expected = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
    if header("webhook-signature") != expected {
        return StatusCode::UNAUTHORIZED;
    }
    let event = serde_json::from_slice(&body).unwrap();
    receiver.told.lock().unwrap().push((id, event));
    StatusCode::NO_CONTENT
}

fn pairs(told: &[(String, String)]) -> Vec<(&str, &str)> {
    told.iter().map(|(id, state)| (id.as_str(), state.as_str())).collect()
}

#[tokio::test]
async fn changes_are_told_signed_in_order_and_again_until_they_arrive() {
    let place = Place::new();
    let receiver = Receiver::default();
    let analyst = "analyst-7".parse().unwrap();
    // What happened before there was a webhook is not told.
    let server = Server::start(&place).await;
    server.change(&analyst, Change::Pause).await;
    server.change(&analyst, Change::Approve).await;
    server.stop().await;
    receiver.listen(&place).await;
    *receiver.failures.lock().unwrap() = 2;
    let server = Server::start(&place).await;
    // Once it is known, or what happens now would be of before.
    let url = server.app.config.webhooks[0].url.clone();
    server.app.store().webhook_told(url.as_str()).await.unwrap();
    server.change(&analyst, Change::Suspend).await;
    server.change(&analyst, Change::Kill).await;
    let told = receiver.told(2).await;
    let expected = [
        ("agent-change-3", "agent.suspended"),
        ("agent-change-4", "agent.killed"),
    ];
    assert_eq!(pairs(&told), expected);
    assert_eq!(*receiver.failures.lock().unwrap(), 0, "it was told again");
    let event = receiver.told.lock().unwrap()[0].1.clone();
    assert_eq!(
        (&event["data"]["from"], &event["data"]["by"], &event["data"]["reason"]),
        (&"active".into(), &"alice".into(), &"a test".into())
    );
    assert_eq!(event["timestamp"], NOW);
    // So that what was told is known, as at an end in order.
    while server.app.store().webhook_told(url.as_str()).await.unwrap() < 4 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.stop().await;

    let server = Server::start(&place).await;
    server.change(&analyst, Change::Resume).await;
    let told = receiver.told(3).await;
    assert_eq!(
        pairs(&told)[2..],
        [("agent-change-5", "agent.active")],
        "and nothing twice"
    );
    server.stop().await;
}

#[tokio::test]
async fn a_webhook_that_cannot_be_used_is_refused_at_the_start() {
    let place = Place::new();
    std::fs::write(place.path("hook.key"), format!("whsec_{}", STANDARD.encode(SECRET))).unwrap();
    std::fs::write(place.path("short.key"), "whsec_AAAA").unwrap();
    for (hook, field) in [
        ("{ url: \"ftp://a/\", secret: hook.key }", "webhooks[0].url"),
        ("{ url: \"https://a/\", secret: hook.key }", "webhooks[0].ca"),
        ("{ url: \"http://a/\", secret: short.key }", "webhooks[0].secret"),
        ("{ url: \"http://a/\", secret: none.key }", "webhooks[0].secret"),
    ] {
        place.configure(&format!("webhooks:\n- {hook}\n"));
        let error = policy_server::config::Config::load(&place.config())
            .unwrap_err()
            .to_string();
        assert!(error.contains(field), "{error}");
    }
    place.configure("webhooks:\n- { url: \"http://a/\", secret: hook.key }\n");
    assert!(policy_server::config::Config::load(&place.config()).is_ok());
}
