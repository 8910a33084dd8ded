//! Docs cannot lie: tables are compared with the code, links and commands with the tree.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::string_slice,
    reason = "a failure here is a failed test"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use authz::denial::Code;

/// Each table of `docs/configuration.md`, the struct that it describes, and whether its names are in camel case.
const TABLES: [(&str, &str, &str, bool); 9] = [
    ("filter", "filter/src/config.rs", "RawConfig", false),
    ("server", "policy-server/src/config/raw.rs", "RawConfig", true),
    (
        "server.policy.kubernetes",
        "policy-server/src/config/raw.rs",
        "RawKubernetes",
        true,
    ),
    ("server.token", "policy-server/src/config/raw.rs", "RawToken", true),
    ("server.state", "policy-server/src/config/raw.rs", "RawState", true),
    ("server.bundle", "policy-server/src/config/raw.rs", "RawBundle", true),
    ("server.limits", "policy-server/src/config.rs", "Limits", true),
    ("agent", "authz/src/manifest.rs", "AgentSpec", true),
    ("service", "authz/src/manifest.rs", "ServiceSpec", true),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The first cells of the table that follows `<!-- fields: NAME -->`, without their backquotes.
fn documented(page: &str, table: &str) -> Vec<String> {
    let marker = format!("<!-- fields: {table} -->");
    let start = page.find(&marker).unwrap_or_else(|| panic!("no table `{table}`"));
    page[start..]
        .lines()
        .skip(3)
        .map_while(|line| line.strip_prefix("| `"))
        .map(|row| row.split('`').next().unwrap().to_owned())
        .collect()
}

/// The fields of a struct, as its documents spell them.
fn fields(file: &str, name: &str, camel_case: bool) -> Vec<String> {
    let source = read(file);
    let start = source
        .find(&format!("struct {name} {{"))
        .unwrap_or_else(|| panic!("no struct `{name}` in {file}"));
    source[start..]
        .lines()
        .skip(1)
        .take_while(|line| *line != "}")
        .filter_map(|line| line.trim().trim_start_matches("pub ").split_once(": "))
        .map(|(field, _)| field.trim_start_matches("r#").to_owned())
        .filter(|field| field.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
        .map(|field| if camel_case { to_camel_case(&field) } else { field })
        .collect()
}

fn to_camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap().to_owned();
    words.fold(first, |text, word| text + &word[..1].to_uppercase() + &word[1..])
}

#[test]
fn the_configuration_page_has_the_fields_of_the_code_in_their_order() {
    let page = read("docs/configuration.md");
    for (table, file, name, camel_case) in TABLES {
        assert_eq!(documented(&page, table), fields(file, name, camel_case), "{table}");
    }
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
fn the_formats_page_has_every_field_of_a_record() {
    let page = read("docs/formats.md");
    let canonical = fields("authz/src/audit.rs", "Record<'a>", false);
    assert!(canonical.len() > 20);
    for field in canonical {
        assert!(page.contains(&format!("`{field}`")), "`{field}` is not described");
    }
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
                .split(|c: char| !c.is_ascii_lowercase() && c != '-')
                .next()
                .unwrap();
            assert!(targets.contains(target), "{}: `make {target}`", page.display());
        }
    }
}

#[test]
fn every_command_of_ostiary_that_is_named_exists() {
    let cli = std::process::Command::new(tests::built::ostiary().unwrap())
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8(cli.stdout).unwrap();
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
