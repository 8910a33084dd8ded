//! What sidecars say is judged rightly, and every fault is told beside its twin without it.
//!
//! The dumps are of real sidecars, trimmed: `warehouse` is in order, `reports-no-plugin` was labelled for a version that
//! no WasmPlugin carried, `reports-not-loaded` for one whose module could not be fetched, and has a TCP port besides.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};

use policy_server::live::dump::Dump;
use policy_server::live::verdict;
use serde_json::{Value, json};

fn dumps() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dumps")
}

fn read(name: &str) -> Value {
    serde_json::from_slice(&fs::read(dumps().join(name)).unwrap()).unwrap()
}

fn parse(dump: &Value) -> Dump {
    Dump::parse(dump.to_string().as_bytes()).unwrap()
}

/// The codes of all faults, with their listeners.
fn faults(dump: &Value) -> Vec<String> {
    let dump = parse(dump);
    let chains = dump.chains.iter();
    chains
        .flat_map(|chain| {
            let faults = verdict::judge(chain).faults;
            faults
                .into_iter()
                .map(|fault| format!("{} {} {}", chain.listener, chain.name, fault.code()))
        })
        .collect()
}

/// The listener `virtualInbound`.
fn inbound(dump: &mut Value) -> &mut Value {
    let listeners = dump["configs"][1]["dynamic_listeners"].as_array_mut().unwrap();
    let found = listeners
        .iter_mut()
        .find(|listener| listener["name"] == "virtualInbound");
    &mut found.unwrap()["active_state"]["listener"]
}

fn chain<'v>(dump: &'v mut Value, name: &str) -> &'v mut Value {
    let chains = inbound(dump)["filter_chains"].as_array_mut().unwrap();
    chains.iter_mut().find(|chain| chain["name"] == name).unwrap()
}

/// The HTTP filters of the warehouse's own port.
fn filters(dump: &mut Value) -> &mut Vec<Value> {
    chain(dump, "0.0.0.0_8080")["filters"][0]["typed_config"]["http_filters"]
        .as_array_mut()
        .unwrap()
}

fn filter<'v>(dump: &'v mut Value, name: &str) -> &'v mut Value {
    let position = place(dump, name);
    &mut filters(dump)[position]
}

fn place(dump: &mut Value, name: &str) -> usize {
    let found = filters(dump)
        .iter()
        .position(|filter| filter["name"].as_str().unwrap().contains(name));
    found.unwrap()
}

/// The filter's configuration, as Envoy got it.
fn extension(dump: &mut Value) -> &mut Value {
    &mut dump["configs"][0]["ecds_filters"][0]["ecds_filter"]["typed_config"]
}

/// A filter of somebody else's.
fn stranger() -> Value {
    json!({"name": "stranger", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"}})
}

/// One fact that differs, and the fault that it is, at the warehouse's own port.
type Seed = (&'static str, fn(&mut Value), &'static str);

const SEEDS: &[Seed] = &[
    (
        "no filter",
        |dump| {
            let ours = place(dump, "ostiary~");
            filters(dump).remove(ours);
        },
        "filter_missing",
    ),
    (
        "another's configuration",
        |dump| {
            filter(dump, "ostiary~")["name"] = json!("of.another");
        },
        "filter_not_loaded",
    ),
    (
        "switched off",
        |dump| filter(dump, "ostiary~")["disabled"] = json!(true),
        "filter_disabled",
    ),
    (
        "twice",
        |dump| {
            let ours = filter(dump, "ostiary~").clone();
            filters(dump).insert(0, ours);
        },
        "filter_twice",
    ),
    (
        "a stranger behind it",
        |dump| {
            let guard = place(dump, "ostiary.guard");
            filters(dump).insert(guard, stranger());
        },
        "filter_not_last",
    ),
    (
        "a stranger behind the guard",
        |dump| {
            let router = place(dump, "router");
            filters(dump).insert(router, stranger());
        },
        "filter_not_last",
    ),
    (
        "Istio's authorization behind it",
        |dump| {
            let authorization = place(dump, "envoy.filters.http.rbac");
            let moved = filters(dump).remove(authorization);
            let guard = place(dump, "ostiary.guard");
            filters(dump).insert(guard, moved);
        },
        "filter_not_last",
    ),
    (
        "no guard",
        |dump| {
            let guard = place(dump, "ostiary.guard");
            filters(dump).remove(guard);
        },
        "guard_missing",
    ),
    (
        "a guard switched off",
        |dump| filter(dump, "ostiary.guard")["disabled"] = json!(true),
        "guard_open",
    ),
    (
        "a guard without rules",
        |dump| {
            filter(dump, "ostiary.guard")["typed_config"]
                .as_object_mut()
                .unwrap()
                .remove("rules");
        },
        "guard_open",
    ),
    (
        "a guard that denies the looked-at",
        |dump| {
            filter(dump, "ostiary.guard")["typed_config"]["rules"]["action"] = json!("DENY");
        },
        "guard_open",
    ),
    (
        "a guard that lets anybody pass",
        |dump| {
            filter(dump, "ostiary.guard")["typed_config"]["rules"]["policies"]["looked-at"]["principals"] =
                json!([{"any": true}]);
        },
        "guard_open",
    ),
    (
        "a guard that lets others pass too",
        |dump| {
            filter(dump, "ostiary.guard")["typed_config"]["rules"]["policies"]["more"] =
                json!({"permissions": [{"any": true}], "principals": [{"any": true}]});
        },
        "guard_open",
    ),
    (
        "a guard that wants another mark",
        |dump| {
            filter(dump, "ostiary.guard")["typed_config"]["rules"]["policies"]["looked-at"]["principals"][0]["filter_state"]
                ["key"] = json!("wasm.another");
        },
        "guard_open",
    ),
    (
        "the guard first",
        |dump| {
            let guard = place(dump, "ostiary.guard");
            let guard = filters(dump).remove(guard);
            filters(dump).insert(0, guard);
        },
        "guard_before_filter",
    ),
    (
        "its port taken for TCP",
        |dump| {
            chain(dump, "0.0.0.0_8080")["filters"] = json!([{"name": "envoy.filters.network.tcp_proxy", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "cluster": "inbound|8080||"}}]);
        },
        "tcp_port",
    ),
];

#[test]
fn a_sidecar_in_order_has_no_fault_and_each_fact_that_differs_is_one() {
    let good = read("warehouse.json");
    assert_eq!(faults(&good), [""; 0]);
    for (name, change, code) in SEEDS {
        let mut dump = good.clone();
        change(&mut dump);
        assert_eq!(faults(&dump), [format!("virtualInbound 0.0.0.0_8080 {code}")], "{name}");
    }
}

/// Facts of the plugin's configuration, which is one for all chains.
const SETTINGS: &[Seed] = &[
    (
        "fails open",
        |dump| extension(dump)["config"]["failure_policy"] = json!("FAIL_OPEN"),
        "fails_open",
    ),
    (
        "fails open, as it was once written",
        |dump| {
            let config = extension(dump)["config"].as_object_mut().unwrap();
            config.remove("failure_policy");
            config.insert("fail_open".to_owned(), json!(true));
        },
        "fails_open",
    ),
    (
        "held headers",
        |dump| {
            extension(dump)["config"]["allow_on_headers_stop_iteration"] = json!(true);
        },
        "headers_mismatch",
    ),
    (
        "told of held headers",
        |dump| {
            let value = &mut extension(dump)["config"]["configuration"]["value"];
            *value = json!(
                value
                    .as_str()
                    .unwrap()
                    .replace(r#""headers_stop_iteration":false"#, r#""headers_stop_iteration":true"#)
            );
        },
        "headers_mismatch",
    ),
    (
        "another plugin",
        |dump| extension(dump)["config"]["configuration"]["value"] = json!("{}"),
        "filter_missing",
    ),
    (
        "not received",
        |dump| {
            dump["configs"][0]["ecds_filters"].as_array_mut().unwrap().clear();
        },
        "filter_not_loaded",
    ),
    (
        "replaced by what denies",
        |dump| {
            *extension(dump) = json!({"@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
            "rules": {}, "rules_stat_prefix": "wasm-default-deny"});
        },
        "filter_not_loaded",
    ),
    (
        "replaced by what allows",
        |dump| {
            *extension(dump) = json!({"@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
            "rules_stat_prefix": "wasm-default-allow"});
        },
        "filter_not_loaded",
    ),
];

#[test]
fn a_fault_of_the_plugin_is_one_of_every_chain_that_reads_requests() {
    let good = read("warehouse.json");
    for (name, change, code) in SETTINGS {
        let mut dump = good.clone();
        change(&mut dump);
        let expected = [
            format!("0.0.0.0_8080  {code}"),
            format!("virtualInbound virtualInbound-catchall-http {code}"),
            format!("virtualInbound 0.0.0.0_8080 {code}"),
        ];
        assert_eq!(faults(&dump), expected, "{name}");
    }
    // Both say that headers are held: they agree.
    let mut held = good.clone();
    SETTINGS[2].1(&mut held);
    SETTINGS[3].1(&mut held);
    assert_eq!(faults(&held), [""; 0]);
}

#[test]
fn what_real_sidecars_lacked_is_told() {
    let no_plugin = faults(&read("reports-no-plugin.json"));
    assert_eq!(no_plugin.len(), 3);
    assert!(
        no_plugin.iter().all(|fault| fault.ends_with("filter_missing")),
        "{no_plugin:?}"
    );

    let not_loaded = faults(&read("reports-not-loaded.json"));
    let (tcp, http): (Vec<_>, Vec<_>) = not_loaded.iter().partition(|fault| fault.ends_with("tcp_port"));
    assert_eq!(tcp, ["virtualInbound 0.0.0.0_9000 tcp_port"]);
    assert_eq!(http.len(), 3);
    assert!(
        http.iter().all(|fault| fault.ends_with("filter_not_loaded")),
        "{http:?}"
    );
}

#[test]
fn tcp_that_nobody_is_asked_about_is_a_fault_and_tcp_behind_authorization_is_named() {
    let mut dump = read("warehouse.json");
    let excuse = |dump: &Value| {
        let dump = parse(dump);
        let chain = dump.chains.iter().find(|chain| chain.name == "virtualInbound").unwrap();
        verdict::judge(chain).excuse
    };
    assert_eq!(excuse(&dump), Some("TCP, up to Istio's authorization"));
    chain(&mut dump, "virtualInbound")["filters"]
        .as_array_mut()
        .unwrap()
        .remove(0);
    assert_eq!(excuse(&dump), None);
    assert_eq!(faults(&dump), ["virtualInbound virtualInbound tcp_unchecked"]);
}

#[test]
fn only_the_sidecars_own_ports_may_be_without_the_filter() {
    let mut dump = read("warehouse.json");
    let own: Vec<_> = parse(&dump)
        .chains
        .iter()
        .filter_map(|chain| Some((chain.port?, verdict::judge(chain).excuse?)))
        .filter(|(_, excuse)| excuse.contains("of the sidecar"))
        .collect();
    assert_eq!(
        own,
        [(15090, "statistics of the sidecar"), (15021, "health of the sidecar")]
    );

    let address = &mut dump["configs"][1]["static_listeners"][0]["listener"]["address"];
    address["socket_address"]["port_value"] = json!(15091);
    assert_eq!(
        faults(&dump),
        ["0.0.0.0_15090  filter_missing", "0.0.0.0_15090  guard_missing"]
    );
}

#[test]
fn what_the_agent_logs_before_its_answer_is_passed_over() {
    let dump = fs::read(dumps().join("warehouse.json")).unwrap();
    let logged = [
        b"2026-11-25T19:40:49.684749Z\twarn\tOS CA Cert could not be found for agent\n",
        &dump[..],
    ];
    assert_eq!(Dump::parse(&logged.concat()).unwrap(), Dump::parse(&dump).unwrap());
}

#[test]
fn an_answer_that_is_no_dump_is_not_read_as_one_that_is_in_order() {
    for answer in ["", "null", "[]", "{}", "upstream connect error", r#"{"configs": 1}"#] {
        assert!(Dump::parse(answer.as_bytes()).is_err(), "{answer}");
    }
    let empty = Dump::parse(br#"{"configs": []}"#).unwrap_err();
    assert_eq!(empty.to_string(), "its Envoy tells of no listeners");
}
