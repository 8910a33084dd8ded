//! The operator socket: how the server's own user rotates keys and decides about agents.
//!
//! In a pod nothing else can authenticate as an operator: `kubectl exec` starts a process beside the server, behind no
//! sidecar. That process runs as the server's user, who could read and write keys and database anyway; the kernel says
//! who is at the other end of a Unix socket, so nobody has to be believed.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::JoinHandle;

use crate::app::App;
use crate::config::Listen;
use crate::routes;
use crate::serve::{Listener, ServeError, Server};

/// Operators are few.
const CONNECTIONS: usize = 8;

/// Where the socket of a data folder is.
pub fn socket(data: &Path) -> PathBuf {
    data.join("operator.sock")
}

/// Listens until the server stops.
///
/// A server without it serves all the same: not every file system has sockets, and no path of one may be long.
pub(crate) async fn start(app: &Arc<App>) -> Option<JoinHandle<()>> {
    match bind(app).await {
        Ok((listener, server)) => Some(tokio::spawn(serve(listener, server, app.stop.clone()))),
        Err(error) => {
            tracing::error!(%error, "no operator socket: only principals with the role `operator` can rotate keys or kill agents");
            None
        }
    }
}

async fn bind(app: &Arc<App>) -> Result<(Listener, Server), ServeError> {
    let path = socket(&app.config.data);
    let listen = Listen::Unix {
        path: path.clone(),
        mode: 0o600,
    };
    let listener = Listener::bind(&listen).await?;
    // What this process makes belongs to its user.
    let user = std::fs::metadata(&path).map_err(|source| ServeError::Listen {
        address: path.display().to_string(),
        source,
    })?;
    let router = routes::operator_router(Arc::clone(app));
    let server = Server::new(router, CONNECTIONS, app.stop.clone()).only_user(user.uid());
    Ok((listener, server))
}

async fn serve(listener: Listener, server: Server, mut stop: tokio::sync::watch::Receiver<bool>) {
    let stopped = async {
        let _ = stop.wait_for(|stop| *stop).await;
    };
    let server = server.accept_until(&listener, stopped).await;
    listener.remove();
    server.drain().await;
}
