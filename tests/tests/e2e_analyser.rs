//! What an independent analyser reads from the NetworkPolicies is what agent and service files declare. Needs no cluster.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tests::built::workspace;
use tests::network::analyser::{self, Pod};
use tests::network::{DNS, Declared, ISTIOD, Protocol, Way};

/// Ports that somebody listens on, and one of nobody.
const PORTS: [u16; 6] = [53, 8080, 8081, 15006, 15012, 15090];

/// The demo, what every cluster has, and those who should get nowhere: two of them with the label of an agent, in namespaces
/// where nothing holds a pod to it.
fn pods(objects: &[Value]) -> Vec<Pod> {
    let mut pods = analyser::pods(objects);
    assert!(pods.len() >= 7, "{pods:?}");
    let label = |account: &str| json!({"ostiary.dev/service-account": account});
    pods.extend(
        [
            (DNS, json!({"k8s-app": "kube-dns"})),
            (ISTIOD, json!({"app": "istiod"})),
            ("monitoring/prometheus", label("prometheus")),
            ("orchestration/orchestrator", label("orchestrator")),
            ("orchestration/scheduler", label("scheduler")),
            ("outside/outsider", label("outsider")),
            ("outside/thief", label("analyst-7")),
            ("monitoring/thief", label("warehouse")),
        ]
        .map(|(workload, labels)| Pod {
            workload: workload.to_owned(),
            labels,
        }),
    );
    pods
}

/// The ways in which analyser and files differ.
fn differences(objects: &[Value]) -> Vec<String> {
    let pods = pods(objects);
    let declared = Declared::read(&workspace().join("k8s/demo/policy")).unwrap();
    let found = analyser::ways(objects, &pods, &BTreeSet::from(PORTS)).unwrap();
    let (mut differences, mut open) = (Vec::new(), 0);
    for (from, to) in pods.iter().flat_map(|from| pods.iter().map(move |to| (from, to))) {
        for (port, protocol) in PORTS
            .iter()
            .flat_map(|port| [(*port, Protocol::Tcp), (*port, Protocol::Udp)])
        {
            let way = Way {
                from: from.workload.clone(),
                to: to.workload.clone(),
                port,
                protocol,
            };
            if from.workload == to.workload {
                continue;
            }
            let (is_found, is_declared) = (found.contains(&way), declared.opens(&way));
            open += usize::from(is_declared && declared.is_closed(&from.workload));
            if is_found != is_declared {
                differences.push(format!("{way}: {}", if is_found { "open" } else { "closed" }));
            }
        }
    }
    assert!(open > 20, "the files declare {open} ways");
    differences
}

#[test]
fn the_analyser_finds_the_declared_ways_and_no_others() {
    let built = analyser::build(&workspace().join("k8s/overlays/kind")).unwrap();
    let objects = analyser::objects(&built).unwrap();
    assert_eq!(differences(&objects), Vec::<String>::new());

    let wrong = std::fs::read_to_string(workspace().join("tests/network/wrong-policy.yaml")).unwrap();
    let objects = [objects, analyser::objects(&wrong).unwrap()].concat();
    assert_eq!(
        differences(&objects),
        ["outsider", "thief"].map(|who| format!("outside/{who} -> data/memory 8080/TCP: open"))
    );
}
