//! Who is calling: a SPIFFE ID that the server's own sidecar vouches for, or a key file on a laptop.
//!
//! The server stands behind its own sidecar, which terminates mTLS and sets `x-forwarded-client-cert` with
//! `SANITIZE_SET`. Anything that such a sidecar cannot have written is refused with 401: two headers or two elements
//! (Istio's default appends to what the caller sent), a `By` that is another server, more than one `URI`.

use std::path::Path;

use authz::identity::SpiffeId;
use http::{HeaderMap, header};
use sha2::{Digest, Sha256};

use crate::secret;

/// The header in which Envoy describes the client's certificate.
pub const XFCC: &str = "x-forwarded-client-cert";

/// How callers are authenticated.
pub enum Authentication {
    /// By the server's own sidecar, over a Unix socket or loopback.
    Sidecar {
        /// The server's own SPIFFE ID, which `By` must name.
        identity: SpiffeId,
    },
    /// By a bearer key from a file; everybody who can read the file is `principal`. For a laptop.
    KeyFile {
        /// SHA-256 of the key, so that comparing takes the same time wherever keys differ.
        key_digest: [u8; 32],
        /// Who holds the key.
        principal: SpiffeId,
    },
}

/// Why a caller is not authenticated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// There is no `x-forwarded-client-cert`.
    #[error("the request carries no client certificate")]
    Missing,
    /// There are several `x-forwarded-client-cert` headers.
    #[error("the request carries several x-forwarded-client-cert headers")]
    Duplicate,
    /// The header is not one well-formed element.
    #[error("x-forwarded-client-cert is malformed: {0}")]
    Malformed(&'static str),
    /// `By` names another server, so this is not what our sidecar wrote.
    #[error("x-forwarded-client-cert was not written by this server's sidecar")]
    ForeignSidecar,
    /// The client's certificate has no valid SPIFFE ID of the server's trust domain.
    #[error("the client certificate has no SPIFFE ID of this trust domain")]
    NoIdentity,
    /// The bearer key is missing or wrong.
    #[error("the bearer key is missing or wrong")]
    Key,
}

impl Authentication {
    /// Reads the key file of `keyFile` authentication, creating it with a random key if there is none.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or written, others can read it, or its key is shorter than 32 characters.
    pub fn key_file(path: &Path, principal: SpiffeId) -> Result<Self, secret::SecretError> {
        let key = secret::read_or_create(path, || secret::random_text().map(String::into_bytes))?;
        let key = key.trim_ascii();
        if key.len() < 32 {
            return Err(secret::SecretError::Invalid {
                path: path.to_owned(),
                reason: "shorter than 32 characters",
            });
        }
        Ok(Self::KeyFile {
            key_digest: Sha256::digest(key).into(),
            principal,
        })
    }

    /// Says who sent a request with these headers.
    ///
    /// # Errors
    ///
    /// If the caller is not authenticated beyond doubt.
    pub fn authenticate(&self, headers: &HeaderMap) -> Result<SpiffeId, PeerError> {
        match self {
            Self::Sidecar { identity } => {
                let mut values = headers.get_all(XFCC).iter();
                let value = values.next().ok_or(PeerError::Missing)?;
                if values.next().is_some() {
                    return Err(PeerError::Duplicate);
                }
                let value = value.to_str().map_err(|_| PeerError::Malformed("not ASCII"))?;
                parse_xfcc(value, identity)
            }
            Self::KeyFile { key_digest, principal } => {
                let mut values = headers.get_all(header::AUTHORIZATION).iter();
                let value = values.next().ok_or(PeerError::Key)?;
                if values.next().is_some() {
                    return Err(PeerError::Key);
                }
                let (scheme, key) = value
                    .to_str()
                    .ok()
                    .and_then(|v| v.split_once(' '))
                    .ok_or(PeerError::Key)?;
                let offered: [u8; 32] = Sha256::digest(key.as_bytes()).into();
                if scheme.eq_ignore_ascii_case("bearer") && offered == *key_digest {
                    Ok(principal.clone())
                } else {
                    Err(PeerError::Key)
                }
            }
        }
    }
}

impl std::fmt::Debug for Authentication {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sidecar { identity } => f.debug_struct("Sidecar").field("identity", identity).finish(),
            Self::KeyFile { principal, .. } => f
                .debug_struct("KeyFile")
                .field("principal", principal)
                .finish_non_exhaustive(),
        }
    }
}

/// Parses exactly one element `Key=value;Key="quoted value"` and returns its `URI`.
fn parse_xfcc(value: &str, own: &SpiffeId) -> Result<SpiffeId, PeerError> {
    let mut by = None;
    let mut uri = None;
    let mut seen: u8 = 0;
    let mut rest = value;
    loop {
        let (key, after) = rest.split_once('=').ok_or(PeerError::Malformed("a part without `=`"))?;
        let (part, after) = parse_value(after)?;
        let bit = match key {
            "By" => by.replace(part).map_or(1, |_| 0),
            "URI" => uri.replace(part).map_or(2, |_| 0),
            "Hash" => 4,
            "Cert" => 8,
            "Chain" => 16,
            "Subject" => 32,
            // A certificate may have several DNS names; they say nothing here.
            "DNS" => 64,
            _ => return Err(PeerError::Malformed("an unknown key")),
        };
        if bit == 0 || (bit != 64 && seen & bit != 0) {
            return Err(PeerError::Malformed("a key twice"));
        }
        seen |= bit;
        match after.strip_prefix(';') {
            Some(more) => rest = more,
            None if after.is_empty() => break,
            None => return Err(PeerError::Malformed("more than one element")),
        }
    }
    if by.as_deref() != Some(own.as_str()) {
        return Err(PeerError::ForeignSidecar);
    }
    let peer = uri
        .and_then(|uri| uri.parse::<SpiffeId>().ok())
        .ok_or(PeerError::NoIdentity)?;
    if peer.trust_domain() != own.trust_domain() {
        return Err(PeerError::NoIdentity);
    }
    Ok(peer)
}

/// One value, quoted or not, and what follows it (`;`, `,` or the end).
fn parse_value(text: &str) -> Result<(String, &str), PeerError> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([';', ',']).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        if value.contains('"') {
            return Err(PeerError::Malformed("a quote inside a value"));
        }
        return Ok((value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut characters = quoted.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => return Ok((value, characters.as_str())),
            '\\' => value.push(characters.next().ok_or(PeerError::Malformed("an open quote"))?),
            other => value.push(other),
        }
    }
    Err(PeerError::Malformed("an open quote"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const OWN: &str = "spiffe://cluster.local/ns/ostiary/sa/policy-server";
    const PEER: &str = "spiffe://cluster.local/ns/agents/sa/analyst-7";

    fn parse(value: &str) -> Result<String, PeerError> {
        parse_xfcc(value, &OWN.parse().unwrap()).map(|id| id.to_string())
    }

    #[test]
    fn one_element_of_our_sidecar_is_the_peer() {
        for value in [
            format!("By={OWN};URI={PEER}"),
            format!("By={OWN};Hash=0badc0de;Subject=\"\";URI={PEER}"),
            format!("Hash=0badc0de;By={OWN};Subject=\"CN=a,O=\\\"x;y\\\"\";URI={PEER};DNS=a;DNS=b"),
            format!("By=\"{OWN}\";URI=\"{PEER}\";Cert=\"-----BEGIN%20CERTIFICATE-----%0A\""),
        ] {
            assert_eq!(parse(&value).as_deref(), Ok(PEER), "{value}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        use PeerError::{ForeignSidecar, Malformed, NoIdentity};
        let malformed = |reason| Malformed(reason);
        for (value, expected) in [
            (String::new(), malformed("a part without `=`")),
            (format!("URI={PEER}"), ForeignSidecar),
            (format!("By={PEER};URI={PEER}"), ForeignSidecar),
            (format!("By=;URI={PEER}"), ForeignSidecar),
            (format!("by={OWN};URI={PEER}"), malformed("an unknown key")),
            (format!("By={OWN}"), NoIdentity),
            (format!("By={OWN};URI="), NoIdentity),
            (format!("By={OWN};URI=https://cluster.local/ns/a/sa/b"), NoIdentity),
            (
                format!("By={OWN};URI=spiffe://elsewhere.org/ns/agents/sa/analyst-7"),
                NoIdentity,
            ),
            (format!("By={OWN};URI={PEER};URI={OWN}"), malformed("a key twice")),
            (format!("By={OWN};By={OWN};URI={PEER}"), malformed("a key twice")),
            (format!("By={OWN};Hash=a;Hash=b;URI={PEER}"), malformed("a key twice")),
            (
                format!("By={OWN};URI={PEER},By={OWN};URI={OWN}"),
                malformed("more than one element"),
            ),
            (format!("By={OWN};URI={PEER},"), malformed("more than one element")),
            (format!("By={OWN};URI={PEER};"), malformed("a part without `=`")),
            (format!("By={OWN};;URI={PEER}"), malformed("an unknown key")),
            (
                format!("By={OWN};Subject=\"CN=a;URI={PEER}"),
                malformed("an open quote"),
            ),
            (format!("By={OWN};Subject=\"CN=a\\"), malformed("an open quote")),
            (
                format!("By={OWN};Subject=\"a\"b;URI={PEER}"),
                malformed("more than one element"),
            ),
            (
                format!("By={OWN};Subject=a\"b;URI={PEER}"),
                malformed("a quote inside a value"),
            ),
            (format!("By={OWN};Role=admin;URI={PEER}"), malformed("an unknown key")),
            (format!(" By={OWN};URI={PEER}"), malformed("an unknown key")),
        ] {
            assert_eq!(parse(&value), Err(expected), "{value}");
        }
    }

    #[test]
    fn two_headers_are_refused_and_none_too() {
        let authentication = Authentication::Sidecar {
            identity: OWN.parse().unwrap(),
        };
        let mut headers = HeaderMap::new();
        assert_eq!(authentication.authenticate(&headers), Err(PeerError::Missing));
        headers.append(XFCC, format!("By={OWN};URI={PEER}").parse().unwrap());
        assert_eq!(
            authentication
                .authenticate(&headers)
                .map(|id| id.to_string())
                .as_deref(),
            Ok(PEER)
        );
        headers.append(XFCC, format!("By={OWN};URI={PEER}").parse().unwrap());
        assert_eq!(authentication.authenticate(&headers), Err(PeerError::Duplicate));
    }

    #[test]
    fn a_key_file_is_made_private_and_its_key_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("issuer.key");
        let authentication = Authentication::key_file(&path, PEER.parse().unwrap()).unwrap();
        let key = std::fs::read_to_string(&path).unwrap();
        let ask = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            authentication.authenticate(&headers).map(|id| id.to_string())
        };
        assert_eq!(ask(&format!("Bearer {}", key.trim())).as_deref(), Ok(PEER));
        assert_eq!(ask("Bearer wrong"), Err(PeerError::Key));
        assert_eq!(ask(&format!("Basic {}", key.trim())), Err(PeerError::Key));
        assert_eq!(authentication.authenticate(&HeaderMap::new()), Err(PeerError::Key));
        assert!(!format!("{authentication:?}").contains(key.trim()));
    }
}
