//! TLS towards the policy server, which in a mesh is known by a SPIFFE ID and not by a host name.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use webpki::EndEntityCert;

/// Why no TLS connection can be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("a certificate or key is not readable PEM")]
    Pem(#[from] pem::Error),
    #[error("a certificate or key cannot be used")]
    Rustls(#[from] rustls::Error),
    #[error("the authority cannot be used")]
    Authority(#[from] rustls::client::VerifierBuilderError),
}

/// A client that trusts one authority and shows its certificate, if it has one (chain and key, PEM).
///
/// With `identity` the server must hold that SPIFFE ID, whatever it is called; without, the host name must fit.
pub(crate) fn client_config(
    authority: Option<&[u8]>,
    certificate: Option<(&[u8], &[u8])>,
    identity: Option<&str>,
) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for root in authority.into_iter().flat_map(CertificateDer::pem_slice_iter) {
        roots.add(root?)?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match (roots.is_empty(), identity) {
        (true, _) => builder.with_root_certificates(roots),
        (false, Some(identity)) => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(SpiffeVerifier::new(roots, provider, identity))),
        (false, None) => {
            let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
            builder.with_webpki_verifier(verifier)
        }
    };
    match certificate {
        None => Ok(builder.with_no_client_auth()),
        Some((chain, key)) => {
            let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>()?;
            Ok(builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key)?)?)
        }
    }
}

/// Accepts a server whose certificate is signed by our authority and whose only URI name is the wanted SPIFFE ID.
#[derive(Debug)]
struct SpiffeVerifier {
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
    identity: String,
}

impl SpiffeVerifier {
    fn new(roots: RootCertStore, provider: Arc<CryptoProvider>, identity: &str) -> Self {
        Self {
            roots,
            provider,
            identity: identity.to_owned(),
        }
    }
}

impl ServerCertVerifier for SpiffeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        let certificate = EndEntityCert::try_from(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        let mut names = certificate.valid_uri_names();
        match (names.next(), names.next()) {
            (Some(name), None) if name == self.identity => Ok(ServerCertVerified::assertion()),
            _ => Err(CertificateError::NotValidForName.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
    use rustls::server::WebPkiClientVerifier;
    use rustls::{ClientConnection, ServerConfig, ServerConnection};

    use super::*;

    const SERVER: &str = "spiffe://cluster.local/ns/ostiary/sa/policy-server";
    const CALLER: &str = "spiffe://cluster.local/ns/orchestration/sa/orchestrator";

    struct Authority {
        pem: String,
        issuer: Issuer<'static, KeyPair>,
    }

    impl Authority {
        fn new() -> Self {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let pem = params.self_signed(&key).unwrap().pem();
            Self {
                pem,
                issuer: Issuer::new(params, key),
            }
        }

        /// A certificate with these URI names, and its key.
        fn certificate(&self, names: &[&str]) -> (String, String) {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            params
                .subject_alt_names
                .extend(names.iter().map(|name| SanType::URI((*name).try_into().unwrap())));
            (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
        }

        fn server(&self, names: &[&str]) -> ServerConfig {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let (certificate, key) = self.certificate(names);
            let mut roots = RootCertStore::empty();
            roots
                .add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap())
                .unwrap();
            let callers = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .unwrap();
            ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_client_cert_verifier(callers)
                .with_single_cert(
                    vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                    PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
                )
                .unwrap()
        }

        fn client(&self, identity: Option<&str>) -> ClientConfig {
            let (certificate, key) = self.certificate(&[CALLER]);
            client_config(
                Some(self.pem.as_bytes()),
                Some((certificate.as_bytes(), key.as_bytes())),
                identity,
            )
            .unwrap()
        }
    }

    /// Shakes hands in memory; the client's error, if it has one.
    fn shake(client: ClientConfig, server: ServerConfig, name: &'static str) -> Result<(), rustls::Error> {
        let mut client = ClientConnection::new(Arc::new(client), name.try_into().unwrap()).unwrap();
        let mut server = ServerConnection::new(Arc::new(server)).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let mut sent = Vec::new();
            client.write_tls(&mut sent).unwrap();
            server.read_tls(&mut sent.as_slice()).unwrap();
            server.process_new_packets()?;
            let mut answered = Vec::new();
            server.write_tls(&mut answered).unwrap();
            client.read_tls(&mut answered.as_slice()).unwrap();
            client.process_new_packets()?;
        }
        Ok(())
    }

    #[test]
    fn a_server_is_known_by_its_spiffe_id_alone() {
        let authority = Authority::new();
        let shake = |names: &[&str]| shake(authority.client(Some(SERVER)), authority.server(names), "elsewhere");
        assert_eq!(shake(&[SERVER]), Ok(()));
        let wrong = Err(CertificateError::NotValidForName.into());
        assert_eq!(shake(&[CALLER]), wrong);
        assert_eq!(shake(&[]), wrong);
        assert_eq!(shake(&[SERVER, CALLER]), wrong);
        assert_eq!(shake(&[CALLER, SERVER]), wrong);
    }

    #[test]
    fn another_authority_is_not_trusted() {
        let (authority, other) = (Authority::new(), Authority::new());
        for identity in [Some(SERVER), None] {
            let error = shake(authority.client(identity), other.server(&[SERVER]), "localhost").unwrap_err();
            assert!(matches!(error, rustls::Error::InvalidCertificate(_)), "{error:?}");
        }
    }

    #[test]
    fn without_a_spiffe_id_the_host_name_must_fit() {
        let authority = Authority::new();
        assert_eq!(
            shake(authority.client(None), authority.server(&[SERVER]), "localhost"),
            Ok(())
        );
        assert!(shake(authority.client(None), authority.server(&[SERVER]), "elsewhere").is_err());
    }
}
