//! TLS to an endpoint.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio_rustls::TlsConnector;

use super::WebhookOptions;
use crate::sinks::Fault;

/// Trusts the system's authorities, or those of `tls.ca` instead; shows a certificate if one is given.
///
/// # Errors
/// `Refused` when a file cannot be used.
pub fn connector(options: &WebhookOptions) -> Result<TlsConnector, Fault> {
    let refused = |error: rustls::Error| Fault::refused(format!("{}: {error}", options.url));
    // Named rather than taken from the process, so that it does not matter who installed which first.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(refused)?;
    let files = options.tls.as_ref();
    let builder = match files.and_then(|files| files.ca.as_deref()) {
        Some(path) => builder.with_root_certificates(authorities(path)?),
        None => builder.with_platform_verifier().map_err(refused)?,
    };
    let mut config = match files.and_then(|files| files.cert.as_deref().zip(files.key.as_deref())) {
        Some((cert, key)) => builder
            .with_client_auth_cert(
                certificates(cert)?,
                PrivateKeyDer::from_pem_file(key).map_err(|error| unread(key, error))?,
            )
            .map_err(|error| unread(cert, error))?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

fn authorities(path: &Path) -> Result<RootCertStore, Fault> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(path)? {
        roots.add(authority).map_err(|error| unread(path, error))?;
    }
    Ok(roots)
}

/// All certificates of a PEM file; at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| unread(path, error))?;
    if found.is_empty() {
        return Err(unread(path, "holds no certificate"));
    }
    Ok(found)
}

fn unread(path: &Path, error: impl fmt::Display) -> Fault {
    Fault::refused(format!("{}: {error}", path.display()))
}
