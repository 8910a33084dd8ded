//! The story of `make demo`, line by line.

use tests::demo;
use tests::mesh::{Mesh, Options};

#[tokio::test(flavor = "multi_thread")]
async fn every_line_of_the_demo_is_as_expected() {
    let options = Options {
        memory: true,
        ..Options::default()
    };
    let mut mesh = Mesh::start("story", &options).await.unwrap();
    let mut rows = Vec::new();
    let story = demo::tell_with_past(&mesh, &mut |row| rows.push(row.to_string())).await;
    let hijack = demo::tell_of_hijack(&mut mesh, &mut |row| rows.push(row.to_string())).await;
    let told = format!("{}\n{}", demo::head(), rows.join("\n"));
    assert_eq!((story.unwrap(), hijack.unwrap()), (0, 0), "{told}");
    assert!((70..90).contains(&score(&told, "paused after")), "{told}");
    assert!(score(&told, "suspended after") >= 90, "{told}");
    let mut said = String::new();
    demo::prove(&mesh, &mut |line| said.push_str(line)).await.unwrap();
    for words in [
        "4 calls of 1 agent, 2 denied",
        "proven: the log had no more records",
        "decided as they were",
        "signed by a key that the log vouches for",
        "not proven: line",
    ] {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
}

/// Where the host does not let a filter hold headers back (`allow_on_headers_stop_iteration` off), verdicts are the same.
#[tokio::test(flavor = "multi_thread")]
async fn every_verdict_is_the_same_where_headers_cannot_be_held() {
    let options = Options {
        headers_stop_iteration: false,
        ..Options::default()
    };
    tell(&options).await;
}

/// The score that an agent was stopped for.
fn score(told: &str, stopped: &str) -> u8 {
    let line = told.lines().find(|line| line.contains(stopped)).unwrap();
    line.split("score ").nth(1).unwrap().parse().unwrap()
}

async fn tell(options: &Options) {
    let mesh = Mesh::start("story", options).await.unwrap();
    let mut rows = Vec::new();
    let mismatches = demo::tell(&mesh, &mut |row| rows.push(row.to_string())).await.unwrap();
    assert_eq!(mismatches, 0, "{}\n{}", demo::head(), rows.join("\n"));
    assert!(rows.len() >= 46, "the story has {} lines", rows.len());
}
