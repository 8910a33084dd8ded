//! A test CA and the SPIFFE certificates that it signs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// The trust domain of every test mesh.
pub const TRUST_DOMAIN: &str = "cluster.local";

/// A workload: what Kubernetes knows of it, from which its SPIFFE ID follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// Its namespace.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
}

impl Workload {
    /// Names one.
    pub fn new(namespace: &str, service_account: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
        }
    }

    /// Its SPIFFE ID.
    pub fn spiffe(&self) -> String {
        format!(
            "spiffe://{TRUST_DOMAIN}/ns/{}/sa/{}",
            self.namespace, self.service_account
        )
    }

    /// A name for files and logs.
    pub fn slug(&self) -> String {
        format!("{}.{}", self.namespace, self.service_account)
    }
}

/// A certificate with its key, in memory and in PEM files.
#[derive(Debug)]
pub struct Credential {
    /// Whose it is.
    pub workload: Workload,
    /// The PEM file of the certificate.
    pub certificate_path: PathBuf,
    /// The PEM file of the private key.
    pub key_path: PathBuf,
    certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
}

impl Credential {
    /// The certificate for rustls.
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    /// The key for rustls.
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.clone_key())
    }
}

/// A key, and a request for a certificate of it for `workload` that another CA is to sign.
///
/// # Errors
///
/// When a name is not ASCII.
pub fn request(workload: &Workload) -> Result<(KeyPair, String)> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names.push(uri(workload)?);
    let key = KeyPair::generate()?;
    let request = params.serialize_request(&key)?.pem()?;
    Ok((key, request))
}

fn uri(workload: &Workload) -> Result<SanType> {
    let uri = Ia5String::try_from(workload.spiffe()).map_err(|_| anyhow!("a SPIFFE ID is ASCII"))?;
    Ok(SanType::URI(uri))
}

/// The CA of one mesh.
pub struct Ca {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: PathBuf,
    path: PathBuf,
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ca").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Ca {
    /// Makes a CA whose files go to `directory`.
    ///
    /// # Errors
    ///
    /// When the files cannot be written.
    pub fn create(directory: &Path) -> Result<Self> {
        std::fs::create_dir_all(directory)?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = name("Ostiary test CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let path = directory.join("ca.pem");
        std::fs::write(&path, issuer.as_ref().pem()).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self {
            issuer,
            directory: directory.to_path_buf(),
            path,
        })
    }

    /// The PEM file of the CA's certificate.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The CA's certificate for rustls.
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.issuer.as_ref().der().clone()
    }

    /// Signs a certificate for `workload`, which as a server also answers to `hosts`.
    ///
    /// # Errors
    ///
    /// When a name is not ASCII or the files cannot be written.
    pub fn issue(&self, workload: &Workload, hosts: &[&str]) -> Result<Arc<Credential>> {
        let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
        let mut params = CertificateParams::new(hosts)?;
        params.distinguished_name = name(&workload.slug());
        params.subject_alt_names.push(uri(workload)?);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let certificate_path = self.directory.join(format!("{}.crt.pem", workload.slug()));
        let key_path = self.directory.join(format!("{}.key.pem", workload.slug()));
        std::fs::write(&certificate_path, certificate.pem())?;
        write_private(&key_path, &key.serialize_pem())?;
        Ok(Arc::new(Credential {
            workload: workload.clone(),
            certificate_path,
            key_path,
            certificate: certificate.der().clone(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()),
        }))
    }
}

fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::File::options()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    Ok(file.write_all(text.as_bytes())?)
}
