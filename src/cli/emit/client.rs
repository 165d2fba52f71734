//! The sending side: HTTP/1.1 as a registry speaks it, and no more than that.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use warp::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use warp::http::uri::Scheme;
use warp::http::{HeaderValue, Request, StatusCode, Uri};

use super::EmitArgs;

const ANSWER_BYTES_MAX: usize = 64 << 10;

/// A target that cannot be used; says which argument and why.
#[derive(Debug)]
pub struct TargetError(String);

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TargetError {}

/// Where to send, checked.
pub struct Target {
    host: String,
    port: u16,
    /// Path and query.
    path: String,
    authority: HeaderValue,
    authorization: Option<HeaderValue>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Target {
    pub fn new(args: &EmitArgs) -> Result<Self, TargetError> {
        let wrong = |what: &dyn fmt::Display| TargetError(format!("--to {}: {what}", args.to));
        let uri: Uri = args.to.parse().map_err(|error| wrong(&error))?;
        let host = uri.host().ok_or_else(|| wrong(&"names no host"))?;
        let secure = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            _ => return Err(wrong(&"is neither http:// nor https://")),
        };
        // Within a URL an IPv6 address stands in brackets.
        let host = host.trim_matches(['[', ']']).to_owned();
        let authority = uri.authority().map_or(host.as_str(), |authority| authority.as_str());
        Ok(Self {
            port: uri.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
            authority: HeaderValue::from_str(authority).map_err(|error| wrong(&error))?,
            authorization: authorization(args)?,
            tls: if secure { Some(tls(args.ca.as_deref(), &host)?) } else { None },
            host,
        })
    }
}

fn authorization(args: &EmitArgs) -> Result<Option<HeaderValue>, TargetError> {
    // The user first: the token may come from an environment that was meant for something else.
    let text = match (&args.user, &args.token) {
        (Some(user), _) => format!("Basic {}", STANDARD.encode(user.expose())),
        (None, Some(token)) => format!("Bearer {}", token.expose()),
        (None, None) => return Ok(None),
    };
    let mut value = HeaderValue::from_str(&text)
        .map_err(|_| TargetError("--token: holds characters that no header may hold".to_owned()))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

fn tls(ca: Option<&Path>, host: &str) -> Result<(TlsConnector, ServerName<'static>), TargetError> {
    let Some(path) = ca else {
        return Err(TargetError("https:// needs --ca, the authority to trust".to_owned()));
    };
    let wrong = |what: &dyn fmt::Display| TargetError(format!("--ca {}: {what}", path.display()));
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_file_iter(path).map_err(|error| wrong(&error))? {
        roots.add(authority.map_err(|error| wrong(&error))?).map_err(|error| wrong(&error))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(|error| TargetError(error.to_string()))?;
    Ok((TlsConnector::from(Arc::new(config)), name))
}

/// What came back: the status, and the counts of a 202.
pub struct Answer {
    pub status: StatusCode,
    pub counts: Counts,
}

#[derive(Clone, Copy, Debug, Default, serde::Deserialize)]
pub struct Counts {
    pub accepted: u64,
    pub duplicates: u64,
    pub quarantined: u64,
}

type Connection = SendRequest<Full<Bytes>>;

/// One sender: one request at a time.
pub struct Client {
    target: Arc<Target>,
    keep_alive: bool,
    connection: Option<Connection>,
}

impl Client {
    pub fn new(target: Arc<Target>, keep_alive: bool) -> Self {
        Self { target, keep_alive, connection: None }
    }

    /// Posts a body and reads the answer.
    ///
    /// # Errors
    /// A sentence that says what failed: there was no answer.
    pub async fn post(&mut self, body: String) -> Result<Answer, String> {
        let mut connection = match self.connection.take() {
            Some(kept) if !kept.is_closed() => kept,
            _ => self.connect().await?,
        };
        // The receiver may have closed it since.
        if connection.ready().await.is_err() {
            connection = self.connect().await?;
        }
        let request = self.request(body)?;
        let response =
            connection.send_request(request).await.map_err(|error| describe("no answer", &error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| describe("the answer broke off", error.as_ref()))?.to_bytes();
        if self.keep_alive {
            self.connection = Some(connection);
        }
        let counts = serde_json::from_slice(&body).unwrap_or_default();
        Ok(Answer { status, counts })
    }

    fn request(&self, body: String) -> Result<Request<Full<Bytes>>, String> {
        let mut request = Request::post(&self.target.path)
            .header(HOST, &self.target.authority)
            .header(USER_AGENT, "Go-http-client/1.1")
            .header(CONTENT_TYPE, "application/vnd.docker.distribution.events.v2+json");
        if let Some(authorization) = &self.target.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        request.body(Full::new(body.into())).map_err(|error| error.to_string())
    }

    async fn connect(&self) -> Result<Connection, String> {
        let target = &self.target;
        let stream = TcpStream::connect((target.host.as_str(), target.port))
            .await
            .map_err(|error| describe("cannot connect", &error))?;
        let _ = stream.set_nodelay(true);
        let Some((connector, name)) = &target.tls else {
            return speak(stream).await;
        };
        let stream = connector
            .connect(name.clone(), stream)
            .await
            .map_err(|error| describe("the TLS handshake failed", &error))?;
        speak(stream).await
    }
}

/// HTTP on a stream. The task ends when the connection is dropped or its peer closes it.
async fn speak<S>(stream: S) -> Result<Connection, String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) =
        handshake(TokioIo::new(stream)).await.map_err(|error| describe("cannot connect", &error))?;
    tokio::spawn(connection);
    Ok(sender)
}

fn describe(what: &str, error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{what}: {error}: {cause}"),
        None => format!("{what}: {error}"),
    }
}
