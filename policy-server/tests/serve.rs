//! Listening and stopping, and what a `kill -9` leaves behind.

#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use policy_server::config::{Config, Listen};
use policy_server::serve::{self, Listener, ServeError};
use support::{NOW, Place, Server, Source, WAREHOUSE, xfcc};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::oneshot;

/// Sends one HTTP/1.1 request and reads the answer to its end.
async fn exchange(socket: &Path, head: &str, body: &[u8]) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket).await?;
    let head = format!(
        "{head}host: policy\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

async fn post_records(socket: &Path, body: &[u8]) -> std::io::Result<String> {
    let head = format!(
        "POST /v1/records HTTP/1.1\r\nx-forwarded-client-cert: {}\r\nostiary-callout: 1\r\ncontent-type: application/x-ndjson\r\n",
        xfcc(WAREHOUSE)
    );
    exchange(socket, &head, body).await
}

async fn until_ready(socket: &Path) {
    let ready = async {
        loop {
            let answer = exchange(socket, "GET /readyz HTTP/1.1\r\n", b"").await;
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
    assert!(
        post_records(&socket, &source.batch(5))
            .await
            .unwrap()
            .starts_with("HTTP/1.1 200")
    );

    let config = Config::load(&place.config()).unwrap();
    let second = serve::serve(config, std::future::pending()).await;
    assert!(second.is_err(), "a second server does not take the data or the socket");
    assert!(
        post_records(&socket, &source.batch(5))
            .await
            .unwrap()
            .starts_with("HTTP/1.1 200")
    );

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

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9_at_any_moment() {
    let place = Place::new();
    let socket = place.path("ostiary.sock");
    let mut acknowledged = 0;
    let mut source = Source::new(1, WAREHOUSE);
    let mut pending: Option<Vec<u8>> = None;
    for round in 0..4 {
        let process = spawn(&place.config());
        until_ready(&socket).await;
        let killed = tokio::spawn(async move {
            // The moment is not chosen by the test's own progress.
            tokio::time::sleep(Duration::from_millis(20 + 30 * round)).await;
            drop(process);
        });
        loop {
            let body = pending.take().unwrap_or_else(|| source.batch(7));
            match post_records(&socket, &body).await {
                Ok(answer) if answer.starts_with("HTTP/1.1 200") => acknowledged += 7,
                // Lost on the way: perhaps stored. The next server is asked again.
                _ => {
                    pending = Some(body);
                    break;
                }
            }
        }
        killed.await.unwrap();
    }
    let server = Server::start_at(&place.config(), NOW).await;
    let stored = server.app.store().record_count().await.unwrap();
    assert!(
        stored == acknowledged || stored == acknowledged + 7,
        "{stored} stored, {acknowledged} acknowledged"
    );
    assert_eq!(
        server.records(WAREHOUSE, pending.unwrap()).await.status,
        http::StatusCode::OK
    );
    assert_eq!(server.app.store().record_count().await.unwrap(), acknowledged + 7);
    server.stop().await;
}
