//! Long-polls, as many as a mesh has VMs: what a held one takes of the server's memory, and how soon all hear of a change.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use serde_json::Value;
use tests::client::{Call, Client};
use tests::pki::Workload;
use tests::policy_server::PolicyServer;
use tests::sidecar::POLICY_AUTHORITY;
use tests::wait;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::stand::{Stand, accepted, metric, peer};
use crate::population;

/// VMs of one sidecar: three workers and the main thread.
pub(crate) const VMS_A_WORKLOAD: usize = 4;

/// How long the server may take to hold all polls, or to answer them.
const LIMIT: Duration = Duration::from_secs(60);

/// Connections that are opened at once: the kernel's queue of a socket is short.
const OPENED_AT_ONCE: usize = 64;

/// What a poll was told, and when.
#[derive(Debug)]
pub(crate) struct Told {
    at: Instant,
    bundle: bool,
    state: Option<String>,
}

/// Polls that ask again as soon as they are answered. They end with this.
#[derive(Debug)]
pub(crate) struct Polls {
    tasks: JoinSet<Result<()>>,
    told: mpsc::UnboundedReceiver<Told>,
    sender: mpsc::UnboundedSender<Told>,
    count: usize,
}

impl Polls {
    /// None yet.
    pub(crate) fn new() -> Self {
        let (sender, told) = mpsc::unbounded_channel();
        Self {
            tasks: JoinSet::new(),
            told,
            sender,
            count: 0,
        }
    }

    /// Opens connections until there are `count`, and waits until the server holds a poll on each.
    ///
    /// # Errors
    ///
    /// When a poll is refused, or the server does not hold them all.
    pub(crate) async fn hold(&mut self, stand: &Stand, count: usize) -> Result<()> {
        let whose = |number| population::agent(number / VMS_A_WORKLOAD);
        self.hold_beside(&stand.server, 0, whose, count).await
    }

    /// The same of a server that holds so many polls of others.
    ///
    /// # Errors
    ///
    /// As [`Self::hold`].
    pub(crate) async fn hold_beside(
        &mut self,
        server: &PolicyServer,
        others: usize,
        whose: impl Fn(usize) -> Workload,
        count: usize,
    ) -> Result<()> {
        while self.count < count {
            let most = count.min(self.count + OPENED_AT_ONCE);
            for number in self.count..most {
                let client = server.direct().within(LIMIT);
                self.tasks.spawn(poll(client, whose(number), self.sender.clone()));
            }
            self.count = most;
            self.answered(server, others + most).await?;
        }
        Ok(())
    }

    /// Waits until so many polls are held, and forgets what they were told before.
    async fn answered(&mut self, server: &PolicyServer, count: usize) -> Result<()> {
        let what = format!("{count} held polls");
        let held = wait::until(&what, LIMIT, async || {
            let held = metric(server, "ostiary_polls_held").await.unwrap_or_default();
            (held == count as u64 || !self.alive()).then_some(())
        });
        held.await?;
        self.check()?;
        while self.told.try_recv().is_ok() {}
        Ok(())
    }

    /// Makes a change that concerns all workloads. Answers how long after it the first and the last poll were told.
    ///
    /// # Errors
    ///
    /// When the change fails or not all polls are told.
    pub(crate) async fn tell(&mut self, change: impl FnOnce() -> Result<()>) -> Result<(Duration, Duration)> {
        let start = Instant::now();
        change()?;
        let (mut first, mut last) = (None, start);
        for _ in 0..self.count {
            let told = loop {
                let told = self.next().await?;
                if told.bundle {
                    break told;
                }
            };
            first.get_or_insert(told.at);
            last = told.at;
        }
        let first = first.context("there are no polls")?;
        Ok((first - start, last - start))
    }

    /// Waits for the next renewal of the state list. Answers how long after the first poll the last was told.
    ///
    /// # Errors
    ///
    /// When not all polls are told.
    pub(crate) async fn renewal(&mut self) -> Result<Duration> {
        let first = self.next().await?;
        let version = first.state.context("no state list")?;
        let mut last = first.at;
        for _ in 1..self.count {
            let told = self.next().await?;
            ensure!(
                told.state.as_ref() == Some(&version),
                "a poll was told of a renewal before the last one had reached all"
            );
            last = told.at;
        }
        Ok(last - first.at)
    }

    /// When the last poll was told the state list of this version, where each is told it once.
    ///
    /// # Errors
    ///
    /// When not all polls are told.
    pub(crate) async fn told(&mut self, state: &str) -> Result<Instant> {
        let (mut told, mut last) = (0, Instant::now());
        while told < self.count {
            let heard = self.next().await?;
            if heard.state.as_deref() == Some(state) {
                (told, last) = (told + 1, heard.at);
            }
        }
        self.check()?;
        Ok(last)
    }

    async fn next(&mut self) -> Result<Told> {
        tokio::time::timeout(LIMIT, self.told.recv())
            .await
            .context("not all polls were answered")?
            .context("no polls")
    }

    fn alive(&self) -> bool {
        self.tasks.len() == self.count
    }

    /// A poll ends by itself only when it failed.
    fn check(&mut self) -> Result<()> {
        match self.tasks.try_join_next() {
            None => Ok(()),
            Some(ended) => ended?.context("a poll failed"),
        }
    }
}

/// Polls for ever, as a filter does.
async fn poll(client: Client, workload: Workload, told: mpsc::UnboundedSender<Told>) -> Result<()> {
    let mut connection = client.connect().await?;
    let (mut bundle, mut state) = (None::<String>, None::<String>);
    loop {
        let mut path = "/v1/policy?formats=1".to_owned();
        for (name, version) in [("bundle", &bundle), ("state", &state)] {
            if let Some(version) = version {
                path.push_str(&format!("&{name}={version}"));
            }
        }
        let answer = connection.send(call(&workload, &path)).await?;
        if answer.status == 204 {
            continue;
        }
        let (at, news) = (Instant::now(), accepted(&answer)?);
        let (new_bundle, new_state) = (version(&news, "bundle")?, version(&news, "state")?);
        let heard = Told {
            at,
            bundle: new_bundle.is_some(),
            state: new_state.clone(),
        };
        bundle = new_bundle.or(bundle);
        state = new_state.or(state);
        if told.send(heard).is_err() {
            return Ok(());
        }
    }
}

fn call(workload: &Workload, path: &str) -> Call {
    let (name, value) = peer(workload);
    Call::new("GET", POLICY_AUTHORITY, path)
        .header(name, value)
        .header(policy_server::routes::CALLOUT, "1")
}

/// The version of a signed document in an answer, if it has one.
fn version(news: &Value, name: &str) -> Result<Option<String>> {
    let Some(jws) = news.get(name).and_then(Value::as_str) else {
        return Ok(None);
    };
    let payload = jws.split('.').nth(1).context("no JWS")?;
    let claims: Value = serde_json::from_slice(&BASE64URL.decode(payload)?)?;
    match (claims.get("epoch"), claims.get("version")) {
        (Some(epoch), Some(version)) => Ok(Some(format!("{epoch}.{version}"))),
        _ => bail!("a {name} without version"),
    }
}

/// Has every workload ask once, so that its bundle is signed and kept before memory is looked at.
///
/// # Errors
///
/// When one is refused.
pub(crate) async fn warm(stand: &Stand) -> Result<()> {
    let mut connection = stand.client().connect().await?;
    for number in 0..stand.population.agents() {
        accepted(
            &connection
                .send(call(&population::agent(number), "/v1/policy?formats=1"))
                .await?,
        )?;
    }
    Ok(())
}

/// Shows that the very process tells a sidecar its own policy, and neither an application nor a stranger.
///
/// # Errors
///
/// When it does not.
pub(crate) async fn check(stand: &Stand) -> Result<()> {
    let path = "/v1/policy?formats=1";
    accepted(&stand.client().send(call(&population::agent(0), path)).await?)?;
    let (name, value) = peer(&population::agent(0));
    let application = Call::new("GET", POLICY_AUTHORITY, path).header(name, value);
    let application = stand.client().send(application).await?;
    ensure!(
        application.status == 403,
        "an application was answered {}",
        application.status
    );
    let stranger = call(&Workload::new("agents", "stranger"), path);
    let stranger = stand.client().send(stranger).await?;
    ensure!(stranger.status == 404, "a stranger was answered {}", stranger.status);
    Ok(())
}
