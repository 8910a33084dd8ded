//! The Merkle log: what becomes of it is what was acknowledged, and who may read it.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::borrow::Cow;
use std::path::Path;
use std::str::FromStr as _;

use crate::support::{
    ANALYST, AUDITOR, NOW, Place, Server, Source, WAREHOUSE, assert_the_tree_is_whole, read, records,
};
use authz::audit::{Chain, Kind, Record, Sealed, SourceId};
use authz::digest::Digest;
use authz::log::checkpoint::SignedCheckpoint;
use authz::log::note::NoteKey;
use authz::log::tile::{entries, hashes};
use authz::log::tree::{Frontier, leaf_hash};
use authz::log::{proof, receipt};
use authz::request::Side;
use axum::body::Body;
use http::{Request, StatusCode};
use policy_server::app::{App, StartError};
use policy_server::clock::Clock;
use policy_server::config::Config;
use policy_server::log::LogError;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Row as _, SqliteConnection};

const CALL: &str = "AAAAAAAAAAAAAAAAAAAAAA";

async fn get(server: &Server, path: &str) -> Vec<u8> {
    let answer = server.send(read(path, AUDITOR)).await;
    assert_eq!(answer.status, StatusCode::OK, "{path}: {answer:?}");
    answer.body
}

async fn signed(server: &Server) -> SignedCheckpoint {
    let note = String::from_utf8(get(server, "/v1/log/checkpoint").await).unwrap();
    SignedCheckpoint::verify(&note, &keys(server)).unwrap()
}

fn keys(server: &Server) -> Vec<NoteKey> {
    server.app.log.keys().iter().map(|key| key.public().clone()).collect()
}

/// Posts so many records of a source, in batches as large as may be.
async fn post(server: &Server, source: &mut Source, mut count: usize) {
    while count > 0 {
        let batch = count.min(500);
        let answer = server.records(WAREHOUSE, source.batch(batch)).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        count -= batch;
    }
}

#[tokio::test]
async fn what_is_acknowledged_is_in_the_tree_once() {
    let place = Place::new();
    let server = Server::start(&place).await;
    assert_eq!(signed(&server).await.checkpoint.size, 0, "the empty log is signed");
    let mut source = Source::new(1, WAREHOUSE);
    let first = source.batch(300);
    for _ in 0..2 {
        let answer = server.records(WAREHOUSE, first.clone()).await;
        assert_eq!(answer.status, StatusCode::OK, "again, after a lost answer");
    }
    let mut fork = Source::new(1, WAREHOUSE).telling(2);
    fork.line();
    let refused = server.records(WAREHOUSE, fork.batch(5)).await;
    assert_eq!(refused.code(), "chain_fork");
    assert_eq!(server.records(WAREHOUSE, source.batch(7)).await.status, StatusCode::OK);
    assert_the_tree_is_whole(&server.app).await;

    let checkpoint = server.app.log.sign().await.unwrap();
    assert_eq!(checkpoint.head.size, 307);
    let told = signed(&server).await;
    assert_eq!((told.checkpoint.size, told.seconds), (307, NOW));
    assert_eq!(told.checkpoint.origin, "cluster.local/ns/ostiary/sa/policy-server");
    assert_the_tree_is_whole(&server.app).await;
    server.stop().await;
}

#[tokio::test]
async fn the_tree_goes_on_after_a_restart_and_the_key_stays() {
    let place = Place::new();
    let mut source = Source::new(1, WAREHOUSE);
    let mut before: Option<(Vec<NoteKey>, SignedCheckpoint)> = None;
    for round in 1..=3_u64 {
        let server = Server::start(&place).await;
        post(&server, &mut source, 255).await;
        server.app.log.sign().await.unwrap();
        let now = signed(&server).await;
        assert_eq!(now.checkpoint.size, round * 255);
        if let Some((keys_before, older)) = before.take() {
            assert_eq!(keys(&server), keys_before);
            let (old, new) = (older.checkpoint, &now.checkpoint);
            let path = proof::consistency_path(old.size, new.size).unwrap();
            let path = server.app.store().tree_hashes(&path).await.unwrap();
            proof::verify_consistency((old.size, &old.root), (new.size, &new.root), &path).unwrap();
        }
        before = Some((keys(&server), now));
        assert_the_tree_is_whole(&server.app).await;
        server.stop().await;
    }
}

#[tokio::test]
async fn what_was_accepted_last_is_signed_when_the_server_stops() {
    let place = Place::new();
    let server = Server::start(&place).await;
    post(&server, &mut Source::new(1, WAREHOUSE), 9).await;
    server.stop().await;
    let server = Server::start(&place).await;
    let last = server.app.store().latest_checkpoint().await.unwrap().unwrap();
    assert_eq!(last.head.size, 9);
    server.stop().await;
}

#[tokio::test]
async fn tiles_and_entries_are_where_c2sp_has_them() {
    let place = Place::new();
    let server = Server::start(&place).await;
    post(&server, &mut Source::new(1, WAREHOUSE), 600).await;
    server.app.log.sign().await.unwrap();
    let root = signed(&server).await.checkpoint.root;

    let mut tree = Frontier::new();
    let mut tops: Vec<Digest> = Vec::new();
    for (tile, bundle) in [
        ("0/000", "entries/000"),
        ("0/001", "entries/001"),
        ("0/002.p/88", "entries/002.p/88"),
    ] {
        let tile = get(&server, &format!("/v1/log/tile/{tile}")).await;
        let bundle = get(&server, &format!("/v1/log/tile/{bundle}")).await;
        let leaves: Vec<_> = entries(&bundle).unwrap().into_iter().map(leaf_hash).collect();
        assert_eq!(hashes(&tile).collect::<Vec<_>>(), leaves);
        let mut subtree = Frontier::new();
        subtree.extend(leaves.iter().copied());
        tops.push(subtree.root());
        tree.extend(leaves);
    }
    assert_eq!(tree.root(), root);
    let level_1 = get(&server, "/v1/log/tile/1/000.p/2").await;
    assert_eq!(hashes(&level_1).collect::<Vec<_>>(), tops[..2]);
    // What has grown since is shown as it was, too.
    assert_eq!(get(&server, "/v1/log/tile/0/000.p/1").await.len(), 32);
    let answer = server.send(read("/v1/log/tile/0/000", AUDITOR)).await;
    assert_eq!(answer.headers["content-type"], "application/octet-stream");
    assert_eq!(answer.headers["cache-control"], "private, max-age=31536000, immutable");

    for path in [
        "0/002",
        "0/002.p/89",
        "0/003",
        "1/000",
        "2/000.p/1",
        "entries/002",
        "entries/003.p/1",
        "data/000",
        "0/0",
        "0/000.p/256",
        "64/000",
    ] {
        let answer = server.send(read(&format!("/v1/log/tile/{path}"), AUDITOR)).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (404, "tile_unknown"),
            "{path}"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn only_auditors_read_the_log_and_that_they_did_is_written_down() {
    let place = Place::new();
    let server = Server::start(&place).await;
    let receipts = format!("/v1/receipts/{CALL}");
    for path in [
        "/v1/log/checkpoint",
        "/v1/log/checkpoints?size=0",
        "/v1/log/keys",
        "/v1/log/tile/0/000.p/1",
        &receipts,
    ] {
        let answer = server.send(read(path, ANALYST)).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (403, "role_missing"),
            "{path}"
        );
        let nobody = Request::get(path).body(Body::empty()).unwrap();
        assert_eq!(server.send(nobody).await.status, StatusCode::UNAUTHORIZED, "{path}");
    }
    for query in ["", "?size=x", "?from=1", "?size=1&size=2"] {
        let answer = server.send(read(&format!("/v1/log/checkpoints{query}"), AUDITOR)).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{query}");
    }
    get(&server, "/v1/log/checkpoint").await;
    get(&server, "/v1/log/checkpoint").await;
    let key = String::from_utf8(get(&server, "/v1/log/keys").await).unwrap();
    assert_eq!(NoteKey::from_str(key.trim_end()).unwrap(), keys(&server)[0]);
    server.stop().await;

    let mut database = database(&place.path("data")).await;
    let rows = sqlx::query("SELECT principal, what, hour, count FROM log_reads ORDER BY what")
        .fetch_all(&mut database)
        .await
        .unwrap();
    let counted: Vec<(String, String, i64, i64)> = rows
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2), row.get(3)))
        .collect();
    let hour = i64::try_from(NOW / 3600).unwrap();
    let row = |what: &str, count| (AUDITOR.to_owned(), what.to_owned(), hour, count);
    // The requests that were malformed are among them.
    assert_eq!(counted, [row("checkpoint", 6), row("keys", 1)]);
}

async fn database(data: &Path) -> SqliteConnection {
    SqliteConnectOptions::new()
        .filename(data.join("ostiary.db"))
        .connect()
        .await
        .unwrap()
}

fn call_record(side: Side, call: &str, kind: Kind) -> Record<'static> {
    Record {
        call: Some(Cow::Owned(call.to_owned())),
        side: Some(side),
        workload: Some(Cow::Borrowed(WAREHOUSE)),
        ..Record::new(kind, NOW * 1000)
    }
}

fn lines(sealed: &[Sealed]) -> Vec<u8> {
    sealed
        .iter()
        .flat_map(|sealed| sealed.line.iter().copied().chain([b'\n']))
        .collect()
}

#[tokio::test]
async fn a_receipt_proves_both_sides_of_a_call_at_once() {
    let place = Place::new();
    let server = Server::start(&place).await;
    post(&server, &mut Source::new(9, WAREHOUSE), 300).await;
    for (id, side) in [(1, Side::Outbound), (2, Side::Inbound)] {
        let mut chain = Chain::new(SourceId([id; 16]));
        let mut sealed = vec![chain.seal(&Record::source(NOW * 1000, WAREHOUSE, None))];
        for (call, kind) in [
            (CALL, Kind::Decision),
            ("AAAAAAAAAAAAAAAAAAAAAQ", Kind::Decision),
            (CALL, Kind::Completion),
        ] {
            sealed.push(chain.seal(&call_record(side, call, kind)));
        }
        let answer = server.send(records(WAREHOUSE, lines(&sealed))).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    }
    let bytes = get(&server, &format!("/v1/receipts/{CALL}")).await;
    let proven = receipt::verify(&bytes, &keys(&server)).unwrap();
    let told: Vec<_> = proven
        .records
        .iter()
        .map(|included| (included.index, included.record.side.unwrap(), included.record.kind))
        .collect();
    assert_eq!(
        told,
        [
            (301, Side::Outbound, Kind::Decision),
            (303, Side::Outbound, Kind::Completion),
            (305, Side::Inbound, Kind::Decision),
            (307, Side::Inbound, Kind::Completion),
        ]
    );
    assert_eq!(proven.signed.checkpoint.size, 308);
    let unknown = server.send(read("/v1/receipts/AAAAAAAAAAAAAAAAAAAAAg", AUDITOR)).await;
    assert_eq!(
        (unknown.status.as_u16(), unknown.code().as_str()),
        (404, "call_unknown")
    );
    server.stop().await;
}

#[tokio::test]
async fn checkpoints_are_mirrored_and_a_rolled_back_database_is_not_served() {
    let place = Place::new();
    place.configure("audit: { mirror: mirror }\n");
    let server = Server::start(&place).await;
    let mut source = Source::new(1, WAREHOUSE);
    post(&server, &mut source, 10).await;
    server.stop().await;
    // A copy of the database of a server that is not running is a database.
    let (database, older) = (place.path("data/ostiary.db"), place.path("older.db"));
    std::fs::copy(&database, &older).unwrap();

    let server = Server::start(&place).await;
    post(&server, &mut source, 10).await;
    let log_keys = keys(&server);
    server.stop().await;
    let note = std::fs::read_to_string(place.path("mirror/checkpoint")).unwrap();
    assert_eq!(SignedCheckpoint::verify(&note, &log_keys).unwrap().checkpoint.size, 20);
    let kept: Vec<_> = std::fs::read_dir(place.path("mirror/checkpoints")).unwrap().collect();
    assert_eq!(kept.len(), 1, "one an hour");

    for name in ["ostiary.db-wal", "ostiary.db-shm"] {
        let _ = std::fs::remove_file(place.path("data").join(name));
    }
    std::fs::copy(&older, &database).unwrap();
    let error = start_error(&place).await;
    assert!(
        matches!(
            &error,
            StartError::Log(LogError::RolledBack {
                size: 10,
                signed: 20,
                ..
            })
        ),
        "{error}"
    );

    // As many records again, but others.
    place.configure("");
    let server = Server::start(&place).await;
    let mut other = Source::new(2, WAREHOUSE);
    post(&server, &mut other, 10).await;
    server.stop().await;
    place.configure("audit: { mirror: mirror }\n");
    let error = start_error(&place).await;
    assert!(
        matches!(
            &error,
            StartError::Log(LogError::RolledBack {
                size: 20,
                signed: 20,
                ..
            })
        ),
        "{error}"
    );

    std::fs::remove_file(place.path("data/keys/log.json")).unwrap();
    let error = start_error(&place).await;
    assert!(matches!(&error, StartError::Log(LogError::ForeignMirror(_))), "{error}");
}

async fn start_error(place: &Place) -> StartError {
    let config = Config::load(&place.config()).unwrap();
    App::start(config, Clock::from_millis(|| NOW * 1000)).await.unwrap_err()
}

#[tokio::test]
async fn a_mirror_that_cannot_be_written_stops_nothing_and_is_made_up_for() {
    let place = Place::new();
    place.configure("audit: { mirror: mirror }\n");
    std::fs::write(place.path("mirror"), "in the way").unwrap();
    let server = Server::start(&place).await;
    post(&server, &mut Source::new(1, WAREHOUSE), 10).await;
    server.app.log.sign().await.unwrap();
    std::fs::remove_file(place.path("mirror")).unwrap();
    server.app.log.sign().await.unwrap();
    let note = std::fs::read_to_string(place.path("mirror/checkpoint")).unwrap();
    assert_eq!(
        SignedCheckpoint::verify(&note, &keys(&server)).unwrap().checkpoint.size,
        10
    );
    server.stop().await;
}

#[tokio::test]
async fn the_next_key_signs_beside_the_one_before_it() {
    let place = Place::new();
    let server = Server::start(&place).await;
    let old = keys(&server);
    server.stop().await;
    policy_server::signer::Signer::make(&place.path("data/keys"), "log").unwrap();
    let server = Server::start(&place).await;
    post(&server, &mut Source::new(1, WAREHOUSE), 1).await;
    server.app.log.sign().await.unwrap();
    let note = String::from_utf8(get(&server, "/v1/log/checkpoint").await).unwrap();
    let both = keys(&server);
    assert_eq!(both.len(), 2);
    for key in both.iter().chain(&old) {
        assert!(
            SignedCheckpoint::verify(&note, std::slice::from_ref(key)).is_ok(),
            "{key}"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn a_tree_that_does_not_grow_is_signed_again_after_an_hour() {
    let place = Place::new();
    let server = Server::start(&place).await;
    post(&server, &mut Source::new(1, WAREHOUSE), 3).await;
    let first = server.app.log.sign().await.unwrap();
    server.advance(3599);
    assert_eq!(server.app.log.sign().await.unwrap(), first);
    server.advance(1);
    let again = server.app.log.sign().await.unwrap();
    assert_eq!((again.head, again.seconds), (first.head, NOW + 3600));
    server.stop().await;
}

#[tokio::test]
async fn a_database_from_before_the_log_gets_its_tree() {
    let place = Place::new();
    let server = Server::start(&place).await;
    post(&server, &mut Source::new(1, WAREHOUSE), 1500).await;
    let mut chain = Chain::new(SourceId([2; 16]));
    let sealed = [
        chain.seal(&Record::source(NOW * 1000, WAREHOUSE, None)),
        chain.seal(&call_record(Side::Inbound, CALL, Kind::Decision)),
    ];
    server.send(records(WAREHOUSE, lines(&sealed))).await;
    let head = server.app.store().tree().await.unwrap();
    server.stop().await;
    let mut database = database(&place.path("data")).await;
    for statement in [
        "DROP TABLE tiles",
        "DROP TABLE tree",
        "DROP TABLE checkpoints",
        "DROP TABLE calls",
        "DROP TABLE log_reads",
        "DELETE FROM _sqlx_migrations WHERE version IN (3, 11)",
    ] {
        sqlx::query(statement).execute(&mut database).await.unwrap();
    }
    drop(database);
    let server = Server::start(&place).await;
    assert_eq!(server.app.store().tree().await.unwrap(), head);
    assert_eq!(head.size, 1502);
    assert_the_tree_is_whole(&server.app).await;
    let bytes = get(&server, &format!("/v1/receipts/{CALL}")).await;
    assert_eq!(receipt::verify(&bytes, &keys(&server)).unwrap().records.len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn tiles_of_an_older_database_are_taken_over() {
    let place = Place::new();
    let server = Server::start(&place).await;
    let mut source = Source::new(1, WAREHOUSE);
    post(&server, &mut source, 600).await;
    let head = server.app.store().tree().await.unwrap();
    server.stop().await;
    let mut database = database(&place.path("data")).await;
    for statement in [
        "CREATE TABLE older (level INTEGER NOT NULL, tile INTEGER NOT NULL, hashes BLOB NOT NULL,
         PRIMARY KEY (level, tile)) STRICT, WITHOUT ROWID",
        "INSERT INTO older SELECT * FROM tiles",
        "DROP TABLE tiles",
        "ALTER TABLE older RENAME TO tiles",
        "DELETE FROM _sqlx_migrations WHERE version = 11",
    ] {
        sqlx::query(statement).execute(&mut database).await.unwrap();
    }
    drop(database);
    let server = Server::start(&place).await;
    assert_eq!(server.app.store().tree().await.unwrap(), head);
    post(&server, &mut source, 300).await;
    assert_the_tree_is_whole(&server.app).await;
    server.stop().await;
}

#[tokio::test]
async fn the_database_refuses_to_rewrite_the_tree() {
    let place = Place::new();
    let server = Server::start(&place).await;
    post(&server, &mut Source::new(1, WAREHOUSE), 3).await;
    server.app.log.sign().await.unwrap();
    server.stop().await;
    let mut database = database(&place.path("data")).await;
    for statement in [
        "DELETE FROM tiles",
        "UPDATE tiles SET hashes = substr(hashes, 1, 64)",
        "UPDATE tiles SET hashes = zeroblob(96)",
        "UPDATE tiles SET tile = 1",
        "DELETE FROM checkpoints",
        "UPDATE checkpoints SET root = zeroblob(32)",
    ] {
        let refused = sqlx::query(statement).execute(&mut database).await;
        assert!(refused.is_err(), "{statement}");
    }
}
