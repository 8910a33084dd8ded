//! Where the story is told: the mini mesh, or a cluster.

use std::future::Future;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::backends::Seen;
use crate::client::{Answer, Call, Client};
use crate::cluster::Pod;
use crate::mesh::Mesh;
use crate::pki::Credential;
use crate::sidecar::POLICY_AUTHORITY;

/// Somebody who makes calls.
#[derive(Debug, Clone)]
pub enum Caller {
    /// This process, with its own connections.
    Here(Client),
    /// The application in a pod.
    There(Pod),
}

impl From<Client> for Caller {
    fn from(client: Client) -> Self {
        Self::Here(client)
    }
}

impl Caller {
    /// The same with more patience, where it is in the test's hand.
    #[must_use]
    pub fn within(self, limit: Duration) -> Self {
        match self {
            Self::Here(client) => Self::Here(client.within(limit)),
            Self::There(pod) => Self::There(pod),
        }
    }

    /// Makes one call.
    ///
    /// # Errors
    ///
    /// When no complete answer comes in time.
    pub async fn send(&self, call: Call) -> Result<Answer> {
        match self {
            Self::Here(client) => client.send(call).await,
            Self::There(pod) => pod.send(call).await,
        }
    }
}

/// The parties of the story, and the services' own logs.
pub trait Stage {
    /// What callers write in `Host` for a service.
    ///
    /// # Errors
    ///
    /// When there is no such service.
    fn authority(&self, service: &str) -> Result<String>;

    /// The same for the policy server.
    fn policy_authority(&self) -> String;

    /// An agent's process, which has its own sidecar before it.
    ///
    /// # Errors
    ///
    /// When there is no such agent.
    fn agent(&self, name: &str) -> Result<Caller>;

    /// Somebody who holds an agent's certificate, straight at a service's sidecar: an agent that has got around its own.
    ///
    /// # Errors
    ///
    /// When there is no such service or agent.
    fn direct(&self, service: &str, agent: &str) -> Result<Caller>;

    /// One who asks the policy server for tokens, by a mutual TLS of its own: `orchestrator` or `scheduler`.
    ///
    /// # Errors
    ///
    /// When there is no such principal.
    fn principal(&self, name: &str) -> Result<Caller>;

    /// Those who should find no way to a service at all, and what each tries.
    ///
    /// # Errors
    ///
    /// When there is no such service.
    fn strangers(&self, service: &str) -> Result<Vec<(&'static str, Caller)>>;

    /// Whether an application may see the headers of a request whose body is then denied.
    fn headers_may_pass(&self) -> bool;

    /// What a service's own log has of requests with this header.
    fn seen(&self, service: &str, header: &str, value: &str) -> impl Future<Output = Result<Vec<Seen>>> + Send;

    /// Replaces a part of an agent's policy.
    ///
    /// # Errors
    ///
    /// When the policy has no such part.
    fn edit_agent(&self, name: &str, from: &str, to: &str) -> Result<()>;

    /// What the command `ostiary` says to an operator beside the policy server.
    ///
    /// # Errors
    ///
    /// When it fails.
    fn ostiary(&self, arguments: &[&str]) -> Result<String>;
}

impl Stage for Mesh {
    fn authority(&self, service: &str) -> Result<String> {
        Ok(self.service(service)?.authority())
    }

    fn policy_authority(&self) -> String {
        POLICY_AUTHORITY.to_owned()
    }

    fn agent(&self, name: &str) -> Result<Caller> {
        Ok(Self::agent(self, name)?.client().into())
    }

    fn direct(&self, service: &str, agent: &str) -> Result<Caller> {
        Ok(Self::direct(self, service, agent)?.into())
    }

    fn principal(&self, name: &str) -> Result<Caller> {
        let credential: &Credential = match name {
            "orchestrator" => &self.orchestrator,
            _ => &self.scheduler,
        };
        Ok(self.policy_server.client(&self.ca, credential)?.into())
    }

    fn strangers(&self, service: &str) -> Result<Vec<(&'static str, Caller)>> {
        let found = self.service(service)?;
        let without = Client::tls(found.address, &found.host, &self.ca, None)?;
        let mut strangers: Vec<(_, Caller)> = vec![
            ("around the sidecar, without a certificate", without.into()),
            ("around the sidecar, without TLS", Client::plain(found.address).into()),
        ];
        if let Some((netns, _)) = &Self::agent(self, "analyst-7")?.inside {
            // Even with the certificate that it should never see, its namespace has no way there.
            let inside = Self::direct(self, service, "analyst-7")?.inside(netns);
            strangers.push(("analyst-7's process, straight to the service", inside.into()));
        }
        Ok(strangers)
    }

    fn headers_may_pass(&self) -> bool {
        !self.headers_stop_iteration
    }

    async fn seen(&self, service: &str, header: &str, value: &str) -> Result<Vec<Seen>> {
        Ok(self.service(service)?.backend.seen_with(header, value))
    }

    fn edit_agent(&self, name: &str, from: &str, to: &str) -> Result<()> {
        let file = self.policy.join(format!("agent-{name}.yaml"));
        let before = std::fs::read_to_string(&file)?;
        let after = before.replace(from, to);
        anyhow::ensure!(before != after, "{} does not say `{from}`", file.display());
        Ok(std::fs::write(&file, after)?)
    }

    fn ostiary(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(crate::built::ostiary()?);
        let config = ["--config".as_ref(), self.policy_server.config().as_os_str()];
        let output = command.args(arguments).args(config).output()?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        anyhow::ensure!(output.status.success(), "{arguments:?}: {said}");
        Ok(said)
    }
}
