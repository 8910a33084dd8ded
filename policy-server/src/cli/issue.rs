//! `ostiary issue`.

use std::fmt::Write;
use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::{Client, StatusCode, Url};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Outcome;
use super::output::{Printer, note, printable};
use super::tls::{self, TlsError};

/// The server answers after one database write; a slower one is not there.
const TIMEOUT: Duration = Duration::from_secs(10);

/// An answer is a token of at most 8 KiB and a few words; what claims to be more is not our server.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Asks the policy server for a capability token and prints it.
///
/// The caller is known to the server by its client certificate (--cert, --key), by a key file (--key-file, what a
/// server on a laptop makes), or by the sidecar that the request goes through (none of these).
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Issue {
    #[command(flatten)]
    capability: Capability,
    #[command(flatten)]
    server: Server,
}

const EXAMPLES: &str = "Examples:
  ostiary issue --server https://127.0.0.1:8443 --cert me.pem --key me.key --ca ca.pem \\
    --server-identity spiffe://cluster.local/ns/ostiary/sa/policy-server \\
    --agent-id analyst-7 --operation-id report-2026-q1 \\
    --scope read:data.sales_q1_2026 --tools pandas,matplotlib --forbidden-tools bash,http --max-tokens 50000
  TOKEN=$(ostiary issue --unix ostiary.sock --key-file issuer.key --agent-id analyst-7 --operation-id try-1)

Exit codes: 0 the token was issued, 1 the server refused, 2 it could not be asked";

#[derive(Debug, clap::Args, Serialize)]
#[command(next_help_heading = "The capability")]
struct Capability {
    /// Who it is for
    #[arg(long, value_name = "AGENT")]
    agent_id: String,
    /// The declared operation that it is for
    #[arg(long, value_name = "ID")]
    operation_id: String,
    /// A right, `action:resource`; give it once for each, or separate them with commas
    #[arg(long, value_name = "SCOPE", value_delimiter = ',')]
    scope: Vec<String>,
    /// The tools that may be called
    #[arg(long, value_name = "TOOL", value_delimiter = ',')]
    tools: Vec<String>,
    /// The tools that may not be called, whatever else says so
    #[arg(long, value_name = "TOOL", value_delimiter = ',')]
    forbidden_tools: Vec<String>,
    /// How long it lives: seconds, or with a unit (90, 90s, 5m) [default: the server's]
    #[arg(long = "ttl", value_name = "TIME", value_parser = seconds)]
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_seconds: Option<u64>,
    /// How many LLM tokens may be spent
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u64>,
    /// The user request that the work belongs to [default: the server chooses]
    #[arg(long, value_name = "TXN")]
    #[serde(skip_serializing_if = "Option::is_none")]
    txn: Option<String>,
    /// A service that the token may be shown to, by SPIFFE ID [default: all that the agent reaches]
    #[arg(long, value_name = "SPIFFE_ID", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    aud: Vec<String>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "The server")]
struct Server {
    /// The server's address, such as https://127.0.0.1:8443
    #[arg(long, value_name = "URL", required_unless_present = "unix")]
    server: Option<Url>,
    /// The server's Unix socket
    #[arg(long, value_name = "PATH", conflicts_with = "server")]
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
pub(super) enum IssueError {
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

/// What the server answers when it issues.
#[derive(Debug, Deserialize, Serialize)]
struct Issued {
    token: String,
    jti: String,
    txn: String,
    expires_at: u64,
}

impl Issue {
    pub(super) fn run(&self, printer: &mut Printer) -> Result<Outcome, super::Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(IssueError::Runtime)?;
        let (status, answer) = runtime.block_on(self.server.ask(&self.capability))?;
        if status.is_success() {
            let issued: Issued = serde_json::from_slice(&answer).map_err(|_| IssueError::Answer(status))?;
            printer.answer(printable(&issued.token), &issued)?;
            if io::stderr().is_terminal() {
                note(format_args!(
                    "jti {}, txn {}, expires at {}",
                    issued.jti, issued.txn, issued.expires_at
                ));
            }
            return Ok(Outcome::Clean);
        }
        let problem = serde_json::from_slice::<Value>(&answer)
            .ok()
            .filter(|problem| problem.get("code").is_some());
        let problem = problem.ok_or(IssueError::Answer(status))?;
        printer.answer(printable(&render(status, &problem, printer)), &problem)?;
        Ok(Outcome::Finding)
    }
}

/// A problem (RFC 9457) in words.
fn render(status: StatusCode, problem: &Value, printer: &Printer) -> String {
    let member = |name: &str| problem.get(name).and_then(Value::as_str).map(printable);
    let code = member("code").unwrap_or_default();
    let mut text = format!("{} {code} ({})", printer.bad("refused:"), status.as_u16());
    // Writing to a string cannot fail.
    for (label, name) in [("", "detail"), ("field: ", "field"), ("trace: ", "trace_id")] {
        if let Some(value) = member(name) {
            let _ = write!(text, "\n  {label}{value}");
        }
    }
    if let Some(needed) = problem.get("needed").filter(|needed| !needed.is_null()) {
        let _ = write!(text, "\n  needed: {needed}");
    }
    text
}

impl Server {
    async fn ask(&self, capability: &Capability) -> Result<(StatusCode, Vec<u8>), IssueError> {
        let base = self.base()?;
        let address = base.join("/v1/tokens").map_err(|_| IssueError::Address(base.clone()))?;
        let mut request = self.client(&base)?.post(address).json(capability);
        if let Some(path) = &self.key_file {
            self.refuse_clear_text(&base)?;
            request = request.bearer_auth(read_key(path)?);
        }
        let mut response = request.send().await?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_ANSWER_BYTES {
                return Err(IssueError::Answer(status));
            }
        }
        Ok((status, body))
    }

    fn base(&self) -> Result<Url, IssueError> {
        let url = match &self.server {
            Some(url) => url.clone(),
            // The host of a socket is a name for nothing.
            None => Url::parse("http://localhost/").map_err(|_| IssueError::NoServer)?,
        };
        let usable = matches!(url.scheme(), "http" | "https") && url.has_host();
        if usable { Ok(url) } else { Err(IssueError::Address(url)) }
    }

    fn client(&self, base: &Url) -> Result<Client, IssueError> {
        // A redirect would carry the key elsewhere, and so would a proxy from the environment.
        let mut client = Client::builder()
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy();
        if base.scheme() == "https" && self.ca.is_none() {
            return Err(IssueError::NoAuthority(base.clone()));
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
    fn refuse_clear_text(&self, base: &Url) -> Result<(), IssueError> {
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
            Err(IssueError::KeyInTheClear(base.clone()))
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, IssueError> {
    fs::read(path).map_err(|source| IssueError::Read {
        path: path.to_owned(),
        source,
    })
}

fn read_key(path: &Path) -> Result<String, IssueError> {
    let invalid = || IssueError::Key { path: path.to_owned() };
    let key = String::from_utf8(read(path)?).map_err(|_| invalid())?;
    let key = key.trim();
    let usable = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic());
    if usable { Ok(key.to_owned()) } else { Err(invalid()) }
}

fn seconds(text: &str) -> Result<u64, String> {
    let (number, unit) = text
        .find(|c: char| !c.is_ascii_digit())
        .map_or((text, "s"), |at| text.split_at(at));
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err("write seconds, or a number with s, m or h".to_owned()),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| "write a number first, such as 300 or 5m".to_owned())?;
    number.checked_mul(factor).ok_or_else(|| "too long".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(seconds("300"), Ok(300));
        assert_eq!(seconds("90s"), Ok(90));
        assert_eq!(seconds("5m"), Ok(300));
        for text in ["", "m", "-1", "5d", "1.5m", "99999999999999999h"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
