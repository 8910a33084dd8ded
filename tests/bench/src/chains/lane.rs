//! One kind of traffic through one chain, round after round.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use hyper::body::Bytes;

use super::chain::{Chain, Kind};
use super::traffic::Traffic;
use crate::drive::{Connection, Pace, Requests, paced, saturate};
use crate::plan::Plan;
use crate::rounds::{Summary, quantile};
use crate::row::Latency;

/// Connections that are kept open, as many as keep a worker busy.
const CONNECTIONS: usize = 16;

/// How long records are waited for to know how many a request makes.
const RECORDS_REST: Duration = Duration::from_millis(700);

/// The slices of a round. What disturbs a shared machine comes and goes within milliseconds: many short turns share it
/// out evenly.
const SLICES: usize = 16;

/// After an answer Envoy still tidies up, and the scheduler counts a thread's time when it stops.
const REST: Duration = Duration::from_millis(2);

/// How long a fixed rate is held.
const PACED_SECONDS: f64 = 1.0;

/// Below this part of one core's time, Envoy was waiting for the generator.
const SATURATED: f64 = 0.9;

/// How many slices a round has.
pub(super) fn slices(plan: &Plan) -> usize {
    if plan.quick { 2 } else { SLICES }
}

/// Slices before anything is measured.
fn warm_up(plan: &Plan) -> usize {
    if plan.quick { 2 } else { 40 }
}

/// How often latency is looked at.
pub(super) fn paced_rounds(plan: &Plan) -> usize {
    if plan.quick { 1 } else { 2 }
}

fn paced_count(traffic: Traffic, plan: &Plan) -> usize {
    plan.count((traffic.rate() * PACED_SECONDS) as usize)
}

/// How many requests a lane sends from its warm-up to its end.
pub(super) fn requests_in_all(traffic: Traffic, plan: &Plan) -> usize {
    let saturating = plan.count(traffic.count()) * (plan.rounds() * slices(plan) + warm_up(plan));
    saturating + paced_count(traffic, plan) * paced_rounds(plan)
}

/// The connections, and what has been measured on them.
#[derive(Debug)]
pub(super) struct Lane<'a> {
    pub(super) traffic: Traffic,
    chain: &'a Chain,
    requests: Requests,
    connections: Vec<Connection>,
    count: usize,
    paced: usize,
    sent: usize,
    records_a_request: u64,
    slice_costs: Vec<f64>,
    slice_rates: Vec<f64>,
    costs: Vec<f64>,
    rates: Vec<f64>,
    busy: Vec<f64>,
    times: Vec<Duration>,
}

impl<'a> Lane<'a> {
    /// Opens the connections and warms the chain up.
    ///
    /// # Errors
    ///
    /// When the chain does not answer as it must.
    pub(super) async fn open(chain: &'a Chain, traffic: Traffic, bytes: Arc<Vec<Bytes>>, plan: &Plan) -> Result<Self> {
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            connections.push(Connection::open(&chain.client).await?);
        }
        let mut lane = Self {
            traffic,
            chain,
            requests: Requests {
                bytes,
                fresh: traffic.fresh(),
                status: chain.status(traffic),
            },
            connections,
            count: plan.count(traffic.count()),
            paced: paced_count(traffic, plan),
            sent: 0,
            records_a_request: 0,
            slice_costs: Vec::new(),
            slice_rates: Vec::new(),
            costs: Vec::new(),
            rates: Vec::new(),
            busy: Vec::new(),
            times: Vec::new(),
        };
        lane.warm_up(warm_up(plan)).await?;
        Ok(lane)
    }

    /// Which chain.
    pub(super) fn kind(&self) -> Kind {
        self.chain.kind
    }

    /// Turn by turn, as what follows: a sidecar denies what it cannot record, and its policy feed shares a core with the
    /// generator.
    async fn warm_up(&mut self, slices: usize) -> Result<()> {
        let before = self.records_at_rest().await;
        self.saturate().await?;
        self.records_a_request = (self.records_at_rest().await - before) / self.count as u64;
        for _ in 1..slices {
            let records = self.chain.records();
            self.saturate().await?;
            self.recorded_since(records).await?;
        }
        Ok(())
    }

    /// The requests of one turn, as fast as they go.
    async fn saturate(&mut self) -> Result<()> {
        saturate(&mut self.connections, &self.requests, self.sent, self.count).await?;
        self.sent += self.count;
        Ok(())
    }

    /// Waits until the records of one turn have been taken, that began when so many had been.
    async fn recorded_since(&self, records: u64) -> Result<()> {
        let expected = records + self.records_a_request * self.count as u64;
        self.chain.recorded(expected).await
    }

    /// The records that have been taken when no more come.
    async fn records_at_rest(&self) -> u64 {
        if !self.chain.makes_records() {
            return 0;
        }
        let (mut records, mut since) = (self.chain.records(), Instant::now());
        while since.elapsed() < RECORDS_REST {
            tokio::time::sleep(Duration::from_millis(10)).await;
            if self.chain.records() != records {
                (records, since) = (self.chain.records(), Instant::now());
            }
        }
        records
    }

    /// A slice of a round: some requests as fast as they go, and what they cost.
    ///
    /// # Errors
    ///
    /// When a request is not answered as it must, or records are not taken.
    pub(super) async fn slice(&mut self) -> Result<()> {
        let records = self.chain.records();
        let (used, start) = (self.chain.used()?, Instant::now());
        self.saturate().await?;
        let elapsed = start.elapsed();
        tokio::time::sleep(REST).await;
        let busy = self.chain.used()? - used;
        self.recorded_since(records).await?;
        tokio::time::sleep(REST).await;
        let cost = self.chain.used()? - used;
        self.slice_costs.push(cost.as_secs_f64() * 1e6 / self.count as f64);
        self.slice_rates.push(self.count as f64 / elapsed.as_secs_f64());
        self.busy.push(busy.as_secs_f64() / elapsed.as_secs_f64());
        Ok(())
    }

    /// Ends a round: its slices become one sample.
    pub(super) fn end_round(&mut self) {
        let mean = |samples: &mut Vec<f64>| {
            let sum: f64 = samples.iter().sum();
            sum / samples.drain(..).len() as f64
        };
        self.costs.push(mean(&mut self.slice_costs));
        self.rates.push(mean(&mut self.slice_rates));
    }

    /// A while at a fixed rate.
    ///
    /// # Errors
    ///
    /// When a request is not answered as it must.
    pub(super) async fn pace(&mut self) -> Result<()> {
        let (count, rate) = (self.paced, self.traffic.rate());
        let times = paced(
            &mut self.connections,
            &self.requests,
            self.sent,
            count,
            rate,
            Pace::Awake,
        )
        .await?;
        self.sent += count;
        self.times.extend(times);
        Ok(())
    }

    /// Microseconds a request, of every round.
    pub(super) fn costs(&self) -> &[f64] {
        &self.costs
    }

    /// Of all requests at the fixed rate.
    pub(super) fn latency(&self) -> Option<Latency> {
        let mut micros: Vec<f64> = self.times.iter().map(|time| time.as_secs_f64() * 1e6).collect();
        micros.sort_by(f64::total_cmp);
        Some(Latency {
            p50_us: quantile(&micros, 0.5)?,
            p99_us: quantile(&micros, 0.99)?,
            rate: self.traffic.rate(),
        })
    }

    /// Where Envoy had no time left in half of the rounds.
    pub(super) fn requests_per_second(&self) -> Option<f64> {
        let busy = Summary::of(&self.busy)?;
        let rate = Summary::of(&self.rates)?;
        (busy.median >= SATURATED).then_some(rate.median)
    }
}
