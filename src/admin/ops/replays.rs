//! `/api/v1/replays`: delivering again out of the journal. `POST` takes `sink` and `from` (an
//! offset, a time, an age, `beginning`), and perhaps `to` (the same forms; the end, without it),
//! `limit` (events), `match` (conditions as of a route, in YAML or JSON), or `action`, `repository`
//! and `tag`, several of each.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::StatusCode;
use warp::reply::{Reply as _, Response};

use super::query::Query;
use super::{Answer, Problem, answer, changing, query, sink_index, with};
use crate::admin::start::Start;
use crate::admin::{State, json};
use crate::delivery::{JournalReplay, ReplayRefused, ReplaySnapshot};
use crate::journal::local::now;
use crate::route::{Conditions, Matcher};

/// What `GET /api/v1/replays` answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReplayList {
    /// The newest first.
    pub replays: Vec<ReplaySnapshot>,
}

pub(super) fn routes(state: &Arc<State>) -> BoxedFilter<(Response,)> {
    let all = || warp::path!("replays");
    let one = || warp::path!("replays" / u64);
    let to_start = all().and(warp::post()).and(changing()).and(with(state)).and(query());
    let to_list = all().and(warp::get()).and(with(state));
    let to_show = one().and(warp::get()).and(with(state));
    let to_cancel = one().and(warp::delete()).and(changing()).and(with(state));
    to_start
        .then(|state, query| async move { answer(start(state, query).await) })
        .or(to_list.map(|state: Arc<State>| json(&ReplayList { replays: state.operations.replays.list() })))
        .unify()
        .or(to_show.map(|id, state: Arc<State>| answer(found(id, state.operations.replays.get(id)))))
        .unify()
        .or(to_cancel.map(|id, state: Arc<State>| answer(found(id, state.operations.replays.cancel(id)))))
        .unify()
        .boxed()
}

fn found(id: u64, replay: Option<ReplaySnapshot>) -> Answer {
    let none = || {
        Problem::not_found(format!(
            "there is no replay {id}: of those that ended the last are kept, and none outlives the relay"
        ))
    };
    replay.map(|replay| json(&replay)).ok_or_else(none)
}

async fn start(state: Arc<State>, mut query: Query) -> Answer {
    let sink = sink_index(&state, &query.required("sink")?)?;
    let from = place(&state, "from", &query.required("from")?).await?;
    let to = match query.one("to")? {
        Some(to) => place(&state, "to", &to).await?,
        None => state.journal.head(),
    };
    let limit = query.parsed("limit", "a number of events")?;
    let matcher = matcher(&mut query)?;
    query.end()?;
    if from >= to {
        return Err(Problem::bad(format!("there is nothing from offset {from} up to offset {to}")));
    }
    let replay = JournalReplay { sink, range: from..to, matcher, limit };
    let begun = state.operations.replays.start_journal(replay).map_err(|error| refused(&error))?;
    let location = format!("/api/v1/replays/{}", begun.id);
    let answer = warp::reply::with_header(json(&begun), "location", location);
    Ok(warp::reply::with_status(answer, StatusCode::CREATED).into_response())
}

/// An offset, none beyond the head. One that is no longer there is one that is lost, which the
/// replay tells.
async fn place(state: &State, name: &str, text: &str) -> Result<u64, Problem> {
    let start = Start::parse(text).map_err(|error| Problem::bad(format!("`{name}`: {error}")))?;
    Ok(match start {
        Start::At(offset) => offset.clamp(1, state.journal.head()),
        start => start.resolve(&*state.journal, now()).await,
    })
}

fn matcher(query: &mut Query) -> Result<Matcher, Problem> {
    let mut conditions: Conditions = match query.one("match")? {
        Some(text) => crate::config::conditions(&text).map_err(|problems| all_of(&problems))?,
        None => Conditions::default(),
    };
    for (name, list) in [
        ("action", &mut conditions.actions),
        ("repository", &mut conditions.repositories),
        ("tag", &mut conditions.tags),
    ] {
        list.extend(query.all(name));
    }
    Matcher::new(&conditions).map_err(|errors| {
        let errors: Vec<_> = errors.iter().map(|(path, text)| format!("match: {path}: {text}")).collect();
        all_of(&errors)
    })
}

fn all_of(problems: &[impl ToString]) -> Problem {
    Problem::bad(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
}

/// Why a replay does not begin, as an answer.
pub(super) fn refused(error: &ReplayRefused) -> Problem {
    let status = match error {
        ReplayRefused::NoWorker { .. } | ReplayRefused::Busy { .. } => StatusCode::CONFLICT,
        ReplayRefused::TooMany => StatusCode::TOO_MANY_REQUESTS,
        ReplayRefused::Stopping => StatusCode::SERVICE_UNAVAILABLE,
    };
    Problem::new(status, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;

    fn made(pairs: &[(&str, &str)]) -> Result<Matcher, Problem> {
        let mut query =
            Query::new(pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect());
        matcher(&mut query)
    }

    #[test]
    fn conditions_come_in_yaml_in_json_and_one_by_one() {
        let json = r#"{"action":"push","target":{"repository":"prod/app","tag":"v1"}}"#;
        let event = Event::parse(json.into()).expect("an event");
        for (pairs, fits) in [
            (&[][..], true),
            (&[("match", "{actions: [push], repositories: ['prod/**']}")], true),
            (&[("match", r#"{"actions":["push"],"not":{"tags":["v*"]}}"#)], false),
            (&[("action", "pull"), ("action", "push"), ("repository", "prod/*")], true),
            (&[("tag", "v2")], false),
            (&[("match", "{actions: [pull]}"), ("action", "push")], true),
        ] {
            assert_eq!(made(pairs).expect("a matcher").is_match(&event), fits, "{pairs:?}");
        }
        for (odd, said) in [
            ("{actoins: [push]}", "actoins"),
            ("{kinds: [nope]}", "nope"),
            ("{tags: ['[']}", "tags[0]"),
            ("[", "not YAML"),
        ] {
            let problem = made(&[("match", odd)]).expect_err(odd);
            assert!(problem.detail.contains(said), "{odd}: {}", problem.detail);
        }
    }
}
