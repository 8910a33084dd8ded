//! What the requests that the targets bend are made of; also for `authz/examples/fuzz_seeds.rs`.

/// The bases whose requests the targets bend: what a request needs is named by its path, its query or its body.
pub const BASES: [&str; 10] = [
    "read",
    "report",
    "memory",
    "tool",
    "tool-2026",
    "prompt",
    "resource",
    "a2a",
    "a2a-rest",
    "a2a-0.3",
];
