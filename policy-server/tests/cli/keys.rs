//! `ostiary keys` beside a running server: on its operator socket, and killed between the steps of a rotation.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::support::{Run, Serving, ostiary};
use serde_json::Value;

const CONFIG: &str = "trustDomain: cluster.local
identity: spiffe://cluster.local/ns/ostiary/sa/policy-server
hosts: [policy-server.ostiary.svc.cluster.local]
listen: { unix: ostiary.sock }
data: data
policy: policy
authentication: { mode: sidecar }
";

/// A server that has just started waits for sidecars that may live: with the one for longer than any test takes, with the
/// other for as short as may be.
const PATIENT: &str = "state: { maxAgeSeconds: 3600 }\n";
const HASTY: &str = "state: { maxAgeSeconds: 2, renewSeconds: 1 }\n";

/// A server without sidecars; it ends with the test.
struct Server {
    // Ends before its folder does.
    serving: Option<Serving>,
    folder: tempfile::TempDir,
}

impl Server {
    fn new(more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("policy")).unwrap();
        let server = Self { folder, serving: None };
        server.configure(more);
        server
    }

    /// From the next start on.
    fn configure(&self, more: &str) {
        fs::write(self.path("ostiary.yaml"), format!("{CONFIG}{more}")).unwrap();
    }

    fn start(&mut self) {
        self.serving = Some(Serving::start(self.folder.path()));
    }

    /// `kill -9`.
    fn kill(&mut self) {
        self.serving = None;
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn keys(&self, arguments: &[&str]) -> Run {
        ostiary(
            self.folder.path(),
            &[&["keys"], arguments, &["--config", "ostiary.yaml"]].concat(),
        )
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let run = self.keys(&[arguments, &["--output", "json"]].concat());
        serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{} {}", run.stdout, run.stderr))
    }

    /// Id, state and since when of the keys of a kind.
    fn states(&self, kind: &str) -> Vec<(String, String, u64)> {
        let shown = self.json(&["show"]);
        let keys = shown["keys"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|key| key["kind"] == kind);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        keys.map(|key| {
            (
                text(&key["kid"]),
                text(&key["state"]),
                key["since"].as_u64().unwrap_or(0),
            )
        })
        .collect()
    }

    fn kid(&self, kind: &str, state: &str) -> Option<String> {
        let mut states = self.states(kind).into_iter();
        states.find(|(_, other, _)| other == state).map(|(kid, ..)| kid)
    }
}

#[test]
fn a_rotation_survives_kill_9_at_each_step() {
    let mut server = Server::new(PATIENT);
    server.start();
    for kind in ["token", "bundle"] {
        let first = server.kid(kind, "signing").unwrap();
        server.configure(PATIENT);
        let survives = |server: &mut Server| {
            let before = server.states(kind);
            server.kill();
            assert_eq!(server.states(kind), before, "as told by the files alone");
            server.start();
            assert_eq!(server.states(kind), before);
        };
        // A key file, of which the server knows nothing yet.
        let made = ostiary(server.folder.path(), &["keys", "generate", kind, "--out", "data/keys"]);
        assert_eq!((made.code, made.stderr.as_str()), (0, ""));
        survives(&mut server);
        let next = server.kid(kind, "spare").unwrap();
        assert!(made.stdout.starts_with(&next), "{}", made.stdout);

        let run = server.keys(&["rotate", kind, "--dry-run"]);
        assert!(run.code == 1 && run.stdout.contains(&next), "{}", run.stdout);
        let run = server.keys(&["rotate", kind, "--timeout", "0"]);
        assert_eq!(run.code, 1, "{}", run.stdout);
        assert_eq!(server.kid(kind, "next").as_ref(), Some(&next));
        server.configure(HASTY);
        survives(&mut server);

        let run = server.keys(&["rotate", kind]);
        assert!(run.code == 0 && run.stdout.starts_with("switched: "), "{}", run.stdout);
        assert_eq!(
            (server.kid(kind, "signing"), server.kid(kind, "retiring")),
            (Some(next.clone()), Some(first.clone()))
        );
        survives(&mut server);
        let run = server.keys(&["rotate", kind]);
        assert!(
            run.code == 0 && run.stdout.starts_with("nothing to do: "),
            "{}",
            run.stdout
        );

        assert_eq!(server.keys(&["retire", &first]).code, 0);
        assert_eq!(server.kid(kind, "retired").as_ref(), Some(&first));
        survives(&mut server);
        let run = server.keys(&["retire", &next]);
        assert!(
            run.code == 1 && run.stdout.contains("rotate it first"),
            "{}",
            run.stdout
        );
        assert_eq!(server.kid(kind, "signing").as_ref(), Some(&next));
        assert_eq!(server.keys(&["retire", &next, "--now"]).code, 0);
        survives(&mut server);
    }
    let shown = server.keys(&["show"]).stdout;
    assert!(
        shown.contains("retired") && shown.contains("0 of 0 sidecar VMs have it"),
        "{shown}"
    );
    for file in fs::read_dir(server.path("data/keys")).unwrap() {
        let key: Value = serde_json::from_slice(&fs::read(file.unwrap().path()).unwrap()).unwrap();
        assert!(!shown.contains(key["d"].as_str().unwrap()));
    }
}

#[test]
fn the_operator_socket_is_its_users_alone() {
    let mut server = Server::new(PATIENT);
    server.start();
    let mode = |name: &str| fs::metadata(server.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("data/operator.sock"), mode("data")), (0o600, 0o700));
    assert_eq!(server.keys(&["rotate", "token", "--dry-run"]).code, 1);
    // On the socket that sidecars use, nobody is an operator who has no certificate.
    let run = ostiary(
        server.folder.path(),
        &["keys", "rotate", "token", "--dry-run", "--unix", "ostiary.sock"],
    );
    assert!(
        run.code == 1 && run.stdout.contains("(401)"),
        "{}{}",
        run.stdout,
        run.stderr
    );
    server.kill();
    let run = server.keys(&["rotate", "token"]);
    assert!(
        run.code == 2 && run.stderr.contains("no server listens on"),
        "{}",
        run.stderr
    );
}

#[test]
fn keys_of_a_secret_are_used_and_never_made() {
    let mut server = Server::new("keys: secret\n");
    let generate = |kind| {
        let run = ostiary(
            server.folder.path(),
            &["keys", "generate", kind, "--out", "secret", "--output", "json"],
        );
        serde_json::from_str::<Value>(&run.stdout).unwrap()
    };
    let (token, bundle) = (generate("token"), generate("bundle"));
    for key in [&token, &bundle] {
        // As Kubernetes mounts it.
        let file = server.path(key["file"].as_str().unwrap());
        fs::set_permissions(file, fs::Permissions::from_mode(0o440)).unwrap();
    }
    server.start();
    assert_eq!(server.kid("token", "signing").unwrap(), token["kid"].as_str().unwrap());
    assert_eq!(
        server.kid("bundle", "signing").unwrap(),
        bundle["kid"].as_str().unwrap()
    );
    assert!(!server.path("data/keys").exists());
    // A key that is added to it is found without a restart.
    let next = ostiary(
        server.folder.path(),
        &["keys", "generate", "token", "--out", "secret", "--output", "json"],
    );
    let next: Value = serde_json::from_str(&next.stdout).unwrap();
    let run = server.json(&["rotate", "token", "--timeout", "0"]);
    assert_eq!(run["next"], next["kid"]);
}

/// The commands of `docs/operations.md`, in their order.
fn documented() -> Vec<String> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md");
    let page = fs::read_to_string(page).unwrap();
    let section = page
        .split("\n## Rotate keys\n")
        .nth(1)
        .unwrap()
        .split("\n## ")
        .next()
        .unwrap();
    let lines = section
        .lines()
        .filter_map(|line| line.strip_prefix("kubectl exec -n ostiary deploy/policy-server -- ostiary "));
    lines
        .map(|line| line.replace("/etc/ostiary/ostiary.yaml", "ostiary.yaml"))
        .collect()
}

#[test]
fn the_documented_commands_rotate_both_keys() {
    let mut server = Server::new(HASTY);
    server.start();
    let commands = documented();
    assert_eq!(commands.len(), 6, "{commands:?}");
    for text in commands {
        let old = server.kid("bundle", "retiring").unwrap_or_default();
        let signing = server.kid("bundle", "signing").unwrap();
        let arguments = text.replace("OLD_KID", &old).replace("KID", &signing);
        let arguments: Vec<&str> = arguments.split(' ').collect();
        let run = ostiary(server.folder.path(), &arguments);
        // There is no sidecar here that could lack a key; the test on real ones has it refused.
        assert_eq!(run.code, 0, "{text}: {}{}", run.stdout, run.stderr);
    }
    let states = |kind| {
        server
            .states(kind)
            .into_iter()
            .map(|(_, state, _)| state)
            .collect::<Vec<_>>()
    };
    let mut bundle = states("bundle");
    bundle.sort_unstable();
    assert_eq!(bundle, ["retired", "retired", "signing"]);
    assert_eq!(states("token").len(), 2);
}
