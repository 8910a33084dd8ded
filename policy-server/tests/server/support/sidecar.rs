//! A sidecar that tells of calls: its chain of records, sealed and posted.

use authz::audit::{Chain, Record, Sealed, SourceId};
use http::StatusCode;

use super::{NOW, Server};

pub(crate) struct Sidecar {
    pub(crate) chain: Chain,
    pub(crate) workload: &'static str,
}

impl Sidecar {
    /// Opens its chain.
    pub(crate) async fn start(server: &Server, id: u8, workload: &'static str) -> Self {
        let mut sidecar = Self {
            chain: Chain::new(SourceId([id; 16])),
            workload,
        };
        sidecar
            .post(server, &[Record::source(NOW * 1000, workload, None)])
            .await;
        sidecar
    }

    /// The records as its own, each the next of its chain.
    pub(crate) fn seal(&mut self, records: &[Record<'_>]) -> Vec<Sealed> {
        let own = records.iter().map(|record| Record {
            workload: Some(self.workload.into()),
            ..record.clone()
        });
        own.map(|record| self.chain.seal(&record)).collect()
    }

    /// Posts records, which are stored.
    pub(crate) async fn post(&mut self, server: &Server, records: &[Record<'_>]) {
        let body = lines(&self.seal(records));
        let answer = server.records(self.workload, body).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    }
}

/// Sealed records as a body.
pub(crate) fn lines(sealed: &[Sealed]) -> Vec<u8> {
    sealed
        .iter()
        .flat_map(|sealed| [&sealed.line[..], b"\n"].concat())
        .collect()
}
