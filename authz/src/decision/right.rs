//! The right that a request needs: whether the token and the agent's policy both grant it.

use super::Admitted;
use crate::denial::{Code, Denial, Needed};
use crate::identity::{AgentId, ToolName};
use crate::request::{Facts, ResourceNeed, Right};
use crate::scope::Scope;

/// Checks that token and policy both grant what was asked for.
///
/// # Errors
///
/// The first check that fails.
pub(super) fn check(admitted: &Admitted<'_>, facts: &Facts) -> Result<(), Denial> {
    check_own(admitted, facts)?;
    match &facts.right {
        Right::Scope(scope) => {
            check_scope(admitted, scope, needed(Some(scope), None))?;
            let written = facts.destination.as_ref().and_then(|need| need.scope.as_ref());
            written.map_or(Ok(()), |scope| check_scope(admitted, scope, needed(Some(scope), None)))
        }
        Right::Tool { name, scope } => {
            check_tool(admitted, name, scope.as_ref())?;
            scope.as_ref().map_or(Ok(()), |scope| {
                check_scope(admitted, scope, needed(Some(scope), Some(name)))
            })
        }
        Right::Prompt { name, scope } => check_prompt(admitted, name, scope.as_ref()),
        Right::Resources(resources) => resources.iter().try_for_each(|need| check_resource(admitted, need)),
        Right::Call { agent, scope } => check_call(admitted, agent, scope),
        Right::Session => Ok(()),
        // Only the peers that the service lists; they were let through before.
        Right::Exempt => Err(Denial::new(Code::RouteUnknown, "the path matches no route")),
        Right::ControlPlane => Err(Denial::new(
            Code::EndpointRefused,
            "the policy server is called from the outbound side",
        )),
    }
}

/// Forbidden wins over granted, always, whether the token or the policy says so.
pub(super) fn check_tool(admitted: &Admitted<'_>, tool: &ToolName, scope: Option<&Scope>) -> Result<(), Denial> {
    let Admitted { claims, agent, service } = admitted;
    let service = service.id();
    let deny = |code, detail| Err(Denial::new(code, detail).with_needed(needed(scope, Some(tool))));
    if claims.forbids(service, tool) || agent.forbids(service, tool) {
        return deny(Code::ToolForbidden, "the tool is forbidden to this agent");
    }
    if !claims.lists_tool(service, tool) {
        return deny(Code::ToolNotGranted, "the token does not list the tool");
    }
    if !agent.lists_tool(service, tool) {
        return deny(Code::ToolNotInPolicy, "the agent's policy does not list the tool");
    }
    Ok(())
}

/// A token lists no prompts: what narrows it is the scope that the service's file may ask for.
fn check_prompt(admitted: &Admitted<'_>, prompt: &ToolName, scope: Option<&Scope>) -> Result<(), Denial> {
    let needed = needed_prompt(prompt, scope);
    if !admitted.agent.lists_prompt(admitted.service.id(), prompt) {
        let detail = "the agent's policy does not list the prompt";
        return Err(Denial::new(Code::PromptNotInPolicy, detail).with_needed(needed));
    }
    scope.map_or(Ok(()), |scope| check_scope(admitted, scope, needed))
}

/// As for prompts. The policy lists what the service lists: the URI, or the template that it matches.
pub(super) fn check_resource(admitted: &Admitted<'_>, need: &ResourceNeed) -> Result<(), Denial> {
    let Admitted { agent, service, .. } = admitted;
    let needed = needed_resource(need);
    let rule = service
        .resource_template(&need.uri)
        .or_else(|| service.resource(&need.uri));
    let Some(rule) = rule else {
        let detail = "the service offers no such resource";
        return Err(Denial::new(Code::ResourceNotOffered, detail).with_needed(needed));
    };
    if !agent.lists_resource(service.id(), rule.template.as_str()) {
        let detail = "the agent's policy does not list the resource";
        return Err(Denial::new(Code::ResourceNotInPolicy, detail).with_needed(needed));
    }
    need.scope
        .as_ref()
        .map_or(Ok(()), |scope| check_scope(admitted, scope, needed))
}

/// The policy grants a call by `mayCall` and not by `scope`: a route may need a scope of the same text.
fn check_call(admitted: &Admitted<'_>, agent: &AgentId, scope: &Scope) -> Result<(), Denial> {
    let deny = |code, detail| Err(Denial::new(code, detail).with_needed(needed(Some(scope), None)));
    if !admitted.claims.scope.contains(scope) {
        return deny(Code::ScopeNotGranted, "the token does not hold the scope");
    }
    if !admitted.agent.may_call(agent) {
        let detail = "the agent's policy does not list the agent that is called";
        return deny(Code::ScopeNotInPolicy, detail);
    }
    Ok(())
}

fn check_scope(admitted: &Admitted<'_>, scope: &Scope, needed: Needed) -> Result<(), Denial> {
    let deny = |code, detail| Err(Denial::new(code, detail).with_needed(needed));
    if !admitted.claims.scope.contains(scope) {
        return deny(Code::ScopeNotGranted, "the token does not hold the scope");
    }
    if !admitted.agent.has_scope(scope) {
        return deny(Code::ScopeNotInPolicy, "the agent's policy does not hold the scope");
    }
    Ok(())
}

fn check_own(admitted: &Admitted<'_>, facts: &Facts) -> Result<(), Denial> {
    match facts.own.as_deref() {
        Some(own) if own != admitted.agent_id().as_str() => Err(Denial::new(
            Code::OwnSegmentMismatch,
            "the path names another agent than the caller",
        )),
        Some(_) | None => Ok(()),
    }
}

fn needed(scope: Option<&Scope>, tool: Option<&ToolName>) -> Needed {
    Needed {
        scope: scope.map(ToString::to_string),
        tool: tool.map(ToString::to_string),
        ..Needed::default()
    }
}

fn needed_prompt(prompt: &ToolName, scope: Option<&Scope>) -> Needed {
    Needed {
        prompt: Some(prompt.to_string()),
        ..needed(scope, None)
    }
}

fn needed_resource(need: &ResourceNeed) -> Needed {
    Needed {
        resource: Some(need.uri.clone()),
        ..needed(need.scope.as_ref(), None)
    }
}

/// A caller without a token is told what it would need.
pub(super) fn name(denial: Denial, right: &Right) -> Denial {
    if denial.code() != Code::TokenMissing {
        return denial;
    }
    match right {
        Right::Scope(scope) | Right::Call { scope, .. } => denial.with_needed(needed(Some(scope), None)),
        Right::Tool { name, scope } => denial.with_needed(needed(scope.as_ref(), Some(name))),
        Right::Prompt { name, scope } => denial.with_needed(needed_prompt(name, scope.as_ref())),
        Right::Resources(resources) => match resources.first() {
            Some(need) => denial.with_needed(needed_resource(need)),
            None => denial,
        },
        Right::Session | Right::Exempt | Right::ControlPlane => denial,
    }
}
