//! From claims to an index, every rule checked on the way.

use std::{cmp::Ordering, collections::BTreeSet};

use super::{
    Agent, BundleClaims, ContentError, FORMAT, PolicyError, PolicyServerClaims, Service, ServiceClaims, ServiceIndex,
    Version, check,
    fault::{Fault, Faults},
    pages::Pages,
    pending::PendingBundle,
};
use crate::{
    identity::{Issuer, KeyId, ServiceId, SpiffeId},
    order,
    session::{SessionKey, SessionKeys},
    token::{Issuers, SKEW_SECONDS, TokenLimits},
};

/// The longest that any bundle may let a filter go on without news, in seconds.
pub const MAX_STATE_AGE_SECONDS: u64 = 3600;

/// The longest lifetime that any bundle may allow a token, in seconds.
pub const MAX_TOKEN_TTL_SECONDS: u64 = 86_400;

/// The policy server as a built-in service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyServer {
    identity: SpiffeId,
    hosts: Box<[Box<str>]>,
}

/// A verified bundle, indexed.
#[derive(Debug, Clone)]
pub struct Bundle {
    issuer: Issuer,
    workload: SpiffeId,
    /// None if nobody signed it.
    pub(super) signed_by: Option<KeyId>,
    version: Version,
    expires_at: u64,
    max_state_age_seconds: u64,
    limits: TokenLimits,
    issuers: Issuers,
    policy_server: PolicyServer,
    session_keys: SessionKeys,
    /// Sorted by id.
    services: Box<[Service]>,
    /// Service and place among its hosts, sorted by host.
    hosts: Box<[(ServiceIndex, u16)]>,
    /// The services that the workload exposes, sorted by port.
    ports: Box<[(u16, ServiceIndex)]>,
    pub(super) pages: Pages,
}

impl PolicyServer {
    /// Its identity.
    #[must_use]
    pub fn identity(&self) -> &SpiffeId {
        &self.identity
    }

    /// Whether `authority` (`host` or `host:port`, in any case) names it.
    ///
    /// To be asked before services are, so that no service's file can take the policy server's place.
    #[must_use]
    pub fn answers_to(&self, authority: &str) -> bool {
        host_of(authority).is_some_and(|host| self.hosts.iter().any(|name| name.eq_ignore_ascii_case(host)))
    }
}

impl Bundle {
    /// Indexes claims that this very process compiled, for decisions made offline; nothing vouches for them otherwise.
    ///
    /// # Errors
    ///
    /// [`PolicyError`], as for a signed bundle.
    pub fn from_own_claims(claims: BundleClaims, now: u64) -> Result<Self, PolicyError> {
        if claims.format != FORMAT {
            return Err(PolicyError::Format(claims.format));
        }
        let aud = claims.aud.clone();
        PendingBundle::whole(claims, &aud, None, now)?.finish()
    }

    /// Checks and indexes all but the agents, which are given back as they came.
    pub(super) fn without_agents<A>(
        claims: BundleClaims<A>,
        aud: &SpiffeId,
        held: Option<Version>,
        now: u64,
    ) -> Result<(Self, Vec<A>), PolicyError> {
        check_header(&claims, aud, held, now)?;
        let mut faults = Faults::default();
        let indexed = Self::index(claims, &mut faults);
        faults.none()?;
        Ok(indexed)
    }

    /// Checks what concerns all agents.
    pub(super) fn check_agents(&self) -> Result<(), PolicyError> {
        let mut faults = Faults::default();
        self.pages.check(&self.services, &mut faults);
        faults.none()
    }

    fn index<A>(claims: BundleClaims<A>, faults: &mut Faults) -> (Self, Vec<A>) {
        let version = Version {
            epoch: claims.epoch,
            counter: claims.version,
        };
        let mut issuers = Issuers::default();
        for (index, issuer) in claims.issuers.into_iter().enumerate() {
            if !issuers.insert(issuer.iss, issuer.jwks) {
                faults.add(format!("issuers/{index}/iss"), ContentError::Twice);
            }
        }
        let services = services(&claims.services, faults);
        let bundle = Self {
            issuer: claims.iss,
            signed_by: None,
            version,
            expires_at: claims.expires_at,
            max_state_age_seconds: claims.max_state_age_seconds,
            limits: TokenLimits {
                max_lifetime_seconds: claims.max_token_ttl_seconds,
                skew_seconds: SKEW_SECONDS,
            },
            issuers,
            policy_server: policy_server(claims.policy_server, faults),
            session_keys: session_keys(&claims.session_keys, faults),
            hosts: host_index(&services, faults),
            ports: port_index(&services, &claims.aud, faults),
            workload: claims.aud,
            services,
            pages: Pages::default(),
        };
        (bundle, claims.agents)
    }

    /// The policy server that signed it.
    #[must_use]
    pub fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// The key that signed it; none if it was made by [`Self::from_own_claims`].
    #[must_use]
    pub fn key(&self) -> Option<&KeyId> {
        self.signed_by.as_ref()
    }

    /// The workload that it is for (`aud`).
    #[must_use]
    pub fn workload(&self) -> &SpiffeId {
        &self.workload
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// When it stops to be valid, in seconds.
    #[must_use]
    pub fn expires_at(&self) -> u64 {
        self.expires_at
    }

    /// Whether it has expired at `now`.
    #[must_use]
    pub fn expired(&self, now: u64) -> bool {
        now >= self.expires_at
    }

    /// How old a state list may be, in seconds.
    #[must_use]
    pub fn max_state_age_seconds(&self) -> u64 {
        self.max_state_age_seconds
    }

    /// The bounds that tokens are held to.
    #[must_use]
    pub fn token_limits(&self) -> &TokenLimits {
        &self.limits
    }

    /// The issuers whose tokens are accepted.
    #[must_use]
    pub fn issuers(&self) -> &Issuers {
        &self.issuers
    }

    /// The policy server as a service.
    #[must_use]
    pub fn policy_server(&self) -> &PolicyServer {
        &self.policy_server
    }

    /// The keys that seal ids of sessions at this workload; none from a policy server that does not know of them.
    #[must_use]
    pub fn session_keys(&self) -> &SessionKeys {
        &self.session_keys
    }

    /// The services, by id.
    #[must_use]
    pub fn services(&self) -> &[Service] {
        &self.services
    }

    /// The service at a place.
    #[must_use]
    pub fn service(&self, index: ServiceIndex) -> Option<&Service> {
        self.services.get(usize::from(index.0))
    }

    /// The service of this id.
    #[must_use]
    pub fn service_with_id(&self, id: &ServiceId) -> Option<ServiceIndex> {
        service_of_id(&self.services, id.as_str())
    }

    /// The service that this workload exposes on `port`: how the inbound side finds it.
    #[must_use]
    pub fn service_exposed_on(&self, port: u16) -> Option<ServiceIndex> {
        let index = self.ports.binary_search_by_key(&port, |&(port, _)| port).ok()?;
        self.ports.get(index).map(|&(_, service)| service)
    }

    /// The service that `authority` (`host` or `host:port`, in any case) names: how the outbound side finds it.
    ///
    /// The port is not compared, because callers name the port of a Kubernetes Service and a bundle those that its workload
    /// listens on. The inbound side decides by the latter.
    #[must_use]
    pub fn service_named(&self, authority: &str) -> Option<ServiceIndex> {
        let host = host_of(authority)?;
        let index = self
            .hosts
            .binary_search_by(|&entry| compare_ignoring_case(self.host(entry).unwrap_or_default(), host))
            .ok()?;
        self.hosts.get(index).map(|&(service, _)| service)
    }

    fn host(&self, (service, place): (ServiceIndex, u16)) -> Option<&str> {
        self.service(service)?.hosts.get(usize::from(place)).map(|host| &**host)
    }

    /// The agent of this id.
    #[must_use]
    pub fn agent(&self, id: &str) -> Option<Agent<'_>> {
        self.pages.agent(id)
    }

    /// The agents, in no order that means anything.
    pub fn agents(&self) -> impl Iterator<Item = Agent<'_>> {
        self.pages.agents()
    }
}

fn check_header<A>(
    claims: &BundleClaims<A>,
    aud: &SpiffeId,
    held: Option<Version>,
    now: u64,
) -> Result<(), PolicyError> {
    let offered = Version {
        epoch: claims.epoch,
        counter: claims.version,
    };
    if claims.aud != *aud {
        return Err(PolicyError::Audience);
    }
    if let Some(held) = held.filter(|&held| offered < held) {
        return Err(PolicyError::Older { offered, held });
    }
    if claims.issued_at > now.saturating_add(SKEW_SECONDS) {
        return Err(PolicyError::IssuedInFuture);
    }
    if claims.expires_at <= now || claims.expires_at <= claims.issued_at {
        return Err(PolicyError::Expired);
    }
    let bounded = |field: &str, seconds: u64, max: u64| match seconds {
        0 => Err(PolicyError::Content {
            field: field.to_owned(),
            error: ContentError::OutOfBounds,
        }),
        seconds if seconds > max => Err(PolicyError::Content {
            field: field.to_owned(),
            error: ContentError::OutOfBounds,
        }),
        _ => Ok(()),
    };
    bounded(
        "max_state_age_seconds",
        claims.max_state_age_seconds,
        MAX_STATE_AGE_SECONDS,
    )?;
    bounded(
        "max_token_ttl_seconds",
        claims.max_token_ttl_seconds,
        MAX_TOKEN_TTL_SECONDS,
    )
}

fn policy_server(claims: PolicyServerClaims, faults: &mut Faults) -> PolicyServer {
    for (index, host) in claims
        .hosts
        .iter()
        .enumerate()
        .filter(|(_, host)| !check::is_host(host))
    {
        let _ = host;
        faults.add(format!("policy_server/hosts/{index}"), ContentError::Host);
    }
    PolicyServer {
        identity: claims.identity,
        hosts: claims.hosts.into_iter().map(String::into_boxed_str).collect(),
    }
}

fn services(claims: &[ServiceClaims], faults: &mut Faults) -> Box<[Service]> {
    if u16::try_from(claims.len()).is_err() {
        faults.add("services", ContentError::TooMany);
        return Box::default();
    }
    let mut services = Vec::with_capacity(claims.len());
    for (index, claims) in claims.iter().enumerate() {
        let mut own = Faults::default();
        services.extend(check::service(claims, &mut own));
        faults.0.extend(own.0.into_iter().map(|fault| Fault {
            field: format!("services/{index}/{}", fault.field),
            ..fault
        }));
    }
    order::sort_by(&mut services, |one, two| one.id.cmp(&two.id));
    if has_repeats(services.iter().map(|service| &service.id)) {
        faults.add("services", ContentError::Twice);
    }
    services.into()
}

fn session_keys(keys: &[SessionKey], faults: &mut Faults) -> SessionKeys {
    let keys = SessionKeys::new(keys).ok_or(ContentError::TooMany);
    faults.take(|| "session_keys".to_owned(), keys).unwrap_or_default()
}

fn host_index(services: &[Service], faults: &mut Faults) -> Box<[(ServiceIndex, u16)]> {
    let mut index: Vec<(&str, (ServiceIndex, u16))> = Vec::new();
    for (service, place) in services.iter().zip(0..) {
        index.extend(
            service
                .hosts()
                .zip(0..)
                .map(|(host, host_place)| (host, (ServiceIndex(place), host_place))),
        );
    }
    order::sort(&mut index);
    if has_repeats(index.iter().map(|(host, _)| host)) {
        faults.add("services", ContentError::HostTwice);
    }
    index.into_iter().map(|(_, entry)| entry).collect()
}

fn port_index(services: &[Service], workload: &SpiffeId, faults: &mut Faults) -> Box<[(u16, ServiceIndex)]> {
    let mut claimed = BTreeSet::new();
    for service in services {
        for port in service.ports() {
            if !claimed.insert((service.identity(), *port)) {
                faults.add("services", ContentError::PortTwice);
            }
        }
    }
    let mut index: Vec<(u16, ServiceIndex)> = Vec::new();
    for (service, place) in services
        .iter()
        .zip(0..)
        .filter(|(service, _)| service.identity() == workload)
    {
        index.extend(service.ports().iter().map(|&port| (port, ServiceIndex(place))));
    }
    order::sort(&mut index);
    index.into()
}

pub(super) fn service_of_id(services: &[Service], id: &str) -> Option<ServiceIndex> {
    let index = services.binary_search_by(|service| service.id.as_str().cmp(id)).ok()?;
    u16::try_from(index).ok().map(ServiceIndex)
}

pub(super) fn has_repeats<T: PartialEq>(sorted: impl Iterator<Item = T> + Clone) -> bool {
    sorted.clone().zip(sorted.skip(1)).any(|(one, next)| one == next)
}

/// The host of an authority; `None` where what follows it is not a port.
pub(super) fn host_of(authority: &str) -> Option<&str> {
    match authority.split_once(':') {
        None => Some(authority),
        Some((host, port)) => {
            let decimal = (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit());
            (decimal && port.parse().is_ok_and(|port: u16| port != 0)).then_some(host)
        }
    }
}

fn compare_ignoring_case(lower: &str, any: &str) -> Ordering {
    lower.bytes().cmp(any.bytes().map(|byte| byte.to_ascii_lowercase()))
}
