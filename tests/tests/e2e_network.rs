//! Networks in a cluster: what packets get through is what agent and service files declare, and nothing else.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::net::IpAddr;

use serde_json::{Value, json};
use tests::built::workspace;
use tests::cluster::Cluster;
use tests::network::probes::{Pod, Probe, surprises, tried};
use tests::network::{DNS, Declared, ISTIOD, POLICY_SERVER, Protocol, Way};

/// On which nobody listens.
const CLOSED_PORT: u16 = 8081;

/// The sidecar's own, which containers do not all name.
const SIDECAR_PORTS: [u16; 4] = [15000, 15006, 15020, 15090];

/// The API server, as pods would name it.
const API_SERVER: &str = "the API server";

/// The node's kubelet.
const NODE: &str = "the node";

/// Let in to the policy server by `tests/cluster/objects`: it holds a role that no agent's file shows.
const SCHEDULER: &str = "orchestration/scheduler";

struct Network {
    cluster: Cluster,
    pods: Vec<Pod>,
    declared: Declared,
    probes: Vec<Probe>,
}

impl Network {
    fn find() -> Self {
        let cluster = Cluster::connect().unwrap();
        let mut pods = Pod::all(&cluster).unwrap();
        // One pod a workload stands for all of it.
        pods.sort_by(|one, two| one.workload.cmp(&two.workload));
        pods.dedup_by(|one, two| one.workload == two.workload);
        let declared = Declared::read(&workspace().join("k8s/demo/policy")).unwrap();
        let probes = probes(&cluster, &pods);
        Self {
            cluster,
            pods,
            declared,
            probes,
        }
    }

    /// Whether a way should be open. To the node and the API server nobody of the mesh may send, but the policy server that
    /// watches agents and services there.
    fn expects(&self, way: &Way) -> bool {
        match way.to.as_str() {
            API_SERVER if way.from == POLICY_SERVER => true,
            API_SERVER | NODE => !self.declared.is_closed(&way.from),
            POLICY_SERVER if way.from == SCHEDULER && way.port == 8080 => way.protocol == Protocol::Tcp,
            _ => self.declared.opens(way),
        }
    }

    fn surprises(&self) -> Vec<String> {
        let expected = |way: &Way| self.expects(way);
        let surprises = surprises(&self.cluster, &self.pods, &self.probes, &expected).unwrap();
        surprises
            .iter()
            .map(|way| format!("{way}: {}", if self.expects(way) { "closed" } else { "open" }))
            .collect()
    }

    fn is_open(&self, from: &str, to: &str, port: u16) -> bool {
        let way = Way {
            from: from.to_owned(),
            to: to.to_owned(),
            port,
            protocol: Protocol::Tcp,
        };
        let probe = self.probes.iter().find(|probe| probe.way == way).unwrap();
        tried(&self.cluster, &self.pods, &[probe], 2).unwrap()[&way]
    }
}

/// From every pod to every port of every other, to a port of nobody, and to what is no pod.
fn probes(cluster: &Cluster, pods: &[Pod]) -> Vec<Probe> {
    let mut targets: Vec<(String, IpAddr, u16, Protocol)> = Vec::new();
    for pod in pods {
        let named = pod.ports.iter().copied();
        let others = SIDECAR_PORTS
            .into_iter()
            .chain([CLOSED_PORT])
            .map(|port| (port, Protocol::Tcp));
        // Nobody listens to datagrams on this port, which TCP is allowed on.
        let datagrams = [(8080, Protocol::Udp)];
        let mut ports: Vec<_> = named.chain(others).chain(datagrams).collect();
        ports.sort_unstable();
        ports.dedup();
        targets.extend(
            ports
                .into_iter()
                .map(|(port, protocol)| (pod.workload.clone(), pod.address, port, protocol)),
        );
    }
    let api = endpoint(cluster);
    targets.push((API_SERVER.to_owned(), api.0, api.1, Protocol::Tcp));
    targets.push((NODE.to_owned(), node(cluster), 10250, Protocol::Tcp));
    pods.iter()
        .flat_map(|from| {
            let others = targets.iter().filter(|(to, ..)| *to != from.workload);
            others.map(|(to, address, port, protocol)| Probe {
                way: Way {
                    from: from.workload.clone(),
                    to: to.clone(),
                    port: *port,
                    protocol: *protocol,
                },
                address: *address,
            })
        })
        .collect()
}

fn endpoint(cluster: &Cluster) -> (IpAddr, u16) {
    let slices = cluster
        .kubectl([
            "get",
            "endpointslices",
            "-l",
            "kubernetes.io/service-name=kubernetes",
            "--output=json",
        ])
        .unwrap();
    let slices: Value = serde_json::from_str(&slices).unwrap();
    let slice = &slices["items"][0];
    let address = slice["endpoints"][0]["addresses"][0].as_str().unwrap();
    let port = slice["ports"][0]["port"].as_u64().unwrap();
    (address.parse().unwrap(), port.try_into().unwrap())
}

fn node(cluster: &Cluster) -> IpAddr {
    let path = r#"jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}"#;
    cluster
        .kubectl(["get", "nodes", "--output", path])
        .unwrap()
        .parse()
        .unwrap()
}

#[tokio::test]
async fn packets_get_where_files_say_and_nowhere_else() {
    let network = Network::find();
    // Enforcement first: without any, everything that should be open is.
    assert!(network.is_open("agents/analyst-7", "data/warehouse", 8080));
    assert!(
        !network.is_open("outside/outsider", "data/warehouse", 8080),
        "no NetworkPolicy is enforced"
    );
    assert!(network.is_open("outside/outsider", DNS, 53));

    let workloads: Vec<_> = network.pods.iter().map(|pod| pod.workload.as_str()).collect();
    for expected in [
        "agents/analyst-7",
        "agents/writer-2",
        "data/memory",
        "data/reports",
        "data/warehouse",
        "tools/mcp",
        "orchestration/orchestrator",
        SCHEDULER,
        "outside/outsider",
        POLICY_SERVER,
        DNS,
        ISTIOD,
    ] {
        assert!(workloads.contains(&expected), "{expected} is not among {workloads:?}");
    }
    let open = network
        .probes
        .iter()
        .filter(|probe| network.expects(&probe.way))
        .count();
    println!(
        "{} pods, {} ways, of which {open} should be open",
        workloads.len(),
        network.probes.len()
    );
    assert_eq!(network.surprises(), Vec::<String>::new());

    let wrong = std::fs::read_to_string(workspace().join("tests/network/wrong-policy.yaml")).unwrap();
    network.cluster.apply(&wrong).unwrap();
    let through = || network.is_open("outside/outsider", "data/memory", 8080);
    let opened = network
        .cluster
        .until("the wrong policy to be enforced", async || through().then_some(()))
        .await;
    let surprises = opened.as_ref().map(|()| network.surprises());
    let gone = network
        .cluster
        .try_kubectl(&["delete", "--ignore-not-found", "-f", "-"], &wrong)
        .unwrap();
    assert!(gone.ok, "{}", gone.stderr);
    assert_eq!(surprises.unwrap(), ["outside/outsider -> data/memory 8080/TCP: open"]);
    network
        .cluster
        .until("the wrong policy to be gone", async || (!through()).then_some(()))
        .await
        .unwrap();
}

/// What may be done, as the API server answers it: who, verb, resource, namespace.
fn allowed(cluster: &Cluster, asked: &[(String, &str, &str, &str)]) -> Vec<bool> {
    let reviews: Vec<_> = asked
        .iter()
        .map(|(who, verb, resource, namespace)| {
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            let groups = match who.as_str() {
                "admin" => json!(["system:masters"]),
                _ => json!([
                    "system:serviceaccounts",
                    "system:serviceaccounts:agents",
                    "system:authenticated"
                ]),
            };
            json!({
                "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
                "spec": {"user": who, "groups": groups, "resourceAttributes": {
                    "verb": verb, "resource": resource, "subresource": subresource, "namespace": namespace,
                }},
            })
        })
        .collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": reviews}).to_string();
    let said = cluster
        .try_kubectl(&["create", "-f", "-", "--output=json"], &list)
        .unwrap();
    let answers: Vec<Value> = serde_json::Deserializer::from_str(&said.stdout)
        .into_iter()
        .collect::<Result<_, _>>()
        .unwrap();
    let answers = match answers.as_slice() {
        [list] if list["kind"] == "List" => list["items"].as_array().unwrap().clone(),
        _ => answers,
    };
    assert_eq!(answers.len(), asked.len(), "{}", said.stderr);
    answers
        .iter()
        .map(|answer| answer["status"]["allowed"] == true)
        .collect()
}

#[test]
fn no_agent_reads_secrets_or_tokens() {
    let cluster = Cluster::connect().unwrap();
    let mut asked = Vec::new();
    for who in [
        "admin",
        "system:serviceaccount:agents:analyst-7",
        "system:serviceaccount:agents:writer-2",
    ] {
        for namespace in ["agents", "data", "tools", "ostiary", "kube-system", "istio-system"] {
            for (verb, resource) in [
                ("get", "secrets"),
                ("list", "secrets"),
                ("create", "serviceaccounts/token"),
                ("create", "pods/exec"),
            ] {
                asked.push((who.to_owned(), verb, resource, namespace));
            }
        }
    }
    for (asked, allowed) in asked.iter().zip(allowed(&cluster, &asked)) {
        assert_eq!(allowed, asked.0 == "admin", "{asked:?}");
    }
    // Nor is there a token in its container; the sidecar's is the sidecar's alone.
    for agent in ["deploy/analyst-7", "deploy/writer-2"] {
        let there = |container: &str, path: &str| {
            let arguments = ["-n", "agents", "exec", agent, "-c", container, "--", "ls", path];
            cluster.try_kubectl(&arguments, "").unwrap().ok
        };
        assert!(there("istio-proxy", "/var/run/secrets/tokens/istio-token"));
        assert!(there("application", "/"));
        for path in ["/var/run/secrets/tokens/istio-token", "/var/run/secrets/kubernetes.io"] {
            assert!(!there("application", path), "{agent} has {path}");
        }
    }
}
