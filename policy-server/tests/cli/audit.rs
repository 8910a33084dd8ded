//! `ostiary audit` beside a running server, and with its files on a machine without one.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use crate::support::{Run, Serving, ostiary};
use authz::audit::{Chain, Kind, Record, SourceId};
use authz::denial::Code;
use serde_json::Value;

const CONFIG: &str = "trustDomain: cluster.local
identity: spiffe://cluster.local/ns/ostiary/sa/policy-server
hosts: [policy-server.ostiary.svc.cluster.local]
listen: { unix: ostiary.sock }
data: data
policy: policy
authentication: { mode: sidecar }
audit: { mirror: mirror }
";
const SERVER: &str = "spiffe://cluster.local/ns/ostiary/sa/policy-server";
const WAREHOUSE: &str = "spiffe://cluster.local/ns/data/sa/warehouse";
const CALL: &str = "-AAAAAAAAAAAAAAAAAAAAA";

/// A server whose log has records; it ends with the test.
struct Server {
    // Ends before its folder does.
    serving: Option<Serving>,
    folder: tempfile::TempDir,
    chain: Chain,
    count: u64,
}

impl Server {
    fn start(records: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("policy")).unwrap();
        fs::write(folder.path().join("ostiary.yaml"), CONFIG).unwrap();
        let serving = Serving::start(folder.path());
        let mut server = Self {
            folder,
            serving: Some(serving),
            chain: Chain::new(SourceId([1; 16])),
            count: 0,
        };
        server.post(records);
        server
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Run {
        ostiary(self.folder.path(), arguments)
    }

    /// Posts records, every tenth of them a denial of `analyst-7`; the second is of a call.
    fn post(&mut self, records: u64) {
        let mut body = Vec::new();
        for _ in 0..records {
            let n = self.count;
            let mut record = Record::source(1_800_000_000_000 + n, WAREHOUSE, None);
            if n > 0 {
                record.kind = Kind::Decision;
                record.call = (n == 1).then(|| CALL.into());
                record.txn = (n == 1).then(|| "t/1".into());
                record.agent_id = n.is_multiple_of(10).then(|| "analyst-7".into());
                record.code = n.is_multiple_of(10).then_some(Code::ToolForbidden);
            }
            body.extend(self.chain.seal(&record).line);
            body.push(b'\n');
            self.count += 1;
        }
        let head = format!(
            "POST /v1/records HTTP/1.1\r\nhost: policy\r\nconnection: close\r\nostiary-callout: 1\r\n\
             x-forwarded-client-cert: By={SERVER};URI={WAREHOUSE}\r\ncontent-type: application/x-ndjson\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        let mut stream = UnixStream::connect(self.path("ostiary.sock")).unwrap();
        stream.write_all(&[head.as_bytes(), &body].concat()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    /// Stops in order, which signs what was accepted last, and starts again.
    fn restart(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.stop();
        }
        self.serving = Some(Serving::start(self.folder.path()));
    }

    /// The log's key, as a person gets it, in a file.
    fn write_key(&self) {
        let shown = self.run(&["--output", "json", "keys", "show", "--data", "data"]);
        let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
        fs::write(self.path("log.vkey"), shown["log_keys"][0].as_str().unwrap()).unwrap();
    }

    fn export(&self) {
        let run = self.run(&["audit", "export", "--data", "data", "--out", "log.jsonl"]);
        assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{}", run.stdout);
        assert!(!self.path("log.jsonl.part").exists());
    }
}

#[test]
fn an_export_proves_itself_offline_and_a_changed_one_does_not() {
    let mut server = Server::start(500);
    server.restart();
    server.post(200);
    server.restart();
    server.write_key();
    server.export();
    let verify = ["audit", "verify", "log.jsonl", "--key", "log.vkey"];
    let checkpoint = ["--checkpoint", "mirror/checkpoint"];

    let run = server.run(&verify);
    assert_eq!(run.code, 3, "{}{}", run.stdout, run.stderr);
    assert!(run.stdout.contains("the 700 records"), "{}", run.stdout);
    assert!(run.stdout.contains("complete up to 700 at 20"), "{}", run.stdout);
    assert!(
        run.stdout.contains("cannot show that nothing followed"),
        "{}",
        run.stdout
    );
    let run = server.run(&[&verify[..], &checkpoint].concat());
    assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
    let run = server.run(&[&["--output", "json"], &verify[..], &checkpoint].concat());
    let value: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(
        (&value["verdict"], &value["records"]),
        (&"complete".into(), &700.into())
    );
    assert!(value["checkpoints"].as_u64().unwrap() >= 2, "{value}");

    // A byte in the middle of a record.
    let good = fs::read(server.path("log.jsonl")).unwrap();
    let lines: Vec<_> = good.split_inclusive(|byte| *byte == b'\n').collect();
    let mut changed = good.clone();
    let at: usize = lines[..300].iter().map(|line| line.len()).sum::<usize>() + 200;
    changed[at] ^= 1;
    fs::write(server.path("log.jsonl"), &changed).unwrap();
    let run = server.run(&[&verify[..], &checkpoint].concat());
    assert_eq!((run.code, run.stderr.as_str()), (1, ""));
    let named = format!("line 301 (source {}, seq ", SourceId([1; 16]));
    assert!(run.stdout.starts_with("not proven: "), "{}", run.stdout);
    assert!(run.stdout.contains(&named), "{}", run.stdout);

    // Without its end, and against what the mirror has.
    fs::write(server.path("log.jsonl"), lines[..lines.len() - 2].concat()).unwrap();
    assert_eq!(server.run(&verify).code, 1);
    // A line without end is not read into memory.
    fs::write(server.path("log.jsonl"), vec![b'{'; 20 << 20]).unwrap();
    let run = server.run(&verify);
    assert_eq!(run.code, 1);
    assert!(run.stdout.contains("line 1: "), "{}", run.stdout);
    fs::write(server.path("log.jsonl"), "").unwrap();
    assert_eq!(server.run(&verify).code, 1);

    // An old export beside a newer checkpoint is not complete.
    fs::write(server.path("log.jsonl"), &good).unwrap();
    server.post(1);
    server.restart();
    let run = server.run(&[&verify[..], &checkpoint].concat());
    assert_eq!(run.code, 1);
    assert!(
        run.stdout
            .contains("with 700 records, but the newer checkpoint signs 701"),
        "{}",
        run.stdout
    );
    // A new export goes on from an old checkpoint, and cannot show its own end by it.
    fs::copy(server.path("mirror/checkpoint"), server.path("701.checkpoint")).unwrap();
    server.post(1);
    server.restart();
    server.export();
    let run = server.run(&[&verify[..], &["--checkpoint", "701.checkpoint"]].concat());
    assert_eq!(run.code, 3, "{}", run.stdout);
    assert!(
        run.stdout.contains("only been added to since it had 701"),
        "{}",
        run.stdout
    );
}

#[test]
fn a_wrong_key_or_checkpoint_is_told_from_a_wrong_log() {
    let server = Server::start(1);
    server.write_key();
    server.export();
    let key = fs::read_to_string(server.path("log.vkey")).unwrap();
    let (name, rest) = key.split_once('+').unwrap();
    let run = server.run(&["audit", "verify", "log.jsonl", "--key", &format!("{name}x+{rest}")]);
    assert_eq!((run.code, run.stdout.as_str()), (2, ""));
    assert!(run.stderr.contains("is no key of a log"), "{}", run.stderr);

    let other = Server::start(1);
    other.write_key();
    let other_key = other.path("log.vkey");
    let run = server.run(&["audit", "verify", "log.jsonl", "--key", other_key.to_str().unwrap()]);
    assert_eq!(run.code, 1);
    assert!(run.stdout.contains("names none of the given keys"), "{}", run.stdout);

    let foreign = other.path("mirror/checkpoint");
    let verify = ["audit", "verify", "log.jsonl", "--key", "log.vkey", "--checkpoint"];
    let run = server.run(&[&verify[..], &[foreign.to_str().unwrap()]].concat());
    assert_eq!((run.code, run.stdout.as_str()), (2, ""));
    assert!(
        run.stderr.contains("is no checkpoint that the given key signed"),
        "{}",
        run.stderr
    );
}

#[test]
fn calls_and_the_growth_of_the_log_are_proven() {
    let mut server = Server::start(20);
    server.restart();
    server.write_key();
    let old = server.path("old.checkpoint");
    fs::copy(server.path("mirror/checkpoint"), &old).unwrap();
    server.post(300);
    server.restart();
    let place = ["--log-key", "log.vkey", "--data", "data", "--out"];
    let run = server.run(&[&["audit", "prove", CALL][..], &place, &["receipt.jsonl"]].concat());
    assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
    let verify = ["audit", "verify", "receipt.jsonl", "--key", "log.vkey"];
    let run = server.run(&verify);
    assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
    assert!(run.stdout.contains(CALL), "{}", run.stdout);
    let run = server.run(&[&verify[..], &["--checkpoint", "old.checkpoint"]].concat());
    assert_eq!(run.code, 2, "{}", run.stdout);
    let receipt = fs::read_to_string(server.path("receipt.jsonl")).unwrap();
    fs::write(
        server.path("receipt.jsonl"),
        receipt.replace("index 1\\n", "index 2\\n"),
    )
    .unwrap();
    assert_eq!(server.run(&verify).code, 1);

    let since = ["audit", "prove", "--since", "old.checkpoint"];
    let run = server.run(&[&since[..], &place, &["new.checkpoint"]].concat());
    assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
    assert!(run.stdout.contains("the log of 320 records at 20"), "{}", run.stdout);
    assert!(run.stdout.contains("begins with the 20 of 20"), "{}", run.stdout);
    assert!(
        fs::read_to_string(server.path("new.checkpoint"))
            .unwrap()
            .contains("\n320\n")
    );

    let absent = server.run(&[&["audit", "prove", "BAAAAAAAAAAAAAAAAAAAAA"][..], &place, &["x"]].concat());
    assert_eq!(absent.code, 1);
    assert!(absent.stdout.contains("call_unknown"), "{}", absent.stdout);
    assert!(!server.path("x").exists());
}

#[test]
fn records_are_shown_and_searched() {
    let mut server = Server::start(400);
    server.restart();
    let tail = server.run(&["audit", "tail", "--data", "data", "-n", "3"]);
    assert_eq!((tail.code, tail.stderr.as_str()), (0, ""));
    let first: Vec<_> = tail
        .stdout
        .lines()
        .map(|line| line.split_whitespace().next().unwrap())
        .collect();
    assert_eq!(first, ["397", "398", "399"]);

    let search = [
        "--output",
        "json",
        "audit",
        "search",
        "--data",
        "data",
        "--agent",
        "analyst-7",
    ];
    let run = server.run(&search);
    let found: Vec<Value> = run
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(found.len(), 39);
    assert!(found.iter().all(|record| record["code"] == "tool_forbidden"));
    let some = server.run(&[&search[..], &["--limit", "2", "--code", "tool_forbidden"]].concat());
    assert_eq!(some.stdout.lines().count(), 2);
    let none = server.run(&[&search[..], &["--code", "token_expired"]].concat());
    assert_eq!((none.code, none.stdout.as_str()), (0, ""));

    let show = server.run(&["--output", "json", "audit", "show", CALL, "--data", "data"]);
    let record: Value = serde_json::from_str(&show.stdout).unwrap();
    assert_eq!((&record["call"], &record["seq"]), (&CALL.into(), &1.into()));
}

#[test]
fn a_user_request_is_drawn_and_findings_are_told() {
    let server = Server::start(20);
    let run = server.run(&["trace", "t/1", "--data", "data"]);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{}", run.stdout);
    let drawn: Vec<&str> = run.stdout.lines().collect();
    assert!(
        drawn[0].starts_with("t/1  1 call of 1 agent, 0 denied, 2027-01-15T08:00:00Z in "),
        "{}",
        run.stdout
    );
    assert_eq!(drawn[1], "└─ (without a capability)");
    assert!(drawn[2].starts_with("   └─ +0.000 s  "), "{}", run.stdout);
    assert_eq!(drawn[3], format!("         call {CALL}  seen by the caller's side"));
    let run = server.run(&["--output", "json", "trace", "t/1", "--data", "data"]);
    let told: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(
        (&told["records"], &told["agents"][0]["calls"][0]["call"]),
        (&1.into(), &CALL.into())
    );
    let run = server.run(&["trace", "t-2", "--data", "data"]);
    assert_eq!((run.code, run.stderr.as_str()), (1, ""));
    assert!(run.stdout.contains("txn_unknown"), "{}", run.stdout);

    let run = server.run(&["audit", "findings", "--data", "data"]);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{}", run.stdout);
    assert!(run.stdout.starts_with("no findings; judged are "), "{}", run.stdout);
}

#[test]
fn the_log_of_a_server_is_replayed() {
    let mut server = Server::start(300);
    server.restart();
    let policy = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/mesh/policy");
    let run = server.run(&[
        "--output", "json", "audit", "replay", "--data", "data", "--policy", policy,
    ]);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{}", run.stdout);
    let told: Value = serde_json::from_str(&run.stdout).unwrap();
    let by_its_own = server.run(&["audit", "replay", "--data", "data"]);
    assert_eq!(
        (by_its_own.code, by_its_own.stderr.as_str()),
        (0, ""),
        "{}",
        by_its_own.stdout
    );
    assert!(
        by_its_own.stdout.contains("the policy is that of the log"),
        "{}",
        by_its_own.stdout
    );
    // These records hold neither verdicts nor facts.
    assert_eq!((&told["same"], &told["now_denied"]), (&0.into(), &0.into()), "{told}");
}
