//! `ostiary serve`: listens, serves, and stops in order.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use crate::app::{App, StartError};
use crate::clock::Clock;
use crate::config::{Config, Listen};
use crate::operator;
use crate::routes;

/// How long the headers of a request may take, so that slow callers do not keep connections.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long open requests may take once the server stops.
const DRAIN: Duration = Duration::from_secs(10);

/// Every pod behind the server's sidecar holds a poll a VM, all over few connections.
const MAX_STREAMS: u32 = 4096;

const MAX_HEADER_BYTES: u32 = 32 << 10;

/// Why the server stops or does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The server does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The runtime does not start.
    #[error("cannot start: {0}")]
    Runtime(io::Error),
    /// The address cannot be listened on.
    #[error("cannot listen on `{address}`: {source}")]
    Listen {
        /// The socket's path or address.
        address: String,
        /// What failed.
        source: io::Error,
    },
    /// Another server listens on the socket.
    #[error("another server listens on `{}`", .0.display())]
    InUse(PathBuf),
    /// Something that is no socket is at the socket's path.
    #[error("`{}` is no socket; remove it or name another path", .0.display())]
    NotASocket(PathBuf),
    /// Signals cannot be waited for.
    #[error("cannot wait for signals: {0}")]
    Signals(io::Error),
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
///
/// If the server does not start.
pub fn run(config: Config) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(ServeError::Runtime)?;
    runtime.block_on(async {
        let signal = stop_signal().map_err(ServeError::Signals)?;
        serve(config, signal).await
    })
}

/// Serves until `stop` ends: then answers held polls, lets open requests end, makes what was accepted durable.
///
/// # Errors
///
/// If the server does not start.
pub async fn serve(config: Config, stop: impl Future<Output = ()>) -> Result<(), ServeError> {
    let listen = config.listen.clone();
    let connections = config.limits.connections;
    let (app, tasks) = App::start(config, Clock::system()).await?;
    let listener = Listener::bind(&listen).await?;
    tracing::info!(listen = %listener.address(), "serving");
    let operators = operator::start(&app).await;
    let server = Server::new(routes::router(Arc::clone(&app)), connections, app.stop.clone());
    let server = server.accept_until(&listener, stop).await;
    tracing::info!(connections = server.open.len(), "stopping");
    tasks.stop();
    listener.remove();
    server.drain().await;
    if let Some(operators) = operators {
        // It was told to stop, and failed only if it panicked: then nothing of it is left.
        let _ = operators.await;
    }
    drop(app);
    tasks.finish().await;
    tracing::info!("stopped");
    Ok(())
}

fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// A bound address.
#[derive(Debug)]
pub enum Listener {
    /// A Unix socket.
    Unix(UnixListener, PathBuf),
    /// A loopback address.
    Tcp(TcpListener),
}

impl Listener {
    /// Binds; removes a Unix socket that nobody listens on any more.
    ///
    /// # Errors
    ///
    /// If the address is in use or cannot be bound.
    pub async fn bind(listen: &Listen) -> Result<Self, ServeError> {
        match listen {
            Listen::Tcp(address) => {
                let failed = |source| ServeError::Listen {
                    address: address.to_string(),
                    source,
                };
                Ok(Self::Tcp(TcpListener::bind(address).await.map_err(failed)?))
            }
            Listen::Unix { path, mode } => Self::bind_unix(path, *mode).await,
        }
    }

    /// Binds beside and renames into place, so that the socket is never there with other permissions than its own.
    async fn bind_unix(path: &Path, mode: u32) -> Result<Self, ServeError> {
        refuse_if_used(path).await?;
        let failed = |source| ServeError::Listen {
            address: path.display().to_string(),
            source,
        };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let mut draft = path.as_os_str().to_owned();
        draft.push(".new");
        let draft = PathBuf::from(draft);
        let _ = std::fs::remove_file(&draft);
        let listener = UnixListener::bind(&draft).map_err(failed)?;
        std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
        std::fs::rename(&draft, path).map_err(failed)?;
        Ok(Self::Unix(listener, path.to_owned()))
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        match self {
            Self::Unix(_, path) => path.display().to_string(),
            Self::Tcp(listener) => listener
                .local_addr()
                .map_or_else(|_| "tcp".to_owned(), |a| a.to_string()),
        }
    }

    /// Takes the socket away, so that new callers are refused at once while open requests end.
    pub(crate) fn remove(self) {
        if let Self::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

async fn refuse_if_used(path: &Path) -> Result<(), ServeError> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(ServeError::Listen {
            address: path.display().to_string(),
            source,
        }),
        Ok(metadata) if !metadata.file_type().is_socket() => Err(ServeError::NotASocket(path.to_owned())),
        Ok(_) => match tokio::net::UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            Err(source) => Err(ServeError::Listen {
                address: path.display().to_string(),
                source,
            }),
            Ok(_) => Err(ServeError::InUse(path.to_owned())),
        },
    }
}

/// Serves the connections of one listener.
pub(crate) struct Server {
    router: Router,
    places: Arc<Semaphore>,
    stop: watch::Receiver<bool>,
    open: JoinSet<()>,
    only_user: Option<u32>,
}

impl Server {
    pub(crate) fn new(router: Router, connections: usize, stop: watch::Receiver<bool>) -> Self {
        Self {
            router,
            places: Arc::new(Semaphore::new(connections)),
            stop,
            open: JoinSet::new(),
            only_user: None,
        }
    }

    /// Hangs up on every process but this user's.
    pub(crate) fn only_user(mut self, user: u32) -> Self {
        self.only_user = Some(user);
        self
    }

    /// Waits until open requests have ended, and ends those that take too long.
    pub(crate) async fn drain(mut self) {
        let ended = async { while self.open.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN, ended).await.is_err() {
            tracing::warn!(connections = self.open.len(), "connections did not end in time");
            self.open.shutdown().await;
        }
    }

    pub(crate) async fn accept_until(mut self, listener: &Listener, stop: impl Future<Output = ()>) -> Self {
        tokio::pin!(stop);
        loop {
            // A place before accepting: what waits, waits in the kernel's queue.
            let place = tokio::select! {
                () = &mut stop => return self,
                place = Arc::clone(&self.places).acquire_owned() => place,
            };
            let Ok(place) = place else { return self };
            let accepted = tokio::select! {
                () = &mut stop => return self,
                accepted = self.accept(listener, place) => accepted,
            };
            if let Err(error) = accepted {
                // Out of file descriptors, say: neither end nor spin.
                tracing::error!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            while self.open.try_join_next().is_some() {}
        }
    }

    async fn accept(&mut self, listener: &Listener, place: OwnedSemaphorePermit) -> io::Result<()> {
        match listener {
            Listener::Unix(listener, _) => {
                let stream = listener.accept().await?.0;
                match self.only_user {
                    Some(user) if stream.peer_cred()?.uid() != user => {
                        tracing::warn!(user = stream.peer_cred()?.uid(), "another user was refused");
                    }
                    _ => self.spawn(stream, place),
                }
            }
            Listener::Tcp(listener) => {
                let stream = listener.accept().await?.0;
                stream.set_nodelay(true)?;
                self.spawn(stream, place);
            }
        }
        Ok(())
    }

    fn spawn(&mut self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, place: OwnedSemaphorePermit) {
        let service = TowerToHyperService::new(self.router.clone());
        let mut stop = self.stop.clone();
        self.open.spawn(async move {
            let builder = builder();
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            tokio::pin!(connection);
            let stopped = async move {
                let _ = stop.wait_for(|stop| *stop).await;
            };
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = stopped => {
                    connection.as_mut().graceful_shutdown();
                    connection.as_mut().await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "connection");
            }
            drop(place);
        });
    }
}

/// HTTP/1.1 and, by prior knowledge, HTTP/2 on one listener.
fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(64 << 10);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}
