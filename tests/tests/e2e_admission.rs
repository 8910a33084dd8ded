//! The admission policies in a cluster: each of their validations refuses its case, and lets a twin pass that differs in one fact.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tests::built::workspace;
use tests::cluster::Cluster;
use tests::network::analyser::{build, objects};

/// May do everything in the namespace `agents`, and is not the platform.
const ADMIN: [&str; 2] = ["--as=the-teams-admin", "--as-group=agents-admins"];

/// The same person as a member of the platform.
const PLATFORM: [&str; 3] = [
    "--as=the-teams-admin",
    "--as-group=agents-admins",
    "--as-group=ostiary:platform",
];

/// Gives the group everything in the namespaces that the cases are tried in.
const BINDINGS: &str = "apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: { name: agents-admins, namespace: agents }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin }
subjects: [{ apiGroup: rbac.authorization.k8s.io, kind: Group, name: agents-admins }]
";

/// A pod as the policies want it.
fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "a-case", "namespace": "agents",
            "annotations": {},
            "labels": {
                "ostiary.dev/mesh": "enabled",
                "ostiary.dev/filter": "stable",
                "ostiary.dev/service-account": "analyst-7",
            },
        },
        "spec": {
            "serviceAccountName": "analyst-7",
            "automountServiceAccountToken": false,
            "securityContext": {},
            "volumes": [{"name": "work", "emptyDir": {}}],
            "containers": [{
                "name": "application", "image": "registry.invalid/application",
                "volumeMounts": [{"name": "work", "mountPath": "/work"}],
                "securityContext": {
                    "runAsNonRoot": true, "runAsUser": 65532, "allowPrivilegeEscalation": false,
                    "capabilities": {"drop": ["ALL"]},
                },
            }],
        },
    })
}

/// Field, value that is refused, value of the twin that passes, words of the refusal. `null` leaves the field out.
///
/// `privileged` has no case: the API server itself refuses it beside `allowPrivilegeEscalation: false`, which has one.
const POD_CASES: &str = r#"
# ostiary-pod-labels
/metadata/labels/ostiary.dev~1service-account | "writer-2" | "analyst-7" | must be the pod's service account
/metadata/labels/ostiary.dev~1service-account | null | "analyst-7" | must be the pod's service account
/metadata/labels/ostiary.dev~1mesh | "disabled" | "enabled" | label ostiary.dev/mesh must be enabled
/metadata/labels/ostiary.dev~1filter | "v2" | "canary" | must be stable or canary
# ostiary-sidecar-stays
/metadata/annotations/traffic.sidecar.istio.io~1excludeOutboundPorts | "8080" | "" | would let traffic around
/metadata/annotations/traffic.sidecar.istio.io~1excludeInboundPorts | "8080" | "15020" | would let traffic around
/metadata/annotations/traffic.sidecar.istio.io~1includeOutboundIPRanges | "10.0.0.0/8" | "*" | would let traffic around
/metadata/annotations/proxy.istio.io~1config | "concurrency: 1" | null | would replace or reconfigure
/metadata/annotations/inject.istio.io~1templates | "sidecar" | null | would replace or reconfigure
/metadata/annotations/sidecar.istio.io~1proxyImage | "registry.invalid/proxy" | null | may only give the sidecar resources
/metadata/annotations/sidecar.istio.io~1bootstrapOverride | "own" | null | may only give the sidecar resources
/metadata/labels/sidecar.istio.io~1inject | "false" | "true" | may only be true
/metadata/labels/istio.io~1dataplane-mode | "ambient" | null | ambient mode has no sidecar
/metadata/labels/istio.io~1use-waypoint | "waypoint" | null | ambient mode has no sidecar
# ostiary-pod-isolation
/spec/hostNetwork | true | false | hostNetwork, hostPID and hostIPC leave the pod
/spec/hostPID | true | false | hostNetwork, hostPID and hostIPC leave the pod
/spec/hostIPC | true | false | hostNetwork, hostPID and hostIPC leave the pod
/spec/shareProcessNamespace | true | false | a shared process namespace
/spec/securityContext/runAsUser | 1337 | 1338 | user and group 1337 are the sidecar's
/spec/securityContext/runAsGroup | 1337 | 1338 | user and group 1337 are the sidecar's
/spec/containers/0/securityContext/runAsUser | 1337 | 1338 | each container must name its user
/spec/containers/0/securityContext/runAsUser | 0 | 1338 | each container must name its user
/spec/containers/0/securityContext/runAsUser | null | 65532 | each container must name its user
/spec/containers/0/securityContext/runAsNonRoot | null | true | each container must name its user
/spec/containers/0/securityContext/runAsGroup | 1337 | 1338 | each container must name its user
/spec/containers/0/securityContext/allowPrivilegeEscalation | true | false | each container must drop ALL capabilities
/spec/containers/0/securityContext/capabilities | {"drop": ["NET_RAW"]} | {"drop": ["ALL"]} | each container must drop ALL capabilities
/spec/containers/0/securityContext/capabilities | {"drop": ["ALL"], "add": ["KILL"]} | {"drop": ["ALL"]} | each container must drop ALL capabilities
/spec/containers/0/volumeMounts/0/name | "istio-token" | "work" | the sidecar's volumes are the sidecar's alone
/spec/containers/0/volumeMounts/0/name | "istio-envoy" | "work" | the sidecar's volumes are the sidecar's alone
/spec/automountServiceAccountToken | true | false | automountServiceAccountToken must be false
/spec/automountServiceAccountToken | null | false | automountServiceAccountToken must be false
/spec/volumes/0 | {"name": "work", "hostPath": {"path": "/"}} | {"name": "work", "emptyDir": {}} | no hostPath, and no service account token
/spec/volumes/0 | {"name": "work", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}} | {"name": "work", "projected": {"sources": [{"configMap": {"name": "istio-ca-root-cert"}}]}} | no hostPath, and no service account token
"#;

fn pod_cases() -> Vec<(&'static str, Value, Value, &'static str)> {
    let lines = POD_CASES.lines().filter(|line| line.starts_with('/'));
    lines
        .map(|line| {
            let parts: Vec<_> = line.split(" | ").collect();
            let value =
                |part: usize| serde_json::from_str(parts[part]).unwrap_or_else(|error| panic!("{line}: {error}"));
            (parts[0], value(1), value(2), parts[3])
        })
        .collect()
}

/// Sets a field, or removes it.
fn set(object: &mut Value, pointer: &str, value: &Value) {
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    let field = field.replace("~1", "/");
    match object.pointer_mut(parent).unwrap() {
        Value::Object(fields) if value.is_null() => drop(fields.remove(&field)),
        Value::Object(fields) => drop(fields.insert(field, value.clone())),
        Value::Array(items) => items[field.parse::<usize>().unwrap()] = value.clone(),
        _ => panic!("{pointer} is in nothing"),
    }
}

fn said(cluster: &Cluster, who: &[&str], what: &[&str], input: &str) -> Result<(), String> {
    let said = cluster.try_kubectl(&[what, who].concat(), input).unwrap();
    if said.ok { Ok(()) } else { Err(said.stderr) }
}

fn create(cluster: &Cluster, who: &[&str], object: &Value) -> Result<(), String> {
    said(
        cluster,
        who,
        &["create", "--dry-run=server", "-f", "-"],
        &object.to_string(),
    )
}

/// What each validation of the committed policies says; `…` stands for what it works out.
fn messages() -> BTreeSet<String> {
    let built = build(&workspace().join("k8s/admission")).unwrap();
    let policies = objects(&built).unwrap();
    let validations = policies
        .iter()
        .filter_map(|policy| policy["spec"]["validations"].as_array());
    validations
        .flatten()
        .map(|validation| {
            let message = validation.get("message").or(validation.get("messageExpression"));
            message.unwrap().as_str().unwrap().to_owned()
        })
        .collect()
}

#[test]
fn every_validation_refuses_its_case_and_lets_its_twin_pass() {
    let cluster = Cluster::connect().unwrap();
    cluster.apply(BINDINGS).unwrap();
    let (mut wrong, mut refusals) = (Vec::new(), Vec::new());
    if let Err(message) = create(&cluster, &ADMIN, &pod()) {
        wrong.push(format!("the good pod: {message}"));
    }
    for (field, bad, good, words) in pod_cases() {
        let (mut refused, mut passed) = (pod(), pod());
        set(&mut refused, field, &bad);
        set(&mut passed, field, &good);
        match create(&cluster, &ADMIN, &refused) {
            Ok(()) => wrong.push(format!("{field}: {bad} is let in")),
            Err(message) if !message.contains("ValidatingAdmissionPolicy") || !message.contains(words) => {
                wrong.push(format!("{field}: {bad} is refused for something else: {message}"));
            }
            Err(message) => refusals.push(message),
        }
        if let Err(message) = create(&cluster, &ADMIN, &passed) {
            wrong.push(format!("{field}: {good} is refused: {message}"));
        }
    }
    objects_of_the_platform(&cluster, &mut wrong, &mut refusals);
    ephemeral(&cluster, &mut wrong, &mut refusals);
    cluster.try_kubectl(&["delete", "-f", "-"], BINDINGS).unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    let unseen: Vec<_> = messages()
        .into_iter()
        .filter(|message| {
            // What stands before the first thing that is worked out.
            let words = message.trim_start_matches('\'').split('\'').next().unwrap();
            !refusals.iter().any(|refusal| refusal.contains(words))
        })
        .collect();
    assert_eq!(unseen, Vec::<String>::new(), "no case is refused with these words");
}

/// Objects that only the platform makes, and the fields that they need.
fn of_the_platform() -> Vec<(&'static str, &'static str, Value)> {
    let filter = json!({"configPatches": []});
    let wasm = json!({"url": "oci://registry.invalid/filter", "selector": {"matchLabels": {"a": "b"}}});
    let extension = json!({"wasm": {"url": "oci://registry.invalid/filter"}, "selector": {"matchLabels": {"a": "b"}}});
    vec![
        ("networking.istio.io/v1alpha3", "EnvoyFilter", filter),
        (
            "networking.istio.io/v1",
            "Sidecar",
            json!({"egress": [{"hosts": ["./*"]}]}),
        ),
        ("networking.istio.io/v1beta1", "ProxyConfig", json!({"concurrency": 1})),
        (
            "networking.istio.io/v1",
            "WorkloadEntry",
            json!({"address": "192.0.2.7"}),
        ),
        (
            "networking.istio.io/v1",
            "WorkloadGroup",
            json!({"template": {"serviceAccount": "analyst-7"}}),
        ),
        ("extensions.istio.io/v1alpha1", "WasmPlugin", wasm),
        ("extensions.istio.io/v1alpha1", "TrafficExtension", extension),
        (
            "telemetry.istio.io/v1",
            "Telemetry",
            json!({"accessLogging": [{"disabled": true}]}),
        ),
        ("security.istio.io/v1", "AuthorizationPolicy", json!({"rules": [{}]})),
        (
            "security.istio.io/v1",
            "PeerAuthentication",
            json!({"mtls": {"mode": "PERMISSIVE"}}),
        ),
        (
            "networking.k8s.io/v1",
            "NetworkPolicy",
            json!({"podSelector": {}, "egress": [{}]}),
        ),
    ]
}

fn objects_of_the_platform(cluster: &Cluster, wrong: &mut Vec<String>, refusals: &mut Vec<String>) {
    let only = "only the group ostiary:platform may";
    let mut hold = |what: String, refused: Result<(), String>, passed: Result<(), String>| {
        match refused {
            Ok(()) => wrong.push(format!("{what}: anybody may")),
            Err(message) if !message.contains(only) => {
                wrong.push(format!("{what}: refused for something else: {message}"))
            }
            Err(message) => refusals.push(message),
        }
        if let Err(message) = passed {
            wrong.push(format!("{what}: not even the platform may: {message}"));
        }
    };
    for (version, kind, spec) in of_the_platform() {
        let object = json!({
            "apiVersion": version, "kind": kind, "spec": spec,
            "metadata": {"name": "a-case", "namespace": "agents"},
        });
        let tried = |who: &[&str]| create(cluster, who, &object);
        hold(format!("create {kind}"), tried(&ADMIN), tried(&PLATFORM));
    }
    let existing = ["networkpolicy", "deny-by-default", "-n", "agents"];
    let delete = |who: &[&str]| {
        said(
            cluster,
            who,
            &[&["delete", "--dry-run=server"][..], &existing].concat(),
            "",
        )
    };
    hold("delete NetworkPolicy".to_owned(), delete(&ADMIN), delete(&PLATFORM));
    let patch = ["--type=merge", "-p", r#"{"spec":{"egress":[{}]}}"#];
    let change = |who: &[&str]| {
        said(
            cluster,
            who,
            &[&["patch", "--dry-run=server"][..], &existing, &patch].concat(),
            "",
        )
    };
    hold("change NetworkPolicy".to_owned(), change(&ADMIN), change(&PLATFORM));
}

/// A debug container in an agent's pod, and none.
fn ephemeral(cluster: &Cluster, wrong: &mut Vec<String>, refusals: &mut Vec<String>) {
    let selector = "ostiary.dev/service-account=analyst-7";
    let pods = cluster
        .kubectl(["-n", "agents", "get", "pods", "-l", selector, "--output=json"])
        .unwrap();
    let pods: Value = serde_json::from_str(&pods).unwrap();
    let mut pod = pods["items"][0].clone();
    let path = format!(
        "/api/v1/namespaces/agents/pods/{}/ephemeralcontainers?dryRun=All",
        pod["metadata"]["name"].as_str().unwrap()
    );
    let mut with = |containers: Value| {
        pod["spec"]["ephemeralContainers"] = containers;
        said(
            cluster,
            &ADMIN,
            &["replace", "--raw", &path, "-f", "-"],
            &pod.to_string(),
        )
    };
    if let Err(message) = with(json!([])) {
        wrong.push(format!("no debug container: {message}"));
    }
    match with(json!([{"name": "debug", "image": "registry.invalid/shell", "terminationMessagePolicy": "File"}])) {
        Ok(()) => wrong.push("a debug container is let in".to_owned()),
        Err(message) if !message.contains("no ephemeral containers in the mesh") => {
            wrong.push(format!("a debug container is refused for something else: {message}"));
        }
        Err(message) => refusals.push(message),
    }
}
