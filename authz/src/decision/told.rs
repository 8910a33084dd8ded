//! What a caller is told of in a service's lists: what some call of it would be permitted.

use super::{Admitted, Pause, Question, admit_to, available, find_service, right, shadow};
use crate::definition::DefinitionDigest;
use crate::denial::Denial;
use crate::identity::{ServiceId, ToolName};
use crate::json::Value;
use crate::policy::{ResourceRule, Service, ToolRule};
use crate::protocol::{list::List, mcp};
use crate::scope::ScopeTemplate;

/// Whom a service's lists are told to.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    service: &'a Service,
    /// None where all is told that the service's file lists: an agent that is kept from knowing a tool is kept from calling
    /// it, and shadow mode keeps nobody from anything.
    admitted: Option<Admitted<'a>>,
}

/// Who is told of the lists of the service named.
///
/// # Errors
///
/// As of [`super::admit`].
pub fn tell<'a>(q: &Question<'a>, service: &ServiceId) -> Result<Told<'a>, Denial> {
    available(q)?;
    let service = find_service(q.bundle, service)?;
    let admitted = if shadow::is_told_all(q, service) {
        None
    } else {
        Some(admit_to(q, service, Pause::Waits)?)
    };
    Ok(Told { service, admitted })
}

impl<'a> Told<'a> {
    /// Whether the caller is told of an entry of a list, by its name, URI or template.
    ///
    /// By the same checks as a call. Where the scope that a call needs is made of its arguments, one that the caller holds
    /// must be one that some arguments ask for.
    #[must_use]
    pub fn is_told(&self, list: List, name: &str) -> bool {
        let Self { service, admitted } = self;
        let may = |check: &dyn Fn(&Admitted<'a>) -> bool| admitted.as_ref().is_none_or(check);
        match list {
            List::Tools => service
                .tool(name)
                .is_some_and(|rule| may(&|admitted| admitted.may_call(rule))),
            List::Prompts => service
                .prompt(name)
                .is_some_and(|rule| may(&|admitted| admitted.may_get(rule))),
            List::Resources => mcp::resource_need(name, service)
                .is_ok_and(|need| may(&|admitted| right::check_resource(admitted, &need).is_ok())),
            List::Templates => service
                .resource_template(name)
                .is_some_and(|rule| may(&|admitted| admitted.may_read_some(rule))),
        }
    }

    /// Whether a service defines a tool otherwise in this entry of a list than its file pins it; None of what is not pinned.
    #[must_use]
    pub fn drifts(&self, list: List, name: &str, entry: Value<'_>) -> Option<(&'a ToolName, bool)> {
        let rule = self.service.tool(name).filter(|_| list == List::Tools)?;
        let pinned = rule.definition?;
        Some((&rule.name, pinned != DefinitionDigest::of(entry)))
    }

    /// Whether a tool that drifts is left out of lists.
    #[must_use]
    pub fn is_denied_if_it_drifts(&self, name: &str) -> bool {
        self.service.denied_if_not(name).is_some()
    }

    /// The service whose lists they are.
    #[must_use]
    pub fn service(&self) -> &'a Service {
        self.service
    }
}

impl Admitted<'_> {
    fn may_call(&self, rule: &ToolRule) -> bool {
        right::check_tool(self, &rule.name, None).is_ok() && self.holds_one_of(rule.scope.as_ref())
    }

    fn may_get(&self, rule: &ToolRule) -> bool {
        let prompt: &ToolName = &rule.name;
        self.agent.lists_prompt(self.service.id(), prompt) && self.holds_one_of(rule.scope.as_ref())
    }

    fn may_read_some(&self, rule: &ResourceRule) -> bool {
        self.agent.lists_resource(self.service.id(), rule.template.as_str()) && self.holds_one_of(rule.scope.as_ref())
    }

    /// Whether token and policy hold a scope that the template could make.
    fn holds_one_of(&self, template: Option<&ScopeTemplate>) -> bool {
        let Some(template) = template else {
            return true;
        };
        let mut held = self.claims.scope.iter();
        held.any(|scope| self.agent.has_scope(scope) && template.could_produce(scope, |_, _| true))
    }
}

#[cfg(test)]
mod tests;
