//! Agents and services as resources of a real API server: what it refuses, what the policy server says of the rest, and
//! who may write them.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "../../policy-server/tests/seeds/mod.rs"]
mod seeds;

use seeds::{FILES, PASSED, SEEDS, seeded};
use serde_json::Value;
use tests::cluster::{Cluster, Said};
use tokio::sync::{Mutex, MutexGuard};

/// One agent that is wrong holds the policy of all: each test has the cluster to itself.
static TURN: Mutex<()> = Mutex::const_new(());

struct Policy {
    cluster: Cluster,
    /// What was made, and is deleted when the test is over.
    made: Vec<String>,
    _turn: MutexGuard<'static, ()>,
}

impl Policy {
    async fn new() -> Self {
        Self {
            _turn: TURN.lock().await,
            cluster: Cluster::connect().unwrap(),
            made: Vec::new(),
        }
    }

    /// Makes an agent that reaches one service; the test's end deletes it.
    fn apply_agent(&mut self, name: &str, reaches: &str) -> Said {
        self.made.push(name.to_owned());
        self.cluster
            .try_kubectl(&["apply", "-f", "-"], &agent(name, reaches))
            .unwrap()
    }

    fn delete_agent(&self, name: &str) -> Said {
        let arguments = ["delete", "agent", "-n", "agents", "--ignore-not-found", name];
        self.cluster.try_kubectl(&arguments, "").unwrap()
    }

    /// Waits until an agent's condition `Ready` has this reason; gives its status and message.
    async fn told(&self, name: &str, reason: &str) -> (String, String) {
        let ready = async || {
            let said = self
                .cluster
                .kubectl(["get", "agent", "-n", "agents", name, "-o", "json"])
                .ok()?;
            let agent: Value = serde_json::from_str(&said).ok()?;
            let ready = agent.pointer("/status/conditions/0")?;
            let text = |field: &str| ready.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
            let is_current = ready.get("observedGeneration") == agent.pointer("/metadata/generation");
            (is_current && text("reason") == reason).then(|| (text("status"), text("message")))
        };
        self.cluster
            .until(&format!("{name} to be {reason}"), ready)
            .await
            .unwrap()
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        for name in &self.made {
            self.delete_agent(name);
        }
    }
}

fn agent(name: &str, reaches: &str) -> String {
    format!(
        "apiVersion: ostiary.dev/v1alpha1\nkind: Agent\nmetadata: {{ name: {name}, namespace: agents }}\n\
         spec: {{ serviceAccount: {name}, tools: [pandas], reaches: [{reaches}] }}\n"
    )
}

#[tokio::test]
async fn an_agent_is_in_force_when_its_file_is_applied_and_its_columns_say_so() {
    let mut policy = Policy::new().await;
    let said = policy.apply_agent("e2e-editor", "mcp");
    assert!(said.ok, "{said:?}");
    let (status, message) = policy.told("e2e-editor", "InForce").await;
    assert_eq!(
        (status.as_str(), message.as_str()),
        ("True", "generation 1 is in force")
    );
    let table = policy.cluster.kubectl(["get", "agents", "-n", "agents"]).unwrap();
    let header = table.lines().next().unwrap_or_default();
    let mut rest = header;
    for column in ["NAME", "SERVICE ACCOUNT", "REACHES", "TOOLS", "READY", "AGE"] {
        let at = rest.find(column);
        assert!(at.is_some(), "{column} is not, or not in order, in: {header}");
        rest = rest.split_at(at.unwrap_or_default()).1;
    }
    let row = table
        .lines()
        .find(|line| line.starts_with("e2e-editor "))
        .unwrap_or_default();
    for cell in ["e2e-editor", "[\"mcp\"]", "[\"pandas\"]", "True"] {
        assert!(row.contains(cell), "{cell} is not in: {row}");
    }
}

#[tokio::test]
async fn a_wrong_agent_is_told_why_and_holds_its_good_twin() {
    let mut policy = Policy::new().await;
    assert!(policy.apply_agent("e2e-wrong", "mcp, archive").ok);
    let (status, message) = policy.told("e2e-wrong", "Refused").await;
    assert_eq!(status, "False");
    assert_eq!(
        message,
        "spec.reaches[1]: there is no service `archive`; add its file, or correct the name"
    );
    assert!(policy.apply_agent("e2e-right", "mcp").ok);
    let (status, message) = policy.told("e2e-right", "Held").await;
    assert!(status == "False" && message.starts_with("right by itself"), "{message}");
    let (status, _) = policy.told("analyst-7", "InForce").await;
    assert_eq!(status, "True", "the last good policy stays in force");

    assert!(policy.delete_agent("e2e-wrong").ok);
    let (status, _) = policy.told("e2e-right", "InForce").await;
    assert_eq!(status, "True");
}

/// What the API server would say to a file.
fn tried(cluster: &Cluster, file: &str, user: &[&str]) -> Said {
    let apply = ["apply", "--dry-run=server", "--validate=strict", "-f", "-"];
    let arguments = [&apply, user].concat();
    cluster.try_kubectl(&arguments, file).unwrap()
}

/// The same file for a namespace in which nothing has its name: otherwise it would be merged with what is there.
fn alone(file: &str) -> String {
    ["agents", "data", "tools"]
        .iter()
        .fold(file.to_owned(), |file, namespace| {
            file.replace(&format!("namespace: {namespace} }}"), "namespace: default }")
        })
}

#[tokio::test]
async fn every_seeded_mistake_is_refused_but_those_that_only_others_show() {
    let policy = Policy::new().await;
    for (name, file) in FILES {
        let said = tried(&policy.cluster, &alone(file), &[]);
        assert!(said.ok, "{name}: {}", said.stderr);
    }
    let mut refused = 0;
    for seed in SEEDS {
        let said = tried(&policy.cluster, &alone(&seeded(seed)), &[]);
        let passes = PASSED.iter().any(|(from, to, _)| (*from, *to) == (seed.1, seed.2));
        assert_eq!(said.ok, passes, "{:?} as {:?}: {}", seed.1, seed.2, said.stderr);
        refused += usize::from(!said.ok);
    }
    assert_eq!(refused, SEEDS.len() - PASSED.len());
}

#[tokio::test]
async fn nobody_but_the_platform_writes_policy_wherever_it_is() {
    let policy = Policy::new().await;
    let rights = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: { name: e2e-policy-writer }
rules:
- { apiGroups: [ostiary.dev], resources: [agents, services], verbs: [get, create, patch] }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: { name: e2e-policy-writer }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: e2e-policy-writer }
subjects: [{ kind: User, name: e2e-developer, apiGroup: rbac.authorization.k8s.io }]
";
    policy.cluster.apply(rights).unwrap();
    let developer = ["--as=e2e-developer", "--as-group=system:authenticated"];
    let platform = [
        "--as=e2e-developer",
        "--as-group=system:authenticated",
        "--as-group=ostiary:platform",
    ];
    // In a namespace of the mesh, and in one that nobody has labelled.
    for namespace in ["agents", "default"] {
        let file = agent("e2e-editor", "mcp").replace("namespace: agents", &format!("namespace: {namespace}"));
        let allowed = policy.cluster.until("the role's rights", async || {
            let said = tried(&policy.cluster, &file, &platform);
            said.ok.then_some(said)
        });
        allowed.await.unwrap();
        let refused = tried(&policy.cluster, &file, &developer);
        let message = "only the group ostiary:platform may CREATE agents.ostiary.dev";
        assert!(
            !refused.ok && refused.stderr.contains(message),
            "{namespace}: {}",
            refused.stderr
        );
    }
    let names = ["clusterrole/e2e-policy-writer", "clusterrolebinding/e2e-policy-writer"];
    policy.cluster.kubectl(["delete"].into_iter().chain(names)).unwrap();
}
