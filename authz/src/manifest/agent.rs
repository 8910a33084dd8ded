//! The rules of one agent's file, among the services that it reaches.

use std::{collections::BTreeSet, fmt};

use super::{
    AgentManifest, AgentPolicy, bounds,
    check::Directory,
    problem::Report,
    service::{CheckedService, identity},
};
use crate::{
    claims::{ServiceRef, ToolGrant},
    identity::{AgentId, SpiffeId, is_label},
    policy::AgentClaims,
    scope::{Scope, ScopeError, ScopeSet},
};

mod named;

/// What stands first in every file: who the agent is.
pub(super) struct AgentIdentity {
    pub(super) id: AgentId,
    pub(super) identity: SpiffeId,
}

/// Reads who the agent is.
pub(super) fn identify(manifest: &AgentManifest, trust_domain: &str, report: &mut Report<'_>) -> Option<AgentIdentity> {
    let name = &manifest.metadata.name;
    let id = report.take(
        "/metadata/name",
        name,
        AgentId::parse(name),
        "write a DNS label, such as `analyst-7`",
    );
    let namespace = &manifest.metadata.namespace;
    if !is_label(namespace) {
        let message = format!("`{namespace}` is not the name of a Kubernetes namespace");
        report.add(
            "/metadata/namespace",
            message,
            "write the workload's Kubernetes namespace",
        );
        return None;
    }
    let identity = identity(trust_domain, &manifest.metadata, &manifest.spec.service_account, report);
    Some(AgentIdentity {
        id: id?,
        identity: identity?,
    })
}

/// Checks an agent's file among all others.
pub(super) fn check(
    manifest: &AgentManifest,
    who: &AgentIdentity,
    directory: &Directory<'_>,
    report: &mut Report<'_>,
) -> AgentPolicy {
    bounds::agent(&manifest.spec, report);
    let reached = reached(manifest, directory, report);
    let tools = tools(manifest, &reached, directory, report);
    let forbidden_tools = forbidden_tools(manifest, directory, report);
    check_forbidden(&tools, &forbidden_tools, &reached, report);
    if manifest.spec.max_tokens_per_day == Some(0) {
        report.add(
            "/spec/maxTokensPerDay",
            "a budget of 0 is none",
            "write a number over 0, or leave it out",
        );
    }
    AgentPolicy {
        claims: AgentClaims {
            id: who.id.clone(),
            identity: who.identity.clone(),
            tools: tools.into_iter().map(|(_, grant)| grant).collect(),
            forbidden_tools: forbidden_tools.into_iter().map(|(_, grant)| grant).collect(),
            prompts: named::prompts(&manifest.spec.prompts, &reached, directory, report),
            resources: named::resources(&manifest.spec.resources, &reached, directory, report),
            scope: scope(manifest, &who.id, &reached, directory, report),
            may_call: may_call(manifest, &who.id, directory, report),
            reaches: reached.iter().map(|service| service.claims.id.clone()).collect(),
        },
        namespace: manifest.metadata.namespace.clone(),
        issuers: issuers(manifest, &who.identity, report),
        max_tokens_per_day: manifest.spec.max_tokens_per_day,
        may_refresh: manifest.spec.may_refresh,
    }
}

/// Places a service reference: exactly one service must be meant.
fn resolve<'d>(
    text: &str,
    reference: Result<ServiceRef, impl fmt::Display>,
    field: &str,
    directory: &Directory<'d>,
    report: &mut Report<'_>,
) -> Option<&'d CheckedService> {
    let reference = report.take(
        field,
        text,
        reference,
        "write `name` or `namespace/name` of one service",
    )?;
    match directory.named(&reference).as_slice() {
        [service] => Some(service),
        [] if directory.is_faulty(&reference) => None,
        [] => {
            report.add(
                field,
                format!("there is no service `{text}`"),
                "add its file, or correct the name",
            );
            None
        }
        several => {
            let names: Vec<&str> = several.iter().map(|service| service.claims.id.as_str()).collect();
            report.add(
                field,
                format!("`{text}` names more than one service"),
                format!("write {}", either(&names)),
            );
            None
        }
    }
}

fn reached<'d>(
    manifest: &AgentManifest,
    directory: &Directory<'d>,
    report: &mut Report<'_>,
) -> Vec<&'d CheckedService> {
    let mut reached: Vec<&CheckedService> = Vec::new();
    for (index, text) in manifest.spec.reaches.iter().enumerate() {
        let field = format!("/spec/reaches/{index}");
        reached.extend(resolve(text, ServiceRef::parse(text), &field, directory, report));
    }
    reached.sort_unstable_by(|one, two| one.claims.id.cmp(&two.claims.id));
    reached.dedup_by(|one, two| one.claims.id == two.claims.id);
    reached
}

fn tool_grant(text: &str, field: &str, report: &mut Report<'_>) -> Option<ToolGrant> {
    if text.contains(['*', '?']) {
        report.add(
            field,
            format!("`{text}`: wildcards are not allowed"),
            "list each tool by its exact name",
        );
        return None;
    }
    report.take(
        field,
        text,
        ToolGrant::parse(text),
        "write `tool`, `service/tool` or `namespace/service/tool`",
    )
}

/// The tools that may be granted, each with its place in the file.
fn tools(
    manifest: &AgentManifest,
    reached: &[&CheckedService],
    directory: &Directory<'_>,
    report: &mut Report<'_>,
) -> Vec<(usize, ToolGrant)> {
    let mut tools = Vec::new();
    for (index, text) in manifest.spec.tools.iter().enumerate() {
        let field = format!("/spec/tools/{index}");
        let Some(grant) = tool_grant(text, &field, report) else {
            continue;
        };
        match offers(&grant, reached.iter().copied()).as_slice() {
            [] => report.add(
                field,
                format!("no service that the agent reaches offers `{text}`"),
                match offers(&grant, directory.services()).first() {
                    Some(service) => format!("add `{}` to `reaches`, or remove the tool", service.claims.id),
                    None => "list it under `tools` of the service that offers it, or remove it".to_owned(),
                },
            ),
            [service] => tools.push((index, with_namespace(&grant, service))),
            several => {
                let names: Vec<String> = several
                    .iter()
                    .map(|service| format!("{}/{}", service.claims.id, grant.tool()))
                    .collect();
                report.add(
                    field,
                    format!("more than one service offers `{text}`"),
                    format!("write {}", either(&names)),
                );
            }
        }
    }
    tools
}

fn forbidden_tools(
    manifest: &AgentManifest,
    directory: &Directory<'_>,
    report: &mut Report<'_>,
) -> Vec<(usize, ToolGrant)> {
    let mut forbidden = Vec::new();
    for (index, text) in manifest.spec.forbidden_tools.iter().enumerate() {
        let field = format!("/spec/forbiddenTools/{index}");
        let Some(grant) = tool_grant(text, &field, report) else {
            continue;
        };
        let Some(reference) = grant.service().cloned() else {
            forbidden.push((index, grant));
            continue;
        };
        let service = resolve(
            &reference.to_string(),
            Ok::<_, ScopeError>(reference),
            &field,
            directory,
            report,
        );
        forbidden.extend(service.map(|service| (index, with_namespace(&grant, service))));
    }
    forbidden
}

/// The services of `among` that offer what an entry names.
fn offers<'d>(grant: &ToolGrant, among: impl Iterator<Item = &'d CheckedService>) -> Vec<&'d CheckedService> {
    among
        .filter(|service| grant.service().is_none_or(|named| named.names(&service.claims.id)))
        .filter(|service| service.claims.tools.contains_key(grant.tool()))
        .collect()
}

/// The same entry; a service that it names is named with its namespace.
fn with_namespace(grant: &ToolGrant, service: &CheckedService) -> ToolGrant {
    let reference = grant.service().map(|_| ServiceRef::Id(service.claims.id.clone()));
    ToolGrant::new(reference, grant.tool().clone())
}

fn check_forbidden(
    tools: &[(usize, ToolGrant)],
    forbidden: &[(usize, ToolGrant)],
    reached: &[&CheckedService],
    report: &mut Report<'_>,
) {
    for (index, grant) in tools {
        let mut offering = offers(grant, reached.iter().copied()).into_iter();
        let is_forbidden = offering.any(|service| {
            forbidden
                .iter()
                .any(|(_, entry)| entry.covers(&service.claims.id, grant.tool()))
        });
        if is_forbidden {
            let message = format!("`{grant}` is in `forbiddenTools` too, which wins");
            report.add(
                format!("/spec/tools/{index}"),
                message,
                "remove it from one of the two lists",
            );
        }
    }
}

fn scope(
    manifest: &AgentManifest,
    agent: &AgentId,
    reached: &[&CheckedService],
    directory: &Directory<'_>,
    report: &mut Report<'_>,
) -> ScopeSet {
    let mut scopes = Vec::new();
    for (index, text) in manifest.spec.scope.iter().enumerate() {
        let field = format!("/spec/scope/{index}");
        let parsed = Scope::parse(text);
        let advice = match parsed {
            Err(ScopeError::Wildcard) => "list each resource, such as `read:data.sales_q1_2026`",
            _ => "write `action:resource` in lower case, such as `read:data.sales_q1_2026`",
        };
        let Some(scope) = report.take(&field, text, parsed, advice) else {
            continue;
        };
        if !reached.iter().any(|service| service.compiled.could_need(&scope, agent)) {
            let elsewhere = directory
                .services()
                .find(|service| service.compiled.could_need(&scope, agent));
            report.add(
                field,
                format!("no service that the agent reaches ever asks for `{text}`"),
                match elsewhere {
                    Some(service) => format!("add `{}` to `reaches`, or remove the scope", service.claims.id),
                    None if scope.called_agent().is_some() => {
                        "name the agent in `mayCall`, which is what grants a call".to_owned()
                    }
                    None => "correct it to what a route or a tool needs, or remove it".to_owned(),
                },
            );
        }
        scopes.push(scope);
    }
    ScopeSet::new(scopes)
}

fn may_call(
    manifest: &AgentManifest,
    own: &AgentId,
    directory: &Directory<'_>,
    report: &mut Report<'_>,
) -> Vec<AgentId> {
    let mut agents = BTreeSet::new();
    for (index, text) in manifest.spec.may_call.iter().enumerate() {
        let field = format!("/spec/mayCall/{index}");
        let Some(agent) = report.take(&field, text, AgentId::parse(text), "write the name of one agent") else {
            continue;
        };
        if agent == *own {
            report.add(field, "an agent does not call itself", "remove it");
        } else if !directory.has_agent(text) {
            report.add(
                field,
                format!("there is no agent `{text}`"),
                "add its file, or correct the name",
            );
        }
        agents.insert(agent);
    }
    agents.into_iter().collect()
}

fn issuers(manifest: &AgentManifest, own: &SpiffeId, report: &mut Report<'_>) -> Vec<SpiffeId> {
    let mut issuers = BTreeSet::new();
    for (index, text) in manifest.spec.issuers.iter().enumerate() {
        let field = format!("/spec/issuers/{index}");
        let parsed = SpiffeId::parse(text);
        let advice = "write one SPIFFE ID in full, such as `spiffe://cluster.local/ns/orchestration/sa/orchestrator`";
        let Some(issuer) = report.take(&field, text, parsed, advice) else {
            continue;
        };
        if issuer == *own {
            report.add(
                field,
                "an agent does not issue for itself",
                "remove it; `mayRefresh: self` lets it renew",
            );
        }
        issuers.insert(issuer);
    }
    issuers.into_iter().collect()
}

/// "`a` or `b`".
fn either(names: &[impl AsRef<str>]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{}`", name.as_ref())).collect();
    quoted.join(" or ")
}
