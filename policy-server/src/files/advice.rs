//! What to write instead.

use super::de::{Mistake, MistakeKind, Step, Wanted};
use super::nearest::nearest;

/// What is wrong, and what to write instead, in words for the person who wrote the file.
pub(super) fn explain(mistake: &Mistake) -> (String, String) {
    let field = field(&mistake.path);
    match &mistake.kind {
        MistakeKind::UnknownField { field, known } => {
            let advice = match nearest(field, known.iter().copied()) {
                Some(meant) => format!("`{meant}`"),
                None if known.is_empty() => "nothing here".to_owned(),
                None => format!("one of {}", list(known)),
            };
            (format!("the field `{field}` is not known here"), advice)
        }
        MistakeKind::MissingField(missing) => (
            format!("the field `{missing}` is missing{}", within(&mistake.path)),
            shape(missing),
        ),
        MistakeKind::UnknownVariant { variant, known } => {
            let meant = nearest(variant, known.iter().copied()).map(|meant| format!("`{meant}`"));
            let advice = meant.unwrap_or_else(|| format!("one of {}", list(known)));
            (format!("`{variant}` is not one of the values of {field}"), advice)
        }
        MistakeKind::WrongType { found, text, wanted } => {
            let message = format!("{field} must be {}, but {found} is given", name(*wanted));
            (message, convert(text.as_deref(), *wanted, &mistake.path))
        }
        MistakeKind::Refused(reason) => (format!("{field}: {reason}"), hint(&mistake.path)),
    }
}

/// The name of the innermost field on a path, as a person would say it.
fn field(path: &[Step]) -> String {
    match path {
        [.., Step::Key(key)] => format!("`{key}`"),
        [.., Step::Key(key), Step::Index(index)] => format!("item {} of `{key}`", index + 1),
        _ => "the document".to_owned(),
    }
}

fn within(path: &[Step]) -> String {
    match path {
        [] => String::new(),
        path => format!(" in {}", field(path)),
    }
}

fn name(wanted: Wanted) -> &'static str {
    match wanted {
        Wanted::Text => "text",
        Wanted::Number => "a whole number",
        Wanted::Boolean => "true or false",
        Wanted::List => "a list",
        Wanted::Mapping => "a mapping",
        Wanted::Nothing => "empty",
    }
}

fn convert(text: Option<&str>, wanted: Wanted, path: &[Step]) -> String {
    match (wanted, text) {
        (Wanted::Text, Some(text)) if !text.is_empty() => format!("\"{text}\", in quotes"),
        (Wanted::List, Some(text)) if !text.is_empty() => format!("[{text}]"),
        (Wanted::Number, Some(text)) if text.parse::<u64>().is_ok() => format!("{text}, without quotes"),
        (Wanted::Boolean, _) => "true or false, without quotes".to_owned(),
        (Wanted::List, Some(_)) => "[] for an empty list".to_owned(),
        (Wanted::Mapping, Some("")) => "{} where there is nothing to add".to_owned(),
        _ => hint(path),
    }
}

fn list(known: &[&str]) -> String {
    known
        .iter()
        .map(|word| format!("`{word}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// How a field that is missing would be written.
fn shape(field: &str) -> String {
    let example = match field {
        "apiVersion" => "ostiary.dev/v1alpha1",
        "kind" => "Agent",
        "metadata" => "{ name: analyst-7, namespace: agents }",
        "name" => "analyst-7",
        "namespace" => "agents",
        "serviceAccount" => "analyst-7",
        "hosts" => "[warehouse.data.svc.cluster.local]",
        "ports" => "[8080]",
        "protocol" => "http",
        "method" => "GET",
        "path" => "\"/v1/tables/{table}\"",
        "scope" => "\"read:data.{table}\"",
        "peer" => "spiffe://cluster.local/ns/monitoring/sa/prometheus",
        "issuers" => "[spiffe://cluster.local/ns/orchestration/sa/orchestrator]",
        "reaches" => "[data/warehouse]",
        "spec" => return "`spec:` and the fields of this kind, indented below it".to_owned(),
        _ => return format!("`{field}: …`"),
    };
    format!("`{field}: {example}`")
}

/// What a valid value of a field looks like.
fn hint(path: &[Step]) -> String {
    let key = path.iter().rev().find_map(|step| match step {
        Step::Key(key) => Some(key.as_str()),
        Step::Index(_) => None,
    });
    let in_tools = matches!(path, [.., Step::Key(tools), Step::Key(_)] if tools == "tools");
    let in_prompts = matches!(path, [.., Step::Key(prompts), Step::Key(_)] if prompts == "prompts");
    let in_resources = matches!(path, [.., Step::Key(resources), Step::Key(_)] if resources == "resources");
    let advice = match key {
        _ if in_tools => "a tool's exact name, such as `sql_query`, with {} or { scope: … } after it",
        _ if in_prompts => "a prompt's exact name, such as `summary`, with {} or { scope: … } after it",
        _ if in_resources => "a URI or template, such as `table://sales/{table}`, with {} or { scope: … } after it",
        Some("scope") => "each right spelled out as `action:resource`, such as `read:data.sales_q1_2026`",
        Some("tools" | "forbiddenTools") => "each tool by its exact name, such as `pandas`, or `service/tool`",
        Some("prompts") => "each prompt by its exact name, such as `summary`, or `service/prompt`",
        Some("resources") => "each resource by the URI or template that its service lists",
        Some("issuers" | "peer") => {
            "a full SPIFFE ID, such as `spiffe://cluster.local/ns/orchestration/sa/orchestrator`"
        }
        Some("reaches") => "a service by its name, such as `warehouse` or `data/warehouse`",
        Some("mayCall" | "agent") => "an agent by its name, such as `writer-2`",
        Some("tasks") => "`refused`, `bound` or `application`",
        Some("name" | "namespace" | "serviceAccount") => "a Kubernetes name: lower-case letters, digits and `-`",
        Some("hosts") => "a host name in lower case without a port, such as `warehouse.data.svc.cluster.local`",
        Some("ports") => "a port from 1 to 65535",
        Some("method") => "a method in capitals, such as `GET`",
        Some("restPath") => "a path from `/`, such as `/a2a`",
        Some("path") => "a path from `/`, with captures as whole segments: `/v1/tables/{table}`",
        Some("own") => "the name of a capture in `path`, without braces",
        Some("record") => "`before` or `batched`",
        Some("onExpiry") => "`cut` or `finish`",
        Some("onPause") => "`deny` or `hold`",
        Some("mode") => "`enforce` or `shadow`",
        Some("bodyLimitBytes") => "a number of bytes up to 16777216",
        Some("maxTokensPerDay") => "a number of tokens, such as 2000000",
        Some("tokenHeader") => "a header name in lower case, such as `x-capability`",
        Some("apiVersion") => "`ostiary.dev/v1alpha1`",
        Some("kind") => "`Agent` or `Service`",
        Some("metadata") => "{ name: …, namespace: … }",
        Some("exempt") => "- { peer: \"spiffe://…\", method: GET, path: /metrics }",
        Some("routes") => "- { method: GET, path: \"/v1/tables/{table}\", scope: \"read:data.{table}\" }",
        Some(_) => "`key: value` lines, indented below it",
        None => "`apiVersion: ostiary.dev/v1alpha1`, `kind: Agent`, `metadata:` and `spec:`",
    };
    advice.to_owned()
}
