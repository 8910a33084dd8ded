//! Docs cannot lie: tables are compared with the code, links and commands with the tree.

#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::panic,
    clippy::string_slice,
    reason = "a failure here is a failed test"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use authz::denial::Code;

/// Each table of fields: its page, its name, the struct that it describes, and whether its names are in camel case.
const TABLES: [(&str, &str, &str, &str, bool); 15] = [
    (CONFIGURATION, "filter", "filter/src/config.rs", "RawConfig", false),
    (CONFIGURATION, "server", SERVER, "RawConfig", true),
    (CONFIGURATION, "server.policy.kubernetes", SERVER, "RawKubernetes", true),
    (CONFIGURATION, "server.token", SERVER, "RawToken", true),
    (CONFIGURATION, "server.state", SERVER, "RawState", true),
    (CONFIGURATION, "server.bundle", SERVER, "RawBundle", true),
    (CONFIGURATION, "server.audit", SERVER, "RawAudit", true),
    (CONFIGURATION, "server.risk", SERVER, "RawRisk", true),
    (
        CONFIGURATION,
        "server.webhooks",
        "policy-server/src/config/raw/webhook.rs",
        "RawWebhook",
        true,
    ),
    (
        CONFIGURATION,
        "server.limits",
        "policy-server/src/config.rs",
        "Limits",
        true,
    ),
    (CONFIGURATION, "agent", "authz/src/manifest.rs", "AgentSpec", true),
    (CONFIGURATION, "service", "authz/src/manifest.rs", "ServiceSpec", true),
    (
        API,
        "token request",
        "authz/src/manifest/grant.rs",
        "TokenRequest",
        false,
    ),
    (API, "case", "authz/src/case/written.rs", "RawCase", false),
    (API, "verdict", "authz/src/case.rs", "Verdict", false),
];
const CONFIGURATION: &str = "docs/configuration.md";
const API: &str = "docs/api.md";
const SERVER: &str = "policy-server/src/config/raw.rs";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What follows a comment of a page such as `<!-- fields: NAME -->`.
fn after<'p>(page: &'p str, mark: &str) -> &'p str {
    let mark = format!("<!-- {mark} -->");
    let start = page.find(&mark).unwrap_or_else(|| panic!("no `{mark}`"));
    page[start + mark.len()..].trim_start()
}

/// The cells of the table that follows a mark, without their backquotes.
fn table(page: &str, mark: &str) -> Vec<Vec<String>> {
    after(page, mark)
        .lines()
        .skip(2)
        .map_while(|line| line.strip_prefix("| "))
        .map(|row| row.split(" | ").map(|cell| cell.replace('`', "")).collect())
        .collect()
}

/// The code that follows a mark.
fn example<'p>(page: &'p str, mark: &str) -> &'p str {
    let fenced = after(page, mark).split("```").nth(1).unwrap();
    fenced.split_once('\n').unwrap().1
}

/// A field of a struct, as its documents spell it.
struct Field {
    name: String,
    /// Whether a document may leave it out.
    optional: bool,
    /// What it is then, where the code has it as a number or text.
    default: Option<String>,
}

fn fields(file: &str, name: &str, camel_case: bool) -> Vec<Field> {
    let source = read(file);
    let start = source
        .find(&format!("struct {name} {{"))
        .unwrap_or_else(|| panic!("no struct `{name}` in {file}"));
    let attributes = source[..start].rsplit('\n').nth(1).unwrap_or_default();
    let mut all = Vec::new();
    let mut attribute = attributes;
    for line in source[start..].lines().skip(1).take_while(|line| *line != "}") {
        let line = line.trim();
        if line.starts_with("#[") {
            attribute = line;
        } else if let Some((field, kind)) = field(line) {
            let skipped = attribute == "#[serde(skip)]";
            if !skipped {
                all.push(Field {
                    name: if camel_case {
                        to_camel_case(field)
                    } else {
                        field.to_owned()
                    },
                    optional: kind.starts_with("Option<") || attribute.contains("default"),
                    default: default(&source, name, field),
                });
            }
            attribute = attributes;
        }
    }
    all
}

/// The name and type of a field that a line declares.
fn field(line: &str) -> Option<(&str, &str)> {
    let (name, kind) = line.strip_prefix("pub ").unwrap_or(line).split_once(": ")?;
    let name = name.trim_start_matches("r#").trim_start_matches('_');
    let is_name = name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    (is_name && !name.is_empty()).then_some((name, kind))
}

/// A default that stands in a struct's `Default`, or in a constant that is named for the field.
fn default(source: &str, structure: &str, field: &str) -> Option<String> {
    let implemented = source
        .split_once(&format!("impl Default for {structure} {{"))
        .and_then(|(_, rest)| rest.split("\n}").next())
        .and_then(|body| body.split_once(&format!("{field}: ")))
        .and_then(|(_, rest)| rest.split([',', ' ', '\n']).next());
    let constant = source
        .split_once(&format!("const DEFAULT_{}: ", field.to_uppercase()))
        .and_then(|(_, rest)| rest.split_once(" = "))
        .and_then(|(_, rest)| rest.split(';').next());
    let value = implemented.or(constant)?.trim_matches('"').replace('_', "");
    match value.split_once(" << ") {
        Some((one, by)) => Some((one.parse::<u64>().unwrap() << by.parse::<u32>().unwrap()).to_string()),
        None => (value != "None").then_some(value),
    }
}

fn to_camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap().to_owned();
    words.fold(first, |text, word| text + &word[..1].to_uppercase() + &word[1..])
}

#[test]
fn every_table_of_fields_is_that_of_the_code() {
    let mut with_defaults = 0;
    for (page, name, file, structure, camel_case) in TABLES {
        let page = read(page);
        let mark = format!("fields: {name}");
        let rows = table(&page, &mark);
        let fields = fields(file, structure, camel_case);
        let names: Vec<_> = fields.iter().map(|field| &field.name).collect();
        assert_eq!(rows.iter().map(|row| &row[0]).collect::<Vec<_>>(), names, "{name}");
        if !after(&page, &mark).lines().next().unwrap().contains("| default |") {
            continue;
        }
        for (row, field) in rows.iter().zip(&fields) {
            let documented = &row[1];
            assert_eq!(
                documented == "required",
                !field.optional,
                "`{}` of `{name}`",
                field.name
            );
            if let Some(default) = &field.default {
                assert_eq!(documented, default, "`{}` of `{name}`", field.name);
                with_defaults += 1;
            }
        }
    }
    assert!(
        with_defaults >= 15,
        "only {with_defaults} defaults were found in the code"
    );
}

#[test]
fn the_refusals_of_the_issuer_are_those_of_the_code() {
    let source = read("authz/src/manifest/grant.rs");
    let (_, refusals) = source.split_once("impl GrantRefusal").unwrap();
    let words: Vec<_> = refusals
        .lines()
        .take_while(|line| *line != "}")
        .filter_map(|line| line.split_once("=> \"")?.1.strip_suffix("\","))
        .map(str::to_owned)
        .collect();
    assert!(words.len() > 10);
    let rows = table(&read(API), "codes: grant");
    assert_eq!(rows.iter().map(|row| row[0].clone()).collect::<Vec<_>>(), words);
}

#[test]
fn the_endpoints_are_those_of_the_code() {
    let source = read("policy-server/src/routes.rs");
    let (routes, _) = source.split_once(".fallback(").unwrap();
    let endpoints: BTreeSet<_> = routes
        .split(".route(")
        .skip(1)
        .map(|route| {
            let method = if route.contains("post(") { "POST" } else { "GET" };
            format!("{method} {}", route.split('"').nth(1).unwrap())
        })
        .collect();
    let rows = table(&read(API), "endpoints");
    assert_eq!(
        rows.into_iter()
            .map(|mut row| row.swap_remove(0))
            .collect::<BTreeSet<_>>(),
        endpoints
    );
}

#[test]
fn the_states_of_agents_are_those_of_the_code() {
    use authz::state::transition::{Role, TABLE};
    let yes_or_no = |is: bool| if is { "yes" } else { "no" }.to_owned();
    let rows: Vec<_> = TABLE
        .iter()
        .map(|row| {
            let may = |role| yes_or_no(row.by.contains(&role));
            vec![
                row.from.to_string(),
                row.change.to_string(),
                row.to.to_string(),
                may(Role::RiskEngine),
                may(Role::Reviewer),
                may(Role::Operator),
                yes_or_no(row.resets_tokens),
            ]
        })
        .collect();
    let documented: Vec<Vec<_>> = table(&read("docs/continuous-verification.md"), "transitions")
        .into_iter()
        .map(|row| row.iter().map(|cell| cell.trim_end_matches(" |").to_owned()).collect())
        .collect();
    assert_eq!(documented, rows);
}

#[test]
fn the_metrics_are_those_of_the_code() {
    let page = read(CONFIGURATION);
    for (mark, file, prefix, before) in [
        (
            "metrics: filter",
            "filter/src/meters.rs",
            "wasmcustom.",
            "=> \"ostiary_",
        ),
        (
            "metrics: server",
            "policy-server/src/metrics.rs",
            "",
            "&mut registry, \"",
        ),
    ] {
        let source = read(file)
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
            .replace("( ", "(");
        let mut named: BTreeSet<_> = source
            .split(before)
            .skip(1)
            .map(|rest| format!("{prefix}ostiary_{}", rest.split('"').next().unwrap()))
            .collect();
        assert!(named.len() > 4, "{file}");
        // Named where the code puts them together.
        named.insert(match prefix {
            "" => "ostiary_record_commit_seconds".to_owned(),
            _ => format!("{prefix}ostiary_decisions.side.SIDE.verdict.VERDICT.code.CODE"),
        });
        let rows = table(&page, mark);
        assert_eq!(
            rows.into_iter()
                .map(|mut row| row.swap_remove(0))
                .collect::<BTreeSet<_>>(),
            named,
            "{mark}"
        );
    }
}

/// What a page shows works: the request is the demo's, the case gives the verdict that it expects.
#[test]
fn the_examples_work() {
    let page = read(API);
    let request: serde_json::Value = serde_json::from_str(example(&page, "example: token request")).unwrap();
    assert_eq!(request, tests::demo::token_request());

    let cases = tempfile::NamedTempFile::new().unwrap();
    let policy = format!("\"policy\": {:?}", root().join("tests/mesh/policy"));
    let case = example(&page, "example: case")
        .replace('\n', " ")
        .replace("\"policy\": \"policy\"", &policy);
    for (case, code) in [(case.clone(), 0), (case.replace("token_missing", "token_expired"), 1)] {
        std::fs::write(cases.path(), case).unwrap();
        let decided = ostiary(&["decide", "--cases", cases.path().to_str().unwrap()]);
        assert_eq!(
            decided.status.code(),
            Some(code),
            "{}",
            String::from_utf8_lossy(&decided.stderr)
        );
    }

    let committed = read("tests/mesh/policy/agent-analyst-7.yaml");
    assert!(committed.ends_with(example(&read("README.md"), "example: agent")));
}

fn ostiary(arguments: &[&str]) -> std::process::Output {
    std::process::Command::new(tests::built::ostiary().unwrap())
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn the_denials_page_has_every_code_with_its_status_and_title() {
    let page = read("docs/denials.md");
    let rows: Vec<_> = page.lines().filter(|line| line.starts_with("| `")).collect();
    assert_eq!(rows.len(), Code::ALL.len());
    for (row, code) in rows.iter().zip(Code::ALL) {
        let expected = format!("| `{code}` | {} | {} | ", code.status(), code.title());
        assert!(row.starts_with(&expected), "`{row}` is not of `{code}`");
    }
}

#[test]
fn the_denials_page_has_what_goes_on_in_shadow() {
    let page = read("docs/denials.md");
    let list = page.split("<!-- shadowed -->").nth(1).unwrap();
    let list = list.split("<!-- end -->").next().unwrap();
    let listed: Vec<_> = list.split('`').skip(1).step_by(2).collect();
    let shadowed = Code::ALL.iter().filter(|code| authz::decision::is_shadowed(**code));
    assert_eq!(listed, shadowed.map(|code| code.as_str()).collect::<Vec<_>>());
}

#[test]
fn the_formats_page_has_every_field_of_a_record() {
    let page = read("docs/formats.md");
    let canonical = fields("authz/src/audit/record.rs", "Record<'a>", false);
    assert!(canonical.len() > 20);
    for Field { name: field, .. } in canonical {
        assert!(page.contains(&format!("`{field}`")), "`{field}` is not described");
    }
}

/// What stands between quotes behind each `before` in a source.
fn quoted<'s>(source: &'s str, before: &str) -> impl Iterator<Item = &'s str> {
    let behind: Vec<_> = source.split(before).skip(1).collect();
    behind.into_iter().filter_map(|rest| rest.split('"').next())
}

#[test]
fn the_operations_page_has_every_finding_of_a_live_mesh() {
    let page = read("docs/operations.md");
    let table = page.split("| code | what it found |").nth(1).unwrap();
    let documented: BTreeSet<_> = table
        .lines()
        .skip(2)
        .map_while(|line| line.strip_prefix("| `"))
        .filter_map(|row| row.split('`').next())
        .collect();
    let (verdict, report) = (
        read("policy-server/src/live/verdict.rs"),
        read("policy-server/src/live/report.rs").replace("finding(\n        pod,\n        ", "finding(pod, "),
    );
    let code = verdict
        .split("fn code(")
        .nth(1)
        .unwrap()
        .split("fn advice(")
        .next()
        .unwrap();
    let written: BTreeSet<_> = quoted(code, "=> \"")
        .chain(quoted(&report, "finding(pod, \""))
        .chain(quoted(&report, "code: \""))
        .collect();
    assert!(written.len() >= 18);
    assert_eq!(documented, written);
}

fn pages() -> Vec<PathBuf> {
    let mut pages = vec![root().join("README.md"), root().join("authz/vectors/README.md")];
    pages.extend(
        std::fs::read_dir(root().join("docs"))
            .unwrap()
            .map(|entry| entry.unwrap().path()),
    );
    pages
}

#[test]
fn the_clients_are_of_the_versions_that_are_pinned() {
    let (make, lock) = (read("Makefile"), read("Cargo.lock"));
    let npm: serde_json::Value = serde_json::from_str(&read("tests/node/package.json")).unwrap();
    let pinned = |client: &str| -> String {
        let made = |variable: &str| {
            let line = make.lines().find(|line| line.starts_with(variable)).unwrap();
            line.rsplit(' ').next().unwrap().to_owned()
        };
        match client {
            "mcp" => made("MCP_VERSION"),
            "a2a-sdk" => made("A2A_VERSION"),
            "webdav4" => made("WEBDAV4_VERSION"),
            "rmcp" => {
                let package = lock.split("name = \"rmcp\"\nversion = \"").nth(1).unwrap();
                package.split('"').next().unwrap().to_owned()
            }
            package => npm["dependencies"][package].as_str().unwrap().to_owned(),
        }
    };
    let page = read("docs/conformance.md");
    let rows = table(&page, "clients");
    assert!(rows.len() >= 6);
    for row in rows {
        assert_eq!(row[1], pinned(&row[0]), "{}", row[0]);
    }
    let suite = pinned("@modelcontextprotocol/conformance");
    assert!(page.contains(&format!("`@modelcontextprotocol/conformance` {suite} (")));
}

#[test]
fn every_link_leads_somewhere() {
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let target = link.split('#').next().unwrap();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            assert!(
                page.parent().unwrap().join(target).exists(),
                "{}: `{link}`",
                page.display()
            );
        }
    }
}

#[test]
fn every_make_target_that_is_named_exists() {
    let makefile = read("Makefile");
    let targets: BTreeSet<_> = makefile
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name)
        .collect();
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for word in text.split("`make ").skip(1).chain(text.split("\nmake ").skip(1)) {
            let target = word
                .split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit() && c != '-')
                .next()
                .unwrap();
            assert!(targets.contains(target), "{}: `make {target}`", page.display());
        }
    }
}

#[test]
fn every_command_of_ostiary_that_is_named_exists() {
    let help = String::from_utf8(ostiary(&["--help"]).stdout).unwrap();
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for word in text.split("`ostiary ").skip(1) {
            let command = word.split(|c: char| !c.is_ascii_lowercase()).next().unwrap();
            assert!(
                command.is_empty() || help.lines().any(|line| line.trim_start().starts_with(command)),
                "{}: `ostiary {command}`",
                page.display()
            );
        }
    }
}

/// The files on the audit page are whole: our tools prove them, and so does what the page says anybody can run.
#[test]
fn the_log_on_the_audit_page_is_proven_with_our_tools_and_without() {
    let page = read("docs/audit.md");
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let (export, checkpoint) = (example(&page, "worked: export"), example(&page, "worked: checkpoint"));
    write("log.jsonl", export);
    write("checkpoint", checkpoint);
    write("receipt.jsonl", example(&page, "worked: receipt"));
    write("check.py", example(&page, "run: check"));
    let key = page.split("(The key is `").nth(1).unwrap().split('`').next().unwrap();
    let run = |program: &Path, arguments: &[&str]| {
        let mut command = std::process::Command::new(program);
        let output = command.args(arguments).current_dir(folder.path()).output();
        let output = output.unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), stdout)
    };
    let ostiary = tests::built::ostiary().unwrap();
    let verify = ["audit", "verify", "log.jsonl", "--key", key];
    assert_eq!(run(&ostiary, &verify).0, Some(3));
    let complete = [&verify[..], &["--checkpoint", "checkpoint"]].concat();
    assert_eq!(run(&ostiary, &complete).0, Some(0));
    assert_eq!(
        run(&ostiary, &["audit", "verify", "receipt.jsonl", "--key", key]).0,
        Some(0)
    );

    let check = ["check.py", "log.jsonl", key];
    let (code, said) = run(Path::new("python3"), &check);
    assert_eq!((code, said.as_str()), (Some(0), "3 records of 1 sources, all signed\n"));
    // A record's time; and a byte of the signature that the Python program checks.
    let (before, last) = export.rsplit_once("{\"checkpoint\":").unwrap();
    let (text, signature) = last.split_once("\\n\\n").unwrap();
    let middle = signature.find(' ').unwrap() + 60;
    let other = if signature[middle..].starts_with('A') { 'B' } else { 'A' };
    let signature = format!("{}{other}{}", &signature[..middle], &signature[middle + 1..]);
    let forged = format!("{before}{{\"checkpoint\":{text}\\n\\n{signature}");
    for changed in [export.replace("1800000000007", "1800000000008"), forged] {
        assert_ne!(changed, export);
        write("log.jsonl", &changed);
        assert_eq!(run(&ostiary, &complete).0, Some(1));
        assert_eq!(run(Path::new("python3"), &check).0, Some(1));
    }
}
