//! What an operator does: look at dead letters, quarantined bodies and gaps, send again, discard.
//!
//! | path | does |
//! |---|---|
//! | `GET /api/v1/dead-letters` | lists them: [`dead_letters`] has the filters |
//! | `GET /api/v1/dead-letters/SINK/ID` | shows one, with its event |
//! | `POST /api/v1/dead-letters/replay`, `…/discard` | all that the filters fit |
//! | `GET /api/v1/quarantine`, `/ID`, `/ID/body` | lists, shows, gives the bytes |
//! | `POST /api/v1/quarantine/replay`, `…/discard` | all that the filters fit |
//! | `POST /api/v1/replays` | delivers again out of the journal |
//! | `GET /api/v1/replays`, `/ID`, `DELETE /api/v1/replays/ID` | how they stand; cancels one |
//! | `GET /api/v1/gaps` | what was given up because of `backlog_max` |
//!
//! Everything is said in the query, so that `curl -X POST` needs no body. `docs/operations.md` has
//! the shapes.

pub mod dead_letters;
mod query;
pub mod quarantine;
pub mod replays;

use std::sync::Arc;

use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::{HeaderMap, StatusCode};
use warp::reply::Response;

use self::query::Query;
use super::{State, json};
use crate::delivery::{Gap, Gaps, Replays};
use crate::http;
use crate::quarantine::Quarantine;
use crate::receiver::Intake;

/// What operations work on.
pub struct Operations {
    pub replays: Arc<Replays>,
    /// By the sinks' indexes in the configuration; `None` for the built-in stream.
    pub gaps: Vec<Option<Arc<Gaps>>>,
    pub intake: Arc<Intake>,
    pub quarantine: Arc<Quarantine>,
}

/// Why an operation is not done: the answer's status, and what it says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    status: StatusCode,
    detail: String,
}

impl Problem {
    fn new(status: StatusCode, detail: impl ToString) -> Self {
        Self { status, detail: detail.to_string() }
    }

    /// What was asked for makes no sense.
    fn bad(detail: impl ToString) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    fn not_found(detail: impl ToString) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// Something of the relay's own failed: its disk, mostly.
    fn failed(detail: impl ToString) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
    }

    fn into_response(self) -> Response {
        let (kind, title) = match self.status {
            StatusCode::BAD_REQUEST => ("bad-request", "The request makes no sense"),
            StatusCode::FORBIDDEN => ("foreign-page", "Not from another site's page"),
            StatusCode::NOT_FOUND => ("not-found", "There is none"),
            StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                ("not-now", "This cannot be done now")
            }
            _ => ("failed", "The relay could not do it"),
        };
        http::Problem { status: self.status, kind, title, detail: &self.detail, sink: None }.into_response()
    }
}

type Answer = Result<Response, Problem>;

/// All routes, each with what it works on.
pub(super) fn routes(state: &Arc<State>) -> BoxedFilter<(Response,)> {
    let gaps = warp::path!("gaps").and(warp::get()).and(with(state)).and(query());
    let gaps = gaps.map(|state: Arc<State>, query| answer(list_gaps(&state, query)));
    warp::path!("api" / "v1" / ..)
        .and(
            dead_letters::routes(state)
                .or(quarantine::routes(state))
                .unify()
                .or(replays::routes(state))
                .unify()
                .or(gaps)
                .unify(),
        )
        .boxed()
}

fn with(
    state: &Arc<State>,
) -> impl Filter<Extract = (Arc<State>,), Error = std::convert::Infallible> + Clone + use<> {
    let state = Arc::clone(state);
    warp::any().map(move || Arc::clone(&state))
}

fn query() -> impl Filter<Extract = (Query,), Error = warp::Rejection> + Clone {
    warp::query::<Vec<(String, String)>>().map(Query::new)
}

/// A request that changes something, unless a page of another site makes a browser send it: the
/// listener may be open to whoever reaches it, and a browser on the same machine does.
fn changing() -> impl Filter<Extract = (), Error = warp::Rejection> + Clone {
    warp::header::headers_cloned()
        .and_then(|headers: HeaderMap| async move {
            if is_foreign(&headers) { Err(warp::reject::custom(Foreign)) } else { Ok(()) }
        })
        .untuple_one()
}

/// A browser says of every request that is not a plain navigation where its page came from (Fetch
/// standard, "Origin header"; `Sec-Fetch-Site`).
fn is_foreign(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let site = text("sec-fetch-site");
    let origin = text("origin").map(|origin| origin.split_once("://").map_or(origin, |(_, host)| host));
    site.is_some_and(|site| !matches!(site, "same-origin" | "none"))
        || origin.is_some_and(|origin| Some(origin) != text("host"))
}

/// A request of another site's page.
#[derive(Debug)]
pub(super) struct Foreign;

impl warp::reject::Reject for Foreign {}

/// Answers what [`changing`] turned away.
pub(super) async fn foreign(rejection: warp::Rejection) -> Result<Response, warp::Rejection> {
    match rejection.find::<Foreign>() {
        Some(Foreign) => {
            let text = "a page of another site sent this request";
            Ok(Problem::new(StatusCode::FORBIDDEN, text).into_response())
        }
        None => Err(rejection),
    }
}

fn answer(answer: Answer) -> Response {
    answer.unwrap_or_else(Problem::into_response)
}

/// The index of a sink.
fn sink_index(state: &State, name: &str) -> Result<usize, Problem> {
    let found = state.config.sinks.iter().position(|sink| sink.name == name);
    found.ok_or_else(|| Problem::not_found(format!("there is no sink `{name}`")))
}

/// A gap, and whose.
#[derive(Debug, serde::Serialize)]
struct SinkGap {
    sink: String,
    #[serde(flatten)]
    gap: Gap,
}

fn list_gaps(state: &State, mut query: Query) -> Answer {
    let only = query.one("sink")?.map(|name| sink_index(state, &name)).transpose()?;
    query.end()?;
    let mut all = Vec::new();
    for (index, gaps) in state.operations.gaps.iter().enumerate() {
        let Some(gaps) = gaps.as_ref().filter(|_| only.is_none_or(|only| only == index)) else { continue };
        let sink = &state.config.sinks[index].name;
        all.extend(gaps.list().into_iter().map(|gap| SinkGap { sink: sink.clone(), gap }));
    }
    Ok(json(&serde_json::json!({"gaps": all})))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_sites_pages_change_nothing() {
        for (headers, foreign) in [
            (vec![("host", "localhost:8081")], false),
            (vec![("host", "localhost:8081"), ("origin", "http://localhost:8081")], false),
            (vec![("host", "localhost:8081"), ("origin", "https://evil.example")], true),
            (vec![("host", "localhost:8081"), ("origin", "null")], true),
            (vec![("sec-fetch-site", "cross-site")], true),
            (vec![("sec-fetch-site", "same-site")], true),
            (vec![("sec-fetch-site", "same-origin")], false),
            (vec![("sec-fetch-site", "none")], false),
        ] {
            let map = headers
                .iter()
                .map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")))
                .collect::<HeaderMap>();
            assert_eq!(is_foreign(&map), foreign, "{headers:?}");
        }
    }
}
