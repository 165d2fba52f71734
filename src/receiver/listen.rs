//! The accept loop: a bound on connections, a time limit on headers and handshakes, and an end that
//! answers what is in flight.

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
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;
use tower::Service as _;
use warp::filters::BoxedFilter;
use warp::http::{Request, StatusCode};
use warp::reply::Response;

use super::intake::Intake;
use super::routes::{Peer, routes};
use super::throttle::Throttle;
use super::tls::{Tls, TlsError};
use crate::config::ReceiverConfig;
use crate::telemetry::{Metrics, StatusLabel};

/// Connections that the kernel keeps for us while we accept others, or while `connections_max` are
/// open. The kernel cuts it to `net.core.somaxconn`, 4096 by default.
const BACKLOG: u32 = 4096;

/// How long to leave the listener alone after it could not accept: mostly a want of file
/// descriptors, which a closing connection gives back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why the receiver cannot start. Both are for the operator to mend.
#[derive(Debug)]
pub enum BindError {
    /// The address cannot be listened on.
    Address(SocketAddr, io::Error),
    Tls(TlsError),
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(addr, error) => write!(f, "receiver.listen: cannot listen on {addr}: {error}"),
            Self::Tls(error) => write!(f, "receiver.tls: {error}"),
        }
    }
}

impl std::error::Error for BindError {}

/// How a receiver ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were still open at the deadline and were cut: their requests got no answer,
    /// so their senders still have what they sent.
    pub cut: usize,
}

/// A bound listener with its routes, not yet serving: connections already wait in its queue.
pub struct Receiver {
    listener: TcpListener,
    local_addr: SocketAddr,
    tls: Option<Tls>,
    routes: BoxedFilter<(Response,)>,
    metrics: Arc<Metrics>,
    header_timeout: Duration,
    connections_max: usize,
}

/// How far the end has come, as the connections' tasks see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Open,
    /// Finish the request in flight, then close.
    Draining,
    /// Close now.
    Closed,
}

impl Receiver {
    /// Listens, and reads the certificates if there are any. To be called within a tokio runtime.
    ///
    /// # Errors
    /// [`BindError`] when the address is taken or not ours, or a certificate cannot be used.
    pub fn bind(config: &ReceiverConfig, intake: Arc<Intake>) -> Result<Self, BindError> {
        let tls = config.tls.as_ref().map(Tls::load).transpose().map_err(BindError::Tls)?;
        let listener = listen(config.listen).map_err(|error| BindError::Address(config.listen, error))?;
        let local_addr = listener.local_addr().map_err(|error| BindError::Address(config.listen, error))?;
        let client_ca = config.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        if config.tokens.is_empty() && config.users.is_empty() && !client_ca {
            tracing::warn!(%local_addr, "the receiver is open to whoever reaches it; set receiver.tokens");
        }
        Ok(Self {
            listener,
            local_addr,
            tls,
            metrics: Arc::clone(intake.metrics()),
            routes: routes(config, intake),
            header_timeout: config.header_timeout,
            connections_max: config.connections_max.clamp(1, Semaphore::MAX_PERMITS),
        })
    }

    /// The address, with the port that was given for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Takes requests until `shutdown` is ready; then stops accepting, answers what is in flight,
    /// and closes. What is not done after `drain` is cut without an answer.
    pub async fn serve(self, shutdown: impl Future<Output = ()>, drain: Duration) -> Drained {
        let permits = Arc::new(Semaphore::new(self.connections_max));
        let (stage, _) = watch::channel(Stage::Open);
        let server = Arc::new(Server {
            tls: self.tls,
            routes: self.routes,
            http: http(self.header_timeout),
            header_timeout: self.header_timeout,
            accepted: self.metrics.requests.get_or_create_owned(&status_label(StatusCode::ACCEPTED)),
            metrics: self.metrics,
        });
        tokio::select! {
            () = shutdown => {}
            () = accept(&self.listener, &server, &permits, &stage) => {}
        }
        // Those in the kernel's queue are reset, which tells their senders to try again.
        drop(self.listener);
        stage.send_replace(Stage::Draining);
        let ended = permits.acquire_many(self.connections_max as u32);
        if timeout(drain, ended).await.is_ok() {
            return Drained { cut: 0 };
        }
        let cut = self.connections_max - permits.available_permits();
        tracing::warn!(
            connections = cut,
            "requests that took too long at the end were cut; their senders keep them"
        );
        stage.send_replace(Stage::Closed);
        Drained { cut }
    }
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restart must not wait for the last run's connections to time out.
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
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

/// Accepts for ever. At the bound on connections it stops accepting, so that further ones wait in
/// the kernel's queue, and then in their senders'.
async fn accept(
    listener: &TcpListener,
    server: &Arc<Server>,
    permits: &Arc<Semaphore>,
    stage: &watch::Sender<Stage>,
) {
    let troubles = Throttle::new(Duration::from_secs(10));
    loop {
        let Ok(permit) = Arc::clone(permits).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let server = Arc::clone(server);
                tokio::spawn(server.connection(stream, Peer(peer), stage.subscribe(), permit));
            }
            Err(error) if is_the_connections_own(&error) => {}
            Err(error) => {
                if let Some(more) = troubles.pass(super::now()) {
                    tracing::error!(%error, more, "cannot accept connections");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Waits for a stage, or for the end of the receiver.
async fn reached(stage: &mut watch::Receiver<Stage>, wanted: Stage) {
    let _ = stage.wait_for(|stage| *stage >= wanted).await;
}

/// Whether an error of `accept` is that of a connection which ended before it was accepted.
fn is_the_connections_own(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
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
    /// One connection, from its handshake to its end. Holds its share of the bound.
    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        peer: Peer,
        stage: watch::Receiver<Stage>,
        _permit: OwnedSemaphorePermit,
    ) {
        let _counted = Counted::new(&self.metrics.connections);
        // An answer is one small write; it must not wait for an acknowledgement of the last one.
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else {
            return self.serve(stream, peer, stage).await;
        };
        let handshake = tls.acceptor(Instant::now()).accept(stream);
        match timeout(self.header_timeout, handshake).await {
            Ok(Ok(stream)) => self.serve(stream, peer, stage).await,
            Ok(Err(error)) => tracing::debug!(peer = %peer.0, %error, "a TLS handshake failed"),
            Err(_) => tracing::debug!(peer = %peer.0, "a TLS handshake took too long"),
        }
    }

    /// Answers a connection's requests until either side ends it.
    async fn serve<IO>(&self, io: IO, peer: Peer, mut stage: watch::Receiver<Stage>)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(|request| self.answer(request, peer));
        let mut connection = std::pin::pin!(self.http.serve_connection(TokioIo::new(io), service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = reached(&mut stage, Stage::Draining) => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection => ended,
                    () = reached(&mut stage, Stage::Closed) => return,
                }
            }
        };
        if let Err(error) = ended {
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
