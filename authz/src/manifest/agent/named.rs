//! The prompts and resources of an agent's file: each is offered by exactly one service that the agent reaches.

use super::{either, tool_grant};
use crate::{
    claims::{ServiceRef, ToolGrant},
    manifest::{check::Directory, problem::Report, service::CheckedService},
    resource::{ResourceError, ResourceGrant, ResourceTemplate},
};

/// The prompts that may be got.
pub(super) fn prompts(
    texts: &[String],
    reached: &[&CheckedService],
    directory: &Directory<'_>,
    report: &mut Report<'_>,
) -> Vec<ToolGrant> {
    let mut prompts = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let field = format!("/spec/prompts/{index}");
        let Some(grant) = tool_grant(text, &field, report) else {
            continue;
        };
        let offers = |service: &CheckedService| {
            service.claims.prompts.contains_key(grant.tool()) && grant.covers(&service.claims.id, grant.tool())
        };
        let name = grant.tool().as_str();
        let entry = Entry {
            text,
            name,
            list: "prompts",
        };
        if let Some(service) = entry.offered_by_one(&offers, reached, directory, field, report) {
            let named = grant.service().map(|_| ServiceRef::Id(service.claims.id.clone()));
            prompts.push(ToolGrant::new(named, grant.tool().clone()));
        }
    }
    prompts
}

/// The resources that may be read, each by the URI or template that its service lists.
pub(super) fn resources(
    texts: &[String],
    reached: &[&CheckedService],
    directory: &Directory<'_>,
    report: &mut Report<'_>,
) -> Vec<ResourceGrant> {
    let mut resources = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let field = format!("/spec/resources/{index}");
        let parsed = ResourceGrant::parse(text);
        let advice = match parsed {
            Err(ResourceError::Wildcard) => "list each resource by the URI or template that its service lists",
            _ => "write `URI`, `service/URI` or `namespace/service/URI`",
        };
        let Some(grant) = report.take(&field, text, parsed, advice) else {
            continue;
        };
        let offers = |service: &CheckedService| {
            service.claims.resources.contains_key(grant.resource())
                && grant.covers(&service.claims.id, grant.resource())
        };
        let name = grant.resource();
        let entry = Entry {
            text,
            name,
            list: "resources",
        };
        let service = entry.offered_by_one(&offers, reached, directory, field, report);
        let template = ResourceTemplate::parse(grant.resource()).ok();
        if let Some((service, template)) = service.zip(template) {
            let named = grant.service().map(|_| ServiceRef::Id(service.claims.id.clone()));
            resources.push(ResourceGrant::new(named, &template));
        }
    }
    resources
}

/// An entry of a list.
struct Entry<'a> {
    text: &'a str,
    /// Without the service.
    name: &'a str,
    /// The field of a service's file that would offer it.
    list: &'static str,
}

impl Entry<'_> {
    /// The one service that offers it, or what is wrong.
    fn offered_by_one<'d>(
        &self,
        offers: &dyn Fn(&CheckedService) -> bool,
        reached: &[&'d CheckedService],
        directory: &Directory<'d>,
        field: String,
        report: &mut Report<'_>,
    ) -> Option<&'d CheckedService> {
        let Self { text, name, list } = self;
        let offering: Vec<&CheckedService> = reached.iter().copied().filter(|service| offers(service)).collect();
        match offering.as_slice() {
            [service] => return Some(service),
            [] => report.add(
                field,
                format!("no service that the agent reaches offers `{text}`"),
                match directory.services().find(|service| offers(service)) {
                    Some(service) => format!("add `{}` to `reaches`, or remove the entry", service.claims.id),
                    None => format!("list it under `{list}` of the service that offers it, or remove it"),
                },
            ),
            several => {
                let names: Vec<String> = several
                    .iter()
                    .map(|service| format!("{}/{name}", service.claims.id))
                    .collect();
                report.add(
                    field,
                    format!("more than one service offers `{text}`"),
                    format!("write {}", either(&names)),
                );
            }
        }
        None
    }
}
