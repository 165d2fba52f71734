//! TLS, with and without a client's certificate.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use relay::config::TlsConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::rig::Rig;
use crate::wire::Connection;

const BODY: &[u8] = b"{\"events\":[{\"action\":\"push\"}]}";

/// Certificates in a folder: an authority, a server's, a client's, and a client's of nobody.
pub struct Certificates {
    folder: tempfile::TempDir,
}

impl Certificates {
    pub fn make() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let write =
            |name: &str, text: String| std::fs::write(folder.path().join(name), text).expect("written");
        let authority = |name: &str| {
            let mut params = CertificateParams::new(Vec::new()).expect("parameters");
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            let key = KeyPair::generate().expect("a key");
            let cert = params.self_signed(&key).expect("a certificate");
            (Issuer::new(params, key), cert.pem())
        };
        let leaf = |name: &str, issuer: &Issuer<'_, KeyPair>| {
            let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
            let key = KeyPair::generate().expect("a key");
            let cert = params.signed_by(&key, issuer).expect("a certificate");
            write(&format!("{name}.pem"), cert.pem());
            write(&format!("{name}.key"), key.serialize_pem());
        };
        let (ours, ours_pem) = authority("ours");
        let (others, _) = authority("others");
        write("ca.pem", ours_pem);
        leaf("server", &ours);
        leaf("client", &ours);
        leaf("stranger", &others);
        Self { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn config(&self, client_ca: bool) -> TlsConfig {
        TlsConfig {
            cert: self.path("server.pem"),
            key: self.path("server.key"),
            client_ca: client_ca.then(|| self.path("ca.pem")),
        }
    }

    fn connector(&self, client: Option<&str>) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(certificate(&self.path("ca.pem"))).expect("an authority");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let config = match client {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let key = PrivateKeyDer::from_pem_file(self.path(&format!("{name}.key"))).expect("a key");
                let chain = vec![certificate(&self.path(&format!("{name}.pem")))];
                builder.with_client_auth_cert(chain, key).expect("a client's certificate")
            }
        };
        TlsConnector::from(Arc::new(config))
    }
}

fn certificate(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).expect("a certificate")
}

/// Posts over TLS; the status, or `None` when the connection did not last.
async fn post(rig: &Rig, connector: &TlsConnector) -> Option<u16> {
    let stream = TcpStream::connect(rig.addr).await.expect("connected");
    let name = ServerName::try_from("localhost").expect("a name");
    let stream = connector.connect(name, stream).await.ok()?;
    let mut connection = Connection::over(stream);
    let head = format!("POST /events HTTP/1.1\r\nHost: r\r\nContent-Length: {}\r\n\r\n", BODY.len());
    // With TLS 1.3 a client learns only after its first bytes that its certificate was refused.
    let sent =
        tokio::io::AsyncWriteExt::write_all(&mut connection.stream, &[head.as_bytes(), BODY].concat()).await;
    sent.ok()?;
    Some(connection.try_answer().await?.status)
}

#[tokio::test]
async fn a_certificate_of_the_right_authority_where_one_is_asked_for() {
    let certificates = Certificates::make();
    for (client_ca, client, status) in [
        (false, None, Some(202)),
        (false, Some("client"), Some(202)),
        (true, None, None),
        (true, Some("client"), Some(202)),
        (true, Some("stranger"), None),
    ] {
        let rig = Rig::with(|config| config.tls = Some(certificates.config(client_ca)));
        let answered = post(&rig, &certificates.connector(client)).await;
        assert_eq!(answered, status, "client_ca {client_ca}, {client:?}");
        assert_eq!(rig.events().await.len(), usize::from(status.is_some()));
    }
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_cut() {
    let certificates = Certificates::make();
    let rig = Rig::with(|config| {
        config.tls = Some(certificates.config(false));
        config.header_timeout = std::time::Duration::from_millis(200);
    });
    rig.connect().await.closed().await;
    // Plain HTTP on a port of TLS is no reason to hang either.
    let mut connection = rig.connect().await;
    connection.send("POST / HTTP/1.1\r\n\r\n").await;
    connection.closed().await;
    assert_eq!(post(&rig, &certificates.connector(None)).await, Some(202));
}

#[tokio::test]
async fn certificates_that_cannot_be_used_are_named() {
    let certificates = Certificates::make();
    std::fs::write(certificates.path("empty.pem"), "").expect("written");
    let good = certificates.config(true);
    let path = |name: &str| certificates.path(name);
    let cases = [
        (TlsConfig { cert: path("missing.pem"), ..good.clone() }, "missing.pem"),
        (TlsConfig { cert: path("empty.pem"), ..good.clone() }, "empty.pem: holds no certificate"),
        (TlsConfig { key: path("server.pem"), ..good.clone() }, "server.pem"),
        (TlsConfig { key: path("client.key"), ..good.clone() }, "server.pem"),
        (TlsConfig { client_ca: Some(path("empty.pem")), ..good.clone() }, "empty.pem: holds no certificate"),
    ];
    let rig = Rig::start();
    for (tls, named) in cases {
        let mut config = crate::rig::config();
        config.tls = Some(tls);
        let error = relay::receiver::Receiver::bind(&config, rig.intake.clone()).err().expect(named);
        assert!(error.to_string().contains(named), "{error}");
    }
}
