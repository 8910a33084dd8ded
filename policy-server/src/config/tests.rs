#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;

const BASE: &str = "\
trustDomain: cluster.local
identity: spiffe://cluster.local/ns/ostiary/sa/policy-server
hosts: [policy-server.ostiary.svc.cluster.local]
data: data
policy: policy
";
const LISTEN: &str = "listen: { unix: run/ostiary.sock }\n";
const SIDECAR: &str = "authentication: { mode: sidecar }\n";

fn load(text: &str) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ostiary.yaml");
    std::fs::write(&path, text).unwrap();
    Config::load(&path).map_err(|error| error.to_string().replace(&format!("{}/", folder.path().display()), ""))
}

#[test]
fn defaults_are_those_of_the_reference() {
    let config = load(&format!("{BASE}{LISTEN}{SIDECAR}")).unwrap();
    assert_eq!(
        config.issuer.as_str(),
        "spiffe://cluster.local/ns/ostiary/sa/policy-server"
    );
    assert_eq!(
        (config.token_max_ttl_seconds, config.token_default_ttl_seconds),
        (300, 300)
    );
    assert_eq!((config.state_max_age_seconds, config.state_renew.as_secs()), (60, 15));
    assert_eq!(config.bundle_lifetime_seconds, 3600);
    assert_eq!(
        (config.reconcile_window.as_secs(), config.heartbeat_seconds),
        (30, Some(300))
    );
    assert_eq!(config.limits, Limits::default());
    assert!(matches!(config.listen, Listen::Unix { mode: 0o600, .. }));
}

#[test]
fn what_cannot_be_used_is_refused_by_name() {
    let base = format!("{BASE}{SIDECAR}");
    let all = format!("{BASE}{SIDECAR}{LISTEN}");
    for (text, expected) in [
        (
            format!("{base}listen: {{ tcp: 0.0.0.0:80 }}\n"),
            "`listen.tcp`: is not a loopback address",
        ),
        (format!("{base}listen: {{}}\n"), "`listen`: needs exactly one"),
        (
            format!("{base}listen: {{ unix: a, tcp: 127.0.0.1:1 }}\n"),
            "`listen`: needs exactly one",
        ),
        (
            format!("{base}listen: {{ unix: a, mode: \"0666\" }}\n"),
            "`listen.mode`: must be",
        ),
        (format!("{all}colour: red\n"), "ostiary.yaml:8: "),
        (
            format!("{all}token: {{ maxTtlSeconds: 0 }}\n"),
            "`token.maxTtlSeconds`: is 0",
        ),
        (
            format!("{all}token: {{ maxTtlSeconds: 60, defaultTtlSeconds: 61 }}\n"),
            "`token.defaultTtlSeconds`",
        ),
        (
            format!("{all}state: {{ maxAgeSeconds: 20, renewSeconds: 11 }}\n"),
            "`state.renewSeconds`: is 11",
        ),
        (
            format!("{all}roles: {{ bob: [issuer] }}\n"),
            "`roles.bob`: `bob` is no SPIFFE ID",
        ),
        (
            format!("{all}roles: {{ \"spiffe://other/ns/a/sa/b\": [issuer] }}\n"),
            "is not in the trust domain",
        ),
        (
            format!("{all}limits: {{ recordQueue: 0 }}\n"),
            "`limits.recordQueue`: is 0",
        ),
        (
            format!("{BASE}{LISTEN}authentication: {{ mode: keyFile }}\n"),
            "needs `path` and `principal`",
        ),
        (
            format!("{BASE}{LISTEN}authentication: {{ mode: sidecar, path: x }}\n"),
            "belong to mode `keyFile`",
        ),
        (
            format!("{all}externalIssuers: [{{ iss: a, jwks: {{ keys: 1 }} }}]\n"),
            "`externalIssuers[0].jwks`",
        ),
    ] {
        let error = load(&text).unwrap_err();
        assert!(error.contains(expected), "{text}\n{error}");
    }
}

#[test]
fn policy_is_a_folder_or_an_api_server() {
    let load =
        |policy: &str| load(&format!("{BASE}{LISTEN}{SIDECAR}").replace("policy: policy", policy)).map(|c| c.policy);
    assert!(matches!(load("policy: policy"), Ok(PolicySource::Folder(folder)) if folder.ends_with("policy")));
    let kubernetes = |policy: &str| match load(policy) {
        Ok(PolicySource::Kubernetes(kubernetes)) => Ok(kubernetes),
        other => Err(format!("{other:?}")),
    };
    let all = kubernetes("policy: { kubernetes: {} }").unwrap();
    assert!(all.namespaces.is_empty() && all.kubeconfig.is_none());
    let some = kubernetes("policy: { kubernetes: { namespaces: [agents, data], kubeconfig: admin.conf } }").unwrap();
    assert_eq!(some.namespaces.into_iter().collect::<Vec<_>>(), ["agents", "data"]);
    assert!(
        some.kubeconfig
            .is_some_and(|path| path.ends_with("admin.conf") && path.is_absolute())
    );
    for (policy, expected) in [
        (
            "policy: { kubernetes: { namespaces: [] } }",
            "`policy.kubernetes.namespaces`: is empty",
        ),
        (
            "policy: { kubernetes: { namespaces: [\"a*\"] } }",
            "`a*` is not the name of a namespace",
        ),
        ("policy: { kubernetes: { namespace: a } }", "ostiary.yaml:5: "),
        ("policy: { etcd: {} }", "ostiary.yaml:5: "),
        ("policy: [a]", "ostiary.yaml:5: "),
    ] {
        let error = load(policy).unwrap_err();
        assert!(error.contains(expected), "{policy}\n{error}");
    }
}

#[test]
fn roles_are_looked_up_by_principal() {
    let config = load(&format!(
        "{BASE}{LISTEN}{SIDECAR}roles: {{ \"spiffe://cluster.local/ns/o/sa/o\": [issuer] }}\n"
    ))
    .unwrap();
    let principal = "spiffe://cluster.local/ns/o/sa/o".parse().unwrap();
    assert!(config.has_role(&principal, Role::Issuer));
    assert!(!config.has_role(&principal, Role::Operator));
    assert!(!config.has_role(&config.identity, Role::Issuer));
}
