//! A verifier that is not ours, Go's `golang.org/x/mod/sumdb`, agrees with our checkpoints, tiles and proofs. Needs Go and,
//! the first time, its module proxy; no cluster.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a failure here is a failed test")]

use std::path::Path;
use std::process::Command;

use authz::audit::{Chain, Kind, Record, SourceId};
use serde_json::json;
use tests::client::Call;
use tests::loopback::Loopback;
use tests::pki::Ca;
use tests::policy_server::{Options, PolicyServer};
use tests::run::RunDirectory;
use tests::sidecar::POLICY_AUTHORITY;

const AUDITOR: &str = "spiffe://cluster.local/ns/audit/sa/auditor";
const WAREHOUSE: &str = "spiffe://cluster.local/ns/data/sa/warehouse";
const CALL: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// Trees that end within, at the end of and just after a tile, and one with a second level.
const SIZES: [usize; 5] = [1, 255, 256, 257, 1000];

async fn send(server: &PolicyServer, call: Call, peer: &str) -> Vec<u8> {
    let xfcc = format!("By={};URI={peer}", PolicyServer::workload().spiffe());
    let answer = server
        .direct()
        .send(call.header("x-forwarded-client-cert", xfcc))
        .await
        .unwrap();
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    answer.body.to_vec()
}

async fn get(server: &PolicyServer, path: &str) -> Vec<u8> {
    send(server, Call::new("GET", POLICY_AUTHORITY, path), AUDITOR).await
}

/// Posts so many records, the last of them of the call; the server signs them before it answers for a receipt.
async fn post(server: &PolicyServer, chain: &mut Chain, first: usize, end: usize) {
    let records: Vec<usize> = (first..end).collect();
    for batch in records.chunks(500) {
        let mut body = Vec::new();
        for index in batch {
            let mut record = Record::source(1_800_000_000_000, WAREHOUSE, None);
            if *index > 0 {
                record.kind = Kind::Decision;
            }
            record.call = (index + 1 == end).then(|| CALL.into());
            body.extend(chain.seal(&record).line);
            body.push(b'\n');
        }
        let call = Call::new("POST", POLICY_AUTHORITY, "/v1/records")
            .header("ostiary-callout", "1")
            .header("content-type", "application/x-ndjson")
            .body(body);
        send(server, call, WAREHOUSE).await;
    }
}

/// Keeps what the server answers at a path below its log's, as a file of that path.
async fn keep(server: &PolicyServer, folder: &Path, path: &str) {
    let file = folder.join(path);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, get(server, &format!("/v1/log/{path}")).await).unwrap();
}

async fn keep_tiles(server: &PolicyServer, folder: &Path, size: usize) {
    for (kind, hashes) in [("entries", size), ("0", size), ("1", size / 256)] {
        for tile in 0..hashes.div_ceil(256) {
            let partial = match hashes - tile * 256 {
                256.. => String::new(),
                width => format!(".p/{width}"),
            };
            keep(server, folder, &format!("tile/{kind}/{tile:03}{partial}")).await;
        }
    }
}

/// Runs Go's verifier on a folder.
fn verify(folder: &Path, key: &str) -> std::process::Output {
    Command::new("go")
        .args(["run", ".", folder.to_str().unwrap(), key])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("sumdb"))
        .output()
        .expect("Go is needed to hold the log against Go's own verifier: put `go` 1.26 on the PATH")
}

#[tokio::test]
async fn the_verifier_of_gos_checksum_database_agrees() {
    let run = RunDirectory::create("log").unwrap();
    let ca = Ca::create(run.path()).unwrap();
    let net = Loopback::claim().unwrap();
    let options = Options {
        policy: tests::built::mesh_files().join("policy"),
        roles: vec![(AUDITOR.to_owned(), vec!["auditor".to_owned()])],
        config: json!({}),
    };
    let server = PolicyServer::start_alone(&options, &ca, &net, &run).await.unwrap();
    let key = String::from_utf8(get(&server, "/v1/log/keys").await).unwrap();
    let key = key.trim_end();
    let mut chain = Chain::new(SourceId([1; 16]));
    let (mut size, mut older) = (0, None);
    for next in SIZES {
        post(&server, &mut chain, size, next).await;
        size = next;
        let folder = run.file(&format!("of-{size}"));
        std::fs::create_dir_all(&folder).unwrap();
        let receipt = get(&server, &format!("/v1/receipts/{CALL}")).await;
        std::fs::write(folder.join("receipt"), receipt).unwrap();
        keep(&server, &folder, "checkpoint").await;
        let checkpoint = std::fs::read(folder.join("checkpoint")).unwrap();
        std::fs::write(
            folder.join("older"),
            older.replace(checkpoint.clone()).unwrap_or(checkpoint),
        )
        .unwrap();
        keep_tiles(&server, &folder, size).await;

        let verified = verify(&folder, key);
        let (stdout, stderr) = (
            String::from_utf8_lossy(&verified.stdout),
            String::from_utf8_lossy(&verified.stderr),
        );
        assert!(verified.status.success(), "{size} records: {stderr}");
        assert!(stdout.starts_with(&format!("{size} records, continuing ")), "{stdout}");
        assert!(!stdout.contains(" 0 proofs"), "{stdout}");
    }
    // It would have said so.
    let bundle = run.file("of-1000").join("tile/entries/003.p/232");
    let mut changed = std::fs::read(&bundle).unwrap();
    *changed.last_mut().unwrap() ^= 1;
    std::fs::write(&bundle, changed).unwrap();
    let refused = verify(&run.file("of-1000"), key);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("record 999"), "{said}");
}
