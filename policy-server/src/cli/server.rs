//! Asking a policy server.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::{Client, Method, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Outcome;
use super::output::{Printer, printable};
use super::tls::{self, TlsError};

/// The server answers after a few database writes; a slower one is not there.
const TIMEOUT: Duration = Duration::from_secs(30);

/// An answer is a token of at most 8 KiB and a few words, or a list of workloads; what claims to be more is not our server.
const MAX_ANSWER_BYTES: usize = 1 << 20;

#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "The server")]
pub(super) struct Server {
    /// The server's address, such as https://127.0.0.1:8443
    #[arg(long, value_name = "URL")]
    server: Option<Url>,
    /// The server's Unix socket
    #[arg(long, value_name = "PATH")]
    unix: Option<PathBuf>,
    /// The caller's certificate chain (PEM)
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The private key of the certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// The authority that signed the server's certificate (PEM)
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The SPIFFE ID that the server must have, instead of the host name
    #[arg(long, value_name = "SPIFFE_ID", requires = "ca")]
    server_identity: Option<String>,
    /// The caller's key, which is sent as a bearer token
    #[arg(long, value_name = "FILE", conflicts_with = "cert")]
    key_file: Option<PathBuf>,
}

/// Why the server could not be asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServerError {
    #[error("cannot read `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("`{}` holds no key: one line of printable characters is expected", path.display())]
    Key { path: PathBuf },
    #[error("the key would travel readably to `{0}`: write https://… (or http:// on this machine's own loopback)")]
    KeyInTheClear(Url),
    #[error("`{0}` is no address of a server: write http:// or https://, a host and a port")]
    Address(Url),
    #[error("no server is named: add --server URL or --unix PATH")]
    NoServer,
    #[error("`{0}` needs to know whom to trust: add --ca FILE")]
    NoAuthority(Url),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("cannot ask the policy server")]
    Http(#[from] reqwest::Error),
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    #[error("the answer is not one of a policy server (status {0})")]
    Answer(StatusCode),
}

/// What a server answered.
#[derive(Debug)]
pub(super) struct Answer {
    status: StatusCode,
    body: Vec<u8>,
}

/// A refusal (RFC 9457).
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    problem: Value,
}

impl Answer {
    /// What was asked for, or why it was refused.
    ///
    /// # Errors
    ///
    /// If it is neither.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<Result<T, Refusal>, ServerError> {
        match self.bytes()? {
            Ok(body) => serde_json::from_slice(body)
                .map(Ok)
                .map_err(|_| ServerError::Answer(self.status)),
            Err(refusal) => Ok(Err(refusal)),
        }
    }

    /// The error that it is none of a policy server.
    pub(super) fn foreign(&self) -> ServerError {
        ServerError::Answer(self.status)
    }

    /// The bytes that were asked for, or why they were refused.
    ///
    /// # Errors
    ///
    /// If it is neither.
    pub(super) fn bytes(&self) -> Result<Result<&[u8], Refusal>, ServerError> {
        let foreign = || ServerError::Answer(self.status);
        if self.status.is_success() {
            return Ok(Ok(&self.body));
        }
        let problem = serde_json::from_slice::<Value>(&self.body).map_err(|_| foreign())?;
        if problem.get("code").is_none() {
            return Err(foreign());
        }
        Ok(Err(Refusal {
            status: self.status,
            problem,
        }))
    }
}

impl Refusal {
    /// Says what the server said.
    pub(super) fn print(&self, printer: &mut Printer) -> Result<Outcome, super::Error> {
        printer.answer(printable(&self.words(printer)), &self.problem)?;
        Ok(Outcome::Finding)
    }

    /// What the server said.
    pub(super) fn words(&self, printer: &Printer) -> String {
        let member = |name: &str| self.problem.get(name).and_then(Value::as_str).map(printable);
        let code = member("code").unwrap_or_default();
        let mut text = format!("{} {code} ({})", printer.bad("refused:"), self.status.as_u16());
        // Writing to a string cannot fail.
        for (label, name) in [("", "detail"), ("field: ", "field"), ("trace: ", "trace_id")] {
            if let Some(value) = member(name) {
                let _ = write!(text, "\n  {label}{value}");
            }
        }
        if let Some(needed) = self.problem.get("needed").filter(|needed| !needed.is_null()) {
            let _ = write!(text, "\n  needed: {needed}");
        }
        text
    }
}

/// What a command that asks runs on.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, ServerError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(ServerError::Runtime)
}

impl Server {
    /// The server that listens on a socket and knows its callers by that.
    pub(super) fn at_socket(path: PathBuf) -> Self {
        Self {
            unix: Some(path),
            ..Self::default()
        }
    }

    /// Asks once, and reads the answer whole.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Answer, ServerError> {
        self.session()?.ask(method, path, body, MAX_ANSWER_BYTES).await
    }

    /// Connections that are kept, for asking often.
    pub(super) fn session(&self) -> Result<Session, ServerError> {
        let base = self.base()?;
        let bearer = match &self.key_file {
            Some(path) => {
                self.refuse_clear_text(&base)?;
                Some(read_key(path)?)
            }
            None => None,
        };
        let client = self.client(&base)?;
        Ok(Session { client, base, bearer })
    }

    fn base(&self) -> Result<Url, ServerError> {
        let url = match &self.server {
            Some(url) => url.clone(),
            // The host of a socket is a name for nothing.
            None => Url::parse("http://localhost/").map_err(|_| ServerError::NoServer)?,
        };
        let usable = matches!(url.scheme(), "http" | "https") && url.has_host();
        if usable {
            Ok(url)
        } else {
            Err(ServerError::Address(url))
        }
    }

    fn client(&self, base: &Url) -> Result<Client, ServerError> {
        // A redirect would carry the key elsewhere, and so would a proxy from the environment.
        let mut client = Client::builder()
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy();
        if base.scheme() == "https" && self.ca.is_none() {
            return Err(ServerError::NoAuthority(base.clone()));
        }
        let authority = self.ca.as_deref().map(read).transpose()?;
        let identity = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => Some((read(cert)?, read(key)?)),
            _ => None,
        };
        client = client.tls_backend_preconfigured(tls::client_config(
            authority.as_deref(),
            identity.as_ref().map(|(cert, key)| (cert.as_slice(), key.as_slice())),
            self.server_identity.as_deref(),
        )?);
        if let Some(path) = &self.unix {
            client = client.unix_socket(path.as_path());
        }
        Ok(client.build()?)
    }

    /// Whoever reads the key on its way can ask for tokens from then on.
    fn refuse_clear_text(&self, base: &Url) -> Result<(), ServerError> {
        let loopback = match base.host_str() {
            Some("localhost") => true,
            Some(host) => host
                .trim_matches(['[', ']'])
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback()),
            None => false,
        };
        if base.scheme() == "https" || loopback || self.unix.is_some() {
            Ok(())
        } else {
            Err(ServerError::KeyInTheClear(base.clone()))
        }
    }
}

/// A server that is asked often.
pub(super) struct Session {
    client: Client,
    base: Url,
    bearer: Option<String>,
}

impl Session {
    /// Asks, and reads the answer whole, if it has at most `most_bytes`.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        most_bytes: usize,
    ) -> Result<Answer, ServerError> {
        let base = &self.base;
        let address = base.join(path).map_err(|_| ServerError::Address(base.clone()))?;
        let mut request = self.client.request(method, address);
        if let Some(body) = body {
            request = request.json(body);
        }
        if let Some(bearer) = &self.bearer {
            request = request.bearer_auth(bearer);
        }
        let mut response = request.send().await?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            body.extend_from_slice(&chunk);
            if body.len() > most_bytes {
                return Err(ServerError::Answer(status));
            }
        }
        Ok(Answer { status, body })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ServerError> {
    fs::read(path).map_err(|source| ServerError::Read {
        path: path.to_owned(),
        source,
    })
}

fn read_key(path: &Path) -> Result<String, ServerError> {
    let invalid = || ServerError::Key { path: path.to_owned() };
    let key = String::from_utf8(read(path)?).map_err(|_| invalid())?;
    let key = key.trim();
    let usable = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic());
    if usable { Ok(key.to_owned()) } else { Err(invalid()) }
}
