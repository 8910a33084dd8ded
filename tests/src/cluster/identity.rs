//! What somebody holds who has stolen a workload's identity: a certificate of the mesh's own CA, got as a sidecar gets it.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use http::Request;
use hyper::body::Bytes;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};

use super::Cluster;
use crate::client::{Client, tls_builder, trusting};
use crate::pki::{self, Workload};

/// istiod's certificate is for this name.
const ISTIOD: &str = "istiod.istio-system.svc";

/// A service of istio/api, security/v1alpha1/ca.proto.
const CREATE_CERTIFICATE: &str =
    "https://istiod.istio-system.svc/istio.v1.auth.IstioCertificateService/CreateCertificate";

/// How long a certificate is asked for, in seconds.
const VALIDITY: u64 = 3600;

/// A certificate of the mesh and its key.
#[derive(Debug)]
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
    root: CertificateDer<'static>,
}

impl Identity {
    /// Asks istiod for a workload's certificate, by a token of its service account.
    ///
    /// # Errors
    ///
    /// When the API server gives no token, or istiod no certificate.
    pub async fn stolen(cluster: &Cluster, workload: &Workload) -> Result<Self> {
        let (namespace, account) = (&workload.namespace, &workload.service_account);
        let token = cluster.kubectl(["-n", namespace, "create", "token", account, "--audience", "istio-ca"])?;
        let root = cluster.kubectl([
            "-n",
            namespace,
            "get",
            "configmap",
            "istio-ca-root-cert",
            "--output",
            r"jsonpath={.data.root-cert\.pem}",
        ])?;
        let root = CertificateDer::from_pem_slice(root.as_bytes())?;
        let (key, request) = pki::request(workload)?;
        let istiod = SocketAddr::new(cluster.pod_ip("istio-system", "app=istiod")?, 15012);
        let config = tls_builder()?
            .with_root_certificates(trusting(root.clone())?)
            .with_no_client_auth();
        let client = Client::plain(istiod)
            .inside(&cluster.node()?)
            .http2()
            .over(config, ISTIOD)?;
        let chain = signed(&client, token.trim(), &request).await?;
        Ok(Self {
            certificate: CertificateDer::from_pem_slice(chain.as_bytes())?,
            key: PrivatePkcs8KeyDer::from(key.serialize_der()),
            root,
        })
    }

    /// A client that shows it to whoever listens at an address of the mesh.
    ///
    /// # Errors
    ///
    /// When certificate and key do not fit together.
    pub fn client(&self, cluster: &Cluster, address: SocketAddr) -> Result<Client> {
        let key = PrivateKeyDer::Pkcs8(self.key.clone_key());
        let config = tls_builder()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyName::of(self.root.clone())?))
            .with_client_auth_cert(vec![self.certificate.clone()], key)?;
        Client::plain(address).inside(&cluster.node()?).over(config, "sidecar")
    }

    /// The same without showing anything.
    ///
    /// # Errors
    ///
    /// When the root is no certificate.
    pub fn without(&self, cluster: &Cluster, address: SocketAddr) -> Result<Client> {
        let config = tls_builder()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyName::of(self.root.clone())?))
            .with_no_client_auth();
        Client::plain(address).inside(&cluster.node()?).over(config, "sidecar")
    }
}

/// One call of gRPC: a message of one field, answered by a message whose first field is the leaf certificate.
async fn signed(client: &Client, token: &str, request: &str) -> Result<String> {
    let (sender, connection) = h2::client::handshake(client.open().await?).await?;
    let connection = tokio::spawn(connection);
    let head = Request::post(CREATE_CERTIFICATE)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("authorization", format!("Bearer {token}"))
        .body(())?;
    let (response, mut body) = sender.ready().await?.send_request(head, false)?;
    body.send_data(framed(request)?, true)?;
    let mut answer = response.await?.into_body();
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.data().await {
        let chunk = chunk?;
        answer.flow_control().release_capacity(chunk.len())?;
        bytes.extend(chunk);
    }
    let trailers = answer.trailers().await?;
    connection.abort();
    first_string(bytes.get(5..).unwrap_or_default())
        .with_context(|| format!("istiod gave no certificate: {trailers:?}"))
}

/// `IstioCertificateRequest { csr = 1, validity_duration = 3 }` behind gRPC's five bytes.
fn framed(request: &str) -> Result<Bytes> {
    let mut message = vec![1 << 3 | 2];
    varint(&mut message, u64::try_from(request.len())?);
    message.extend(request.as_bytes());
    message.push(3 << 3);
    varint(&mut message, VALIDITY);
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len())?.to_be_bytes());
    frame.extend(message);
    Ok(frame.into())
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The first field of a message, which is a string.
fn first_string(message: &[u8]) -> Result<String> {
    let [tag, rest @ ..] = message else {
        bail!("an empty message");
    };
    anyhow::ensure!(*tag == 1 << 3 | 2, "no string first");
    let (mut length, mut shift, mut used) = (0_usize, 0, 0);
    for byte in rest.iter().take(5) {
        length |= usize::from(byte & 0x7f) << shift;
        (shift, used) = (shift + 7, used + 1);
        if byte & 0x80 == 0 {
            break;
        }
    }
    let text = rest.get(used..used + length).context("cut short")?;
    Ok(String::from_utf8(text.to_vec())?)
}

/// Certificates of the mesh name no host: any that the CA has signed will do.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl AnyName {
    fn of(root: CertificateDer<'static>) -> Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = Arc::new(trusting(root)?);
        Ok(Self(
            WebPkiServerVerifier::builder_with_provider(roots, provider).build()?,
        ))
    }
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // The name is looked at last, when everything else was right.
        match self.0.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
