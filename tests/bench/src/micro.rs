//! The functions of `authz` that a call waits for, one by one: natively under criterion, and in Envoy's V8.
//!
//! Both run the list of the package `micro`, so neither can measure something else. A function in the VM is compared
//! with itself outside it.

mod native;
mod vm;

use anyhow::{Context, Result};

use crate::plan::Plan;
use crate::report::Report;
use crate::rounds::Summary;
use crate::row::{Row, Spec};
use crate::table;

const NATIVE: &str = "native";
const VM: &str = "wasm";

macro_rules! functions {
    ($($id:literal: $work:literal,)*) => {
        /// The rows of this section.
        pub(crate) const ROWS: &[Spec] = &[
            $(function(NATIVE, concat!("native-", $id), $work, None),)*
            $(function(VM, concat!("wasm-", $id), $work, Some(concat!("native-", $id))),)*
        ];
    };
}

functions! {
    "decide": "a decision on facts and a verified token, 10 agents",
    "decide-10000": "the same, 10,000 agents",
    "verify": "a token from its compact form, Ed25519",
    "head": "a request's headers, refused unless canonical",
    "json-1k": "strict JSON, 1 KiB",
    "json-16k": "strict JSON, 16 KiB",
    "json-256k": "strict JSON, 256 KiB",
    "rpc-1k": "an MCP message to the facts decided on, 1 KiB",
    "rpc-16k": "an MCP message to the facts decided on, 16 KiB",
    "rpc-256k": "an MCP message to the facts decided on, 256 KiB",
    "seal": "a record, canonical (RFC 8785) and hashed into its chain",
    "check-record": "a record's hash and canonical form checked",
    "sha256-1k": "SHA-256, 1 KiB",
    "sha256-1m": "SHA-256, 1 MiB",
}

const fn function(group: &'static str, id: &'static str, work: &'static str, peer: Option<&'static str>) -> Spec {
    Spec {
        id,
        group,
        work,
        unit: "ns",
        peer,
        bound: None,
    }
}

/// Measures what the plan wants of it.
///
/// # Errors
///
/// When a function does not tell good from bad, or Envoy or criterion fail.
pub(crate) async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    let wanted = |prefix: &str, id: &str| {
        let name = format!("{prefix}{id}");
        ROWS.iter().any(|row| row.id == name && plan.wants("micro", row))
    };
    let rows = |prefix: &'static str| {
        ROWS.iter()
            .filter_map(move |row| Some((row, row.id.strip_prefix(prefix)?)))
    };
    // What the VM does is compared with the same outside it.
    let native: Vec<_> = rows("native-")
        .filter(|(_, id)| wanted("native-", id) || wanted("wasm-", id))
        .collect();
    let wasm: Vec<_> = rows("wasm-").filter(|(_, id)| wanted("wasm-", id)).collect();
    if !native.is_empty() {
        eprintln!("micro: native");
        native::measure(plan, &native.iter().map(|(_, id)| *id).collect::<Vec<_>>())?;
        for (spec, id) in native {
            add(report, spec, &native::samples(id)?)?;
        }
        table::show(report, plan)?;
    }
    if !wasm.is_empty() {
        eprintln!("micro: in Envoy's V8");
        let vm = vm::Vm::start().await?;
        for (spec, id) in wasm {
            let samples = vm.measure(plan, id).await.with_context(|| id.to_owned())?;
            add(report, spec, &samples)?;
        }
        table::show(report, plan)?;
    }
    Ok(())
}

fn add(report: &mut Report, spec: &Spec, samples: &[f64]) -> Result<()> {
    let figure = Summary::of(samples).with_context(|| format!("nothing was measured for `{}`", spec.id))?;
    report.add(Row::new(spec, figure));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_are_the_functions() {
        let of = |prefix: &str| -> Vec<&str> { ROWS.iter().filter_map(|row| row.id.strip_prefix(prefix)).collect() };
        assert_eq!(of("native-"), ::micro::works::IDS);
        assert_eq!(of("wasm-"), ::micro::works::IDS);
    }
}
