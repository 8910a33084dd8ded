//! One request, described by flags.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use authz::case::{self, Case, CaseId, CaseRequest, Rules};
use authz::identity::{AgentId, Issuer, Jti, SpiffeId};
use authz::json::{self, Limits};
use authz::jwks::Jwks;
use authz::manifest::Mesh;
use authz::policy::IssuerClaims;
use authz::request::Side;
use authz::state::AgentState;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use super::super::Outcome;
use super::super::output::Printer;
use super::{DecideError, explain};
use crate::files;
use crate::verifier::NativeVerifier;

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "One request")]
#[group(id = "request", multiple = true)]
pub(super) struct Single {
    /// The folder of agent and service files
    #[arg(long, value_name = "DIR", requires = "workload")]
    policy: PathBuf,
    /// The SPIFFE ID of the workload whose sidecar decides
    #[arg(long, value_name = "SPIFFE_ID", requires = "policy")]
    workload: String,
    /// Whether the request comes in to the workload or goes out from it
    #[arg(long, value_enum, default_value = "inbound")]
    side: SideName,
    /// The SPIFFE ID in the caller's certificate [default: none; outbound: the workload]
    #[arg(long, value_name = "SPIFFE_ID")]
    peer: Option<String>,
    /// The HTTP method
    #[arg(long, default_value = "GET")]
    method: String,
    /// The target, with its query
    #[arg(long, default_value = "/")]
    path: String,
    /// The host named by the request [default: the first host of the workload's service]
    #[arg(long, value_name = "HOST[:PORT]")]
    host: Option<String>,
    /// The port that the request comes in on, where the workload has several
    #[arg(long, value_name = "PORT")]
    local_port: Option<u16>,
    /// A header field; give it once for each
    #[arg(long, value_name = "NAME:VALUE", value_parser = header)]
    header: Vec<(String, String)>,
    /// The body; `-` is the standard input
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// The capability token, sent as `authorization: Bearer`
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_file")]
    token: Option<String>,
    /// A file with the capability token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The public keys of the token's issuer (JWKS)
    #[arg(long, value_name = "FILE")]
    issuer_jwks: Option<PathBuf>,
    /// The issuer whose keys these are [default: the one that the token names]
    #[arg(long, value_name = "ISS", requires = "issuer_jwks")]
    issuer: Option<String>,
    /// An agent that is not active, such as `analyst-7=paused` (active, paused, suspended, killed)
    #[arg(long, value_name = "AGENT=STATE", value_parser = agent_state)]
    state: Vec<(AgentId, AgentState)>,
    /// The id of a revoked token
    #[arg(long, value_name = "JTI", value_parser = |text: &str| Jti::parse(text))]
    revoked: Vec<Jti>,
    /// The time to decide at, in Unix seconds [default: now]
    #[arg(long, value_name = "SECONDS")]
    now: Option<u64>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum SideName {
    Inbound,
    Outbound,
}

impl From<SideName> for Side {
    fn from(side: SideName) -> Self {
        match side {
            SideName::Inbound => Self::Inbound,
            SideName::Outbound => Self::Outbound,
        }
    }
}

impl Single {
    pub(super) fn run(&self, printer: &mut Printer) -> Result<Outcome, super::super::Error> {
        let verdict = case::run(&self.case()?, &NativeVerifier).map_err(DecideError::from)?;
        explain::print(&verdict, printer)?;
        Ok(if verdict.verdict == "permit" {
            Outcome::Clean
        } else {
            Outcome::Finding
        })
    }

    fn case(&self) -> Result<Case, DecideError> {
        let workload = SpiffeId::parse(&self.workload).map_err(|source| DecideError::Name {
            flag: "--workload",
            source,
        })?;
        if let Some(peer) = &self.peer {
            SpiffeId::parse(peer).map_err(|source| DecideError::Name { flag: "--peer", source })?;
        }
        let loaded = files::load(&[&self.policy], workload.trust_domain())?;
        let mesh = Arc::new(loaded.mesh.map_err(DecideError::Policy)?);
        let token = self.token()?;
        let request = self.request(&mesh, &workload, token.as_deref())?;
        let issuers = self.issuers(token.as_deref())?;
        Ok(Case {
            id: CaseId::Text("request".to_owned()),
            now: self.now.unwrap_or_else(unix_now),
            side: self.side.into(),
            workload,
            peer: self.peer.clone(),
            local_port: self.local_port,
            request,
            rules: Rules::Files {
                mesh,
                issuers,
                states: self.state.iter().cloned().collect(),
                not_before: BTreeMap::new(),
                revoked: self.revoked.clone(),
            },
        })
    }

    fn token(&self) -> Result<Option<String>, DecideError> {
        match (&self.token, &self.token_file) {
            (Some(token), _) => Ok(Some(token.clone())),
            (None, Some(path)) => Ok(Some(String::from_utf8_lossy(&read(path)?).trim().to_owned())),
            (None, None) => Ok(None),
        }
    }

    fn request(&self, mesh: &Mesh, workload: &SpiffeId, token: Option<&str>) -> Result<CaseRequest, DecideError> {
        let host = match &self.host {
            Some(host) => host.clone(),
            None => own_host(mesh, workload).ok_or(DecideError::NoHost)?,
        };
        let mut headers = vec![("host".to_owned(), host)];
        headers.extend(token.map(|token| ("authorization".to_owned(), format!("Bearer {token}"))));
        headers.extend(self.header.iter().cloned());
        let body = self.body.as_deref().map(read).transpose()?.unwrap_or_default();
        Ok(CaseRequest {
            method: self.method.clone(),
            path: self.path.clone(),
            headers,
            body_base64: Some(STANDARD.encode(body)),
        })
    }

    fn issuers(&self, token: Option<&str>) -> Result<Vec<IssuerClaims>, DecideError> {
        let Some(path) = &self.issuer_jwks else {
            return Ok(Vec::new());
        };
        let keys = |reason: String| DecideError::Keys {
            path: path.clone(),
            reason,
        };
        let jwks: Jwks = json::strict(&read(path)?, &Limits::POLICY).map_err(|error| keys(error.to_string()))?;
        let iss = self
            .issuer
            .clone()
            .or_else(|| token.and_then(named_issuer))
            .ok_or(DecideError::NoIssuer)?;
        let iss = Issuer::parse(&iss).map_err(|source| DecideError::Name {
            flag: "--issuer",
            source,
        })?;
        Ok(vec![IssuerClaims { iss, jwks }])
    }
}

fn own_host(mesh: &Mesh, workload: &SpiffeId) -> Option<String> {
    mesh.services()
        .iter()
        .find(|service| service.identity == *workload)?
        .hosts
        .first()
        .cloned()
}

/// The issuer that a token names. Nothing is verified here: the filter's code does that, with the keys given.
fn named_issuer(token: &str) -> Option<String> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&payload).ok()?;
    claims.get("iss")?.as_str().map(str::to_owned)
}

fn read(path: &Path) -> Result<Vec<u8>, DecideError> {
    let bytes = if path == Path::new("-") {
        let mut bytes = Vec::new();
        io::stdin().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        fs::read(path)
    };
    bytes.map_err(|source| DecideError::Read {
        path: path.to_owned(),
        source,
    })
}

fn unix_now() -> u64 {
    // A clock before 1970 is as good as none: every token is then not valid yet.
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("write NAME:VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

fn agent_state(text: &str) -> Result<(AgentId, AgentState), String> {
    let (agent, state) = text.split_once('=').ok_or("write AGENT=STATE")?;
    let agent = AgentId::parse(agent).map_err(|error| error.to_string())?;
    let state = match state {
        "active" => AgentState::Active,
        "paused" => AgentState::Paused,
        "suspended" => AgentState::Suspended,
        "killed" => AgentState::Killed,
        _ => return Err("a state is active, paused, suspended or killed".to_owned()),
    };
    Ok((agent, state))
}
