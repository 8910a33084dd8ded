//! Filter chains: one real Envoy each, of one worker, in front of a direct response or a real upstream.
//!
//! The cost of a request is Envoy's own time on the processor (and the authorizer's, where there is one) over a fixed
//! count of requests, above that of a chain without filters in the same round. What Envoy does after an answer, such as
//! sending records, is waited for and counted.
//!
//! * [`rows`] is the list; [`traffic`] are the requests; [`bed`] holds what all chains share;
//! * [`peers`] are the filters to compare with, [`ours`] is the real filter with its policy;
//! * [`chain`] starts an Envoy and shows that it denies what it should; [`lane`] measures;
//! * [`authorizer`] and [`upstream`] play what stands behind Envoy.

pub(crate) mod authorizer;
mod bed;
mod chain;
mod lane;
mod ours;
mod peers;
mod rows;
mod traffic;
mod upstream;

use std::sync::Arc;

use anyhow::{Context, Result};
use hyper::body::Bytes;

use crate::cpu::Cores;
use crate::plan::Plan;
use crate::report::Report;
use crate::rounds::{Summary, ratios, rotated};
use crate::row::Row;
use crate::table;

use bed::Bed;
use chain::{Chain, Kind};
use lane::Lane;
use rows::{ENTRIES, Entry};
use traffic::Traffic;

pub(crate) use rows::ROWS;

/// Measures what the plan wants of it, group by group.
///
/// # Errors
///
/// When a chain does not start, passes what it must deny, or breaks under load.
pub(crate) async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    let cores = Cores::find()?;
    if cores.is_none() {
        report.note("chains: one core only, so the generator took time from Envoy");
    }
    let _kept = cores.map(Cores::keep_generator).transpose()?;
    let bed = Bed::start(cores)?;
    let mut groups: Vec<&str> = ENTRIES.iter().map(|entry| entry.spec.group).collect();
    groups.dedup();
    for group in groups {
        let of_group = || ENTRIES.iter().filter(|entry| entry.spec.group == group);
        let wanted: Vec<&Entry> = of_group().filter(|entry| plan.wants("chains", &entry.spec)).collect();
        if !wanted.is_empty() {
            eprintln!("chains: {group}");
            measure(plan, &bed, &wanted, report)
                .await
                .with_context(|| format!("chains: {group}"))?;
            table::show(report, plan)?;
        }
    }
    report.note("chains: access logs are off in all chains; records are on, and taken by a local policy feed");
    report.note("chains: the filter has no mode without records, so there is no row for it");
    Ok(())
}

/// Measures these rows, those that they are compared with and their bases, in turns.
async fn measure(plan: &Plan, bed: &Bed, wanted: &[&Entry], report: &mut Report) -> Result<()> {
    let mut measured: Vec<(Kind, Traffic)> = Vec::new();
    let peers = wanted.iter().filter_map(|entry| rows::entry_of(entry.spec.peer?));
    for entry in wanted.iter().copied().chain(peers) {
        for lane in [(entry.kind.base(), entry.traffic), (entry.kind, entry.traffic)] {
            if !measured.contains(&lane) {
                measured.push(lane);
            }
        }
    }
    let mut chains: Vec<Chain> = Vec::new();
    for (kind, _) in &measured {
        if !chains.iter().any(|chain| chain.kind == *kind) {
            chains.push(Chain::start(*kind, bed, plan).await?);
        }
    }
    for chain in &chains {
        chain.ready(bed).await.with_context(|| format!("{:?}", chain.kind))?;
    }
    let mut lanes = Vec::new();
    let mut prepared: Vec<(Traffic, Arc<Vec<Bytes>>)> = Vec::new();
    for (kind, traffic) in &measured {
        let bytes = match prepared.iter().find(|(of, _)| of == traffic) {
            Some((_, bytes)) => bytes.clone(),
            None => {
                let bytes = traffic.bytes(lane::requests_in_all(*traffic, plan));
                prepared.push((*traffic, bytes.clone()));
                bytes
            }
        };
        let chain = chains
            .iter()
            .find(|chain| chain.kind == *kind)
            .context("a lane without a chain")?;
        lanes.push(
            Lane::open(chain, *traffic, bytes, plan)
                .await
                .with_context(|| format!("{kind:?} {traffic:?}"))?,
        );
    }
    for round in 0..plan.rounds() {
        for slice in 0..lane::slices(plan) {
            for place in rotated(lanes.len(), round + slice) {
                let lane = lanes.get_mut(place).context("no such lane")?;
                lane.slice()
                    .await
                    .with_context(|| format!("{:?} {:?}", lane.kind(), lane.traffic))?;
            }
        }
        lanes.iter_mut().for_each(Lane::end_round);
    }
    for round in 0..lane::paced_rounds(plan) {
        for place in rotated(lanes.len(), round) {
            lanes.get_mut(place).context("no such lane")?.pace().await?;
        }
    }
    for entry in wanted {
        report.add(row(entry, &lanes)?);
    }
    Ok(())
}

/// A row out of what its lane, its base's and its peer's have seen.
fn row(entry: &Entry, lanes: &[Lane<'_>]) -> Result<Row> {
    let lane = find(lanes, entry.kind, entry.traffic)?;
    let figures = above_base(lanes, entry)?;
    let mut row = Row::new(&entry.spec, Summary::of(&figures).context("no rounds")?);
    if let Some(peer) = entry.spec.peer.and_then(rows::entry_of) {
        row.compared(ratios(&figures, &above_base(lanes, peer)?));
    }
    row.latency = lane.latency();
    row.requests_per_second = lane.requests_per_second();
    Ok(row)
}

/// Microseconds a request, round by round: of a chain without filters as they are, of others above it, in the row's
/// unit.
fn above_base(lanes: &[Lane<'_>], entry: &Entry) -> Result<Vec<f64>> {
    let costs = find(lanes, entry.kind, entry.traffic)?.costs();
    let base = entry.kind.base();
    if entry.kind == base {
        return Ok(costs.to_vec());
    }
    let bases = find(lanes, base, entry.traffic)?.costs();
    let above = costs.iter().zip(bases).map(|(cost, base)| cost - base);
    Ok(above.map(|micros| micros * entry.per_microsecond).collect())
}

fn find<'a, 'b>(lanes: &'a [Lane<'b>], kind: Kind, traffic: Traffic) -> Result<&'a Lane<'b>> {
    let mut found = lanes
        .iter()
        .filter(|lane| lane.kind() == kind && lane.traffic == traffic);
    found.next().context("a row without a lane")
}
