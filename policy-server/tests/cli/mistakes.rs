//! `ostiary check` on mistakes that each have a folder: what differs from the good tree, and what is told of it.
//!
//! A folder of `mistakes/` holds the files that replace those of `mistakes/good` or come to them, and `expected.txt`, all
//! that `ostiary check policy --manifests manifests` says then: the place, what is wrong and what to do.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Run, ostiary};

/// A mistake is a fact or two; a tree that differs by more would hide what is found in it.
const LINES_OF_A_MISTAKE: usize = 4;

fn mistakes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mistakes")
}

fn folders() -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(mistakes()).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|folder| !folder.ends_with("good")).collect()
}

/// The files below a folder, by their paths in it.
fn files(folder: &Path) -> BTreeSet<PathBuf> {
    ["policy", "manifests"]
        .iter()
        .filter_map(|part| Some((part, fs::read_dir(folder.join(part)).ok()?)))
        .flat_map(|(part, entries)| entries.map(|entry| Path::new(part).join(entry.unwrap().file_name())))
        .collect()
}

/// Checks the good tree with the files of a folder in it.
fn check(folder: &Path) -> Run {
    let tree = tempfile::tempdir().unwrap();
    for from in [&mistakes().join("good"), folder] {
        for file in files(from) {
            let to = tree.path().join(&file);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(from.join(&file), to).unwrap();
        }
    }
    ostiary(tree.path(), &["check", "policy", "--manifests", "manifests"])
}

#[test]
fn the_good_tree_passes() {
    let run = check(&mistakes().join("good"));
    assert_eq!(
        (run.code, run.stdout.as_str(), run.stderr.as_str()),
        (0, "ok: 4 files, 2 agents, 2 services\n", "")
    );
}

#[test]
fn every_mistake_is_told_with_its_place_and_what_to_do_and_nothing_else_is() {
    let mut wrong = Vec::new();
    for folder in folders() {
        let run = check(&folder);
        let expected = folder.join("expected.txt");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&expected, &run.stdout).unwrap();
        }
        let expected = fs::read_to_string(&expected).unwrap_or_default();
        if run.code != 1 || expected.is_empty() || run.stdout != expected {
            wrong.push(format!("{}:\n{}", folder.display(), run.stdout));
        }
    }
    assert!(
        wrong.is_empty(),
        "UPDATE_GOLDEN=1 writes what is told:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn each_folder_differs_from_the_good_tree_by_its_mistake_alone() {
    let good = mistakes().join("good");
    for folder in folders() {
        let files = files(&folder);
        assert!(!files.is_empty(), "{}", folder.display());
        for file in files {
            let with = fs::read_to_string(folder.join(&file)).unwrap();
            // A file that comes to the tree is the mistake as a whole.
            let Ok(without) = fs::read_to_string(good.join(&file)) else {
                continue;
            };
            let changed = changed(&without, &with);
            let place = folder.join(&file);
            assert!(
                (1..=LINES_OF_A_MISTAKE).contains(&changed),
                "{}: {changed} lines changed",
                place.display()
            );
        }
    }
}

/// How many lines are in one text alone, whichever has more.
fn changed(one: &str, two: &str) -> usize {
    let alone = |one: &str, two: &str| {
        let mut rest: Vec<&str> = two.lines().collect();
        one.lines()
            .filter(|line| match rest.iter().position(|other| other == line) {
                Some(found) => {
                    rest.remove(found);
                    false
                }
                None => true,
            })
            .count()
    };
    alone(one, two).max(alone(two, one))
}
