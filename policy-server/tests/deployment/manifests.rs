//! `istio/` and `k8s/`: what is applied is what is meant, as far as it shows without a cluster.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    reason = "tests"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use policy_server::config::Config;
use policy_server::render::Settings;
use serde_json::Value;

/// What is applied as a whole; each has its list of objects beside it.
const BUILT: [&str; 6] = [
    "istio/base",
    "istio/overlays/canary",
    "istio/overlays/traffic-extension",
    CRDS,
    "k8s/overlays/kind",
    "k8s/overlays/production",
];

const CRDS: &str = "k8s/crds";

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn documents(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{error}:\n{text}"))
}

/// The YAML files below a folder.
fn files(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            files.insert(path.clone(), fs::read_to_string(&path).unwrap());
        }
    }
    files
}

fn written() -> BTreeMap<PathBuf, String> {
    ["istio", "k8s"]
        .iter()
        .flat_map(|folder| files(&top().join(folder)))
        .collect()
}

/// What `kubectl apply -k` would apply.
fn built(folder: &str) -> String {
    let kubectl = std::env::var_os("KUBECTL").unwrap_or_else(|| "kubectl".into());
    let built = Command::new(&kubectl)
        .args(["kustomize", folder])
        .current_dir(top())
        .output()
        .unwrap_or_else(|error| {
            panic!(
                "{}: {error}; install kubectl, or name it by KUBECTL=",
                kubectl.display()
            )
        });
    let problem = String::from_utf8(built.stderr).unwrap();
    assert!(built.status.success() && problem.is_empty(), "{folder}: {problem}");
    String::from_utf8(built.stdout).unwrap()
}

/// The same, object by object.
fn build(folder: &str) -> Vec<Value> {
    documents(&built(folder))
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn of_kind<'v>(objects: &'v [Value], kind: &'v str) -> impl Iterator<Item = &'v Value> {
    objects.iter().filter(move |object| object["kind"] == kind)
}

fn one<'v>(objects: &'v [Value], kind: &'v str, name: &str) -> &'v Value {
    let mut found = of_kind(objects, kind).filter(|object| object["metadata"]["name"] == name);
    let object = found.next().unwrap_or_else(|| panic!("no {kind} `{name}`"));
    assert!(found.next().is_none(), "{kind} `{name}` twice");
    object
}

/// Every value in a document, the document included.
fn values(value: &Value) -> Vec<&Value> {
    let inner: Vec<&Value> = match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(fields) => fields.values().collect(),
        _ => Vec::new(),
    };
    std::iter::once(value)
        .chain(inner.into_iter().flat_map(values))
        .collect()
}

#[test]
fn every_file_is_plain_yaml_and_says_why_it_is_there() {
    for (path, source) in written() {
        let path = path.display();
        for document in documents(&source) {
            for field in ["apiVersion", "kind"] {
                assert!(
                    document[field].is_string() || document["trustDomain"].is_string(),
                    "{path}: no {field}"
                );
            }
        }
        let is_list = source.contains("\nkind: Kustomization\n");
        let is_obvious = is_list || source.contains("kind: Deployment") || source.contains("kind: Service\n");
        assert!(source.starts_with("# ") || is_obvious, "{path}: no comment says why");
    }
}

#[test]
fn nothing_is_fetched_from_elsewhere_and_no_tag_can_move() {
    for (path, source) in written() {
        let path = path.display();
        for document in documents(&source) {
            for list in ["resources", "components", "bases"] {
                for entry in document[list].as_array().into_iter().flatten() {
                    let entry = entry.as_str().unwrap_or_default();
                    assert!(!entry.contains(':') && !entry.contains("github.com"), "{path}: {entry}");
                }
            }
            assert!(document.get("helmCharts").is_none(), "{path}");
        }
    }
    let is_digest = |digest: &str| digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
    for folder in BUILT {
        let mut images = 0;
        for object in build(folder) {
            for value in values(&object) {
                for field in ["image", "url"] {
                    let Some(image) = value.get(field).and_then(Value::as_str) else {
                        continue;
                    };
                    let (name, digest) = image
                        .split_once("@sha256:")
                        .unwrap_or_else(|| panic!("{folder}: {image}"));
                    let last = name.rsplit('/').next().unwrap();
                    assert!(is_digest(digest) && !last.contains(':'), "{folder}: {image}");
                    images += 1;
                }
            }
        }
        assert_eq!(images > 0, folder != CRDS, "{folder}");
    }
}

/// An object's kind; with its group where that is ours, since `Service` is a kind of Kubernetes' own too.
fn kind(object: &Value) -> String {
    match text(object, "/apiVersion") {
        POLICY => format!("{}.ostiary.dev", text(object, "/kind")),
        _ => text(object, "/kind").to_owned(),
    }
}

/// The `apiVersion` of agents and services.
const POLICY: &str = "ostiary.dev/v1alpha1";

/// Hashes in names change with what they are of, which is not for this list to say.
fn without_hash(name: &str) -> String {
    match name.rsplit_once('-') {
        Some(("config", hash)) if hash.len() == 10 => "config-HASH".to_owned(),
        _ => name.to_owned(),
    }
}

#[test]
fn each_overlay_applies_the_objects_on_its_list() {
    for folder in BUILT {
        let mut objects: Vec<_> = build(folder)
            .iter()
            .map(|object| {
                let name = without_hash(text(object, "/metadata/name"));
                let namespace = text(object, "/metadata/namespace");
                format!("{} {namespace}/{name}\n", kind(object))
            })
            .collect();
        objects.sort();
        let list = top().join(folder).join("objects.txt");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&list, objects.concat()).unwrap();
        }
        let expected = fs::read_to_string(&list).unwrap_or_default();
        assert_eq!(
            objects.concat(),
            expected,
            "{folder}: UPDATE_GOLDEN=1 writes the list anew"
        );
    }
}

/// The labels of each pod that an overlay starts, with its namespace.
fn pods(objects: &[Value]) -> Vec<(&str, &Value)> {
    of_kind(objects, "Deployment")
        .map(|object| (text(object, "/metadata/namespace"), &object["spec"]["template"]))
        .collect()
}

fn meets(selector: &Value, labels: &Value) -> bool {
    let wanted = selector.as_object().into_iter().flatten();
    wanted.into_iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[test]
fn every_selector_meets_a_pod_and_every_account_exists() {
    let objects = build("k8s/overlays/kind");
    let pods = pods(&objects);
    let mut selectors = 0;
    for object in &objects {
        let namespace = text(object, "/metadata/namespace");
        for pointer in [
            "/spec/selector/matchLabels",
            "/spec/podSelector/matchLabels",
            "/spec/workloadSelector/labels",
            "/spec/workloadSelector/matchLabels",
            "/spec/selector",
        ] {
            let Some(selector) = object.pointer(pointer).filter(|selector| selector.is_object()) else {
                continue;
            };
            if selector.get("matchLabels").is_some() {
                continue;
            }
            let mut within = pods
                .iter()
                .filter(|(of, _)| *of == namespace || namespace == "istio-system");
            assert!(
                within.any(|(_, pod)| meets(selector, &pod["metadata"]["labels"])),
                "{} {namespace}/{}: {selector} meets no pod",
                text(object, "/kind"),
                text(object, "/metadata/name")
            );
            selectors += 1;
        }
    }
    assert!(selectors > 30, "{selectors}");
    let accounts: BTreeSet<_> = of_kind(&objects, "ServiceAccount")
        .map(|object| (text(object, "/metadata/namespace"), text(object, "/metadata/name")))
        .collect();
    for (namespace, pod) in pods {
        assert!(accounts.contains(&(namespace, text(pod, "/spec/serviceAccountName"))));
    }
}

#[test]
fn each_pod_is_labelled_as_the_admission_policies_demand() {
    let objects = build("k8s/overlays/kind");
    for (namespace, pod) in pods(&objects) {
        let label = |name: &str| pod["metadata"]["labels"].get(name).and_then(Value::as_str);
        assert_eq!(
            label("ostiary.dev/service-account"),
            pod["spec"]["serviceAccountName"].as_str()
        );
        // The policy server's own sidecar is the only one without the filter.
        let in_mesh = (namespace != "ostiary").then_some(("enabled", "stable"));
        assert_eq!(label("ostiary.dev/mesh").zip(label("ostiary.dev/filter")), in_mesh);
        assert_eq!(pod["spec"]["automountServiceAccountToken"], false);
        for container in pod["spec"]["containers"].as_array().unwrap() {
            let security = &container["securityContext"];
            assert_eq!(security["allowPrivilegeEscalation"], false);
            assert_eq!(security["readOnlyRootFilesystem"], true);
            assert_eq!(security["capabilities"], serde_json::json!({"drop": ["ALL"]}));
            assert!(container["resources"]["limits"]["memory"].is_string());
        }
    }
    for object in of_kind(&objects, "Namespace") {
        let name = text(object, "/metadata/name");
        let labels = &object["metadata"]["labels"];
        assert_eq!(labels["istio-injection"], "enabled", "{name}");
        assert_eq!(labels.get("ostiary.dev/mesh").is_some(), name != "ostiary", "{name}");
    }
}

#[test]
fn every_namespace_denies_by_default() {
    let objects = build("k8s/overlays/kind");
    for namespace in of_kind(&objects, "Namespace").map(|object| text(object, "/metadata/name")) {
        let within: Vec<_> = objects
            .iter()
            .filter(|object| text(object, "/metadata/namespace") == namespace)
            .cloned()
            .collect();
        let network = &one(&within, "NetworkPolicy", "deny-by-default")["spec"];
        assert_eq!(
            *network,
            serde_json::json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})
        );
        let identity = &one(&within, "AuthorizationPolicy", "deny-by-default")["spec"];
        assert_eq!(*identity, serde_json::json!({"action": "ALLOW", "rules": []}));
        let mtls = &one(&within, "PeerAuthentication", "mtls-strict")["spec"];
        assert_eq!(*mtls, serde_json::json!({"mtls": {"mode": "STRICT"}}));
    }
}

#[test]
fn the_plugin_and_its_twin_say_the_same_and_never_stand_together() {
    let plugin = build("istio/base");
    let twin = build("istio/overlays/traffic-extension");
    assert_eq!(of_kind(&twin, "WasmPlugin").count(), 0);
    assert_eq!(of_kind(&plugin, "TrafficExtension").count(), 0);
    let plugin = &one(&plugin, "WasmPlugin", "ostiary")["spec"];
    let twin = &one(&twin, "TrafficExtension", "ostiary")["spec"];
    assert_eq!(plugin["selector"], twin["selector"]);
    let mut wasm = plugin.clone();
    wasm.as_object_mut().unwrap().remove("selector");
    assert_eq!(wasm, twin["wasm"]);
    assert_eq!(plugin["failStrategy"], "FAIL_RELOAD");
    for field in ["phase", "priority", "match"] {
        assert!(
            plugin.get(field).is_none(),
            "`{field}` would move it or leave a direction out"
        );
    }

    let canary = build("istio/overlays/canary");
    let [stable, canary] =
        ["ostiary", "ostiary-canary"].map(|name| &one(&canary, "WasmPlugin", name)["spec"]["selector"]);
    assert_eq!(stable["matchLabels"]["ostiary.dev/filter"], "stable");
    assert_eq!(canary["matchLabels"]["ostiary.dev/filter"], "canary");
}

#[test]
fn the_guard_is_the_documented_one_in_both_directions() {
    let page = fs::read_to_string(top().join("docs/configuration.md")).unwrap();
    let start = page.find("**The guard.**").unwrap();
    let block = page[start..]
        .split("```yaml\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    let documented = documents(block)[0]["typed_config"].clone();
    let objects = build("istio/base");
    let guard = &one(&objects, "EnvoyFilter", "ostiary-guard")["spec"];
    let patches = guard["configPatches"].as_array().unwrap();
    for (patch, context) in patches.iter().zip(["SIDECAR_INBOUND", "SIDECAR_OUTBOUND"]) {
        assert_eq!(patch["applyTo"], "HTTP_FILTER");
        assert_eq!(patch["match"]["context"], context);
        let filter = &patch["match"]["listener"]["filterChain"]["filter"];
        assert_eq!(filter["subFilter"]["name"], "envoy.filters.http.router");
        assert_eq!(patch["patch"]["operation"], "INSERT_BEFORE");
        assert_eq!(patch["patch"]["value"]["typed_config"], documented);
    }
    assert_eq!(patches.len(), 2);
    // No version of the filter goes without it.
    assert_eq!(
        guard["workloadSelector"]["labels"],
        serde_json::json!({"ostiary.dev/mesh": "enabled"})
    );
}

#[test]
fn the_filter_asks_the_policy_server_where_it_is() {
    let objects = build("k8s/overlays/kind");
    let config = &one(&objects, "WasmPlugin", "ostiary")["spec"]["pluginConfig"];
    let service = one(&objects, "Service", "policy-server");
    let host = format!(
        "policy-server.{}.svc.cluster.local",
        text(service, "/metadata/namespace")
    );
    let port = &service["spec"]["ports"][0]["port"];
    assert_eq!(config["policy_cluster"], format!("outbound|{port}||{host}"));
    assert_eq!(config["policy_authority"], host.as_str());
    let pod = &one(&objects, "Deployment", "policy-server")["spec"]["template"];
    assert_eq!(pod["spec"]["containers"][0]["ports"][0]["containerPort"], *port);
    let sidecar = &one(&objects, "Sidecar", "policy-server")["spec"]["ingress"][0];
    assert_eq!(sidecar["port"]["number"], *port);

    for folder in ["k8s/base", "k8s/overlays/kind", "k8s/overlays/production"] {
        let config = Config::load(&top().join(folder).join("ostiary.yaml")).unwrap();
        assert_eq!(config.hosts.first(), Some(&host), "{folder}");
        let listen = format!("{:?}", config.listen);
        assert!(listen.contains(&format!("127.0.0.1:{port}")), "{folder}: {listen}");
    }
}

#[test]
fn a_secret_of_keys_is_mounted_where_the_configuration_looks_for_it() {
    for (folder, in_secret) in [("k8s/overlays/production", true), ("k8s/overlays/kind", false)] {
        let objects = build(folder);
        let pod = &one(&objects, "Deployment", "policy-server")["spec"]["template"]["spec"];
        let volumes = pod["volumes"].as_array().unwrap();
        let volume = volumes.iter().find(|volume| volume["secret"]["secretName"] == "keys");
        assert_eq!(volume.is_some(), in_secret, "{folder}");
        let config = fs::read_to_string(top().join(folder).join("ostiary.yaml")).unwrap();
        let named = documents(&config)[0].get("keys").cloned();
        let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
        let mount = volume.and_then(|volume| mounts.iter().find(|mount| mount["name"] == volume["name"]));
        assert_eq!(named.as_ref(), mount.map(|mount| &mount["mountPath"]), "{folder}");
        if let (Some(volume), Some(mount)) = (volume, mount) {
            assert_eq!(volume["secret"]["defaultMode"], 0o440);
            assert_eq!(mount["readOnly"], true);
        }
    }
}

#[test]
fn the_resources_are_the_files_that_the_manifests_come_from() {
    let objects = build("k8s/overlays/kind");
    let resources: Vec<_> = objects.iter().filter(|object| object["apiVersion"] == POLICY).collect();
    let mut sources: Vec<_> = files(&top().join("k8s/demo/policy"))
        .values()
        .flat_map(|file| documents(file))
        .collect();
    let name = |object: &Value| (kind(object), text(object, "/metadata/name").to_owned());
    sources.sort_by_key(name);
    let mut sorted: Vec<_> = resources.iter().map(|object| (*object).clone()).collect();
    sorted.sort_by_key(name);
    assert_eq!(sorted, sources);
    let mesh = policy_server::files::read_objects(resources, "cluster.local").unwrap();
    assert_eq!((mesh.agents().len(), mesh.services().len()), (2, 4));
}

#[test]
fn the_policy_server_alone_has_a_token_for_the_api_server_and_may_little_with_it() {
    let objects = build("k8s/overlays/kind");
    let token = |value: &Value| value.get("serviceAccountToken").is_some();
    for (namespace, pod) in pods(&objects) {
        assert_eq!(
            values(pod).into_iter().any(token),
            namespace == "ostiary",
            "{namespace}"
        );
    }
    let (_, pod) = pods(&objects)
        .into_iter()
        .find(|(namespace, _)| *namespace == "ostiary")
        .unwrap();
    let volumes = pod["spec"]["volumes"].as_array().unwrap();
    let volume = volumes
        .iter()
        .find(|volume| values(volume).into_iter().any(token))
        .unwrap();
    let sources = &volume["projected"]["sources"];
    let files = [
        "/0/serviceAccountToken/path",
        "/1/configMap/items/0/path",
        "/2/downwardAPI/items/0/path",
    ];
    // Where `kube` looks, in the one container.
    assert_eq!(files.map(|file| text(sources, file)), ["token", "ca.crt", "namespace"]);
    let mounts = values(pod)
        .into_iter()
        .filter(|value| value["name"] == volume["name"] && value.get("mountPath").is_some());
    let mounts: Vec<_> = mounts.map(|mount| text(mount, "/mountPath")).collect();
    assert_eq!(mounts, ["/var/run/secrets/kubernetes.io/serviceaccount"]);

    let rules = &one(&objects, "ClusterRole", "ostiary-policy-server")["rules"];
    let expected = serde_json::json!([
        {"apiGroups": ["ostiary.dev"], "resources": ["agents", "services"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": ["ostiary.dev"], "resources": ["agents/status", "services/status"], "verbs": ["patch"]},
    ]);
    assert_eq!(*rules, expected);
    let binding = one(&objects, "ClusterRoleBinding", "ostiary-policy-server");
    let account = text(pod, "/spec/serviceAccountName");
    assert_eq!(
        binding["subjects"],
        serde_json::json!([{"kind": "ServiceAccount", "name": account, "namespace": "ostiary"}])
    );
    assert_eq!(of_kind(&objects, "ClusterRoleBinding").count(), 1);
}

#[test]
fn the_check_finds_nothing_in_the_demo() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("built.yaml");
    fs::write(&file, built("k8s/overlays/kind")).unwrap();
    let mesh = policy_server::policy::load(&top().join("k8s/demo/policy"), "cluster.local").unwrap();
    let settings = Settings {
        cluster_domain: "cluster.local".to_owned(),
        policy_server: "ostiary/policy-server:8080".parse().unwrap(),
    };
    let found = policy_server::files::inspect(&[file], &mesh, &settings).unwrap();
    assert!(found.list().is_empty(), "{found}");
}

/// What shows of a CEL expression without the API server: strings end, brackets pair.
fn is_well_formed(expression: &str) -> bool {
    let mut open = Vec::new();
    let mut quote = None;
    for c in expression.chars() {
        match (quote, c) {
            (Some(end), c) if end == c => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, '(') => open.push(')'),
            (None, '[') => open.push(']'),
            (None, '{') => open.push('}'),
            (None, ')' | ']' | '}') if open.pop() != Some(c) => return false,
            _ => {}
        }
    }
    quote.is_none() && open.is_empty() && !expression.trim().is_empty()
}

#[test]
fn each_admission_policy_is_bound_to_the_mesh_refuses_when_in_doubt_and_says_why() {
    assert!(is_well_formed("a(['b)', \"c\"])") && !is_well_formed("a(['b)') + ']") && !is_well_formed("a(b]"));
    let objects = build("k8s/admission");
    let policies: Vec<_> = of_kind(&objects, "ValidatingAdmissionPolicy").collect();
    assert_eq!(policies.len() * 2, objects.len());
    for policy in policies {
        let name = text(policy, "/metadata/name");
        let spec = &policy["spec"];
        assert_eq!(spec["failurePolicy"], "Fail", "{name}");
        for value in values(spec) {
            for field in ["expression", "messageExpression"] {
                let expression = value.get(field).and_then(Value::as_str);
                assert!(expression.is_none_or(is_well_formed), "{name}: {expression:?}");
            }
        }
        let validations = spec["validations"].as_array().unwrap();
        for validation in validations {
            let message = validation.get("message").or(validation.get("messageExpression"));
            assert!(message.is_some_and(Value::is_string), "{name}: {validation}");
        }
        let named: BTreeSet<_> = spec["variables"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|variable| text(variable, "/name"))
            .collect();
        let expressions: String = values(spec)
            .into_iter()
            .map(|value| text(value, "/expression"))
            .collect();
        for used in expressions.split("variables.").skip(1) {
            let used = used.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap();
            assert!(named.contains(used), "{name}: no variable `{used}`");
        }
        let binding = &one(&objects, "ValidatingAdmissionPolicyBinding", name)["spec"];
        assert_eq!(binding["policyName"], name);
        assert_eq!(binding["validationActions"], serde_json::json!(["Deny", "Audit"]));
        // Agents and services count wherever they are.
        let everywhere = name == "ostiary-policy-writers";
        let namespaces = match everywhere {
            true => Value::Null,
            false => serde_json::json!({"namespaceSelector": {"matchLabels": {"ostiary.dev/mesh": "enabled"}}}),
        };
        assert_eq!(binding["matchResources"], namespaces, "{name}");
    }
}
