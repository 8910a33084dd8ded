//! The contract of [`Store`], held against every store there is.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use authz::identity::{AgentId, KeyId};
use authz::jwks::{Jwk, PublicKey};
use authz::policy::Version;
use authz::state::AgentState;
use authz::state::transition::{Change, Role};
use authz::successor::Operation;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use policy_server::keys::{KeyKind, KeyState};
use policy_server::store::agents::{AgentChange, AskedChange, ChangeOutcome, Revocation};
use policy_server::store::sqlite::SqliteStore;
use policy_server::store::work::{EndWork, MOST_LISTED, Work, WorkEnded};
use policy_server::store::{
    Appended, Batch, BatchRecord, IssuedToken, KeyChange, LiveClaims, LiveTokens, Refusal, Refused, States, Store,
    StoredKey, Stream,
};
use sqlx::ConnectOptions as _;
use sqlx::sqlite::SqliteConnectOptions;

const WORKLOAD: &str = "spiffe://cluster.local/ns/data/sa/warehouse";
const OTHER: &str = "spiffe://cluster.local/ns/data/sa/reports";

/// How a test ends the store that it has before it opens it again.
#[derive(Clone, Copy)]
enum End {
    /// Closed in order.
    Closed,
    /// Left open for ever, as a killed process leaves its files.
    Killed,
}

async fn reopen(store: SqliteStore, path: &Path, end: End) -> SqliteStore {
    match end {
        End::Closed => store.close().await.unwrap(),
        End::Killed => std::mem::forget(store),
    }
    SqliteStore::open(path).await.unwrap()
}

fn batch(source: &str, workload: &str, first_seq: u64, prev: Option<u8>, hashes: &[u8]) -> Batch {
    let records = hashes
        .iter()
        .map(|hash| BatchRecord {
            hash: [*hash; 32],
            canonical: vec![*hash; 10],
            call: None,
        })
        .collect();
    Batch {
        source: source.to_owned(),
        workload: workload.parse().unwrap(),
        first_seq,
        prev_hash: prev.map(|hash| [hash; 32]),
        records,
    }
}

async fn append(store: &dyn Store, batch: Batch) -> Result<Appended, Refused> {
    store.append(&[batch], 1).await.unwrap().remove(0)
}

fn appended(accepted_through: u64, new_records: u64, position: u64) -> Result<Appended, Refused> {
    Ok(Appended {
        accepted_through,
        new_records,
        position,
    })
}

/// SQLite ends a transaction by itself when a disk is full or fails, here by a trigger; the driver goes on counting it.
#[tokio::test]
async fn a_transaction_that_the_database_ended_does_not_stop_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ostiary.db");
    let store = SqliteStore::open(&path).await.unwrap();
    let options = SqliteConnectOptions::new().filename(&path);
    let mut other = options.connect().await.unwrap();
    let trigger = "CREATE TRIGGER fault BEFORE INSERT ON versions BEGIN SELECT RAISE(ROLLBACK, 'a fault'); END";
    sqlx::query(trigger).execute(&mut other).await.unwrap();
    assert!(store.reserve_versions(Stream::Bundle, 1).await.is_err());
    sqlx::query("DROP TRIGGER fault").execute(&mut other).await.unwrap();
    store.reserve_versions(Stream::Bundle, 1).await.unwrap();
}

#[tokio::test]
async fn nobody_but_its_owner_reads_the_database() {
    let folder = tempfile::tempdir().unwrap();
    let _store = SqliteStore::open(&folder.path().join("ostiary.db")).await.unwrap();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", entry.path().display());
    }
}

#[tokio::test]
async fn versions_rise_across_restarts_and_epochs() {
    for end in [End::Closed, End::Killed] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ostiary.db");
        let mut store = SqliteStore::open(&path).await.unwrap();
        let mut last = store.reserve_versions(Stream::Bundle, 10).await.unwrap();
        assert_eq!(last.to_string(), "1.1");
        for _ in 0..3 {
            store = reopen(store, &path, end).await;
            let next = store.reserve_versions(Stream::Bundle, 10).await.unwrap();
            assert_eq!((next.epoch, next.counter), (last.epoch, last.counter + 10));
            last = next;
        }
        assert_eq!(
            store.reserve_versions(Stream::State, 1).await.unwrap().counter,
            1,
            "streams count apart"
        );
        assert_eq!(store.new_epoch(0).await.unwrap(), 2);
        store = reopen(store, &path, end).await;
        assert!(store.reserve_versions(Stream::Bundle, 1).await.unwrap() > last);
    }
}

#[tokio::test]
async fn records_survive_and_a_chain_goes_on_after_a_restart() {
    for end in [End::Closed, End::Killed] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ostiary.db");
        let store = SqliteStore::open(&path).await.unwrap();
        assert_eq!(
            append(&store, batch("s", WORKLOAD, 0, None, &[1, 2, 3])).await,
            appended(2, 3, 3)
        );
        let store = reopen(store, &path, end).await;
        assert_eq!(
            append(&store, batch("s", WORKLOAD, 3, Some(3), &[4])).await,
            appended(3, 1, 4)
        );
        assert_eq!(store.record_count().await.unwrap(), 4);
        let records = store.records("s", 1, 2).await.unwrap();
        let seen: Vec<_> = records
            .iter()
            .map(|r| (r.position, r.seq, r.hash[0], r.canonical.clone()))
            .collect();
        assert_eq!(seen, [(2, 1, 2, vec![2; 10]), (3, 2, 3, vec![3; 10])]);
    }
}

#[tokio::test]
async fn what_is_stored_is_acknowledged_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("ostiary.db")).await.unwrap();
    let first = batch("s", WORKLOAD, 0, None, &[1, 2, 3]);
    assert_eq!(append(&store, first.clone()).await, appended(2, 3, 3));
    assert_eq!(append(&store, first).await, appended(2, 0, 3));
    assert_eq!(
        append(&store, batch("s", WORKLOAD, 1, Some(1), &[2])).await,
        appended(1, 0, 3),
        "an old piece"
    );
    assert_eq!(
        append(&store, batch("s", WORKLOAD, 1, Some(1), &[2, 3, 4, 5])).await,
        appended(4, 2, 5),
        "an overlap"
    );
    assert_eq!(store.record_count().await.unwrap(), 5);
}

/// Where the log ends is remembered from one commit to the next, and must not be after one that failed.
#[tokio::test]
async fn a_commit_that_fails_leaves_nothing_behind() {
    for ends in ["ROLLBACK", "ABORT", "FAIL"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ostiary.db");
        let store = SqliteStore::open(&path).await.unwrap();
        append(&store, batch("s", WORKLOAD, 0, None, &[1])).await.unwrap();
        let mut other = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
        // The last that is written of a group.
        let trigger = format!("CREATE TRIGGER fault BEFORE UPDATE ON tiles BEGIN SELECT RAISE({ends}, 'a fault'); END");
        sqlx::query(sqlx::AssertSqlSafe(trigger))
            .execute(&mut other)
            .await
            .unwrap();
        let next = batch("s", WORKLOAD, 1, Some(1), &[2, 3]);
        assert!(store.append(std::slice::from_ref(&next), 1).await.is_err(), "{ends}");
        assert_eq!(store.record_count().await.unwrap(), 1, "{ends}");
        sqlx::query("DROP TRIGGER fault").execute(&mut other).await.unwrap();
        store.reserve_versions(Stream::Bundle, 1).await.unwrap();
        assert_eq!(append(&store, next).await, appended(2, 2, 3), "{ends}");
        assert_eq!(store.tree().await.unwrap().size, 3, "{ends}");
    }
}

#[tokio::test]
async fn what_another_process_appended_is_not_written_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ostiary.db");
    let store = SqliteStore::open(&path).await.unwrap();
    append(&store, batch("s", WORKLOAD, 0, None, &[1])).await.unwrap();
    let other = SqliteStore::open(&path).await.unwrap();
    append(&other, batch("s", WORKLOAD, 1, Some(1), &[2])).await.unwrap();
    let next = batch("s", WORKLOAD, 1, Some(1), &[9]);
    assert!(store.append(std::slice::from_ref(&next), 1).await.is_err());
    assert_eq!(append(&store, next).await, Err(Refused::Fork));
    assert_eq!(
        append(&store, batch("s", WORKLOAD, 2, Some(2), &[3])).await,
        appended(2, 1, 3)
    );
    assert_eq!(store.tree().await.unwrap().size, 3);
}

/// Commits leave it to another connection to move what they wrote.
#[tokio::test]
async fn what_is_committed_is_moved_into_the_database() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ostiary.db");
    let store = SqliteStore::open(&path).await.unwrap();
    let length = || std::fs::metadata(&path).unwrap().len();
    let before = length();
    append(&store, batch("s", WORKLOAD, 0, None, &[1; 512])).await.unwrap();
    while length() == before {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(
        append(&store, batch("s", WORKLOAD, 512, Some(1), &[2])).await,
        appended(512, 1, 513)
    );
}

#[tokio::test]
async fn forks_gaps_and_foreign_sources_are_refused_and_store_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("ostiary.db")).await.unwrap();
    append(&store, batch("s", WORKLOAD, 0, None, &[1, 2, 3])).await.unwrap();
    for (offered, refused) in [
        (batch("s", WORKLOAD, 2, Some(2), &[9]), Refused::Fork),
        (batch("s", WORKLOAD, 1, Some(1), &[2, 9, 4]), Refused::Fork),
        (batch("s", WORKLOAD, 3, Some(9), &[4]), Refused::Fork),
        (batch("s", WORKLOAD, 3, None, &[4]), Refused::Fork),
        (batch("s", WORKLOAD, 0, None, &[9]), Refused::Fork),
        (batch("s", WORKLOAD, 4, Some(4), &[5]), Refused::Gap),
        (batch("t", WORKLOAD, 1, Some(1), &[2]), Refused::Gap),
        (batch("s", OTHER, 3, Some(3), &[4]), Refused::ForeignSource),
        (batch("s", OTHER, 0, None, &[1, 2, 3]), Refused::ForeignSource),
    ] {
        assert_eq!(append(&store, offered.clone()).await, Err(refused), "{offered:?}");
    }
    assert_eq!(store.record_count().await.unwrap(), 3);
    assert_eq!(
        append(&store, batch("s", WORKLOAD, 3, Some(3), &[4])).await,
        appended(3, 1, 4)
    );
}

#[tokio::test]
async fn a_refused_batch_does_not_take_others_of_its_group_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("ostiary.db")).await.unwrap();
    let group = [
        batch("a", WORKLOAD, 0, None, &[1]),
        batch("b", WORKLOAD, 5, Some(1), &[1]),
        batch("a", WORKLOAD, 1, Some(1), &[2]),
        batch("c", OTHER, 0, None, &[1; 512]),
        batch("a", WORKLOAD, 0, None, &[1, 2, 3]),
    ];
    let answers = store.append(&group, 1).await.unwrap();
    assert_eq!(
        answers,
        [
            appended(0, 1, 1),
            Err(Refused::Gap),
            appended(1, 1, 2),
            appended(511, 512, 514),
            appended(2, 1, 515)
        ]
    );
    assert_eq!(store.record_count().await.unwrap(), 515);
}

#[tokio::test]
async fn records_cannot_be_changed_or_deleted_through_the_schema() {
    use sqlx::Connection;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ostiary.db");
    let store = SqliteStore::open(&path).await.unwrap();
    append(&store, batch("s", WORKLOAD, 0, None, &[1])).await.unwrap();
    let mut connection = sqlx::SqliteConnection::connect(path.to_str().unwrap()).await.unwrap();
    assert!(
        sqlx::query("UPDATE records SET record = x'00'")
            .execute(&mut connection)
            .await
            .is_err()
    );
    assert!(
        sqlx::query("DELETE FROM records")
            .execute(&mut connection)
            .await
            .is_err()
    );
}

fn asked(agent: &str, change: Change, at: u64) -> AskedChange {
    AskedChange {
        agent: agent.parse().unwrap(),
        change,
        roles: vec![Role::Operator],
        by: "alice".to_owned(),
        reason: format!("{change} at {at}"),
        at,
    }
}

async fn change(store: &SqliteStore, agent: &str, change: Change, at: u64) -> AgentChange {
    match store.change_agent(&asked(agent, change, at)).await.unwrap().unwrap() {
        ChangeOutcome::Changed(change) => change,
        already => panic!("{already:?}"),
    }
}

fn revocation(jti: &str, at: u64, latest_expiry: u64) -> Revocation {
    Revocation {
        jti: jti.parse().unwrap(),
        by: "alice".to_owned(),
        reason: "leaked".to_owned(),
        at,
        latest_expiry,
    }
}

#[tokio::test]
async fn states_are_set_cleared_and_forgotten_when_they_mean_nothing_any_more() {
    for end in [End::Closed, End::Killed] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ostiary.db");
        let store = SqliteStore::open(&path).await.unwrap();
        assert_eq!(store.states(1000, 300).await.unwrap(), States::default());
        let (paused, killed): (AgentId, AgentId) = ("analyst-7".parse().unwrap(), "writer-2".parse().unwrap());
        change(&store, "analyst-7", Change::Suspend, 1000).await;
        // The clock is set back: what was dead stays dead.
        change(&store, "analyst-7", Change::Resume, 900).await;
        change(&store, "analyst-7", Change::Pause, 901).await;
        change(&store, "writer-2", Change::Kill, 1002).await;
        let revoked = store.revoke(&revocation("jti-1", 1000, 1200)).await.unwrap();
        assert_eq!((revoked.agent_id, revoked.expires_at), (None, 1200));
        let store = reopen(store, &path, end).await;
        let states = store.states(1000, 300).await.unwrap();
        assert_eq!(
            states.agents,
            [
                (paused.clone(), AgentState::Paused),
                (killed.clone(), AgentState::Killed)
            ]
            .into()
        );
        assert_eq!(
            states.not_before,
            [(paused.clone(), 1001), (killed.clone(), 1003)].into(),
            "a time never moves back"
        );
        assert_eq!(states.revoked, [("jti-1".parse().unwrap(), 1200)].into());
        let later = store.states(1204, 300).await.unwrap();
        assert_eq!(
            (later.revoked.len(), later.not_before.len()),
            (1, 2),
            "sidecars accept a token for the skew longer"
        );
        let later = store.states(1308, 300).await.unwrap();
        assert_eq!((later.revoked.len(), later.not_before.len()), (0, 0));
        change(&store, "analyst-7", Change::Approve, 1300).await;
        assert_eq!(
            store.states(1300, 300).await.unwrap().agents,
            [(killed, AgentState::Killed)].into()
        );
    }
}

#[tokio::test]
async fn changes_of_agents_are_recorded_and_what_the_table_refuses_leaves_no_trace() {
    for end in [End::Closed, End::Killed] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ostiary.db");
        let store = SqliteStore::open(&path).await.unwrap();
        let paused = change(&store, "analyst-7", Change::Pause, 10).await;
        assert_eq!((paused.number, paused.not_before), (1, None));
        let again = store
            .change_agent(&asked("analyst-7", Change::Pause, 11))
            .await
            .unwrap();
        assert_eq!(again, Ok(ChangeOutcome::Already(AgentState::Paused)));
        for (roles, change) in [
            (vec![Role::RiskEngine], Change::Approve),
            (vec![Role::Reviewer], Change::Kill),
            (vec![Role::Operator], Change::Resume),
            (vec![], Change::Approve),
        ] {
            let refused = AskedChange {
                roles,
                ..asked("analyst-7", change, 12)
            };
            assert!(store.change_agent(&refused).await.unwrap().is_err(), "{refused:?}");
        }
        let suspended = change(&store, "analyst-7", Change::Suspend, 13).await;
        assert_eq!(
            (suspended.from, suspended.to),
            (AgentState::Paused, AgentState::Suspended)
        );
        let other = change(&store, "writer-2", Change::Kill, 14).await;
        let store = reopen(store, &path, end).await;
        let analyst = "analyst-7".parse().unwrap();
        let changes = store.agent_changes(&analyst, 9).await.unwrap();
        assert_eq!(changes, [suspended.clone(), paused]);
        assert_eq!(changes[0].not_before, Some(14));
        assert_eq!(
            (
                changes[0].role.as_str(),
                changes[0].by.as_str(),
                changes[0].reason.as_str()
            ),
            ("operator", "alice", "suspend at 13")
        );
        assert_eq!(store.agent_changes(&analyst, 1).await.unwrap().len(), 1);
        assert_eq!(store.last_agent_changes().await.unwrap(), [suspended, other]);
    }
}

#[tokio::test]
async fn changes_and_revocations_cannot_be_changed_or_deleted_through_the_schema() {
    use sqlx::Connection;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ostiary.db");
    let store = SqliteStore::open(&path).await.unwrap();
    change(&store, "analyst-7", Change::Pause, 10).await;
    store.revoke(&revocation("jti-1", 1000, 1200)).await.unwrap();
    let mut connection = sqlx::SqliteConnection::connect(path.to_str().unwrap()).await.unwrap();
    for statement in [
        "UPDATE agent_changes SET reason = 'another'",
        "DELETE FROM agent_changes",
        "UPDATE revocations SET reason = 'another'",
        "DELETE FROM revocations",
    ] {
        assert!(
            sqlx::query(statement).execute(&mut connection).await.is_err(),
            "{statement}"
        );
    }
}

/// Whoever comes second meets the state that the first one left, never the one that it saw.
#[tokio::test]
async fn of_two_changes_at_once_the_second_starts_from_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("ostiary.db")).await.unwrap();
    change(&store, "analyst-7", Change::Pause, 10).await;
    let (approve, kill) = (
        asked("analyst-7", Change::Approve, 11),
        asked("analyst-7", Change::Kill, 11),
    );
    let (approved, killed) = tokio::join!(store.change_agent(&approve), store.change_agent(&kill));
    assert!(killed.unwrap().is_ok(), "a kill happens from any state");
    let approved_first = approved.unwrap().is_ok();
    let changes = store.agent_changes(&"analyst-7".parse().unwrap(), 9).await.unwrap();
    assert_eq!(changes[0].to, AgentState::Killed);
    assert_eq!(changes.len(), if approved_first { 3 } else { 2 });
    assert_eq!(changes[0].from == AgentState::Active, approved_first);
}

/// What a token says, as far as this store is concerned.
fn says() -> LiveClaims {
    LiveClaims {
        sub: "spiffe://cluster.local/ns/agents/sa/analyst-7".to_owned(),
        claims: "{}".to_owned(),
    }
}

#[tokio::test]
async fn what_live_tokens_of_an_operation_say_is_kept_and_nothing_of_others() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("ostiary.db")).await.unwrap();
    for (jti, operation, expires_at) in [
        ("a", "o", 1300),
        ("b", "o", 1200),
        ("c", "o", 1100),
        ("d", "other", 1300),
    ] {
        let says = LiveClaims {
            claims: jti.to_owned(),
            ..says()
        };
        let issued = store.issued(&token(jti, operation, "t", expires_at), &says).await;
        issued.unwrap().unwrap();
    }
    let of = |sub: &str| Operation {
        sub: sub.parse().unwrap(),
        operation_id: "o".parse().unwrap(),
    };
    let own = of(&says().sub);
    assert_eq!(store.live_claims(&own, 1000, 9).await.unwrap(), ["a", "b", "c"]);
    assert_eq!(store.live_claims(&own, 1000, 2).await.unwrap(), ["a", "b"]);
    assert_eq!(store.live_claims(&own, 1100, 9).await.unwrap(), ["a", "b"]);
    let stranger = of("spiffe://cluster.local/ns/agents/sa/writer-2");
    assert_eq!(store.live_claims(&stranger, 1000, 9).await.unwrap(), [""; 0]);
    store.revoke(&revocation("a", 1000, 1300)).await.unwrap();
    assert_eq!(
        store.live_claims(&own, 1000, 9).await.unwrap(),
        ["b", "c"],
        "without those that are dead"
    );
    let later = IssuedToken {
        issued_at: 1250,
        ..token("e", "o", "t", 1400)
    };
    store.issued(&later, &says()).await.unwrap().unwrap();
    let kept = store.live_claims(&own, 0, 9).await.unwrap();
    assert_eq!(
        kept,
        ["{}"],
        "what has expired is forgotten, and what is revoked not told"
    );
}

#[tokio::test]
async fn a_token_is_recorded_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("ostiary.db")).await.unwrap();
    let token = IssuedToken {
        jti: "j".into(),
        agent_id: "analyst-7".into(),
        operation_id: "o".into(),
        txn: "t".into(),
        issued_by: "i".into(),
        issued_at: 1,
        expires_at: 2,
    };
    store.issued(&token, &says()).await.unwrap().unwrap();
    assert!(store.issued(&token, &says()).await.is_err(), "a nonce is used once");
    let revoked = store.revoke(&revocation("j", 1, 300)).await.unwrap();
    assert_eq!(
        (revoked.agent_id.as_deref(), revoked.expires_at),
        (Some("analyst-7"), 2),
        "it is listed until its own end"
    );
    let refusal = Refusal {
        principal: "p".into(),
        code: "role_missing",
        hour: 1,
        count: 2,
    };
    store.refused(&[refusal.clone(), refusal]).await.unwrap();
    store.probe().await.unwrap();
}

/// A point of the curve, so that it is a key; which one does not matter.
const POINTS: [&str; 3] = [
    "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    "PUAXw-hDiVqStwqnTRt-vJyYLM8uxJaMwM1V8Sr0Zgw",
    "_FHNjmIYoaONpH7QAjDwWAgW7RO6MwOsXeuRFUiQgCU",
];

fn key(number: usize, state: KeyState) -> KeyChange {
    let x = URL_SAFE_NO_PAD.decode(POINTS[number]).unwrap().try_into().unwrap();
    let kid = KeyId::parse(&format!("k{number}")).unwrap();
    KeyChange {
        key: StoredKey {
            kind: KeyKind::Token,
            state,
            public: Jwk::new(kid, PublicKey::Ed25519(x)).unwrap(),
            since: 7,
            until: (state == KeyState::Retiring).then_some(9),
            from: Version { epoch: 0, counter: 0 },
        },
        from_now: false,
    }
}

#[tokio::test]
async fn keys_change_all_or_not_and_one_of_a_kind_signs() {
    for end in [End::Closed, End::Killed] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ostiary.db");
        let mut store = SqliteStore::open(&path).await.unwrap();
        let states = async |store: &SqliteStore| {
            let keys = store.keys().await.unwrap().into_iter();
            keys.map(|key| (key.kid().to_string(), key.state)).collect::<Vec<_>>()
        };
        let start = [key(0, KeyState::Signing), key(1, KeyState::Next)];
        store.change_keys(&start).await.unwrap();
        for refused in [
            vec![key(2, KeyState::Retired), key(1, KeyState::Signing)],
            vec![key(2, KeyState::Next)],
        ] {
            assert!(store.change_keys(&refused).await.is_err());
            store = reopen(store, &path, end).await;
            let before = [("k0".to_owned(), KeyState::Signing), ("k1".to_owned(), KeyState::Next)];
            assert_eq!(states(&store).await, before);
        }
        let switch = [key(0, KeyState::Retiring), key(1, KeyState::Signing)];
        store.change_keys(&switch).await.unwrap();
        store = reopen(store, &path, end).await;
        let keys = store.keys().await.unwrap();
        assert_eq!(keys, [switch[0].key.clone(), switch[1].key.clone()]);
        assert_eq!(SqliteStore::peek_keys(&path).await.unwrap(), keys);
    }
    assert_eq!(SqliteStore::peek_keys(Path::new("nowhere.db")).await.unwrap(), []);
}

#[tokio::test]
async fn a_key_is_stamped_with_the_first_version_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("ostiary.db")).await.unwrap();
    let stamped = async |number| {
        let change = KeyChange {
            from_now: true,
            ..key(number, KeyState::Retired)
        };
        store.change_keys(&[change]).await.unwrap();
        let keys = store.keys().await.unwrap();
        let name = format!("k{number}");
        keys.iter()
            .find(|key| key.kid().as_str() == name)
            .unwrap()
            .from
            .to_string()
    };
    assert_eq!(stamped(0).await, "1.1");
    store.reserve_versions(Stream::Bundle, 10).await.unwrap();
    store.reserve_versions(Stream::State, 99).await.unwrap();
    assert_eq!(stamped(1).await, "1.11");
    assert_eq!(store.reserve_versions(Stream::Bundle, 1).await.unwrap().counter, 11);
    store.new_epoch(0).await.unwrap();
    assert_eq!(stamped(2).await, "2.12");
}

#[tokio::test]
async fn live_tokens_are_counted_by_when_they_were_issued() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("ostiary.db")).await.unwrap();
    for (jti, issued_at, expires_at) in [("a", 10, 20), ("b", 15, 40), ("c", 20, 30)] {
        let text = String::from;
        let token = IssuedToken {
            jti: text(jti),
            agent_id: text("analyst-7"),
            operation_id: text("o"),
            txn: text("t"),
            issued_by: text("i"),
            issued_at,
            expires_at,
        };
        store.issued(&token, &says()).await.unwrap().unwrap();
    }
    let live = |count, last_expires_at| LiveTokens { count, last_expires_at };
    assert_eq!(store.live_tokens(19, 20).await.unwrap(), live(3, Some(40)));
    assert_eq!(store.live_tokens(20, 20).await.unwrap(), live(2, Some(40)));
    assert_eq!(store.live_tokens(19, 10).await.unwrap(), live(1, Some(20)));
    assert_eq!(store.live_tokens(40, 99).await.unwrap(), live(0, None));
}

fn token(jti: &str, operation_id: &str, txn: &str, expires_at: u64) -> IssuedToken {
    IssuedToken {
        jti: jti.to_owned(),
        agent_id: "analyst-7".to_owned(),
        operation_id: operation_id.to_owned(),
        txn: txn.to_owned(),
        issued_by: "i".to_owned(),
        issued_at: 1000,
        expires_at,
    }
}

fn end(work: Work, at: u64, refused_until: Option<u64>) -> EndWork {
    EndWork {
        work,
        by: "alice".to_owned(),
        reason: "why".to_owned(),
        at,
        refused_until,
    }
}

/// They are written down together. What befalls one is no other's, be it in the same group or not.
#[tokio::test]
async fn tokens_that_are_asked_for_at_once_are_each_recorded_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("ostiary.db")).await.unwrap();
    store
        .issued(&token("taken", "o", "t", 1300), &says())
        .await
        .unwrap()
        .unwrap();
    let operation = end(Work::Operation("ended".to_owned()), 1000, None);
    store.end_work(&operation).await.unwrap();
    let asked: Vec<_> = (0..300)
        .map(|number| match number % 100 {
            50 => token("taken", "o", "t", 1300),
            70 => token(&format!("j{number}"), "ended", "t", 1300),
            _ => token(&format!("j{number}"), "o", "t", 1300),
        })
        .collect();
    let says = says();
    // One that asks first hangs up at once.
    let hung_up = token("hung-up", "o", "t", 1300);
    drop(tokio::time::timeout(Duration::ZERO, store.issued(&hung_up, &says)).await);
    let answers = join_all(asked.iter().map(|token| store.issued(token, &says))).await;
    for (token, answer) in asked.iter().zip(answers) {
        match (token.jti.as_str(), token.operation_id.as_str()) {
            ("taken", _) => assert!(answer.is_err(), "a nonce is used once"),
            (_, "ended") => assert_eq!(answer.unwrap(), Err(Work::Operation("ended".to_owned()))),
            (jti, _) => {
                answer.unwrap().unwrap();
                let known = store.token(&jti.parse().unwrap()).await.unwrap();
                assert!(known.is_some(), "{jti}");
            }
        }
    }
}

/// Of what is ended every live token dies, and nothing else; and no other is issued.
#[tokio::test]
async fn ended_work_has_no_live_token_and_gets_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ostiary.db");
    let store = SqliteStore::open(&path).await.unwrap();
    for issued in [
        token("a", "report", "t1", 1300),
        token("b", "report", "t2", 1400),
        token("old", "report", "t1", 900),
        token("c", "other", "t1", 1300),
    ] {
        store.issued(&issued, &says()).await.unwrap().unwrap();
    }
    let operation = end(Work::Operation("report".to_owned()), 1000, Some(1305));
    let ended = |tokens, last_expires_at| WorkEnded::Ended {
        tokens,
        last_expires_at,
    };
    assert_eq!(store.end_work(&operation).await.unwrap(), ended(2, Some(1400)));
    let revoked = async |now| -> Vec<String> {
        let states = store.states(now, 300).await.unwrap();
        states.revoked.keys().map(ToString::to_string).collect()
    };
    assert_eq!(revoked(1000).await, ["a", "b"]);
    assert_eq!(
        store.end_work(&operation).await.unwrap(),
        ended(0, None),
        "they are dead already"
    );
    let refused = store.issued(&token("d", "report", "t3", 1300), &says()).await.unwrap();
    assert_eq!(refused, Err(Work::Operation("report".to_owned())));
    let later = IssuedToken {
        issued_at: 1305,
        ..token("d", "report", "t3", 1600)
    };
    store.issued(&later, &says()).await.unwrap().unwrap();

    let request = end(Work::Txn("t1".to_owned()), 1000, None);
    assert_eq!(store.end_work(&request).await.unwrap(), ended(1, Some(1300)));
    assert_eq!(revoked(1000).await, ["a", "b", "c"]);
    let for_ever = IssuedToken {
        issued_at: 9_000_000,
        ..token("e", "other", "t1", 9_000_300)
    };
    assert_eq!(
        store.issued(&for_ever, &says()).await.unwrap(),
        Err(Work::Txn("t1".to_owned()))
    );
    let known = store.token(&"a".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!((known.issued.txn.as_str(), known.revoked), ("t1", true));
    let known = store.token(&"d".parse().unwrap()).await.unwrap().unwrap();
    assert!(!known.revoked);
    assert_eq!(
        store.token(&"e".parse().unwrap()).await.unwrap(),
        None,
        "it was never issued"
    );
    store.close().await.unwrap();

    let mut raw = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
    let noted: Vec<(String, String)> = sqlx::query_as("SELECT jti, revoked_by FROM revocations ORDER BY jti")
        .fetch_all(&mut raw)
        .await
        .unwrap();
    let jtis: Vec<_> = noted.iter().map(|(jti, by)| (jti.as_str(), by.as_str())).collect();
    assert_eq!(jtis, [("a", "alice"), ("b", "alice"), ("c", "alice")]);
    for statement in ["UPDATE ended_work SET reason = 'another'", "DELETE FROM ended_work"] {
        assert!(sqlx::raw_sql(statement).execute(&mut raw).await.is_err(), "{statement}");
    }
}

/// A list that is too long would be refused by every sidecar: then nothing is ended, and nothing is stored.
#[tokio::test]
async fn work_with_too_many_tokens_is_not_ended_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ostiary.db");
    let store = SqliteStore::open(&path).await.unwrap();
    let mut raw = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
    let fill = format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {})
         INSERT INTO issued SELECT 'jti-' || i, 'analyst-7', 'o', 't' || (i = 1), 'i', 1000, 1300 FROM n",
        MOST_LISTED + 1
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(fill))
        .execute(&mut raw)
        .await
        .unwrap();
    let all = end(Work::Operation("o".to_owned()), 1000, Some(1305));
    let tokens = MOST_LISTED + 1;
    assert_eq!(store.end_work(&all).await.unwrap(), WorkEnded::TooMany { tokens });
    assert!(store.states(1000, 300).await.unwrap().revoked.is_empty());
    store
        .issued(&token("more", "o", "t", 1300), &says())
        .await
        .unwrap()
        .unwrap();
    let one = end(Work::Txn("t1".to_owned()), 1000, None);
    let last_expires_at = Some(1300);
    assert_eq!(
        store.end_work(&one).await.unwrap(),
        WorkEnded::Ended {
            tokens: 1,
            last_expires_at
        }
    );
}
