//! A disk that takes nothing more: calls that must be recorded are denied, nothing stored is harmed, and once there is room
//! again, or leave to write, calls are served as before.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use authz::policy::RecordMode;
use serde_json::json;
use tests::client::{Call, Client};
use tests::load::ledger::{self, Ledger};
use tests::load::mesh::{LoadMesh, READER, TABLE};
use tests::policy_server::PolicyServer;
use tests::wait;

use crate::stored::check_tree_in;

/// The disk of the policy server.
const DISK_BYTES: u64 = 24 << 20;

const PATIENCE: Duration = Duration::from_secs(180);

/// Answers in a row, each on a fresh connection, that show that every worker answers so.
const ALL_WORKERS: usize = 24;

async fn start(name: &str) -> (LoadMesh, Reader) {
    let config = json!({"token": {"maxTtlSeconds": 3600}});
    let mesh = LoadMesh::start_recording(name, config, RecordMode::Before)
        .await
        .unwrap();
    let reader = Reader {
        client: mesh.client(&mesh.warehouse, READER).unwrap(),
        authority: mesh.warehouse.authority.clone(),
        token: mesh.token(READER).await.unwrap(),
    };
    (mesh, reader)
}

struct Reader {
    client: Client,
    authority: String,
    token: String,
}

impl Reader {
    /// Reads the table until so many answers in a row, from all workers, have a status; the last of them has a code.
    async fn until(&self, status: u16, code: Option<&str>) {
        let mut in_a_row = 0;
        wait::until(&format!("every worker to answer {status}"), PATIENCE, async || {
            let call = Call::new("GET", &self.authority, &format!("/v1/tables/{TABLE}"));
            let answer = self.client.send(call.bearer(&self.token)).await.unwrap();
            assert!(matches!(answer.status, 200 | 503), "{answer:?}");
            let fits = answer.status == status && answer.denial() == code;
            in_a_row = if fits { in_a_row + 1 } else { 0 };
            (in_a_row >= ALL_WORKERS).then_some(())
        })
        .await
        .unwrap();
    }
}

/// The server's command where its data are on a file system of its own, mounted with these options: a copy of them as they are.
fn on_own_disk(server: &PolicyServer, data: &Path, disk: &Path, mount: &str) -> Command {
    let script = format!(
        "set -e; mkdir -p \"$2\"; mount -t tmpfs -o size={DISK_BYTES} tmpfs \"$2\"; cp -a \"$1\"/. \"$2\"; \
         mount --bind \"$2\" \"$1\"; mount -o remount,bind,{mount} \"$1\"; shift 2; exec \"$@\""
    );
    let command = server.command().unwrap();
    let mut own = Command::new("unshare");
    own.args(["--map-root-user", "--mount", "sh", "-c", &script, "sh"]);
    own.args([data, disk]);
    own.arg(command.get_program()).args(command.get_args());
    own
}

/// The server's data as its process sees them, which stay there as long as this is held.
struct Seen(File);

impl Seen {
    fn by(server: &PolicyServer, data: &Path) -> Self {
        let process = server.process().unwrap().id();
        Self(File::open(format!("/proc/{process}/root{}", data.display())).unwrap())
    }

    fn file(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.0.as_raw_fd()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_denies_what_must_be_recorded_until_there_is_room() {
    let (mut mesh, reader) = start("recovery-full").await;
    reader.until(200, None).await;
    mesh.policy_server.stop_server().await.unwrap();
    let data = mesh.run.file("policy-server");
    let command = on_own_disk(&mesh.policy_server, &data, &mesh.run.file("disk"), "rw");
    mesh.policy_server.start_by(&command).await.unwrap();
    reader.until(200, None).await;

    let seen = Seen::by(&mesh.policy_server, &data);
    let ballast = seen.file("ballast");
    let filled = std::fs::write(&ballast, vec![0; usize::try_from(DISK_BYTES).unwrap()]);
    assert_eq!(filled.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    let served = mesh.warehouse.application.requests();
    reader.until(503, Some("records_unavailable")).await;
    let last = mesh.warehouse.application.requests();

    std::fs::remove_file(&ballast).unwrap();
    reader.until(200, None).await;
    println!("{} calls were served on what room was left", last - served);
    mesh.at_rest().await.unwrap();
    mesh.policy_server.stop_server().await.unwrap();
    // SQLite finds its way out of `/proc` to the file of that name on the disk below.
    let database = mesh.run.file("copied.db");
    std::fs::copy(seen.file("ostiary.db"), &database).unwrap();
    check_tree_in(&database, &Default::default()).await;
    let ledger = Ledger::read(&database).await.unwrap();
    assert_eq!(ledger.restarts, 0, "no chain was refused");
    ledger.check_closed().unwrap();
    // Whatever reached the application had been recorded.
    let permitted = ledger.permits.get("inbound").copied().unwrap_or_default();
    let requests = mesh.warehouse.application.requests() + mesh.mcp.application.requests();
    assert!(requests <= permitted, "{requests} requests, {permitted} permits");
    mesh.forget().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_cannot_be_written_to_stops_calls_and_is_not_harmed() {
    let (mut mesh, reader) = start("recovery-read-only").await;
    reader.until(200, None).await;
    mesh.policy_server.stop_server().await.unwrap();
    let before = ledger::count(&mesh.database()).await.unwrap();
    let data = mesh.run.file("policy-server");
    let command = on_own_disk(&mesh.policy_server, &data, &mesh.run.file("disk"), "ro");
    let refused = mesh.policy_server.start_by(&command).await.unwrap_err();
    assert!(format!("{refused:#}").contains("ead-only"), "{refused:#}");
    let requests = mesh.warehouse.application.requests();
    reader.until(503, Some("records_unavailable")).await;
    assert_eq!(mesh.warehouse.application.requests(), requests);

    mesh.policy_server.start_server().await.unwrap();
    assert!(ledger::count(&mesh.database()).await.unwrap() >= before);
    reader.until(200, None).await;
    mesh.at_rest().await.unwrap();
    let ledger = Ledger::read(&mesh.database()).await.unwrap();
    assert_eq!(ledger.restarts, 0, "no chain was refused");
    ledger.check_closed().unwrap();
    mesh.forget().unwrap();
}
