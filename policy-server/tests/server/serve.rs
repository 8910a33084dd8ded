//! Listening and stopping, and what a `kill -9` leaves behind.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use crate::support::{NOW, Place, Server, Source, WAREHOUSE, assert_the_tree_is_whole, xfcc};
use policy_server::config::{Config, Listen};
use policy_server::serve::{self, Listener, ServeError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::oneshot;

/// An HTTP/1.1 request after which the connection is closed.
fn request(head: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("{head}host: policy\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

fn records_request(lines: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /v1/records HTTP/1.1\r\nx-forwarded-client-cert: {}\r\nostiary-callout: 1\r\ncontent-type: application/x-ndjson\r\n",
        xfcc(WAREHOUSE)
    );
    request(&head, lines)
}

/// Sends a request and reads the answer to its end.
async fn exchange(socket: &Path, request: &[u8]) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(request).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

async fn assert_stored(socket: &Path, lines: &[u8]) {
    let answer = exchange(socket, &records_request(lines)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

async fn until_ready(socket: &Path) {
    let ready = async {
        loop {
            let answer = exchange(socket, &request("GET /readyz HTTP/1.1\r\n", b"")).await;
            if answer.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), ready).await.unwrap();
}

#[tokio::test]
async fn the_server_serves_on_its_socket_and_stops_in_order() {
    let place = Place::new();
    let socket = place.path("ostiary.sock");
    let (stop, stopped) = oneshot::channel::<()>();
    let config = Config::load(&place.config()).unwrap();
    let serving = tokio::spawn(serve::serve(config, async {
        let _ = stopped.await;
    }));
    until_ready(&socket).await;
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let mut source = Source::new(1, WAREHOUSE);
    assert_stored(&socket, &source.batch(5)).await;

    let config = Config::load(&place.config()).unwrap();
    let second = serve::serve(config, std::future::pending()).await;
    assert!(second.is_err(), "a second server does not take the data or the socket");
    assert_stored(&socket, &source.batch(5)).await;

    stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(30), serving)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(!socket.exists());
    let server = Server::start_at(&place.config(), NOW).await;
    assert_eq!(server.app.store().record_count().await.unwrap(), 10);
    server.stop().await;
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_nothing_else_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listen = Listen::Unix {
        path: path.clone(),
        mode: 0o660,
    };
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let listener = Listener::bind(&listen).await.unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    assert!(matches!(Listener::bind(&listen).await, Err(ServeError::InUse(_))));
    drop(listener);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(Listener::bind(&listen).await, Err(ServeError::NotASocket(_))));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn a_slow_caller_does_not_keep_its_connection() {
    let place = Place::new();
    let socket = place.path("ostiary.sock");
    let config = Config::load(&place.config()).unwrap();
    let serving = tokio::spawn(serve::serve(config, std::future::pending()));
    until_ready(&socket).await;
    let mut stream = UnixStream::connect(&socket).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost:").await.unwrap();
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut answer)).await;
    assert!(ended.is_ok(), "the connection was still open");
    serving.abort();
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn(config: &Path) -> Killed {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ostiary"));
    command
        .arg("serve")
        .arg("--config")
        .arg(config)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Killed(command.spawn().unwrap())
}

/// How far the server has got with a batch when it is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// It has half of it.
    Receiving,
    /// It has all of it.
    Received,
    /// It is writing it, or has just written it.
    Writing,
    /// It has answered, and nobody has read the answer.
    Answered,
}

/// The moments in turn; what a write leaves behind hangs on where in it the server was, so that one comes more often.
const MOMENTS: [Moment; 6] = [
    Moment::Receiving,
    Moment::Received,
    Moment::Writing,
    Moment::Writing,
    Moment::Writing,
    Moment::Answered,
];

/// Sends a batch and comes back at that moment, without an answer.
async fn send_until(moment: Moment, place: &Place, lines: &[u8]) -> UnixStream {
    let mut stream = UnixStream::connect(place.path("ostiary.sock")).await.unwrap();
    let before = write_ahead_log(place);
    let request = records_request(lines);
    let (all_but_a_half, half) = request.split_at(request.len() - lines.len() / 2);
    stream.write_all(all_but_a_half).await.unwrap();
    if !matches!(moment, Moment::Receiving) {
        stream.write_all(half).await.unwrap();
    }
    let written = async {
        while write_ahead_log(place) == before {
            tokio::task::yield_now().await;
        }
    };
    match moment {
        Moment::Receiving | Moment::Received => {}
        Moment::Writing => tokio::select! {
            () = written => {}
            answered = stream.readable() => answered.unwrap(),
        },
        Moment::Answered => stream.readable().await.unwrap(),
    }
    stream
}

/// What changes when the database is written to.
fn write_ahead_log(place: &Place) -> (u64, SystemTime) {
    let log = std::fs::metadata(place.path("data").join("ostiary.db-wal")).unwrap();
    (log.len(), log.modified().unwrap())
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9_at_any_moment() {
    let place = Place::new();
    let socket = place.path("ostiary.sock");
    let mut source = Source::new(1, WAREHOUSE);
    let mut acknowledged = 0;
    let mut lost: Option<Vec<u8>> = None;
    for moment in MOMENTS {
        let process = spawn(&place.config());
        until_ready(&socket).await;
        // A chain that lacks one of these is refused.
        for lines in lost.take().into_iter().chain([source.batch(7), source.batch(7)]) {
            assert_stored(&socket, &lines).await;
            acknowledged += 7;
        }
        let lines = source.batch(7);
        let connection = send_until(moment, &place, &lines).await;
        drop(process);
        drop(connection);
        lost = Some(lines);
    }
    let server = Server::start_at(&place.config(), NOW).await;
    let stored = || server.app.store().record_count();
    assert_eq!(stored().await.unwrap(), acknowledged + 7, "the last batch was answered");
    let again = server.records(WAREHOUSE, lost.unwrap()).await;
    assert_eq!(again.status, http::StatusCode::OK, "{again:?}");
    assert_eq!(stored().await.unwrap(), acknowledged + 7, "each batch once");
    assert_the_tree_is_whole(&server.app).await;
    server.stop().await;
}
