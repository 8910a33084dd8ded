//! What a file may say that no manifest can.

use authz::identity::SpiffeId;
use authz::manifest::{AgentManifest, DocumentRef, Manifests, Problem, ServiceManifest};

use super::reach::Workload;

/// A label's value holds no more; a service account's name may.
const LONGEST_LABEL: usize = 63;

/// What in the files cannot be rendered, though it can be served.
///
/// Leaving it out instead would give a mesh that denies without saying why.
#[must_use]
pub fn problems(manifests: &Manifests, trust_domain: &str) -> Vec<Problem> {
    let agents = manifests.agents.iter().enumerate();
    let services = manifests.services.iter().enumerate();
    agents
        .flat_map(|(index, agent)| of_agent(index, agent, trust_domain))
        .chain(services.flat_map(|(index, service)| of_service(index, service, trust_domain)))
        .collect()
}

fn of_agent(index: usize, manifest: &AgentManifest, trust_domain: &str) -> Vec<Problem> {
    let document = DocumentRef::Agent(index);
    let mut problems: Vec<_> = service_account(document, &manifest.spec.service_account)
        .into_iter()
        .collect();
    for (index, issuer) in manifest.spec.issuers.iter().enumerate() {
        problems.extend(peer(document, format!("/spec/issuers/{index}"), issuer, trust_domain));
    }
    problems
}

fn of_service(index: usize, manifest: &ServiceManifest, trust_domain: &str) -> Vec<Problem> {
    let document = DocumentRef::Service(index);
    let mut problems: Vec<_> = service_account(document, &manifest.spec.service_account)
        .into_iter()
        .collect();
    for (index, host) in manifest.spec.hosts.iter().enumerate() {
        problems.extend(elsewhere(document, format!("/spec/hosts/{index}"), host, manifest));
    }
    for (index, exempt) in manifest.spec.exempt.iter().enumerate() {
        let field = format!("/spec/exempt/{index}");
        problems.extend(peer(document, format!("{field}/peer"), &exempt.peer, trust_domain));
        // Istio reads these as wildcards and would let more pass than the file says.
        if exempt.path.contains(['*', '{', '}']) {
            problems.push(Problem {
                document,
                field: format!("{field}/path"),
                message: format!("`{}` would be a pattern in an AuthorizationPolicy", exempt.path),
                advice: "give the endpoint a path without `*`, `{` and `}`".to_owned(),
            });
        }
    }
    problems
}

/// A Sidecar looks for a host in the service's own namespace; one of another would be found nowhere.
fn elsewhere(document: DocumentRef, field: String, host: &str, manifest: &ServiceManifest) -> Option<Problem> {
    let own = &manifest.metadata.namespace;
    let mut labels = host.split('.').skip(1);
    let (namespace, svc) = (labels.next()?, labels.next()?);
    (svc == "svc" && namespace != own).then(|| Problem {
        document,
        field,
        message: format!("`{host}` is in the namespace `{namespace}`, but the service is in `{own}`"),
        advice: format!("name the Kubernetes Service of its own namespace, `NAME.{own}.svc.…`"),
    })
}

fn service_account(document: DocumentRef, name: &str) -> Option<Problem> {
    (name.len() > LONGEST_LABEL).then(|| Problem {
        document,
        field: "/spec/serviceAccount".to_owned(),
        message: format!("`{name}` is longer than a label's value, by which its pods are selected"),
        advice: format!("give the workload a service account of at most {LONGEST_LABEL} characters"),
    })
}

fn peer(document: DocumentRef, field: String, text: &str, trust_domain: &str) -> Option<Problem> {
    let identity: SpiffeId = text.parse().ok()?;
    let is_here = Workload::of(&identity).is_some_and(|workload| workload.service_account.len() <= LONGEST_LABEL)
        && identity.trust_domain() == trust_domain;
    (!is_here).then(|| Problem {
        document,
        field,
        message: format!("`{text}` is no service account of this cluster, so no pods can be selected for it"),
        advice: format!("write `spiffe://{trust_domain}/ns/NAMESPACE/sa/SERVICE_ACCOUNT` of the pods that call"),
    })
}
