//! TLS: whom the sink trusts, and as whom it shows itself.

use std::sync::Arc;

use relay::sinks::FaultKind;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use crate::{
    envelopes,
    server::{Server, status},
    sink,
    support::{Folder, contract::Driver, tls::Tls},
};

fn acceptor(tls: &Tls, wants_client: bool) -> tokio_rustls::TlsAcceptor {
    let certs =
        CertificateDer::pem_file_iter(&tls.cert).expect("certificates").map(|cert| cert.expect("one"));
    let key = PrivateKeyDer::from_pem_file(&tls.key).expect("a key");
    let builder = rustls::ServerConfig::builder();
    let builder = if wants_client {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&tls.ca).expect("the authority")).expect("a root");
        let verifier =
            rustls::server::WebPkiClientVerifier::builder(Arc::new(roots)).build().expect("a verifier");
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    Arc::new(builder.with_single_cert(certs.collect(), key).expect("a server's configuration")).into()
}

pub async fn speaks_tls() {
    let tls = Tls::new();
    let server = Server::start_with(|_| status(200), Some(acceptor(&tls, false))).await;
    let url = server.url().replace("http:", "https:");
    let yaml = format!("{{url: '{url}', tls: {{ca: '{}'}}}}", tls.ca.display());
    Driver::new(sink(&yaml), envelopes(10)).finish().await;
    assert_eq!(server.taken().len(), 10);
    // The system's authorities do not know the test's.
    let mut stranger = Driver::new(sink(&format!("{{url: '{url}'}}")), envelopes(1));
    let fault = stranger.step().await.expect_err("an unknown authority");
    assert_eq!(fault.kind, FaultKind::Disconnected, "{fault}");
    assert_eq!(server.taken().len(), 10);
}

pub async fn shows_a_client_certificate() {
    let tls = Tls::new();
    let server = Server::start_with(|_| status(200), Some(acceptor(&tls, true))).await;
    let url = server.url().replace("http:", "https:");
    let (ca, cert, key) = (tls.ca.display(), tls.client_cert.display(), tls.client_key.display());
    let yaml = format!("{{url: '{url}', tls: {{ca: '{ca}', cert: '{cert}', key: '{key}'}}}}");
    Driver::new(sink(&yaml), envelopes(10)).finish().await;
    assert_eq!(server.taken().len(), 10);
    let mut stranger = Driver::new(sink(&format!("{{url: '{url}', tls: {{ca: '{ca}'}}}}")), envelopes(1));
    let fault = stranger.step().await.expect_err("no certificate");
    assert_eq!(fault.kind, FaultKind::Disconnected, "{fault}");
    assert_eq!(server.taken().len(), 10);
}

pub async fn files_that_cannot_be_read() {
    let server = Server::start(|_| status(200)).await;
    let (tls, folder) = (Tls::new(), Folder::new("unread"));
    let none = folder.join("none").display().to_string();
    let text = folder.write("text", "-----BEGIN CERTIFICATE-----\nno more than text").display().to_string();
    let (cert, key) = (tls.client_cert.display(), tls.client_key.display());
    for files in [
        format!("ca: '{none}'"),
        format!("ca: '{text}'"),
        format!("cert: '{none}', key: '{key}'"),
        format!("cert: '{cert}', key: '{none}'"),
        format!("cert: '{cert}', key: '{text}'"),
    ] {
        let fault = sink(&format!("{{url: '{}', tls: {{{files}}}}}", server.url())).connect().await;
        let fault = fault.expect_err(&files);
        assert_eq!(fault.kind, FaultKind::Refused, "{files}: {fault}");
    }
}
