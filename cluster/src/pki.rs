//! Certificates and keys: one authority, which everybody trusts for everything, and ECDSA P-256
//! keys throughout.

use std::{fs, net::IpAddr, os::unix::fs::PermissionsExt, path::Path};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};

use crate::plan::{API_SERVICE, CONTROL};

/// Names by which pods and people reach the API server.
const API_NAMES: [&str; 5] = [
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

/// The authority of one cluster.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate with its key, both PEM.
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new(cluster: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, format!("weir-cluster {cluster}"));
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        Ok(Self { issuer })
    }

    /// Of the authority itself, PEM.
    pub fn certificate(&self) -> String {
        self.issuer.pem()
    }

    /// PEM, for the controller manager, which signs requests of kubelets and users.
    pub fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A client: the API server takes the common name as user and organisations as groups.
    pub fn client(&self, user: &str, group: &str) -> Result<Identity> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, user);
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    /// The API server, by every address and name it is reached by.
    pub fn api_server(&self) -> Result<Identity> {
        let mut params = CertificateParams::new(API_NAMES.map(str::to_owned))?;
        let loopback: [IpAddr; 2] = [[127, 0, 0, 1].into(), [0, 0, 0, 0, 0, 0, 0, 1].into()];
        let own = [CONTROL.v4.into(), CONTROL.v6.into()];
        let addresses = loopback.into_iter().chain(own).chain(API_SERVICE);
        params.subject_alt_names.extend(addresses.map(SanType::IpAddress));
        params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params)
    }

    fn sign(&self, mut params: CertificateParams) -> Result<Identity> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

/// Writes what the control plane's programs read: `ca`, `apiserver`, `kubelet-client`,
/// `front-proxy` (certificate and key each) and `service-account` (a pair of keys).
pub fn write(authority: &Authority, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let identity = |name: &str, certificate: &str, key: &str| -> Result<()> {
        fs::write(folder.join(format!("{name}.crt")), certificate)?;
        write_secret(&folder.join(format!("{name}.key")), key)
    };
    identity("ca", &authority.certificate(), &authority.key())?;
    let server = authority.api_server()?;
    identity("apiserver", &server.certificate, &server.key)?;
    let client = authority.client("kube-apiserver-kubelet-client", "system:masters")?;
    identity("kubelet-client", &client.certificate, &client.key)?;
    let proxy = authority.client("front-proxy", "system:weir")?;
    identity("front-proxy", &proxy.certificate, &proxy.key)?;
    let tokens = KeyPair::generate()?;
    fs::write(folder.join("service-account.pub"), tokens.public_key_pem())?;
    write_secret(&folder.join("service-account.key"), &tokens.serialize_pem())
}

/// Readable by its owner only.
pub fn write_secret(path: &Path, text: &str) -> Result<()> {
    fs::write(path, "").with_context(|| format!("cannot write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_certificate_and_key_is_written_and_keys_are_private() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new("test").unwrap();
        write(&authority, folder.path()).unwrap();
        for name in ["ca", "apiserver", "kubelet-client", "front-proxy"] {
            let certificate = fs::read_to_string(folder.path().join(format!("{name}.crt")));
            assert!(certificate.unwrap().starts_with("-----BEGIN CERTIFICATE-----"), "{name}");
            let key = folder.path().join(format!("{name}.key"));
            assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
            assert!(fs::read_to_string(key).unwrap().starts_with("-----BEGIN PRIVATE KEY-----"));
        }
        let public = fs::read_to_string(folder.path().join("service-account.pub")).unwrap();
        assert!(public.starts_with("-----BEGIN PUBLIC KEY-----"), "{public}");
    }

    #[test]
    fn two_identities_share_nothing() {
        let authority = Authority::new("test").unwrap();
        let one = authority.client("one", "group").unwrap();
        let other = authority.client("one", "group").unwrap();
        assert_ne!(one.key, other.key);
        assert_ne!(one.certificate, other.certificate);
    }
}
