//! The accept loop: a bound on connections, and an end that answers what is in flight. Ours, since
//! warp 0.4 has no time limit on a header, no bound on connections and no deadline on its shutdown.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::rt::{Read, Write};
use hyper::server::conn::http1::Connection;
use hyper::service::HttpService;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use crate::journal::local::now;
use crate::logging::Throttle;

/// Connections that the kernel keeps for us while we accept others, or while `connections_max` are
/// open. The kernel cuts it to `net.core.somaxconn`, 4096 by default.
const BACKLOG: u32 = 4096;

/// How long to leave the listener alone after it could not accept: mostly a want of file
/// descriptors, which a closing connection gives back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How often, at most, it is logged that connections cannot be accepted.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Open,
    /// Finish the request in flight, then close.
    Draining,
    /// Close now.
    Closed,
}

/// How far the end has come, as a connection sees it.
#[derive(Clone, Debug)]
pub struct Stopping(watch::Receiver<Stage>);

impl Stopping {
    /// Waits for a stage, or for the end of the listener.
    async fn reached(&mut self, wanted: Stage) {
        let _ = self.0.wait_for(|stage| *stage >= wanted).await;
    }
}

/// How a listener ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were still open at the deadline and were cut: their requests got no answer,
    /// so their senders still have what they sent.
    pub cut: usize,
}

/// A bound listener, not yet accepting: connections already wait in its queue.
#[derive(Debug)]
pub struct Listener {
    listener: std::net::TcpListener,
    local_addr: SocketAddr,
    connections_max: usize,
}

impl Listener {
    /// Listens. To be called within a tokio runtime. At most `connections_max` connections are open
    /// at a time; further ones wait in the kernel's queue, and then in their senders'.
    ///
    /// # Errors
    /// The operating system's: the address is taken or not ours.
    pub fn bind(addr: SocketAddr, connections_max: usize) -> io::Result<Self> {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // A restart must not wait for the last run's connections to time out.
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        let listener = socket.listen(BACKLOG)?.into_std()?;
        let local_addr = listener.local_addr()?;
        let connections_max = connections_max.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        Ok(Self { listener, local_addr, connections_max })
    }

    /// The address, with the port that was given for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Runs `connection` for each connection, in a task of its own in the caller's runtime (which need
    /// not be the one that it was bound in), until `shutdown` is ready; then stops accepting and lets
    /// them finish what is in flight. What is not done after `drain` is cut without an answer.
    ///
    /// `connection` is to end soon after its [`Stopping`] says so, as [`answer`] does.
    pub async fn serve<C, F>(
        self,
        connection: C,
        shutdown: impl Future<Output = ()>,
        drain: Duration,
    ) -> Drained
    where
        C: Fn(TcpStream, SocketAddr, Stopping) -> F,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::from_std(self.listener).expect("the poll takes a listener");
        let accepting = Accepting { listener, local_addr: self.local_addr };
        let permits = Arc::new(Semaphore::new(self.connections_max));
        let (stage, seen) = watch::channel(Stage::Open);
        let stopping = Stopping(seen);
        tokio::select! {
            () = shutdown => {}
            () = accepting.accept(&connection, &permits, &stopping) => {}
        }
        // Those in the kernel's queue are reset, which tells their senders to try again.
        drop(accepting);
        stage.send_replace(Stage::Draining);
        let ended = permits.acquire_many(self.connections_max as u32);
        if timeout(drain, ended).await.is_ok() {
            return Drained { cut: 0 };
        }
        let cut = self.connections_max - permits.available_permits();
        stage.send_replace(Stage::Closed);
        Drained { cut }
    }
}

/// A listener in the runtime that accepts.
struct Accepting {
    listener: TcpListener,
    local_addr: SocketAddr,
}

impl Accepting {
    /// Accepts for ever.
    async fn accept<C, F>(&self, connection: &C, permits: &Arc<Semaphore>, stopping: &Stopping)
    where
        C: Fn(TcpStream, SocketAddr, Stopping) -> F,
        F: Future<Output = ()> + Send + 'static,
    {
        let troubles = Throttle::new(LOG_INTERVAL);
        loop {
            let Ok(permit) = Arc::clone(permits).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    // Answers are small writes; they must not wait for the last one's acknowledgement.
                    let _ = stream.set_nodelay(true);
                    let connected = connection(stream, peer, stopping.clone());
                    tokio::spawn(async move {
                        connected.await;
                        drop(permit);
                    });
                }
                Err(error) if is_the_connections_own(&error) => {}
                Err(error) => {
                    if let Some(more) = troubles.pass(now()) {
                        let listen = self.local_addr;
                        tracing::error!(%error, %listen, more, "cannot accept connections");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Whether an error of `accept` is that of a connection which ended before it was accepted.
fn is_the_connections_own(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Answers a connection's requests until either side ends it, or, once it is to stop, the one in
/// flight.
///
/// # Errors
/// hyper's: the connection ended early, or what came is no HTTP.
pub async fn answer<IO, S>(connection: Connection<IO, S>, mut stopping: Stopping) -> hyper::Result<()>
where
    IO: Read + Write + Unpin,
    S: HttpService<Incoming>,
    S::ResBody: Body + 'static,
    <S::ResBody as Body>::Error: Into<Box<dyn Error + Send + Sync>>,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopping.reached(Stage::Draining) => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection => ended,
                () = stopping.reached(Stage::Closed) => Ok(()),
            }
        }
    }
}
