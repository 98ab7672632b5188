//! Certificates for servers on loopback.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};
use std::path::{Path, PathBuf};

/// A certificate authority, and certificates of a server and a client by it, as PEM files.
#[derive(Debug, Clone)]
pub struct Pki {
    /// The authority's certificate.
    pub ca: PathBuf,
    /// The server's certificate, for 127.0.0.1 and localhost.
    pub server_cert: PathBuf,
    /// Private key of the server's certificate.
    pub server_key: PathBuf,
    /// The client's certificate.
    pub client_cert: PathBuf,
    /// Private key of the client's certificate.
    pub client_key: PathBuf,
}

/// The authority that signs the certificates of a test.
pub struct CertificateAuthority(CertifiedIssuer<'static, KeyPair>);

/// What a certificate is for.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'s> {
    /// Common name, which is the user name for etcd and Kubernetes.
    pub name: &'s str,
    /// Organization, which is the group for Kubernetes.
    pub organization: Option<&'s str>,
    /// Addresses and host names of a server. Empty for a client.
    pub hosts: &'s [&'s str],
}

impl CertificateAuthority {
    /// The authority's own certificate, as PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// The authority's key, as PEM.
    pub fn key_pem(&self) -> String {
        self.0.key().serialize_pem()
    }

    /// A certificate and its key, as PEM.
    pub fn issue(&self, subject: Subject<'_>) -> (String, String) {
        let hosts: Vec<_> = subject.hosts.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let mut name = DistinguishedName::new();
        name.push(DnType::CommonName, subject.name);
        if let Some(organization) = subject.organization {
            name.push(DnType::OrganizationName, organization);
        }
        params.distinguished_name = name;
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.0).unwrap();
        (cert.pem(), key.serialize_pem())
    }

    /// Creates an authority with a self-signed certificate.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        CertificateAuthority(CertifiedIssuer::self_signed(params, key).unwrap())
    }
}

impl Pki {
    /// Creates all files in a folder, with a new authority.
    pub fn create(dir: &Path) -> Pki {
        Pki::by(&CertificateAuthority::new(), dir)
    }

    /// Creates all files in a folder, with certificates of this authority.
    pub fn by(ca: &CertificateAuthority, dir: &Path) -> Pki {
        let ca = &ca.0;
        let file = |name: &str, text: String| {
            let path = dir.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let issue = |name: &str, usages: Vec<ExtendedKeyUsagePurpose>| {
            let names = vec!["127.0.0.1".to_string(), "localhost".to_string()];
            let mut params = CertificateParams::new(names).unwrap();
            params.extended_key_usages = usages;
            let key = KeyPair::generate().unwrap();
            let cert = params.signed_by(&key, ca).unwrap();
            (
                file(&format!("{name}.crt"), cert.pem()),
                file(&format!("{name}.key"), key.serialize_pem()),
            )
        };
        let (server_cert, server_key) = issue(
            "server",
            vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
        );
        let (client_cert, client_key) = issue("client", vec![ExtendedKeyUsagePurpose::ClientAuth]);
        Pki {
            ca: file("ca.crt", ca.pem()),
            server_cert,
            server_key,
            client_cert,
            client_key,
        }
    }
}
