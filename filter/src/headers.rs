//! What the filter takes out of a request's headers, and what it puts in.

use authz::denial::{Code, Denial};
use authz::policy::Service;
use authz::request::Side;
use authz::session::SESSION_HEADER;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::host::{HeaderPair, Host};
use crate::known::Known;

/// The id that joins the records of both sides of a call.
pub(crate) const CALL_HEADER: &str = "ostiary-call";

/// Tells the application of the verified claims.
const CLAIMS_HEADER: &str = "ostiary-claims";

/// What no application may send, and only the policy server is sent by the filter.
const INTERNAL_PREFIX: &str = "ostiary-";

/// Makes the headers what the next one in line may see: no internal header but our own, and inbound no token unless the
/// service asks for it.
///
/// # Errors
///
/// `internal_error` where something that must be sent cannot be had.
pub(crate) fn rewrite(known: &Known, host: &impl Host, pairs: &[HeaderPair]) -> Result<(), Denial> {
    for (name, _) in pairs {
        if name.starts_with(INTERNAL_PREFIX) {
            host.remove_request_header(name);
        }
    }
    match known.side {
        Some(Side::Outbound) => {
            let call = known
                .call
                .as_deref()
                .ok_or_else(|| internal("no randomness for a call id"))?;
            host.set_request_header(CALL_HEADER, call);
            Ok(())
        }
        Some(Side::Inbound) => rewrite_inbound(known, host, pairs),
        None => Err(internal("the side is unknown")),
    }
}

fn rewrite_inbound(known: &Known, host: &impl Host, pairs: &[HeaderPair]) -> Result<(), Denial> {
    let bundle = &known.standing()?.bundle.bundle;
    let service = known.service(bundle).ok_or_else(|| internal("the service is gone"))?;
    let header = service.token_header();
    if !service.forward_token() && pairs.iter().any(|(name, _)| name == header) {
        host.remove_request_header(header);
    }
    if service.forward_claims()
        && let Some(token) = &known.token
    {
        let claims = serde_json::to_vec(token.claims()).map_err(|_| internal("the claims cannot be written"))?;
        host.set_request_header(CLAIMS_HEADER, &URL_SAFE_NO_PAD.encode(claims));
    }
    Ok(())
}

/// Makes the trailers what the next one in line may see: nothing that was refused or taken out as a header, because some
/// servers merge trailers into headers (Apache's `MergeTrailers`). False if they cannot be read.
pub(crate) fn strip_trailers(known: &Known, host: &impl Host) -> bool {
    let Some(trailers) = host.request_trailers() else {
        return false;
    };
    let token_header = known
        .standing
        .as_ref()
        .filter(|_| known.side == Some(Side::Inbound))
        .and_then(|standing| known.service(&standing.bundle.bundle))
        .map(Service::token_header);
    for (name, _) in &trailers {
        // As in headers, an underscore counts as a hyphen.
        let read = name.replace('_', "-");
        let names_session = read == SESSION_HEADER && known.side == Some(Side::Inbound);
        if read.starts_with(INTERNAL_PREFIX) || token_header == Some(read.as_str()) || names_session {
            host.remove_request_trailer(name);
        }
    }
    true
}

fn internal(why: &'static str) -> Denial {
    Denial::new(Code::InternalError, why)
}
