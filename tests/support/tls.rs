//! A certificate authority of the test's own, and one certificate for 127.0.0.1 and localhost.

use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use super::Folder;

/// Paths of PEM files; they live as long as this value.
pub struct Tls {
    /// The authority's certificate: what a client must trust.
    pub ca: PathBuf,
    /// The server's certificate, signed by the authority.
    pub cert: PathBuf,
    /// Its key (PKCS#8).
    pub key: PathBuf,
    /// Key and certificate in one file, as Kafka's PEM key store wants them.
    pub key_and_cert: PathBuf,
    /// A client's certificate and key, signed by the same authority.
    pub client_cert: PathBuf,
    pub client_key: PathBuf,
    _folder: Folder,
}

impl Tls {
    pub fn new() -> Self {
        let folder = Folder::new("tls");
        let mut params = CertificateParams::new(Vec::new()).expect("CA parameters");
        params.distinguished_name.push(DnType::CommonName, "relay test CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca_key = KeyPair::generate().expect("CA key");
        let ca = params.self_signed(&ca_key).expect("CA certificate");
        let issuer = Issuer::new(params, ca_key);

        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let (cert, key) = issue(&issuer, "localhost", names, ExtendedKeyUsagePurpose::ServerAuth);
        let (client_cert, client_key) =
            issue(&issuer, "relay", vec!["relay".to_owned()], ExtendedKeyUsagePurpose::ClientAuth);
        Self {
            ca: folder.write("ca.pem", ca.pem()),
            key_and_cert: folder.write("server-all.pem", format!("{key}{cert}")),
            cert: folder.write("server.pem", cert),
            key: folder.write("server.key", key),
            client_cert: folder.write("client.pem", client_cert),
            client_key: folder.write("client.key", client_key),
            _folder: folder,
        }
    }
}

fn issue(
    issuer: &Issuer<'_, KeyPair>,
    name: &str,
    alternatives: Vec<String>,
    usage: ExtendedKeyUsagePurpose,
) -> (String, String) {
    let mut params = CertificateParams::new(alternatives).expect("parameters");
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().expect("key");
    let cert = params.signed_by(&key, issuer).expect("certificate");
    (cert.pem(), key.serialize_pem())
}
