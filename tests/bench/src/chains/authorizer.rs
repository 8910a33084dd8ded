//! An external authorizer that always says yes over gRPC: the floor of every one.
//!
//! It reads no request and answers with fixed bytes. A process of its own, so that what it costs is known. To show that
//! Envoy heeds it, it says no from a call of the path `/deny` to one of `/allow`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use hyper::body::Bytes;
use tokio::net::{TcpListener, TcpStream};

/// A gRPC message `CheckResponse {status {}, ok_response {}}`.
const YES: &[u8] = &[0, 0, 0, 0, 4, 0x0a, 0, 0x1a, 0];

/// `CheckResponse {status {code: 7}, denied_response {}}`.
const NO: &[u8] = &[0, 0, 0, 0, 6, 0x0a, 2, 0x08, 7, 0x12, 0];

/// Windows that never close.
const WINDOW: u32 = 16 << 20;

/// Serves until it is killed.
///
/// # Errors
///
/// When the address is taken.
pub(crate) async fn serve(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).await?;
    let denies = Arc::new(AtomicBool::new(false));
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let denies = denies.clone();
        tokio::spawn(async move {
            // Envoy closes connections as it likes.
            let _ = connection(stream, denies).await;
        });
    }
}

async fn connection(stream: TcpStream, denies: Arc<AtomicBool>) -> Result<()> {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    let mut connection = builder.handshake::<_, Bytes>(stream).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        let denies = denies.clone();
        tokio::spawn(async move {
            // A call that Envoy has given up.
            let _ = answer(request, respond, &denies).await;
        });
    }
    Ok(())
}

async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, denies: &AtomicBool) -> Result<()> {
    match request.uri().path() {
        "/deny" => denies.store(true, Ordering::Relaxed),
        "/allow" => denies.store(false, Ordering::Relaxed),
        _ => {}
    }
    let mut body = request.into_body();
    while let Some(chunk) = body.data().await {
        body.flow_control().release_capacity(chunk?.len())?;
    }
    let mut head = Response::new(());
    head.headers_mut()
        .insert("content-type", HeaderValue::from_static("application/grpc"));
    let mut stream = respond.send_response(head, false)?;
    let message = if denies.load(Ordering::Relaxed) { NO } else { YES };
    stream.send_data(Bytes::from_static(message), false)?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    Ok(stream.send_trailers(trailers)?)
}
