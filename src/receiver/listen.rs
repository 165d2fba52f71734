//! The receiver's connections: TLS where it is configured, time limits on handshakes and headers, and
//! measures of what is answered.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinError;
use tokio::time::timeout;
use tower::Service as _;
use warp::filters::BoxedFilter;
use warp::http::{Request, StatusCode};
use warp::reply::Response;

use super::intake::Intake;
use super::routes::{Peer, routes};
use super::threads::Threads;
use super::tls::{Tls, TlsError};
use crate::config::ReceiverConfig;
use crate::http::{Drained, Listener, Stopping, answer};
use crate::telemetry::{Metrics, StatusLabel};

/// Why the receiver cannot start. Both are for the operator to mend.
#[derive(Debug)]
pub enum BindError {
    /// The address cannot be listened on.
    Address(SocketAddr, io::Error),
    Tls(TlsError),
    /// No further threads, or too few file descriptors.
    Threads(io::Error),
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(addr, error) => write!(f, "receiver.listen: cannot listen on {addr}: {error}"),
            Self::Tls(error) => write!(f, "receiver.tls: {error}"),
            Self::Threads(error) => write!(f, "the receiver's threads cannot be started: {error}"),
        }
    }
}

impl std::error::Error for BindError {}

/// A bound listener with its routes, not yet serving: connections already wait in its queue.
pub struct Receiver {
    listener: Listener,
    server: Server,
    threads: Threads,
}

impl Receiver {
    /// Listens, and reads the certificates if there are any. To be called within a tokio runtime.
    ///
    /// # Errors
    /// [`BindError`] when the address is taken or not ours, a certificate cannot be used, or there are
    /// no threads to be had.
    pub fn bind(config: &ReceiverConfig, intake: Arc<Intake>) -> Result<Self, BindError> {
        let tls = config.tls.as_ref().map(Tls::load).transpose().map_err(BindError::Tls)?;
        let listener = Listener::bind(config.listen, config.connections_max)
            .map_err(|error| BindError::Address(config.listen, error))?;
        let local_addr = listener.local_addr();
        let client_ca = config.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        if config.tokens.is_empty() && config.users.is_empty() && !client_ca {
            tracing::warn!(%local_addr, "the receiver is open to whoever reaches it; set receiver.tokens");
        }
        let metrics = Arc::clone(intake.metrics());
        let server = Server {
            tls,
            routes: routes(config, intake),
            http: http(config.header_timeout),
            header_timeout: config.header_timeout,
            accepted: metrics.requests.get_or_create_owned(&status_label(StatusCode::ACCEPTED)),
            metrics,
        };
        let threads = Threads::start().map_err(BindError::Threads)?;
        Ok(Self { listener, server, threads })
    }

    /// The address, with the port that was given for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    /// Takes requests, on threads of its own, until `shutdown` is ready; then stops accepting, answers
    /// what is in flight, and closes. What is not done after `drain` is cut without an answer.
    ///
    /// # Errors
    /// When the accepting task has panicked.
    pub async fn serve(
        self,
        shutdown: impl Future<Output = ()> + Send + 'static,
        drain: Duration,
    ) -> Result<Drained, JoinError> {
        let (server, threads) = (Arc::new(self.server), Arc::new(self.threads));
        let sharing = Arc::clone(&threads);
        let connection = move |stream, peer, stopping| {
            let (server, threads) = (Arc::clone(&server), Arc::clone(&sharing));
            async move {
                let serve = move |stream| server.connection(stream, Peer(peer), stopping);
                threads.serve(stream, peer, serve).await;
            }
        };
        let accepting = self.listener.serve(connection, shutdown, drain);
        let drained = threads.first().spawn(accepting).await?;
        if drained.cut > 0 {
            tracing::warn!(
                connections = drained.cut,
                "requests that took too long at the end were cut; their senders keep them"
            );
        }
        Ok(drained)
    }
}

fn http(header_timeout: Duration) -> http1::Builder {
    let mut http = http1::Builder::new();
    // A sender may close its writing side once its request is out; it still gets its answer.
    http.half_close(true).timer(TokioTimer::new()).header_read_timeout(header_timeout);
    http
}

fn status_label(status: StatusCode) -> StatusLabel {
    StatusLabel { status: status.as_u16() }
}

/// What the tasks of all connections share.
struct Server {
    tls: Option<Tls>,
    routes: BoxedFilter<(Response,)>,
    http: http1::Builder,
    header_timeout: Duration,
    metrics: Arc<Metrics>,
    /// The counter of nearly all answers, so that it need not be looked up.
    accepted: Counter,
}

impl Server {
    /// One connection, from its handshake to its end.
    async fn connection(self: Arc<Self>, stream: TcpStream, peer: Peer, stopping: Stopping) {
        let _counted = Counted::new(&self.metrics.connections);
        let Some(tls) = &self.tls else {
            return self.serve(stream, peer, stopping).await;
        };
        let handshake = tls.acceptor(Instant::now()).accept(stream);
        match timeout(self.header_timeout, handshake).await {
            Ok(Ok(stream)) => self.serve(stream, peer, stopping).await,
            Ok(Err(error)) => tracing::debug!(peer = %peer.0, %error, "a TLS handshake failed"),
            Err(_) => tracing::debug!(peer = %peer.0, "a TLS handshake took too long"),
        }
    }

    /// Answers a connection's requests until either side ends it.
    async fn serve<IO>(&self, io: IO, peer: Peer, stopping: Stopping)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(|request| self.answer(request, peer));
        let connection = self.http.serve_connection(TokioIo::new(io), service);
        if let Err(error) = answer(connection, stopping).await {
            tracing::debug!(peer = %peer.0, %error, "a connection ended early");
        }
    }

    /// Hands a request to warp, and measures.
    async fn answer(&self, mut request: Request<Incoming>, peer: Peer) -> hyper::Result<Response> {
        let began = Instant::now();
        request.extensions_mut().insert(peer);
        let response = match warp::service(self.routes.clone()).call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        self.metrics.request_seconds.observe(began.elapsed().as_secs_f64());
        if response.status() == StatusCode::ACCEPTED {
            self.accepted.inc();
        } else {
            self.metrics.requests.get_or_create(&status_label(response.status())).inc();
        }
        Ok(response)
    }
}

/// Keeps a gauge one higher for as long as it lives, however that ends.
struct Counted<'a>(&'a Gauge);

impl<'a> Counted<'a> {
    fn new(gauge: &'a Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}
