//! HTTP/1.1 on a listener of our own: warp 0.4 has no time limit on a request's header, no bound on
//! connections, and no deadline on its graceful shutdown.

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use warp::Filter as _;
use warp::filters::BoxedFilter;
use warp::http::StatusCode;
use warp::http::header::CONTENT_TYPE;
use warp::reply::{Reply as _, Response};

/// How long to leave a listener alone that cannot accept: mostly a want of file descriptors, which
/// a closing connection gives back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a listener allows.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time; a further one waits in the kernel's queue.
    pub connections_max: usize,
    /// How long a request's header may take.
    pub header_timeout: Duration,
    /// How long requests may go on once the listener is to stop.
    pub drain_timeout: Duration,
}

/// Answers requests with `filter` until `shutdown`, then finishes those under way, none later than
/// `drain_timeout` after it.
///
/// The filter must not reject; see [`warp::Filter::recover`].
pub async fn serve(
    listener: TcpListener,
    filter: BoxedFilter<(Response,)>,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) {
    let permits = Arc::new(Semaphore::new(limits.connections_max));
    let (stop, stopping) = watch::channel(false);
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = accept(&listener, &permits) => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let (stream, permit) = accepted;
        let answered = connection(stream, filter.clone(), limits.header_timeout, stopping.clone());
        connections.spawn(async move {
            answered.await;
            drop(permit);
        });
    }
    drop(listener);
    let _ = stop.send(true);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.drain_timeout, drained).await.is_err() {
        tracing::warn!(connections = connections.len(), "cut off connections that did not end in time");
        connections.shutdown().await;
    }
}

/// The next connection, and its share of the bound. Cancel safe.
async fn accept(listener: &TcpListener, permits: &Arc<Semaphore>) -> (TcpStream, OwnedSemaphorePermit) {
    let permit = Arc::clone(permits).acquire_owned().await.expect("the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, permit),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Answers one connection's requests until it ends, or, once stopping, the one under way.
async fn connection(
    stream: TcpStream,
    filter: BoxedFilter<(Response,)>,
    header_timeout: Duration,
    mut stopping: watch::Receiver<bool>,
) {
    // Small answers must not wait for the next one.
    let _ = stream.set_nodelay(true);
    let service = TowerToHyperService::new(warp::service(filter));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = async { let _ = stopping.wait_for(|stop| *stop).await; } => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// A failure's answer, as `application/problem+json` (RFC 9457).
///
/// `detail` says what is wrong and what to do about it.
pub fn problem(status: StatusCode, detail: &str) -> Response {
    let body = serde_json::json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or("Error"),
        "status": status.as_u16(),
        "detail": detail,
    });
    let reply = warp::reply::with_header(body.to_string(), CONTENT_TYPE, "application/problem+json");
    warp::reply::with_status(reply, status).into_response()
}

/// Turns what no route took into a problem, so that every answer of a listener is one of ours.
pub async fn rejected(rejection: warp::Rejection) -> Result<Response, std::convert::Infallible> {
    let (status, detail) = if rejection.find::<warp::reject::MethodNotAllowed>().is_some() {
        (StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method")
    } else if rejection.find::<warp::reject::InvalidQuery>().is_some() {
        (StatusCode::BAD_REQUEST, "the query cannot be read")
    } else if rejection.is_not_found() {
        (StatusCode::NOT_FOUND, "there is nothing at this path")
    } else {
        (StatusCode::BAD_REQUEST, "the request cannot be read")
    };
    Ok(problem(status, detail))
}

/// Routes with every rejection answered, ready for [`serve`].
pub fn answering<F>(routes: F) -> BoxedFilter<(Response,)>
where
    F: warp::Filter<Extract = (Response,), Error = warp::Rejection> + Clone + Send + Sync + 'static,
    F::Future: Send,
{
    routes.recover(rejected).unify().boxed()
}
