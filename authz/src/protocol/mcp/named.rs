//! The methods that name something, and the right that each name asks for.
//!
//! | method | name |
//! |---|---|
//! | `tools/call` | the tool, `name` |
//! | `prompts/get` | the prompt, `name` |
//! | `resources/read`, `resources/subscribe`, `resources/unsubscribe` | the resource, `uri` |
//! | `completion/complete` | the prompt or the resource (by its template) in `ref` |
//! | `subscriptions/listen` | every resource in `notifications.resourceSubscriptions`, and every task in `notifications.taskIds` |
//! | `tasks/get`, `tasks/result`, `tasks/update`, `tasks/cancel` | the task, `taskId` |
//!
//! Members of `params` that are not known are refused, for the reason that [`super`] gives.

use std::borrow::Cow;

use super::{META, malformed, tasks};
use crate::denial::{Code, Denial, Needed};
use crate::identity::ToolName;
use crate::json::{Kind, Value};
use crate::order;
use crate::policy::{ResourceRule, Service};
use crate::request::{ResourceNeed, Right};
use crate::scope::{Capture, Scope, ScopeTemplate};

/// The longest URI that is read: it is echoed and recorded.
const MAX_URI_BYTES: usize = 1024;

/// The longest id of a task that is read, with its seal.
const MAX_TASK_ID_BYTES: usize = 256;

/// The most resources, and the most tasks, that one subscription may name: the resources are all in one record.
const MAX_SUBSCRIPTIONS: usize = 24;

/// The method that names what it wants to hear of in [`NOTIFICATIONS`].
pub(super) const LISTEN: &str = "subscriptions/listen";
pub(super) const NOTIFICATIONS: &str = "notifications";
pub(super) const TASK_IDS: &str = "taskIds";
pub(super) const TASK_ID: &str = "taskId";

/// Reads the `params` of a method.
pub(super) type Read = for<'a> fn(Option<Value<'a>>) -> Result<Asked<'a>, Denial>;

/// What `Mcp-Name` has to say.
#[derive(Clone, Copy, Debug)]
pub(super) enum Name<'a> {
    /// This, where the version has the header at all.
    Repeated(&'a str),
    /// The same, of a task.
    Task(&'a str),
    /// This, if anything.
    Known(&'a str),
    /// Nothing.
    Nothing,
}

/// What the `params` of a method ask for.
pub(super) enum Asked<'a> {
    Tool {
        name: ToolName,
        arguments: Option<Value<'a>>,
    },
    Prompt {
        name: ToolName,
        arguments: Option<Value<'a>>,
        /// Whether it is asked for itself, and not for values of an argument.
        get: bool,
    },
    Resource {
        uri: Cow<'a, str>,
        /// Whether it is read, and not subscribed to.
        read: bool,
    },
    /// Values for a template, by its text; those that are known already in `arguments`.
    Template {
        text: Cow<'a, str>,
        arguments: Option<Value<'a>>,
    },
    Subscriptions {
        uris: Vec<Cow<'a, str>>,
        /// Whether tasks are named too.
        tasks: bool,
    },
    Task(Cow<'a, str>),
    TaskList,
}

/// The `params` of `tools/call`.
pub(super) fn tool_call(params: Option<Value<'_>>) -> Result<Asked<'_>, Denial> {
    let (name, arguments) = call(params, "task")?;
    Ok(Asked::Tool { name, arguments })
}

/// The `params` of `prompts/get`.
pub(super) fn prompt(params: Option<Value<'_>>) -> Result<Asked<'_>, Denial> {
    let (name, arguments) = call(params, META)?;
    Ok(Asked::Prompt {
        name,
        arguments,
        get: true,
    })
}

/// A name and arguments; `also` is a member that one method has beside those of all.
fn call<'a>(params: Option<Value<'a>>, also: &str) -> Result<(ToolName, Option<Value<'a>>), Denial> {
    let (mut name, mut arguments) = (None, None);
    for (key, value) in members(params)? {
        match &*key {
            "name" => name = Some(tool_name(value)?),
            "arguments" if value.kind() == Kind::Object => arguments = Some(value),
            "arguments" => return Err(malformed("`params.arguments` is no object")),
            // A retry with answers to the server's questions is a call like any other.
            META | "inputResponses" | "requestState" => {}
            key if key == also => {}
            _ => return Err(unknown_member()),
        }
    }
    let name = name.ok_or_else(|| malformed("`params.name` is missing"))?;
    Ok((name, arguments))
}

/// The `params` of `resources/read`.
pub(super) fn resource(params: Option<Value<'_>>) -> Result<Asked<'_>, Denial> {
    let mut uri = None;
    for (key, value) in members(params)? {
        match &*key {
            "uri" => uri = Some(resource_uri(value)?),
            META | "inputResponses" | "requestState" => {}
            _ => return Err(unknown_member()),
        }
    }
    let uri = uri.ok_or_else(|| malformed("`params.uri` is missing"))?;
    Ok(Asked::Resource { uri, read: true })
}

/// The `params` of `resources/subscribe` and `resources/unsubscribe`.
pub(super) fn subscription(params: Option<Value<'_>>) -> Result<Asked<'_>, Denial> {
    match resource(params)? {
        Asked::Resource { uri, .. } => Ok(Asked::Resource { uri, read: false }),
        other => Ok(other),
    }
}

/// The `params` of `completion/complete`: values for an argument are as much the prompt's or resource's as what they lead to.
pub(super) fn completion(params: Option<Value<'_>>) -> Result<Asked<'_>, Denial> {
    let (mut reference, mut arguments) = (None, None);
    for (key, value) in members(params)? {
        match &*key {
            "ref" => reference = Some(value),
            "argument" if value.kind() == Kind::Object => {}
            "context" => arguments = context(value)?,
            META => {}
            _ => return Err(unknown_member()),
        }
    }
    let reference = reference.ok_or_else(|| malformed("`params.ref` is missing"))?;
    let (mut kind, mut name, mut uri) = (None, None, None);
    for (key, value) in reference
        .entries()
        .ok_or_else(|| malformed("`params.ref` is no object"))?
    {
        match &*key {
            "type" => kind = value.as_str(),
            "name" => name = Some(tool_name(value)?),
            "uri" => uri = Some(resource_uri(value)?),
            "title" => {}
            _ => return Err(unknown_member()),
        }
    }
    match (kind.as_deref(), name, uri) {
        (Some("ref/prompt"), Some(name), None) => Ok(Asked::Prompt {
            name,
            arguments,
            get: false,
        }),
        (Some("ref/resource"), None, Some(text)) => Ok(Asked::Template { text, arguments }),
        _ => Err(malformed("`params.ref` names neither one prompt nor one resource")),
    }
}

/// The arguments that have values already, in `params.context`.
fn context(context: Value<'_>) -> Result<Option<Value<'_>>, Denial> {
    let mut arguments = None;
    for (key, value) in context
        .entries()
        .ok_or_else(|| malformed("`params.context` is no object"))?
    {
        match &*key {
            "arguments" if value.kind() == Kind::Object => arguments = Some(value),
            _ => return Err(unknown_member()),
        }
    }
    Ok(arguments)
}

/// The `params` of `subscriptions/listen`.
pub(super) fn listening(params: Option<Value<'_>>) -> Result<Asked<'_>, Denial> {
    let mut notifications = None;
    for (key, value) in members(params)? {
        match &*key {
            NOTIFICATIONS => notifications = Some(value),
            META => {}
            _ => return Err(unknown_member()),
        }
    }
    let notifications = notifications
        .and_then(|notifications| notifications.entries())
        .ok_or_else(|| malformed("`params.notifications` is no object"))?;
    let (mut uris, mut tasks) = (Vec::new(), false);
    for (key, value) in notifications {
        match &*key {
            "toolsListChanged" | "promptsListChanged" | "resourcesListChanged" => {}
            "resourceSubscriptions" => {
                let listed = value
                    .as_array()
                    .ok_or_else(|| malformed("`resourceSubscriptions` is no array"))?;
                uris = listed.map(resource_uri).collect::<Result<_, _>>()?;
            }
            TASK_IDS => {
                let listed = value.as_array().ok_or_else(|| malformed("`taskIds` is no array"))?;
                let ids = listed.map(task_id).collect::<Result<Vec<_>, _>>()?;
                if ids.len() > MAX_SUBSCRIPTIONS {
                    return Err(malformed("too many tasks in one subscription"));
                }
                tasks = !ids.is_empty();
            }
            _ => return Err(unknown_member()),
        }
    }
    if uris.len() > MAX_SUBSCRIPTIONS {
        return Err(malformed("too many resources in one subscription"));
    }
    order::sort(&mut uris);
    uris.dedup();
    Ok(Asked::Subscriptions { uris, tasks })
}

/// The `params` of `tasks/get`, `tasks/result` and `tasks/cancel`.
pub(super) fn task(params: Option<Value<'_>>) -> Result<Asked<'_>, Denial> {
    // What the call began with, which the official client for TypeScript repeats.
    of_task(params, "task")
}

/// The `params` of `tasks/update`, which answers what the task asks for.
pub(super) fn task_update(params: Option<Value<'_>>) -> Result<Asked<'_>, Denial> {
    of_task(params, "inputResponses")
}

/// The id of a task; `also` is a member that one method has beside those of all.
fn of_task<'a>(params: Option<Value<'a>>, also: &str) -> Result<Asked<'a>, Denial> {
    let mut id = None;
    for (key, value) in members(params)? {
        match &*key {
            TASK_ID => id = Some(task_id(value)?),
            META => {}
            key if key == also => {}
            _ => return Err(unknown_member()),
        }
    }
    id.map(Asked::Task)
        .ok_or_else(|| malformed("`params.taskId` is missing"))
}

/// The `params` of `tasks/list`.
pub(super) fn task_list(params: Option<Value<'_>>) -> Result<Asked<'_>, Denial> {
    for (key, _) in params.and_then(|params| params.entries()).into_iter().flatten() {
        match &*key {
            "cursor" | META => {}
            _ => return Err(unknown_member()),
        }
    }
    Ok(Asked::TaskList)
}

fn members(params: Option<Value<'_>>) -> Result<crate::json::Entries<'_>, Denial> {
    params
        .and_then(|params| params.entries())
        .ok_or_else(|| malformed("`params` is missing"))
}

fn unknown_member() -> Denial {
    malformed("an unknown member of `params`")
}

fn tool_name(value: Value<'_>) -> Result<ToolName, Denial> {
    value
        .as_str()
        .and_then(|name| ToolName::parse(&name).ok())
        .ok_or_else(|| malformed("a name is 1 to 128 of A-Z, a-z, 0-9, `_`, `.` and `-`"))
}

fn task_id(value: Value<'_>) -> Result<Cow<'_, str>, Denial> {
    value
        .as_str()
        .filter(|id| (1..=MAX_TASK_ID_BYTES).contains(&id.len()))
        .ok_or_else(|| malformed("the id of a task is a string of 1 to 256 bytes"))
}

/// Visible ASCII, as URIs are: what is listed has no other characters.
fn resource_uri(value: Value<'_>) -> Result<Cow<'_, str>, Denial> {
    value
        .as_str()
        .filter(|uri| (1..=MAX_URI_BYTES).contains(&uri.len()) && uri.bytes().all(|byte| byte.is_ascii_graphic()))
        .ok_or_else(|| malformed("a URI is 1 to 1024 visible ASCII characters"))
}

impl Asked<'_> {
    /// What `Mcp-Name` has to say (2026-07-28, Streamable HTTP, standard request headers).
    pub(super) fn name(&self) -> Name<'_> {
        match self {
            Self::Tool { name, .. } | Self::Prompt { name, get: true, .. } => Name::Repeated(name.as_str()),
            Self::Resource { uri, read: true } => Name::Repeated(uri),
            Self::Resource { uri, read: false } => Name::Known(uri),
            Self::Task(id) => Name::Task(id),
            Self::Prompt { get: false, .. } | Self::Template { .. } | Self::Subscriptions { .. } | Self::TaskList => {
                Name::Nothing
            }
        }
    }

    /// The id of the one task that is asked for.
    pub(super) fn task(&self) -> Option<String> {
        match self {
            Self::Task(id) => Some(id.to_string()),
            _ => None,
        }
    }

    /// The right that it needs.
    ///
    /// # Errors
    ///
    /// `tool_not_offered`, `prompt_not_offered`, `resource_not_offered`, `task_refused`, or `scope_not_granted` where the values that a scope
    /// is made of are missing or are no segments.
    pub(super) fn right(self, service: &Service) -> Result<Right, Denial> {
        match self {
            Self::Tool { name, arguments } => {
                let needed = Needed {
                    tool: Some(name.to_string()),
                    ..Needed::default()
                };
                let Some(offered) = service.tool(name.as_str()) else {
                    let detail = "the service offers no tool of this name";
                    return Err(Denial::new(Code::ToolNotOffered, detail).with_needed(needed));
                };
                let scope = scope_of_arguments(offered.scope.as_ref(), arguments, needed)?;
                Ok(Right::Tool { name, scope })
            }
            Self::Prompt { name, arguments, .. } => {
                let needed = Needed {
                    prompt: Some(name.to_string()),
                    ..Needed::default()
                };
                let Some(offered) = service.prompt(name.as_str()) else {
                    let detail = "the service offers no prompt of this name";
                    return Err(Denial::new(Code::PromptNotOffered, detail).with_needed(needed));
                };
                let scope = scope_of_arguments(offered.scope.as_ref(), arguments, needed)?;
                Ok(Right::Prompt { name, scope })
            }
            Self::Resource { uri, .. } => Ok(Right::Resources(vec![resource_need(&uri, service)?])),
            Self::Template { text, arguments } => {
                let Some(rule) = service.resource_template(&text) else {
                    return Err(not_offered(&text));
                };
                let value = |name: &str| arguments.and_then(|arguments| only_member(arguments, name)?.as_str());
                Ok(Right::Resources(vec![need_by(text.clone(), rule, value)?]))
            }
            Self::Subscriptions { uris, tasks } => {
                if tasks {
                    tasks::check(service)?;
                }
                let needs = uris.iter().map(|uri| resource_need(uri, service));
                needs.collect::<Result<_, _>>().map(Right::Resources)
            }
            // What the task is of was authorised when it was opened, and it is its opener's alone.
            Self::Task(_) => Ok(Right::Session),
            Self::TaskList => tasks::check_list(service).map(|()| Right::Session),
        }
    }
}

/// What a resource needs, by its URI.
///
/// # Errors
///
/// `resource_not_offered`, or `scope_not_granted` where what the template captures is no segment.
pub(crate) fn resource_need(uri: &str, service: &Service) -> Result<ResourceNeed, Denial> {
    let Some(rule) = service.resource(uri) else {
        return Err(not_offered(uri));
    };
    let captures = rule.template.captures(uri).unwrap_or_default();
    let value = |wanted: &str| {
        let mut captures = captures.iter();
        captures
            .find(|(name, _)| *name == wanted)
            .map(|(_, value)| Cow::Borrowed(*value))
    };
    need_by(Cow::Borrowed(uri), rule, value)
}

fn not_offered(uri: &str) -> Denial {
    Denial::new(Code::ResourceNotOffered, "the service offers no such resource").with_needed(Needed {
        resource: Some(uri.to_owned()),
        ..Needed::default()
    })
}

fn need_by<'v>(
    uri: Cow<'_, str>,
    rule: &ResourceRule,
    value: impl Fn(&str) -> Option<Cow<'v, str>>,
) -> Result<ResourceNeed, Denial> {
    let needed = Needed {
        resource: Some(uri.to_string()),
        ..Needed::default()
    };
    let from = |capture: &Capture| match capture {
        Capture::Path(name) => value(name),
        Capture::Argument(_) => None,
    };
    Ok(ResourceNeed {
        scope: rule
            .scope
            .as_ref()
            .map(|scope| render(scope, from, needed))
            .transpose()?,
        uri: uri.into_owned(),
    })
}

fn scope_of_arguments(
    template: Option<&ScopeTemplate>,
    arguments: Option<Value<'_>>,
    needed: Needed,
) -> Result<Option<Scope>, Denial> {
    template
        .map(|template| render(template, |capture| argument(arguments, capture), needed))
        .transpose()
}

fn render<'v>(
    template: &ScopeTemplate,
    value: impl Fn(&Capture) -> Option<Cow<'v, str>>,
    needed: Needed,
) -> Result<Scope, Denial> {
    let values: Vec<Option<Cow<'_, str>>> = template.captures().map(value).collect();
    let mut values = values.iter();
    template
        .render(|_| values.next().and_then(|value| value.as_deref()))
        .map_err(|_| {
            let detail = "a value that the needed scope is made of is missing or is not one segment";
            Denial::new(Code::ScopeNotGranted, detail).with_needed(needed)
        })
}

/// The string that a capture points at (RFC 6901).
fn argument<'a>(arguments: Option<Value<'a>>, capture: &Capture) -> Option<Cow<'a, str>> {
    match capture {
        Capture::Path(_) => None,
        Capture::Argument(pointer) => {
            let mut value = arguments?;
            for token in pointer.strip_prefix('/')?.split('/') {
                let token = token.replace("~1", "/").replace("~0", "~");
                value = match value.kind() {
                    Kind::Object => only_member(value, &token)?,
                    Kind::Array => value.as_array()?.nth(array_index(&token)?)?,
                    Kind::Null | Kind::Bool | Kind::Number | Kind::String => return None,
                };
            }
            value.as_str()
        }
    }
}

/// The member of this name, unless another differs from it only by case: a reader that folds case would take either.
pub(super) fn only_member<'a>(object: Value<'a>, name: &str) -> Option<Value<'a>> {
    match spellings(object, name)? {
        Spelled::Once(value) => Some(value),
        Spelled::Otherwise => None,
    }
}

/// How a member is there.
pub(super) enum Spelled<'a> {
    /// Under its name alone.
    Once(Value<'a>),
    /// In another case, whether or not under its name too.
    Otherwise,
}

/// How the member of this name is there; None if it is not.
pub(super) fn spellings<'a>(object: Value<'a>, name: &str) -> Option<Spelled<'a>> {
    let mut found = None;
    for (key, value) in object.entries()? {
        if *key == *name {
            found = Some(Spelled::Once(value));
        } else if is_spelling(&key, name) {
            return Some(Spelled::Otherwise);
        }
    }
    found
}

/// Whether a reader that folds case takes one for the other.
fn is_spelling(key: &str, name: &str) -> bool {
    match key.is_ascii() && name.is_ascii() {
        true => key.eq_ignore_ascii_case(name),
        false => fold(key).eq(fold(name)),
    }
}

/// Simple case folding: `ſ` and the Kelvin sign are letters of ASCII to some readers.
fn fold(text: &str) -> impl Iterator<Item = char> {
    text.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase)
}

fn array_index(token: &str) -> Option<usize> {
    let canonical = token == "0" || (!token.starts_with('0') && token.bytes().all(|b| b.is_ascii_digit()));
    if canonical { token.parse().ok() } else { None }
}
