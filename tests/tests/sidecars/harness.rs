//! The harness itself, on sidecars without the filter: what the other tests take for granted.

use std::time::Duration;

use tests::backends::Backend;
use tests::client::{Call, Client};
use tests::envoy::Envoy;
use tests::loopback::Loopback;
use tests::netns::Netns;
use tests::pki::{Ca, Workload};
use tests::run::RunDirectory;
use tests::sidecar::{Destination, Inbound, Outbound, Sidecar};

const HOST: &str = "warehouse.data.svc.cluster.local";

struct Pair {
    run: RunDirectory,
    net: Loopback,
    ca: Ca,
    backend: Backend,
    agent: Workload,
    netns: Option<Netns>,
    sidecars: Vec<Envoy>,
}

impl Pair {
    /// An agent and a service, each with a sidecar.
    async fn start() -> Self {
        let run = RunDirectory::create("harness").unwrap();
        let net = Loopback::claim().unwrap();
        let ca = Ca::create(&run.file("pki")).unwrap();
        let (agent, service) = (Workload::new("agents", "analyst-7"), Workload::new("data", "warehouse"));
        let netns = Netns::create("analyst-7", &run).await.ok();
        let backend = Backend::echo("warehouse", &run).unwrap();
        let address = net.socket(21, 8080);
        let inbound = Sidecar::new(&ca.issue(&service, &[HOST]).unwrap(), &ca, net.socket(21, 15_000))
            .with_inbound(Inbound::new(address, backend.socket()));
        let destination = Destination {
            name: "warehouse".into(),
            hosts: vec![HOST.into()],
            address,
            identity: service.spiffe(),
        };
        let inside = netns.clone().map(|netns| (netns, "127.0.0.1:15001".parse().unwrap()));
        let outbound = Outbound {
            address: net.socket(11, 15_001),
            inside,
            destinations: vec![destination],
        };
        let outbound =
            Sidecar::new(&ca.issue(&agent, &[]).unwrap(), &ca, net.socket(11, 15_000)).with_outbound(outbound);
        let sidecars = vec![inbound.start(&run).await.unwrap(), outbound.start(&run).await.unwrap()];
        Self {
            run,
            net,
            ca,
            backend,
            agent,
            netns,
            sidecars,
        }
    }
}

#[tokio::test]
async fn calls_pass_both_sidecars_and_are_logged() {
    let pair = Pair::start().await;
    let call = || {
        Call::new("POST", &format!("{HOST}:8080"), "/v1/tables/x")
            .header("x-call", "1")
            .body("hello")
    };

    let outside = Client::plain(pair.net.socket(11, 15_001));
    for client in [outside.clone(), outside.http2()] {
        let answer = client.send(call()).await.unwrap();
        assert_eq!(answer.status, 200);
    }
    if let Some(netns) = &pair.netns {
        let inside = Client::plain("127.0.0.1:15001".parse().unwrap()).inside(netns);
        assert_eq!(inside.send(call()).await.unwrap().status, 200);
        let around = Client::plain(pair.net.socket(21, 8080)).inside(netns);
        assert!(
            around.send(call()).await.is_err(),
            "a namespace reaches its own sidecar alone"
        );
        let reach_host = netns.command("true").status().unwrap();
        assert!(reach_host.success());
    }
    let credential = pair.ca.issue(&pair.agent, &[]).unwrap();
    let direct = Client::tls(pair.net.socket(21, 8080), HOST, &pair.ca, Some(&credential)).unwrap();
    for client in [direct.clone(), direct.clone().http2()] {
        assert_eq!(client.send(call().trailer("x-end", "1")).await.unwrap().status, 200);
    }
    let raw = format!("GET /raw HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
    let raw = direct.raw(raw.as_bytes(), Duration::from_secs(5)).await.unwrap();
    assert_eq!(tests::client::raw_status(&raw).unwrap(), 200);

    let seen = pair.backend.seen_with("x-call", "1");
    assert_eq!(seen.len(), if pair.netns.is_some() { 5 } else { 4 });
    assert!(seen.iter().all(|seen| seen.complete && &seen.body[..] == b"hello"));

    let certificate_less = Client::tls(pair.net.socket(21, 8080), HOST, &pair.ca, None).unwrap();
    assert!(certificate_less.send(call()).await.is_err(), "mTLS is asked for");

    tests::wait::until("the access log", Duration::from_secs(5), async || {
        let log = pair.sidecars[0].access_log();
        let agents = log.iter().filter(|entry| entry["peer"] == pair.agent.spiffe().as_str());
        (agents.count() >= 6).then_some(())
    })
    .await
    .unwrap();
    assert!(pair.sidecars[0].stat("http.inbound.downstream_rq_2xx").await.unwrap() >= 6);
    assert!(pair.sidecars[0].resident_kib() > 1000);
    assert!(pair.run.path().is_dir());
}
