//! A verdict in words: which rule decided, and who can change that.

use std::fmt::Write;
use std::io;

use authz::case::Verdict;
use authz::denial::Code;
use serde::Serialize;

use super::super::output::{Printer, printable};

#[derive(Serialize)]
struct Explained<'a> {
    #[serde(flatten)]
    verdict: &'a Verdict,
    title: Option<&'static str>,
    detail: Option<&'a str>,
    rule: Option<&'static str>,
    remedy: Option<String>,
}

/// Prints a verdict with its explanation.
pub(super) fn print(verdict: &Verdict, printer: &mut Printer) -> io::Result<()> {
    let code: Option<Code> = verdict.code.parse().ok();
    let explained = Explained {
        verdict,
        title: code.map(Code::title),
        detail: verdict.detail.as_deref(),
        rule: code.map(rule),
        remedy: code.map(|code| remedy(code, verdict)),
    };
    let text = match code {
        None => render_permit(verdict, printer),
        Some(_) => render_denial(&explained, printer),
    };
    printer.answer(text, &explained)
}

fn render_permit(verdict: &Verdict, printer: &Printer) -> String {
    let mut text = printer.good("permit").to_string();
    // Writing to a string cannot fail.
    let _ = match &verdict.agent_id {
        Some(agent) => write!(text, ": the token of `{agent}` is valid and"),
        None => write!(text, ": no capability is needed here"),
    };
    if verdict.agent_id.is_some() {
        let _ = match (&verdict.scope, &verdict.tool) {
            (Some(scope), Some(tool)) => write!(text, " token and policy both grant `{tool}` and `{scope}`"),
            (Some(scope), None) => write!(text, " token and policy both grant `{scope}`"),
            (None, Some(tool)) => write!(text, " token and policy both grant `{tool}`"),
            (None, None) => write!(text, " this request asks for no more than that"),
        };
    }
    text
}

fn render_denial(explained: &Explained<'_>, printer: &Printer) -> String {
    let verdict = explained.verdict;
    let mut text = if verdict.verdict == "permit" {
        let word = printer.good("permit");
        format!(
            "{word} in shadow; enforcing would deny: {}",
            printer.strong(verdict.code)
        )
    } else {
        let (word, code) = (printer.bad("deny"), printer.strong(verdict.code));
        format!("{word}: {code} ({})", verdict.status)
    };
    let mut line = |label: &str, value: Option<&str>| {
        if let Some(value) = value {
            let _ = write!(text, "\n  {label:<8}{}", printable(value));
        }
    };
    line("why", explained.title);
    line("", explained.detail.filter(|detail| Some(*detail) != explained.title));
    line("rule", explained.rule);
    line("agent", verdict.agent_id.as_ref().map(ToString::to_string).as_deref());
    line("needs", needs(verdict).as_deref());
    line("to do", explained.remedy.as_deref());
    text
}

fn needs(verdict: &Verdict) -> Option<String> {
    let needed = &verdict.needed;
    let parts = [
        ("scope", &needed.scope),
        ("tool", &needed.tool),
        ("prompt", &needed.prompt),
        ("resource", &needed.resource),
        ("audience", &needed.audience),
    ];
    let parts: Vec<_> = parts
        .iter()
        .filter_map(|(name, value)| value.as_ref().map(|value| format!("{name} `{value}`")))
        .collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// The step of the decision that said no, in the order in which a filter takes them.
fn rule(code: Code) -> &'static str {
    use Code::*;
    match code {
        ResponseWithheld => "what a list tells is what the caller may use, or nothing",
        PolicyUnavailable | WorkloadMismatch | RecordsUnavailable | InternalError => {
            "a sidecar without current policy for its own workload lets nothing pass"
        }
        RequestMalformed
        | HeaderDuplicate
        | PathNotCanonical
        | MethodOverrideRefused
        | UpgradeRefused
        | TokenInQuery
        | MediaTypeRefused
        | BodyEncoded
        | BodyTooLarge
        | McpMalformed
        | McpBatch
        | McpHeaderMismatch
        | A2aMalformed
        | A2aBatch
        | A2aVersionRefused => "a request must have exactly one meaning",
        HostUnknown | DirectionUnknown | ServiceUnknown | RouteUnknown | MethodNotAllowed | ToolNotOffered
        | PromptNotOffered | ResourceNotOffered | McpMethodRefused | A2aMethodRefused | TaskRefused
        | EndpointRefused => "what no service file names is denied",
        TokenMissing
        | TokenMalformed
        | TokenAlgorithmRefused
        | TokenTypeRefused
        | TokenIssuerUnknown
        | TokenKeyUnknown
        | TokenSignatureInvalid
        | TokenClaimsInvalid
        | TokenExpired
        | TokenNotYetValid
        | TokenLifetimeExceeded => "a capability must be signed by a known issuer and be in its time",
        PeerMissing | PeerMismatch => "a capability is bound to the mTLS identity of its agent",
        AudienceMismatch => "a capability is good only for the services in its `aud`",
        AgentUnknown | AgentIdentityMismatch => "an agent must be in the policy, under the identity that it shows",
        AgentPaused | AgentSuspended | AgentKilled | TokenRevoked | TokenSuperseded => {
            "the state of an agent overrules its tokens"
        }
        ServiceNotReached => "an agent reaches only the services in its file",
        ScopeNotGranted | ToolNotGranted => "the token must grant what the request needs",
        ScopeNotInPolicy | ToolNotInPolicy | PromptNotInPolicy | ResourceNotInPolicy => {
            "the agent's file must grant it too, whatever the token says"
        }
        ToolDrifted => "a tool whose definition is not the pinned one is not called, where the service's file says so",
        SessionMismatch => "a session belongs to the caller, agent and operation that opened it",
        TaskMismatch | McpTaskMismatch => "a task or context belongs to the caller, agent and operation that opened it",
        ToolForbidden => "forbidden wins over allowed, in the token as in the agent's file",
        OwnSegmentMismatch => "this part of the path must be the caller's own agent id",
    }
}

/// What in the agent's file grants a scope.
fn add_to_policy(scope: &str) -> String {
    match scope.strip_prefix("call:agent.") {
        Some(agent) => format!("add `{agent}` to `mayCall` in the agent's file"),
        None => format!("add `{scope}` to `scope` in the agent's file"),
    }
}

/// What would have to change, and where.
fn remedy(code: Code, verdict: &Verdict) -> String {
    use Code::*;
    let scope = verdict
        .needed
        .scope
        .as_deref()
        .or(verdict.scope.as_deref())
        .unwrap_or("it");
    let tool = verdict
        .needed
        .tool
        .as_deref()
        .or(verdict.tool.as_deref())
        .unwrap_or("it");
    let prompt = verdict.needed.prompt.as_deref().unwrap_or("it");
    let resource = verdict.needed.resource.as_deref().unwrap_or("it");
    let remedy = match code {
        TokenMissing => "ask the policy server for a token and send it as `authorization: Bearer TOKEN`",
        TokenExpired => "ask for a new token shortly before the old one expires",
        TokenNotYetValid => "check the clocks: the token is from the future",
        TokenLifetimeExceeded => "ask for a shorter lifetime; the maximum is the policy server's",
        TokenIssuerUnknown => "have the policy server issue it, or list its issuer there",
        TokenKeyUnknown | TokenSignatureInvalid => {
            "send the token unchanged, from the issuer whose keys are known (keys may have been rotated since)"
        }
        TokenMalformed | TokenAlgorithmRefused | TokenTypeRefused | TokenClaimsInvalid => {
            "send a token that the policy server issued, unchanged"
        }
        TokenRevoked | TokenSuperseded => "ask for a new token",
        PeerMissing => "call through the caller's own sidecar, which shows its certificate (here: --peer)",
        PeerMismatch => "call from the agent's own workload: a token is of no use to another",
        AudienceMismatch => "ask for a token whose `aud` holds this service, which the agent must reach",
        AgentUnknown => "add the agent's file, and name this service in its `reaches`",
        AgentIdentityMismatch => "let `serviceAccount` in the agent's file be that of its workload",
        AgentPaused => "have a reviewer look at the agent and resume it",
        AgentSuspended | AgentKilled => "only an operator can bring the agent back",
        ServiceNotReached => "name the service in `reaches` of the agent's file",
        ServiceUnknown | HostUnknown => "name the host in `hosts` of the service's file, or call the right one",
        RouteUnknown => "call a route of the service's file, or add this one with its scope",
        ScopeNotGranted => return format!("ask the issuer for a token with `{scope}`"),
        ScopeNotInPolicy => return add_to_policy(scope),
        ToolNotGranted => return format!("ask the issuer for a token with the tool `{tool}`"),
        ToolNotInPolicy => return format!("add `{tool}` to `tools` in the agent's file"),
        ToolForbidden => return format!("leave `{tool}` alone, or remove it from what token and file forbid"),
        ToolNotOffered => return format!("add `{tool}` to `tools` of the service's file, if it exists there"),
        PromptNotInPolicy => return format!("add `{prompt}` to `prompts` in the agent's file"),
        PromptNotOffered => return format!("add `{prompt}` to `prompts` of the service's file, if it exists there"),
        ResourceNotInPolicy => {
            return format!("add `{resource}`, or its template, to `resources` in the agent's file");
        }
        ResourceNotOffered => {
            return format!("add `{resource}` to `resources` of the service's file, if it exists there");
        }
        ToolDrifted => "look at what the service now says of the tool, and pin that (`ostiary pin`) if it is right",
        TaskMismatch | McpTaskMismatch => "open a task of one's own in this operation, and name it as the answer did",
        SessionMismatch => "open a session of one's own: send `initialize` without `Mcp-Session-Id`",
        OwnSegmentMismatch => "use the agent's own id in this part of the path",
        MethodNotAllowed | McpMethodRefused | A2aMethodRefused => "use a method that the service's protocol has",
        EndpointRefused => "only the token endpoint and the public keys are open to applications",
        DirectionUnknown => "have the listener marked inbound or outbound in Envoy's configuration",
        HeaderDuplicate => "send the header once",
        PathNotCanonical => "write the path plainly: no `//`, `.`, `..`, `;` or needless percent signs",
        MethodOverrideRefused | UpgradeRefused => "send the request without it",
        TokenInQuery => "send the token in its header",
        A2aMalformed | A2aBatch => "send one message, with the members that A2A gives it",
        A2aVersionRefused => "send `A2A-Version: 1.0` or `0.3`, once",
        TaskRefused => {
            "open a task of one's own, or let the service's file have tasks bound, or leave them to the application"
        }
        McpMalformed | McpBatch | McpHeaderMismatch => "send one JSON-RPC message, with MCP headers that agree with it",
        BodyTooLarge => "send less, or raise `bodyLimitBytes` in the service's file",
        MediaTypeRefused => "send `content-type: application/json`",
        BodyEncoded => "send the body without `content-encoding`",
        RequestMalformed => "send a well-formed request",
        ResponseWithheld => "let the service answer lists plainly: JSON or SSE of MCP, without `content-encoding`",
        PolicyUnavailable | WorkloadMismatch | RecordsUnavailable | InternalError => {
            "look at the sidecar's log and at the policy server"
        }
    };
    remedy.to_owned()
}
