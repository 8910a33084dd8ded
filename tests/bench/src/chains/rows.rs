//! The list of rows: what runs through which chain, and what it is compared with.

use super::chain::{Backend, Filters, Kind};
use super::ours::{Policy, Service};
use super::traffic::{KNOWN, Traffic};
use crate::row::{Bound, Spec};

/// A row with the chain and the traffic that it comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) spec: Spec,
    pub(super) kind: Kind,
    pub(super) traffic: Traffic,
    /// What a microsecond counts for: the unit is nanoseconds where the peer's is.
    pub(super) per_microsecond: f64,
}

impl Entry {
    const fn over(mut self, peer: &'static str) -> Self {
        self.spec.peer = Some(peer);
        self
    }

    const fn at_most(mut self, bound: f64) -> Self {
        self.spec.bound = Some(Bound::AtMost(bound));
        self
    }

    const fn in_nanoseconds(mut self) -> Self {
        (self.per_microsecond, self.spec.unit) = (1e3, "ns");
        self
    }
}

/// Rows that are measured together.
#[derive(Clone, Copy)]
struct Group(&'static str);

impl Group {
    const fn row(self, id: &'static str, work: &'static str, kind: Kind, traffic: Traffic) -> Entry {
        let spec = Spec {
            id,
            group: self.0,
            work,
            unit: "us",
            peer: None,
            bound: None,
        };
        Entry {
            spec,
            kind,
            traffic,
            per_microsecond: 1.0,
        }
    }
}

const fn direct(filters: Filters) -> Kind {
    let backend = Backend::Direct;
    Kind { filters, backend }
}

const fn upstream(filters: Filters) -> Kind {
    let backend = Backend::Upstream;
    Kind { filters, backend }
}

const fn ours(service: Service, agents: usize) -> Filters {
    Filters::Ours(Policy { service, agents })
}

const EMPTY: Filters = Filters::None;
const CACHED: Filters = Filters::Jwt { cached: true };
const UNCACHED: Filters = Filters::Jwt { cached: false };
const HTTP: Filters = ours(Service::Http, 1);
const MCP: Filters = ours(Service::Mcp, 1);
const LISTED: Filters = ours(Service::Tools, 1);
const A2A: Filters = ours(Service::A2a, 1);

const fn tools(tools: usize) -> Traffic {
    Traffic::Known { tools }
}

const fn mcp(argument_bytes: usize) -> Traffic {
    Traffic::Mcp { argument_bytes }
}

const TOKENS: Group = Group("known-token");
const FIRST: Group = Group("first-sight");
const DENIED: Group = Group("denied");
const UPSTREAM: Group = Group("upstream");
const CALLS: Group = Group("mcp");
const LISTS: Group = Group("lists");
const AGENT_CALLS: Group = Group("a2a");
const STREAMS: Group = Group("streams");
const BODIES: Group = Group("bodies");
const AGENTS: Group = Group("agents");
const TOOLS: Group = Group("tools");

/// SHA-256 of as many bytes in a wasm VM, a row of another section.
const SHA256: &str = "wasm-sha256-1m";

/// At least 90 % of its throughput.
const OF_SHA256: f64 = 1.11;

/// Every row, groups together.
pub(super) const ENTRIES: &[Entry] = &[
    TOKENS.row("empty", "GET, no filters (mTLS and all)", direct(EMPTY), KNOWN),
    TOKENS.row(
        "noop-wasm",
        "a wasm filter that does nothing",
        direct(Filters::Noop),
        KNOWN,
    ),
    TOKENS.row("lua-header", "lua looks at one header", direct(Filters::Lua), KNOWN),
    TOKENS.row(
        "ext-authz",
        "ext_authz over gRPC, Envoy and authorizer together",
        direct(Filters::ExtAuthz),
        KNOWN,
    ),
    TOKENS.row(
        "jwt-cached-rbac",
        "jwt_authn with cache; rbac on peer, path, claims",
        direct(CACHED),
        KNOWN,
    ),
    TOKENS
        .row(
            "known-token-http",
            "full decision, records batched",
            direct(HTTP),
            KNOWN,
        )
        .over("jwt-cached-rbac")
        .at_most(1.0),
    FIRST.row(
        "jwt-uncached-rbac",
        "a fresh Ed25519 token each time",
        direct(UNCACHED),
        Traffic::Fresh,
    ),
    FIRST
        .row(
            "first-sight-ed25519",
            "a fresh Ed25519 token each time",
            direct(HTTP),
            Traffic::Fresh,
        )
        .over("jwt-uncached-rbac")
        .at_most(1.0),
    DENIED.row(
        "jwt-cached-rbac-denied",
        "known token, 403 by rbac",
        direct(CACHED),
        Traffic::Denied,
    ),
    DENIED
        .row(
            "denied-http",
            "known token, 403 with its reason, recorded",
            direct(HTTP),
            Traffic::Denied,
        )
        .over("jwt-cached-rbac-denied"),
    UPSTREAM.row(
        "empty-upstream",
        "GET to a real upstream, no filters",
        upstream(EMPTY),
        KNOWN,
    ),
    UPSTREAM.row(
        "jwt-cached-rbac-upstream",
        "the same, known token",
        upstream(CACHED),
        KNOWN,
    ),
    UPSTREAM
        .row(
            "known-token-upstream",
            "the same, known token, its answer hashed",
            upstream(HTTP),
            KNOWN,
        )
        .over("jwt-cached-rbac-upstream"),
    CALLS.row(
        "empty-mcp-1k",
        "tools/call, 1 KiB of arguments, no filters",
        upstream(EMPTY),
        mcp(1 << 10),
    ),
    CALLS.row(
        "jwt-mcp-rbac-1k",
        "jwt_authn cached, mcp, rbac on the tool",
        upstream(Filters::JwtMcp),
        mcp(1 << 10),
    ),
    CALLS.row(
        "ext-authz-mcp-1k",
        "ext_authz with the body, both processes",
        upstream(Filters::ExtAuthzBody),
        mcp(1 << 10),
    ),
    CALLS
        .row("mcp-1k", "decided on the body", upstream(MCP), mcp(1 << 10))
        .over("jwt-mcp-rbac-1k")
        .at_most(0.5),
    CALLS
        .row(
            "mcp-1k-authorizer",
            "the same beside an authorizer",
            upstream(MCP),
            mcp(1 << 10),
        )
        .over("ext-authz-mcp-1k")
        .at_most(0.25),
    CALLS.row(
        "empty-mcp-16k",
        "16 KiB of arguments, no filters",
        upstream(EMPTY),
        mcp(16 << 10),
    ),
    CALLS.row(
        "jwt-mcp-rbac-16k",
        "16 KiB: jwt_authn, mcp, rbac",
        upstream(Filters::JwtMcp),
        mcp(16 << 10),
    ),
    CALLS
        .row("mcp-16k", "16 KiB, decided on the body", upstream(MCP), mcp(16 << 10))
        .over("jwt-mcp-rbac-16k"),
    CALLS.row(
        "empty-mcp-256k",
        "256 KiB of arguments, no filters",
        upstream(EMPTY),
        mcp(256 << 10),
    ),
    CALLS.row(
        "jwt-mcp-rbac-256k",
        "256 KiB: jwt_authn, mcp, rbac",
        upstream(Filters::JwtMcp),
        mcp(256 << 10),
    ),
    CALLS
        .row(
            "mcp-256k",
            "256 KiB, decided on the body",
            upstream(MCP),
            mcp(256 << 10),
        )
        .over("jwt-mcp-rbac-256k"),
    LISTS.row(
        "empty-list-100",
        "tools/list of 100 tools, no filters",
        upstream(EMPTY),
        Traffic::List,
    ),
    LISTS.row("list-100", "50 of them told", upstream(LISTED), Traffic::List),
    AGENT_CALLS.row(
        "empty-a2a-1k",
        "SendMessage, 1 KiB of text, no filters",
        upstream(EMPTY),
        Traffic::A2a,
    ),
    AGENT_CALLS.row("a2a-1k", "decided on the body", upstream(A2A), Traffic::A2a),
    STREAMS.row(
        "empty-events-100",
        "tools/call, answered in 100 events, no filters",
        upstream(EMPTY),
        Traffic::Events,
    ),
    STREAMS.row("events-100", "hashed as they pass", upstream(MCP), Traffic::Events),
    BODIES.row(
        "empty-upload-1m",
        "PUT of 1 MiB, no filters",
        upstream(EMPTY),
        Traffic::Upload,
    ),
    BODIES
        .row("upload-1m", "hashed as it streams", upstream(HTTP), Traffic::Upload)
        .in_nanoseconds()
        .over(SHA256)
        .at_most(OF_SHA256),
    BODIES.row(
        "empty-download-1m",
        "GET of 1 MiB, no filters",
        upstream(EMPTY),
        Traffic::Download,
    ),
    BODIES
        .row("download-1m", "hashed as it streams", upstream(HTTP), Traffic::Download)
        .in_nanoseconds()
        .over(SHA256)
        .at_most(OF_SHA256),
    AGENTS.row(
        "agents-1",
        "known token, 1 agent in the policy",
        direct(ours(Service::Http, 1)),
        KNOWN,
    ),
    AGENTS.row("agents-10", "10 agents", direct(ours(Service::Http, 10)), KNOWN),
    AGENTS
        .row("agents-100", "100 agents", direct(ours(Service::Http, 100)), KNOWN)
        .over("agents-10"),
    AGENTS
        .row("agents-1000", "1,000 agents", direct(ours(Service::Http, 1000)), KNOWN)
        .over("agents-10"),
    AGENTS
        .row(
            "agents-10000",
            "10,000 agents",
            direct(ours(Service::Http, 10_000)),
            KNOWN,
        )
        .over("agents-10")
        .at_most(1.1),
    TOOLS.row("tools-1", "known token of 1 tool", direct(HTTP), tools(1)),
    TOOLS
        .row("tools-10", "of 10 tools", direct(HTTP), tools(10))
        .over("tools-1"),
    TOOLS
        .row("tools-100", "of 100 tools", direct(HTTP), tools(100))
        .over("tools-1"),
];

/// What is known of them before anything runs.
#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
pub(crate) const ROWS: &[Spec] = &{
    let mut rows = [ENTRIES[0].spec; ENTRIES.len()];
    let mut place = 0;
    while place < rows.len() {
        rows[place] = ENTRIES[place].spec;
        place += 1;
    }
    rows
};

/// The entry of a row of this section.
pub(super) fn entry_of(id: &str) -> Option<&'static Entry> {
    ENTRIES.iter().find(|entry| entry.spec.id == id)
}
