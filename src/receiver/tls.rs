//! TLS for the receiver, with certificates that may be renewed while it runs.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio_rustls::TlsAcceptor;

use crate::config::TlsConfig;

/// How often, at most, the files are looked at for a change.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// A certificate, key or authority that cannot be used; says which file and why.
#[derive(Debug)]
pub struct TlsError {
    pub path: PathBuf,
    pub text: String,
}

impl TlsError {
    fn new(path: &Path, error: impl fmt::Display) -> Self {
        Self { path: path.to_owned(), text: error.to_string() }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.text)
    }
}

impl std::error::Error for TlsError {}

/// What handshakes are made with. Reads the files again when one of them has changed, and keeps
/// what it has when they cannot be used.
pub struct Tls {
    files: TlsConfig,
    current: RwLock<TlsAcceptor>,
    watched: Mutex<Watched>,
}

/// When the files were last looked at, and their times of change then.
struct Watched {
    at: Instant,
    changed: Vec<Option<SystemTime>>,
}

impl Tls {
    /// # Errors
    /// [`TlsError`] when a file is missing, holds nothing fitting, or key and certificate differ.
    pub fn load(files: &TlsConfig) -> Result<Self, TlsError> {
        let changed = times(files);
        let current = RwLock::new(acceptor(files)?);
        let watched = Mutex::new(Watched { at: Instant::now(), changed });
        Ok(Self { files: files.clone(), current, watched })
    }

    /// The acceptor for a handshake that begins at `now`.
    pub fn acceptor(&self, now: Instant) -> TlsAcceptor {
        if self.has_changed(now) {
            match acceptor(&self.files) {
                Ok(fresh) => {
                    *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
                    tracing::info!(cert = %self.files.cert.display(), "the receiver's certificate was renewed");
                }
                Err(error) => tracing::error!(%error, "the receiver keeps its old certificate"),
            }
        }
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks at the files, unless somebody does already or just did.
    fn has_changed(&self, now: Instant) -> bool {
        let Ok(mut watched) = self.watched.try_lock() else { return false };
        if now.duration_since(watched.at) < CHECK_INTERVAL {
            return false;
        }
        watched.at = now;
        let changed = times(&self.files);
        let differs = changed != watched.changed;
        watched.changed = changed;
        differs
    }
}

fn times(files: &TlsConfig) -> Vec<Option<SystemTime>> {
    let paths = [Some(&files.cert), Some(&files.key), files.client_ca.as_ref()];
    paths.into_iter().flatten().map(|path| path.metadata().and_then(|file| file.modified()).ok()).collect()
}

fn acceptor(files: &TlsConfig) -> Result<TlsAcceptor, TlsError> {
    let chain = certificates(&files.cert)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| TlsError::new(&files.key, error))?;
    // Named rather than taken from the process, so that the receiver does not depend on who
    // installed which provider first.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::new(&files.cert, error))?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(path)? {
                roots.add(authority).map_err(|error| TlsError::new(path, error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|error| TlsError::new(path, error))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config =
        builder.with_single_cert(chain, key).map_err(|error| TlsError::new(&files.cert, error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// All certificates of a PEM file; at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| TlsError::new(path, error))?;
    if found.is_empty() {
        return Err(TlsError::new(path, "holds no certificate"));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes a certificate of its own making, with a time of change that differs from the last.
    fn renew(files: &TlsConfig, second: u64) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        std::fs::write(&files.cert, made.cert.pem()).expect("written");
        std::fs::write(&files.key, made.signing_key.serialize_pem()).expect("written");
        touch(&files.cert, second);
    }

    fn touch(path: &Path, second: u64) {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        let file = std::fs::File::options().write(true).open(path).expect("a file");
        file.set_modified(time).expect("its time is set");
    }

    #[test]
    fn renewed_certificates_are_taken_and_broken_ones_are_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let files = TlsConfig { cert: path("c.pem"), key: path("k.pem"), client_ca: None };
        renew(&files, 1);
        let tls = Tls::load(&files).expect("usable");
        let start = Instant::now();
        let at = |checks: u32| start + (CHECK_INTERVAL + Duration::from_millis(1)) * checks;
        let same = |one: &TlsAcceptor, other: &TlsAcceptor| Arc::ptr_eq(one.config(), other.config());

        let first = tls.acceptor(at(1));
        assert!(same(&first, &tls.acceptor(at(2))), "nothing has changed");
        renew(&files, 2);
        assert!(same(&first, &tls.acceptor(at(2))), "not looked at again so soon");
        let second = tls.acceptor(at(3));
        assert!(!same(&first, &second), "renewed");
        std::fs::write(&files.cert, "half a certif").expect("written");
        touch(&files.cert, 3);
        assert!(same(&second, &tls.acceptor(at(4))), "broken: the old one stays");
        renew(&files, 4);
        assert!(!same(&second, &tls.acceptor(at(5))), "mended");
    }
}
