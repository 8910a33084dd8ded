//! What an operator does to a mesh, and what befalls it, under calls that never stop: nothing passes that should not, and what
//! should is denied no longer than it must be. Every test leaves the mesh as it was, and prints its figures.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::cluster::scene::{ALLOWED, ASKED, Scene, table, told};
use tests::cluster::stage::{authority, namespace};
use tests::cluster::straight::{self, Thief};
use tests::cluster::{Cluster, ROLLOUT, Undo};
use tests::workload::Tally;
use tests::{built, wait};

/// How long no token was to be had: ten are asked for a second.
fn away(asked: &Tally) -> String {
    let (made, got) = (asked.made(ASKED), asked.count(ASKED, "200"));
    assert!(got > 0, "{:?}", asked.outcomes);
    format!("{:.1} s without tokens", (made - got) as f64 / 10.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_policy_server_denies_no_call() {
    let scene = Scene::new().unwrap();
    let (load, asking) = (scene.load().await.unwrap(), scene.asking().unwrap());
    scene
        .cluster
        .kubectl(["-n", "ostiary", "rollout", "restart", "deployment/policy-server"])
        .unwrap();
    scene.cluster.rolled_out("ostiary", "policy-server").unwrap();
    scene.token().await.unwrap();
    let (tally, asked) = (load.end().unwrap(), asking.end().unwrap());
    println!("{}; {}", away(&asked), told(&tally));
    scene.none_passed(&tally).unwrap();
    for name in ALLOWED {
        assert_eq!(tally.count(name, "2"), tally.made(name), "{:?}", tally.outcomes);
    }
}

/// The policy server's container, and how often it has been started again.
fn server(scene: &Scene) -> (String, u64) {
    let pods = scene.object("ostiary", "pods").unwrap();
    let containers = pods["items"][0]["status"]["containerStatuses"].as_array().unwrap();
    let named = containers.iter().find(|container| container["name"] == "policy-server");
    let server = named.unwrap();
    let id = server["containerID"].as_str().unwrap().split("//").nth(1).unwrap();
    (id.to_owned(), server["restartCount"].as_u64().unwrap())
}

/// The process in a container. By its cgroup: other clusters may be on this machine, with servers started by the same line.
fn process_of(container: &str) -> String {
    let processes = std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap());
    let mut inside = processes.filter(|process| {
        let cgroups = std::fs::read_to_string(process.path().join("cgroup"));
        cgroups.is_ok_and(|cgroups| cgroups.contains(container))
    });
    let process = inside.next().unwrap();
    assert!(inside.next().is_none(), "more than the server runs in its container");
    process.file_name().into_string().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_server_that_is_killed_comes_back_and_no_call_is_denied() {
    let scene = Scene::new().unwrap();
    let (load, asking) = (scene.load().await.unwrap(), scene.asking().unwrap());
    let (container, before) = server(&scene);
    let kill = ["-KILL".to_owned(), process_of(&container)];
    assert!(Command::new("kill").args(kill).status().unwrap().success());
    let restarted = scene
        .cluster
        .until("a new server", async || (server(&scene).1 > before).then_some(()));
    restarted.await.unwrap();
    scene.cluster.rolled_out("ostiary", "policy-server").unwrap();
    let again = scene.cluster.until("tokens", async || scene.token().await.ok());
    again.await.unwrap();
    let (tally, asked) = (load.end().unwrap(), asking.end().unwrap());
    println!("{}; {}", away(&asked), told(&tally));
    scene.none_passed(&tally).unwrap();
    for name in ALLOWED {
        assert_eq!(tally.count(name, "2"), tally.made(name), "{:?}", tally.outcomes);
    }
}

/// What `ostiary keys` says inside the policy server's container.
fn keys(scene: &Scene, arguments: &[&str]) -> (bool, Value, String) {
    let all = [&["--output", "json", "keys"], arguments].concat();
    let said = scene.cluster.ostiary(&all).unwrap();
    let answer = serde_json::from_str(&said.stdout).unwrap_or_default();
    (said.ok, answer, said.stderr + &said.stdout)
}

/// Once a cluster: the overlap lasts longer than the tests.
#[tokio::test(flavor = "multi_thread")]
async fn keys_are_rotated_once_every_sidecar_knows_the_next_one() {
    let scene = Scene::new().unwrap();
    let load = scene.load().await.unwrap();
    let start = Instant::now();
    let (done, _, said) = keys(&scene, &["rotate", "token", "--timeout", "3m"]);
    assert!(done, "{said}");
    let token_key = start.elapsed();

    // No sidecar's configuration has the next bundle key yet.
    let (done, _, said) = keys(&scene, &["rotate", "bundle", "--timeout", "0"]);
    assert!(!done && said.contains("ns/data/sa/warehouse"), "{said}");
    let (_, shown, _) = keys(&scene, &["show"]);
    let (old, both) = (
        scene.object("istio-system", "wasmplugin/ostiary").unwrap()["spec"]["pluginConfig"]["bundle_keys"].clone(),
        shown["bundle_keys"].clone(),
    );
    assert!(
        both["keys"].as_array().unwrap().len() > old["keys"].as_array().unwrap().len(),
        "{shown}"
    );
    let config = |keys: &Value| json!({"spec": {"pluginConfig": {"bundle_keys": keys}}});
    scene
        .patch("istio-system", "wasmplugin/ostiary", &config(&both))
        .unwrap();
    let start = Instant::now();
    let (done, _, said) = keys(&scene, &["rotate", "bundle", "--timeout", "3m"]);
    assert!(done, "{said}");
    let bundle_key = start.elapsed();
    scene.passes().await.unwrap();
    let tally = load.end().unwrap();
    println!(
        "token key after {token_key:.1?}, bundle key after {bundle_key:.1?}; {}",
        told(&tally)
    );
    scene.none_passed(&tally).unwrap();
    for name in ALLOWED {
        assert_eq!(tally.count(name, "2"), tally.made(name), "{:?}", tally.outcomes);
    }
}

/// The ConfigMap that the policy server's Deployment names, and the place of its volume.
fn config_of(deployment: &Value) -> (usize, String) {
    let volumes = deployment["spec"]["template"]["spec"]["volumes"].as_array().unwrap();
    let place = volumes.iter().position(|volume| volume["name"] == "config").unwrap();
    let name = volumes[place]["configMap"]["name"].as_str().unwrap();
    (place, name.to_owned())
}

/// The component on a server that runs, with the keys that it has.
#[tokio::test(flavor = "multi_thread")]
async fn keys_from_a_secret_are_those_that_the_volume_had() {
    const CONFIG: &str = "config-of-keys-in-secret";
    let scene = Scene::new().unwrap();
    let (_, before, _) = keys(&scene, &["show"]);
    let folder = format!("/proc/{}/root/var/lib/ostiary/data/keys", process_of(&server(&scene).0));
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap());
    let files = files.map(|file| {
        let name = file.file_name().into_string().unwrap();
        (name, Value::from(std::fs::read_to_string(file.path()).unwrap()))
    });
    let named = |name: &str| json!({"name": name, "namespace": "ostiary"});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": named("keys"),
        "stringData": files.collect::<serde_json::Map<_, _>>()});
    let deployment = scene.object("ostiary", "deployment/policy-server").unwrap();
    let (place, name) = config_of(&deployment);
    let config = scene.object("ostiary", &format!("configmap/{name}")).unwrap();
    let config = config["data"]["ostiary.yaml"].as_str().unwrap();
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": named(CONFIG),
        "data": {"ostiary.yaml": format!("{config}\nkeys: /etc/ostiary/keys\n")}});
    scene.cluster.apply(&format!("{secret}\n---\n{config}\n")).unwrap();

    let patch = |patch: &str| {
        let all = [
            "-n",
            "ostiary",
            "patch",
            "deployment/policy-server",
            "--type=json",
            "--patch",
            patch,
        ];
        scene.cluster.kubectl(all).unwrap();
        scene.cluster.rolled_out("ostiary", "policy-server").unwrap();
    };
    let _undo = Undo(|| {
        let template = &deployment["spec"]["template"];
        patch(&json!([{"op": "replace", "path": "/spec/template", "value": template}]).to_string());
        let made = ["secret/keys".to_owned(), format!("configmap/{CONFIG}")];
        let delete = ["-n", "ostiary", "delete", "--ignore-not-found"].map(ToOwned::to_owned);
        scene.cluster.kubectl(delete.into_iter().chain(made)).unwrap();
    });
    let component = built::workspace().join("k8s/components/keys-in-secret/kustomization.yaml");
    let component = std::fs::read_to_string(component).unwrap();
    let (_, operations) = component.split_once("patch: |\n").unwrap();
    let name = format!("/spec/template/spec/volumes/{place}/configMap/name");
    let load = scene.load().await.unwrap();
    patch(&format!(
        "{operations}    - {{ op: replace, path: {name}, value: {CONFIG} }}\n"
    ));
    scene.token().await.unwrap();
    let (_, after, said) = keys(&scene, &["show"]);
    assert_eq!(after["bundle_keys"], before["bundle_keys"], "{said}");
    let tally = load.end().unwrap();
    scene.none_passed(&tally).unwrap();
    for name in ALLOWED {
        assert_eq!(tally.count(name, "2"), tally.made(name), "{:?}", tally.outcomes);
    }
}

/// All that a new agent is: its file, what is rendered from it and the others, an account, a Deployment like analyst-7's.
fn new_agent(scene: &Scene, name: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy");
    std::fs::create_dir(&policy).unwrap();
    for file in std::fs::read_dir(built::workspace().join("k8s/demo/policy")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), policy.join(file.file_name())).unwrap();
    }
    let agent = std::fs::read_to_string(policy.join("agent-analyst-7.yaml"))
        .unwrap()
        .replace("analyst-7", name);
    std::fs::write(policy.join("agent-new.yaml"), &agent).unwrap();
    let rendered = folder.path().join("rendered");
    let said = Command::new(built::ostiary().unwrap())
        .arg("render")
        .arg(&policy)
        .arg("--out")
        .arg(&rendered)
        .output()
        .unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let built = scene
        .cluster
        .kubectl(["kustomize".as_ref(), rendered.as_os_str()])
        .unwrap();
    let like = scene.object("agents", "deployment/analyst-7").unwrap();
    let like = json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": "agents"}, "spec": like["spec"]});
    let deployment = like.to_string().replace("analyst-7", name);
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": name, "namespace": "agents"}, "automountServiceAccountToken": false});
    format!("{agent}\n---\n{built}\n---\n{account}\n---\n{deployment}\n")
}

/// Takes away all that [`new_agent`] made, as far as it is there, and puts back what is rendered of the others.
fn forget_agent(scene: &Scene, name: &str) {
    let of_it = [
        format!("agent/{name}"),
        format!("deployment/{name}"),
        format!("networkpolicy/agent-{name}"),
        format!("sidecars.networking.istio.io/agent-{name}"),
        format!("serviceaccount/{name}"),
    ];
    let delete = ["-n", "agents", "delete", "--ignore-not-found"].map(ToOwned::to_owned);
    scene.cluster.kubectl(delete.into_iter().chain(of_it)).unwrap();
    let rendered = built::workspace().join("k8s/demo/rendered");
    let apply = ["apply", "--server-side", "--force-conflicts", "-k"].map(Into::into);
    let apply: Vec<std::ffi::OsString> = apply.into_iter().chain([rendered.into_os_string()]).collect();
    scene.cluster.kubectl(apply).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_added_by_applying_one_file_and_gone_when_it_is_deleted() {
    let scene = Scene::new().unwrap();
    let load = scene.load().await.unwrap();
    let (name, pod) = ("e2e-reader", scene.cluster.pod("agents", "e2e-reader"));
    let request = {
        let mut request = tests::demo::token_request();
        request["agent_id"] = json!(name);
        request
    };
    let _undo = Undo(|| forget_agent(&scene, name));
    let start = Instant::now();
    scene.cluster.apply(&new_agent(&scene, name)).unwrap();
    let first = scene.cluster.until("the new agent's first permitted call", async || {
        let token = scene.token_by(&request).await.ok()?;
        let answer = pod.send(table("sales_q1_2026").bearer(&token)).await.ok()?;
        (answer.status == 200).then_some(token)
    });
    let token = first.await.unwrap();
    let added = start.elapsed();

    let start = Instant::now();
    scene
        .cluster
        .kubectl(["-n", "agents", "delete", "agent", name])
        .unwrap();
    let denied = scene.cluster.until("the deleted agent's token to be denied", async || {
        let answer = pod.send(table("sales_q1_2026").bearer(&token)).await.ok()?;
        answer.denial().map(ToOwned::to_owned)
    });
    let code = denied.await.unwrap();
    let gone = start.elapsed();
    let refused = scene.token_by(&request).await.unwrap_err();
    assert!(refused.to_string().contains("unknown"), "{refused}");
    let tally = load.end().unwrap();
    println!(
        "first permitted call {added:.1?} after it was applied; deleted, denied after {gone:.1?} ({code}); {}",
        told(&tally)
    );
    scene.none_passed(&tally).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_whose_sidecar_starts_anew_lets_nothing_pass_meanwhile() {
    let scene = Scene::new().unwrap();
    let load = scene.load().await.unwrap();
    let label = "ostiary.dev/service-account=warehouse";
    scene
        .cluster
        .kubectl(["-n", "data", "delete", "pods", "-l", label, "--wait=false"])
        .unwrap();
    scene.cluster.rolled_out("data", "warehouse").unwrap();
    scene.passes().await.unwrap();
    let tally = load.end().unwrap();
    println!("{}", told(&tally));
    scene.none_passed(&tally).unwrap();
}

/// The issue of this: istiod gives sidecars their configuration and certificates, not their policy.
#[tokio::test(flavor = "multi_thread")]
async fn without_istiod_for_a_minute_calls_go_on_and_policy_arrives() {
    let scene = Scene::new().unwrap();
    // It is istiod that the certificate is stolen from.
    let load = scene.load().await.unwrap();
    // Taken away and given back: the API server asks no webhook of istiod's about our kinds.
    let edit = |tools: Value| scene.patch("agents", "agent/analyst-7", &json!({"spec": {"tools": tools}}));
    let _undo = Undo(|| {
        edit(json!(["pandas", "matplotlib"])).unwrap();
        scene.scale("istio-system", "istiod", "app=istiod", 1).unwrap();
    });
    scene.scale("istio-system", "istiod", "app=istiod", 0).unwrap();
    let start = Instant::now();
    let token = scene.token().await.unwrap();
    let draw = || tests::mcp::call_tool(&authority("mcp"), "matplotlib", &json!({})).bearer(&token);
    edit(json!(["pandas"])).unwrap();
    let denied = scene.cluster.until("the changed policy", async || {
        (scene.outcome(draw()).await.ok()? == "tool_not_in_policy").then_some(())
    });
    denied.await.unwrap();
    edit(json!(["pandas", "matplotlib"])).unwrap();
    wait::until("a minute without istiod", ROLLOUT, async || {
        (start.elapsed() > Duration::from_secs(60)).then_some(())
    })
    .await
    .unwrap();
    let tally = load.end().unwrap();
    scene.scale("istio-system", "istiod", "app=istiod", 1).unwrap();
    println!("{}", told(&tally));
    scene.none_passed(&tally).unwrap();
    for name in ALLOWED {
        assert_eq!(tally.count(name, "2"), tally.made(name), "{:?}", tally.outcomes);
    }
    scene.passes().await.unwrap();
}

fn restart_all(cluster: &Cluster) {
    let workloads = ["analyst-7", "writer-2", "warehouse", "reports", "memory", "mcp"];
    for name in workloads {
        let target = format!("deployment/{name}");
        cluster
            .kubectl(["-n", namespace(name), "rollout", "restart", &target])
            .unwrap();
    }
    for name in workloads {
        cluster.rolled_out(namespace(name), name).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sidecars_that_start_before_the_policy_server_deny_and_recover_by_themselves() {
    let scene = Scene::new().unwrap();
    let token = scene.token().await.unwrap();
    let thief = Thief::new(&scene.cluster).await.unwrap();
    let calls = thief.begin(&token);
    let scaled = |replicas| {
        let label = "ostiary.dev/service-account=policy-server";
        scene.scale("ostiary", "policy-server", label, replicas).unwrap();
    };
    let _undo = Undo(|| scaled(1));
    scaled(0);
    restart_all(&scene.cluster);
    let code = scene.outcome(table("sales_q1_2026").bearer(&token)).await.unwrap();
    assert_eq!(code, "policy_unavailable");
    // And at every service's own sidecar.
    for service in straight::SERVICES {
        let denied = scene.cluster.until("a new sidecar to answer", async || {
            let answer = thief.permitted(service, &token).await.ok()?;
            assert_ne!(answer.status, 200, "{service} answers without policy");
            (answer.code()? == "policy_unavailable").then_some(())
        });
        denied.await.unwrap();
    }
    scaled(1);
    let start = Instant::now();
    scene.passes().await.unwrap();
    println!(
        "permitted calls pass {:.1?} after the policy server was ready",
        start.elapsed()
    );
    straight::none_passed(&calls.end().unwrap()).unwrap();
    scene.none_seen().unwrap();
}
