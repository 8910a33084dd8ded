//! The smallest grant by which a call that went on in shadow would be permitted.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use authz::audit::{Record, RecordedFacts};
use authz::claims::ToolGrant;
use authz::denial::Code;
use authz::identity::{AgentId, ServiceId, ToolName};
use authz::manifest::Mesh;
use authz::policy::{AgentClaims, ServiceClaims};
use authz::resource::{ResourceGrant, ResourceTemplate};
use authz::scope::Scope;
use serde::{Deserialize, Serialize};

/// Entries to add to an agent's file, by their fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Grant {
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    tools: BTreeSet<String>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    prompts: BTreeSet<String>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    resources: BTreeSet<String>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    scope: BTreeSet<String>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    may_call: BTreeSet<String>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    reaches: BTreeSet<String>,
}

/// What a token holds, of its claims in a record.
#[derive(Debug, Default, Deserialize)]
struct Held {
    #[serde(default)]
    scope: Vec<String>,
    #[serde(default)]
    tools: Vec<String>,
}

/// What there is to do about calls that enforcing would deny.
pub(super) fn advice(code: Code, grant: &Grant) -> &'static str {
    match code {
        Code::TokenMissing => {
            "no grant: have the agent ask for a token, and send it with the call through its own sidecar"
        }
        Code::TokenExpired => "no grant: have the agent renew its token before it expires",
        Code::AudienceMismatch => {
            "no grant: have the token asked for with this service among its `aud`; all that the agent reaches are if none is named"
        }
        Code::ToolForbidden => {
            "forbidden by the agent's file or by its token: needs a decision of a person, and none is proposed"
        }
        Code::OwnSegmentMismatch => "no grant: the service's file keeps this path to the agent that it names (`own`)",
        Code::ScopeNotGranted | Code::ToolNotGranted if grant.is_empty() => {
            "the agent's file grants it: have the token asked for with it"
        }
        Code::ScopeNotGranted | Code::ToolNotGranted => {
            "add it to the agent's file, and have the token asked for with it"
        }
        _ if grant.is_empty() => "the agent's file grants it by now",
        _ => "add it to the agent's file",
    }
}

impl Grant {
    /// What the call of a record needs and neither its token shows to be granted nor, where they are given, files grant.
    /// Nothing for what no grant ought to allow.
    pub(super) fn of(record: &Record<'_>, code: Code, mesh: Option<&Mesh>) -> Self {
        let mut grant = Self::default();
        let service = record.service.as_deref().and_then(|id| ServiceId::parse(id).ok());
        let (Some(service), Some(facts)) = (service, &record.facts) else {
            return grant;
        };
        if !is_for_a_grant(code) {
            return grant;
        }
        let claims = record.claims.as_ref();
        let held: Held = claims
            .and_then(|claims| serde_json::from_slice(claims.encoding()).ok())
            .unwrap_or_default();
        if code == Code::ServiceNotReached {
            grant.reaches.insert(service.to_string());
        }
        grant.names(facts, code, &service, &held, mesh);
        grant.scopes(facts, code, &held);
        let policy = record.agent_id.as_deref().and_then(|id| AgentId::parse(id).ok());
        if let Some(policy) = policy.and_then(|id| mesh?.agent(&id)) {
            grant.drop_granted(&policy.claims, &service);
        }
        grant
    }

    fn names(&mut self, facts: &RecordedFacts<'_>, code: Code, service: &ServiceId, held: &Held, mesh: Option<&Mesh>) {
        // Prompts and resources are in no token: those that were not found wanting are in the file.
        let all = code == Code::ServiceNotReached;
        if let Some(tool) = facts.tool.as_deref() {
            let lists = |entry: &String| covers(entry, service, tool);
            if code == Code::ToolNotInPolicy || !held.tools.iter().any(lists) {
                self.tools.insert(format!("{service}/{tool}"));
            }
        }
        if let Some(prompt) = facts
            .prompt
            .as_deref()
            .filter(|_| all || code == Code::PromptNotInPolicy)
        {
            self.prompts.insert(format!("{service}/{prompt}"));
        }
        if all || code == Code::ResourceNotInPolicy {
            let file = mesh.and_then(|mesh| mesh.service(service));
            let entries = facts.resources.iter();
            let entries =
                entries.map(|(uri, _)| format!("{service}/{}", file.map_or(&**uri, |file| listed(file, uri))));
            self.resources.extend(entries);
        }
    }

    fn scopes(&mut self, facts: &RecordedFacts<'_>, code: Code, held: &Held) {
        let named = facts.resources.iter().map(|(_, scope)| &**scope);
        for scope in named.chain(facts.scope.as_deref()).filter(|scope| !scope.is_empty()) {
            if code != Code::ScopeNotInPolicy && held.scope.iter().any(|held| held == scope) {
                continue;
            }
            let called = Scope::parse(scope)
                .ok()
                .and_then(|scope| scope.called_agent().map(str::to_owned));
            match called {
                Some(agent) => self.may_call.insert(agent),
                None => self.scope.insert(scope.to_owned()),
            };
        }
    }

    fn drop_granted(&mut self, policy: &AgentClaims, service: &ServiceId) {
        let names = |grants: &[ToolGrant], entry: &str| {
            let wanted = ToolGrant::parse(entry);
            wanted.is_ok_and(|wanted| grants.iter().any(|grant| grant.covers(service, wanted.tool())))
        };
        self.tools.retain(|entry| !names(&policy.tools, entry));
        self.prompts.retain(|entry| !names(&policy.prompts, entry));
        self.resources.retain(|entry| {
            let wanted = ResourceGrant::parse(entry);
            !wanted.is_ok_and(|wanted| {
                let mut grants = policy.resources.iter();
                grants.any(|grant| grant.covers(service, wanted.resource()))
            })
        });
        self.scope
            .retain(|scope| policy.scope.iter().all(|known| known.as_str() != scope));
        self.may_call
            .retain(|agent| policy.may_call.iter().all(|known| known.as_str() != agent));
        self.reaches
            .retain(|id| policy.reaches.iter().all(|known| known.as_str() != id));
    }

    fn fields(&self) -> [(&'static str, &BTreeSet<String>); 6] {
        [
            ("tools", &self.tools),
            ("prompts", &self.prompts),
            ("resources", &self.resources),
            ("scope", &self.scope),
            ("mayCall", &self.may_call),
            ("reaches", &self.reaches),
        ]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.fields().iter().all(|(_, entries)| entries.is_empty())
    }

    /// Adds what another grant has.
    pub(super) fn join(&mut self, other: &Self) {
        self.tools.extend(other.tools.iter().cloned());
        self.prompts.extend(other.prompts.iter().cloned());
        self.resources.extend(other.resources.iter().cloned());
        self.scope.extend(other.scope.iter().cloned());
        self.may_call.extend(other.may_call.iter().cloned());
        self.reaches.extend(other.reaches.iter().cloned());
    }

    /// The lines to add to `spec` of the agent's file.
    // Writing to a string cannot fail.
    pub(super) fn yaml(&self) -> String {
        let mut text = String::new();
        for (field, entries) in self.fields() {
            if entries.is_empty() {
                continue;
            }
            let _ = writeln!(text, "  {field}:");
            for entry in entries {
                // A double-quoted string of JSON is one of YAML.
                let _ = writeln!(text, "  - {}", serde_json::Value::from(entry.as_str()));
            }
        }
        text
    }
}

/// Whether a grant is what the denial asks for.
fn is_for_a_grant(code: Code) -> bool {
    matches!(
        code,
        Code::ServiceNotReached
            | Code::ScopeNotGranted
            | Code::ScopeNotInPolicy
            | Code::ToolNotGranted
            | Code::ToolNotInPolicy
            | Code::PromptNotInPolicy
            | Code::ResourceNotInPolicy
    )
}

fn covers(entry: &str, service: &ServiceId, tool: &str) -> bool {
    let grant = ToolGrant::parse(entry);
    let tool = ToolName::parse(tool);
    grant.is_ok_and(|grant| tool.is_ok_and(|tool| grant.covers(service, &tool)))
}

/// A resource as its service lists it.
fn listed<'a>(service: &'a ServiceClaims, uri: &'a str) -> &'a str {
    let mut templates = service.resources.keys();
    let matches = |template: &&String| {
        *template == uri || ResourceTemplate::parse(template).is_ok_and(|parsed| parsed.captures(uri).is_some())
    };
    templates.find(matches).map_or(uri, String::as_str)
}
