//! What the receiver serves, as warp's filters: which path, which method, who, and then the body.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Buf;
use futures_util::Stream;
use warp::filters::BoxedFilter;
use warp::filters::path::FullPath;
use warp::http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderName};
use warp::http::{HeaderMap, HeaderValue};
use warp::reply::Response;
use warp::{Filter, Rejection};

use super::answer::{Problem, accepted};
use super::auth::Auth;
use super::body::BodyReader;
use super::intake::{Intake, Refusal};
use super::now;
use crate::config::ReceiverConfig;
use crate::logging::Throttle;
use crate::quarantine::Note;

/// Where a registry may post without anything being configured.
const PATHS: [&str; 3] = ["/", "/event", "/events"];

/// How often, at most, refusals are logged. The registry retries at once, for ever.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Who is at the other end of the connection. Set on each request by the accept loop, since warp
/// knows no address of connections that it did not accept.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// What all requests share.
struct Shared {
    auth: Auth,
    paths: Vec<String>,
    reader: BodyReader,
    intake: Arc<Intake>,
    refusals: Throttle,
    strangers: Throttle,
}

/// What is needed of a request beside its body.
struct Head {
    path: FullPath,
    headers: HeaderMap,
    peer: Option<Peer>,
}

impl Head {
    /// All values of a header, in their order, as text that can be logged.
    fn text(&self, name: HeaderName) -> Option<String> {
        let values: Vec<_> = self
            .headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    fn declared_length(&self) -> Option<u64> {
        self.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
    }

    fn remote(&self) -> Option<String> {
        self.peer.map(|Peer(addr)| addr.to_string())
    }

    fn note(&self, reason: String) -> Note {
        Note {
            reason,
            path: self.path.as_str().to_owned(),
            content_type: self.text(CONTENT_TYPE),
            content_encoding: self.text(CONTENT_ENCODING),
            remote: self.remote(),
        }
    }
}

/// The receiver's routes. Every request gets an answer of ours: the filter never rejects.
pub fn routes(config: &ReceiverConfig, intake: Arc<Intake>) -> BoxedFilter<(Response,)> {
    let shared = Arc::new(Shared {
        auth: Auth::new(&config.tokens, &config.users),
        paths: paths(&config.paths),
        reader: BodyReader::new(config.body_bytes_max, config.body_timeout),
        intake,
        refusals: Throttle::new(LOG_INTERVAL),
        strangers: Throttle::new(LOG_INTERVAL),
    });
    let receiving = Arc::clone(&shared);
    known_path(Arc::clone(&shared))
        .and(warp::post())
        .and(head())
        .and_then(move |head| std::future::ready(admit(&shared, head)))
        .and(warp::body::stream())
        .then(move |head, body| {
            let shared = Arc::clone(&receiving);
            async move { receive(&shared, head, body).await }
        })
        .recover(|rejection| std::future::ready(Ok::<_, Infallible>(problem(rejection).into_response())))
        .unify()
        .boxed()
}

/// The built-in and the configured paths, without trailing slashes.
fn paths(configured: &[String]) -> Vec<String> {
    let configured = configured.iter().map(|path| format!("/{}", path.trim_matches('/')));
    let mut paths: Vec<String> = PATHS.iter().map(|path| (*path).to_owned()).chain(configured).collect();
    paths.sort();
    paths.dedup();
    paths
}

/// Passes the paths that are served, with a trailing slash or without: a redirect would turn the
/// registry's POST into a GET, and the event would be lost.
fn known_path(shared: Arc<Shared>) -> impl Filter<Extract = (), Error = Rejection> + Clone {
    warp::path::full()
        .and_then(move |path: FullPath| {
            let path = path.as_str();
            let path = path.strip_suffix('/').filter(|path| !path.is_empty()).unwrap_or(path);
            let known = shared.paths.iter().any(|known| known == path);
            std::future::ready(if known { Ok(()) } else { Err(warp::reject::not_found()) })
        })
        .untuple_one()
}

fn head() -> impl Filter<Extract = (Head,), Error = Infallible> + Copy {
    warp::path::full()
        .and(warp::header::headers_cloned())
        .and(warp::ext::optional::<Peer>())
        .map(|path, headers, peer| Head { path, headers, peer })
}

/// A problem on its way through warp's rejections.
#[derive(Debug)]
struct Refused(Vec<HeaderValue>);

impl warp::reject::Reject for Refused {}

fn admit(shared: &Shared, head: Head) -> Result<Head, Rejection> {
    if shared.auth.admits(head.headers.get(AUTHORIZATION)) {
        return Ok(head);
    }
    if let Some(more) = shared.strangers.pass(now()) {
        let shown = head.headers.contains_key(AUTHORIZATION);
        let remote = head.remote();
        tracing::warn!(remote, shown, more, "a request had no credentials, or wrong ones: answered 401");
    }
    Err(warp::reject::custom(Refused(shared.auth.challenges().to_vec())))
}

async fn receive<B: Buf>(
    shared: &Shared,
    head: Head,
    body: impl Stream<Item = Result<B, warp::Error>>,
) -> Response {
    let expects = head.headers.contains_key(EXPECT);
    let body = match shared.reader.read(body, head.declared_length(), expects).await {
        Ok(body) => body,
        Err(problem) => return refuse(shared, &head, problem),
    };
    match shared.intake.take(body, now(), |reason| head.note(reason)).await {
        Ok(outcome) => accepted(&outcome),
        Err(refusal) => refuse(shared, &head, Problem::Refused(refusal)),
    }
}

/// Answers a problem, and logs it, though not each time.
fn refuse(shared: &Shared, head: &Head, problem: Problem) -> Response {
    if let Some(more) = shared.refusals.pass(now()) {
        let (remote, status) = (head.remote(), problem.status().as_u16());
        match &problem {
            Problem::Refused(Refusal::Journal(error)) => {
                tracing::error!(remote, status, more, %error, "an event was refused; its sender keeps it");
            }
            problem => tracing::warn!(remote, status, more, ?problem, "a body was refused"),
        }
    }
    problem.into_response()
}

/// The problem that a rejection stands for.
fn problem(rejection: Rejection) -> Problem {
    if let Some(Refused(challenges)) = rejection.find() {
        return Problem::Unauthorised(challenges.clone());
    }
    if rejection.find::<warp::reject::MethodNotAllowed>().is_some() {
        return Problem::MethodNotAllowed;
    }
    if rejection.is_not_found() {
        return Problem::NotFound;
    }
    tracing::error!(?rejection, "a request that no route took");
    Problem::Unexpected
}

#[cfg(test)]
mod tests {
    use super::paths;

    #[test]
    fn paths_are_normal_and_once() {
        let configured = ["/hook/", "registry/a", "/events/", "/"].map(str::to_owned);
        assert_eq!(paths(&configured), ["/", "/event", "/events", "/hook", "/registry/a"]);
    }
}
