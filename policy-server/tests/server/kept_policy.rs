//! The policy that records name: kept as it was signed, told to auditors, and deleted only where no record names it.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use crate::support::{ANALYST, AUDITOR, MCP, NOW, Place, Server, WAREHOUSE, read};
use authz::audit::{Chain, Kind as RecordKind, Record, SourceId};
use authz::log::note::NoteKey;
use authz::log::policy::{Kind, PolicyKeys};
use authz::policy::Version;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use policy_server::store::policy::SignedPolicy;
use serde_json::{Value, json};

const ORIGIN: &str = "cluster.local/ns/ostiary/sa/policy-server";

async fn text(server: &Server, path: &str) -> String {
    let answer = server.send(read(path, AUDITOR)).await;
    assert_eq!(answer.status, StatusCode::OK, "{path}: {answer:?}");
    String::from_utf8(answer.body).unwrap()
}

async fn policy_keys(server: &Server) -> PolicyKeys {
    let keys: Vec<NoteKey> = server.app.log.keys().iter().map(|key| key.public().clone()).collect();
    let note = text(server, "/v1/log/policy/keys").await;
    PolicyKeys::verify(&note, &keys, ORIGIN).unwrap()
}

/// What a workload is told, in its newest format.
async fn told(server: &Server, workload: &str) -> (String, String) {
    let answer = server.poll(workload, "formats=1,2,3,4,5").await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    (answer.text("bundle").unwrap(), answer.text("state").unwrap())
}

fn path(kind: Kind, version: Version) -> String {
    format!("/v1/log/policy/{}/{version}", kind.as_str())
}

#[tokio::test]
async fn what_sidecars_were_told_is_there_after_a_restart_as_it_was_signed() {
    let place = Place::new();
    let server = Server::start(&place).await;
    let keys = policy_keys(&server).await;
    let (bundle, state) = told(&server, WAREHOUSE).await;
    let (other, _) = told(&server, ANALYST).await;
    server.stop().await;

    let server = Server::start(&place).await;
    for jws in [&bundle, &other] {
        let head = keys.bundle(jws).unwrap();
        assert_eq!(text(&server, &path(Kind::Bundle, head.version)).await, *jws);
        assert!(!head.pages.is_empty());
        for page in head.pages {
            let found = text(&server, &format!("/v1/log/policy/page/{page}")).await;
            assert_eq!(authz::policy::PageDigest::of(found.as_bytes()), page);
        }
    }
    let version = keys.state(&state).unwrap().version();
    assert_eq!(text(&server, &path(Kind::State, version)).await, state);

    let known = path(Kind::State, version);
    let refused = server.send(read(&known, ANALYST)).await;
    assert_eq!(
        (refused.status, refused.code()),
        (StatusCode::FORBIDDEN, "role_missing".to_owned())
    );
    let never = Version { epoch: 9, counter: 9 };
    for absent in [
        path(Kind::Bundle, never),
        path(Kind::State, never),
        "/v1/log/policy/state/01.1".to_owned(),
        "/v1/log/policy/page/AAAA".to_owned(),
        format!("/v1/log/policy/secret/{version}"),
    ] {
        let answer = server.send(read(&absent, AUDITOR)).await;
        assert_eq!(
            (answer.status, answer.code()),
            (StatusCode::NOT_FOUND, "policy_unknown".to_owned()),
            "{absent}"
        );
    }
    server.stop().await;
}

fn claims(jws: &str) -> Value {
    let payload = jws.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

/// Whoever reads the log is not to open other agents' sessions.
#[tokio::test]
async fn keys_of_sessions_are_told_to_the_sidecar_and_never_kept() {
    let place = Place::new();
    let server = Server::start(&place).await;
    let (bundle, _) = told(&server, MCP).await;
    let version = policy_keys(&server).await.bundle(&bundle).unwrap().version;
    let kept = text(&server, &path(Kind::Bundle, version)).await;
    assert_eq!(policy_keys(&server).await.bundle(&kept).unwrap().version, version);
    let mut told = claims(&bundle);
    let keys = told.as_object_mut().unwrap().remove("session_keys");
    assert!(keys.is_some_and(|keys| keys != json!([])));
    assert_eq!(claims(&kept), told, "all else is the same");
    server.stop().await;
}

#[tokio::test]
async fn policy_that_a_record_names_is_never_deleted_and_other_policy_is() {
    let place = Place::new();
    let server = Server::start(&place).await;
    let keys = policy_keys(&server).await;
    let (bundle, jws) = told(&server, WAREHOUSE).await;
    let (bundle, state) = (
        keys.bundle(&bundle).unwrap().version,
        keys.state(&jws).unwrap().version(),
    );

    let mut chain = Chain::new(SourceId([1; 16]));
    let mut lines = Vec::new();
    for record in [
        Record::source(NOW * 1000, WAREHOUSE, None),
        Record {
            bundle: Some(bundle.to_string().into()),
            state: Some(state.to_string().into()),
            workload: Some(WAREHOUSE.into()),
            ..Record::new(RecordKind::Completion, NOW * 1000)
        },
    ] {
        lines.extend(chain.seal(&record).line);
        lines.push(b'\n');
    }
    assert_eq!(server.records(WAREHOUSE, lines).await.status, StatusCode::OK);
    assert!(server.app.traces.reach(2, Duration::from_secs(30)).await);

    let store = server.app.store();
    let older = SignedPolicy {
        kind: Kind::State,
        version: Version { epoch: 0, counter: 1 },
        signed_at: NOW - 1,
        jws: jws.into(),
        pages: Default::default(),
        may_be_named: false,
    };
    let late = SignedPolicy {
        version: Version { epoch: 0, counter: 2 },
        may_be_named: true,
        ..older.clone()
    };
    store.keep_policy(&[older.clone(), late.clone()]).await.unwrap();
    assert_eq!(store.forget_policy(NOW - 1).await.unwrap(), 0, "nothing is that old");
    assert!(store.kept_policy(Kind::State, older.version).await.unwrap().is_some());
    assert_eq!(store.forget_policy(NOW).await.unwrap(), 1);
    assert!(store.kept_policy(Kind::State, older.version).await.unwrap().is_none());
    assert!(store.kept_policy(Kind::State, late.version).await.unwrap().is_some());
    store.forget_policy(NOW + 1).await.unwrap();
    for (kind, version) in [(Kind::Bundle, bundle), (Kind::State, state)] {
        assert!(store.kept_policy(kind, version).await.unwrap().is_some(), "{version}");
    }
    server.stop().await;
}
