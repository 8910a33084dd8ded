//! Which records to show.

use authz::audit::Record;

/// All that is given must hold of a record.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Which records")]
pub(in crate::cli) struct Filter {
    /// Of this agent
    #[arg(long, value_name = "AGENT")]
    agent: Option<String>,
    /// Of this call
    #[arg(long, value_name = "CALL")]
    call: Option<String>,
    /// Of this user request
    #[arg(long, value_name = "TXN")]
    txn: Option<String>,
    /// To this service, `namespace/name`
    #[arg(long, value_name = "SERVICE")]
    service: Option<String>,
    /// With this denial's code
    #[arg(long, value_name = "CODE")]
    code: Option<String>,
    /// Of calls that went on in shadow, each with the code of what would have denied it
    #[arg(long)]
    shadow: bool,
    /// From or about this workload or peer, by SPIFFE ID
    #[arg(long, value_name = "SPIFFE_ID")]
    workload: Option<String>,
    /// Made at this time or later, in Unix seconds
    #[arg(long, value_name = "SECONDS")]
    since: Option<u64>,
    /// Made before this time, in Unix seconds
    #[arg(long, value_name = "SECONDS")]
    until: Option<u64>,
}

impl Filter {
    pub(in crate::cli) fn takes(&self, record: &Record<'_>) -> bool {
        let is =
            |wanted: &Option<String>, found: Option<&str>| wanted.as_deref().is_none_or(|wanted| found == Some(wanted));
        let workload = self.workload.as_deref().is_none_or(|wanted| {
            [&record.workload, &record.peer]
                .into_iter()
                .any(|found| found.as_deref() == Some(wanted))
        });
        let seconds = record.time_ms / 1000;
        is(&self.agent, record.agent_id.as_deref())
            && is(&self.call, record.call.as_deref())
            && is(&self.txn, record.txn.as_deref())
            && is(&self.service, record.service.as_deref())
            && is(&self.code, record.code.map(|code| code.as_str()))
            && (!self.shadow || record.is_in_shadow())
            && workload
            && self.since.is_none_or(|since| seconds >= since)
            && self.until.is_none_or(|until| seconds < until)
    }
}
