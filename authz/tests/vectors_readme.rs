//! The index in `authz/vectors/README.md` is that of the vectors.
//!
//! `BLESS=1 cargo test -p authz --test vectors_readme` writes it anew.

#![cfg(not(target_arch = "wasm32"))]
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path};

mod vectors;

use vectors::{Expect, Placed, Runs, Theme, Vector, bypass};

const MARK: &str = "<!-- The rest is written by the test vectors_readme. -->\n";

#[test]
fn the_index_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/README.md");
    let text = fs::read_to_string(&path).unwrap();
    let (prose, _) = text.split_once(MARK).unwrap();
    let current = format!("{prose}{MARK}{}{}", index(&vectors::themes()), recorded());
    for way in &bypass::WAYS {
        assert!(
            prose.contains(&format!("| {} |", way.attack)),
            "no attack `{}`",
            way.attack
        );
    }
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, &current).unwrap();
        return;
    }
    assert!(
        text == current,
        "run `BLESS=1 cargo test -p authz --test vectors_readme`"
    );
}

fn index(themes: &[(&str, Theme)]) -> String {
    let all: Vec<&Vector> = themes.iter().flat_map(|(_, theme)| &theme.vectors).collect();
    let count = |wanted: &dyn Fn(&Vector) -> bool| all.iter().filter(|vector| wanted(vector)).count();
    let mut out = format!(
        "\n{} vectors: {} allow, {} in shadow alone, {} deny. {} run natively and in wasm; {} of them also run through a real Envoy.\n",
        all.len(),
        count(&|vector| vector.expect == Expect::Permit),
        count(&|vector| matches!(vector.expect, Expect::Shadow { .. })),
        count(&|vector| matches!(vector.expect, Expect::Deny { .. })),
        count(&|vector| vector.runs.starts_with(&[Runs::Native, Runs::Wasm])),
        count(&|vector| vector.runs.contains(&Runs::Envoy)),
    );
    for (number, (name, theme)) in (1..).zip(themes) {
        write!(
            out,
            "\n## {number:02} [{}]({name}.json)\n\n| | verdict | |\n|---|---|---|\n",
            theme.title
        )
        .unwrap();
        for vector in &theme.vectors {
            out += &row(vector);
        }
    }
    out
}

/// The recorded requests, and each way in which some of them are bent.
fn recorded() -> String {
    let placed = bypass::all();
    let (honest, bent): (Vec<&Placed>, Vec<&Placed>) =
        placed.iter().partition(|placed| placed.vector.id.starts_with("R00"));
    let mut out = format!(
        "\n## R [Recorded requests](recorded.jsonl), and how they are bent\n\n{} requests as SDKs sent them, and {} bent forms of {} of \
         them: `RWWNN` is the way WW on the request NN. All run natively, in wasm and through Envoy.\n\n| | verdict | \
         |\n|---|---|---|\n",
        honest.len(),
        bent.len(),
        bent.iter()
            .map(|placed| &placed.vector.twin)
            .collect::<BTreeSet<_>>()
            .len(),
    );
    out.extend(honest.iter().map(|placed| row(&placed.vector)));
    out += "\n| way | attack | | verdict | requests |\n|---|---|---|---|---|\n";
    for (number, way) in (1..).zip(&bypass::WAYS) {
        let prefix = format!("R{number:02}");
        let ours: Vec<_> = bent
            .iter()
            .filter(|placed| placed.vector.id.starts_with(&prefix))
            .collect();
        let verdicts: BTreeSet<String> = ours.iter().map(|placed| verdict(&placed.vector)).collect();
        let verdicts = verdicts.into_iter().collect::<Vec<_>>().join(", ");
        writeln!(
            out,
            "| {prefix} | {} | {} | {verdicts} | {} |",
            way.attack,
            way.why,
            ours.len()
        )
        .unwrap();
    }
    out
}

fn verdict(vector: &Vector) -> String {
    match &vector.expect {
        Expect::Permit => "**permit**".into(),
        Expect::Shadow { code, .. } => format!("**permit** in shadow of `{code}`"),
        Expect::Deny { code, .. } => format!("`{code}`"),
    }
}

fn row(vector: &Vector) -> String {
    let verdict = verdict(vector);
    let beside = vector
        .twin
        .as_ref()
        .map(|twin| format!(" (beside {twin})"))
        .unwrap_or_default();
    let skip = vector
        .skip
        .as_ref()
        .map(|reason| format!("; not through Envoy: {reason}"))
        .unwrap_or_default();
    format!(
        "| {} | {verdict} | {}{beside}{skip} |\n",
        vector.id,
        vector.why.replace('|', "\\|")
    )
}
