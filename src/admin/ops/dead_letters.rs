//! `/api/v1/dead-letters`. The filters, all of which must hold: `sink`, `id` (several; with `sink`),
//! `code`, `reason` (a part of it), `repository` (a glob), `older_than` and `newer_than` (ages of
//! the last try).

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use super::query::Query;
use super::replays::refused;
use super::{Answer, Problem, answer, changing, query, sink_index, with};
use crate::admin::{State, json};
use crate::delivery::{DeadLetter, DeadLetterError, DeadLetters, LetterFilter, ReplaySnapshot};
use crate::journal::{Micros, Offset};

/// Letters that are discarded with one rewriting of their files.
const DISCARD_AT_ONCE: usize = 4096;

/// A dead letter in a list: all but its event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LetterSummary {
    pub sink: String,
    pub id: u64,
    pub offset: Offset,
    pub code: String,
    pub reason: String,
    pub attempts: u32,
    pub first: Micros,
    pub last: Micros,
    pub arrived: Micros,
    pub topic: String,
    pub key: String,
    pub event_id: String,
    pub action: String,
    pub repository: String,
    /// The event's size.
    pub bytes: usize,
}

impl LetterSummary {
    fn new(sink: &str, letter: DeadLetter) -> Self {
        Self {
            sink: sink.to_owned(),
            id: letter.id,
            offset: letter.offset,
            code: letter.code,
            reason: letter.reason,
            attempts: letter.attempts,
            first: letter.first,
            last: letter.last,
            arrived: letter.arrived,
            topic: letter.topic,
            key: letter.key,
            event_id: letter.event_id,
            action: letter.action,
            repository: letter.repository,
            bytes: letter.event.len(),
        }
    }
}

/// What `GET /api/v1/dead-letters` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LetterList {
    /// By sink in the configuration's order, then by id.
    pub dead_letters: Vec<LetterSummary>,
    /// What `after` is to be for the rest; absent when there is no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// What `GET /api/v1/dead-letters/SINK/ID` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LetterShown {
    #[serde(flatten)]
    pub summary: LetterSummary,
    /// The event's JSON as the registry sent it, as a text.
    pub event: String,
}

/// What `POST /api/v1/dead-letters/replay` answers: one replay for each sink with dead letters.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReplaysBegun {
    pub replays: Vec<ReplaySnapshot>,
}

/// What `POST …/discard` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Discarded {
    pub discarded: u64,
}

pub(super) fn routes(state: &Arc<State>) -> BoxedFilter<(Response,)> {
    let at = || warp::path("dead-letters");
    let to_list = at().and(warp::path::end()).and(warp::get()).and(with(state)).and(query());
    let to_show = at().and(warp::path!(String / u64)).and(warp::get()).and(with(state));
    let to_replay = at().and(warp::path!("replay")).and(warp::post()).and(changing());
    let to_discard = at().and(warp::path!("discard")).and(warp::post()).and(changing());
    to_list
        .then(|state, query| async move { answer(list(state, query).await) })
        .or(to_show.then(|sink, id, state| async move { answer(show(state, sink, id).await) }))
        .unify()
        .or(to_replay
            .and(with(state))
            .and(query())
            .map(|state: Arc<State>, query| answer(replay(&state, query))))
        .unify()
        .or(to_discard
            .and(with(state))
            .and(query())
            .then(|state, query| async move { answer(discard(state, query).await) }))
        .unify()
        .boxed()
}

/// Which letters of which sinks.
#[derive(Debug)]
struct Chosen {
    /// Indexes in the configuration.
    sinks: Vec<usize>,
    filter: LetterFilter,
    /// Whether nothing at all narrows it.
    everything: bool,
}

fn choose(state: &State, query: &mut Query) -> Result<Chosen, Problem> {
    let sink = query.one("sink")?.map(|name| sink_index(state, &name)).transpose()?;
    let ids = query.all("id").into_iter().map(|id| {
        id.parse().map_err(|_| Problem::bad(format!("`id`: `{id}` is not a dead letter's number")))
    });
    let ids = ids.collect::<Result<Vec<u64>, _>>()?;
    if sink.is_none() && !ids.is_empty() {
        return Err(Problem::bad("an `id` is a sink's own: say which `sink`"));
    }
    let mut filter = LetterFilter::default().ids(ids);
    if let Some(code) = query.one("code")? {
        filter = filter.code(&code);
    }
    if let Some(text) = query.one("reason")? {
        filter = filter.reason(&text);
    }
    if let Some(glob) = query.one("repository")? {
        filter = filter.repository(&glob).map_err(|e| Problem::bad(format!("`repository`: {e}")))?;
    }
    if let Some(time) = query.ago("older_than")? {
        filter = filter.before(time);
    }
    if let Some(time) = query.ago("newer_than")? {
        filter = filter.since(time);
    }
    let everything = sink.is_none() && filter.is_all();
    let has_letters = |index: &usize| state.operations.replays.letters(*index).is_some();
    let sinks = match sink {
        Some(sink) if has_letters(&sink) => vec![sink],
        Some(_) => return Err(Problem::bad("the built-in stream has no dead letters")),
        None => (0..state.config.sinks.len()).filter(has_letters).collect(),
    };
    Ok(Chosen { sinks, filter, everything })
}

/// The same for what changes something: all of them must be said to be meant.
fn choose_some(state: &State, mut query: Query) -> Result<Chosen, Problem> {
    let chosen = choose(state, &mut query)?;
    let all = query.flag("all")?;
    query.end()?;
    if chosen.everything && !all {
        return Err(Problem::bad(
            "say which: sink, id, code, reason, repository, older_than, newer_than; or all=true",
        ));
    }
    Ok(chosen)
}

fn store(state: &State, sink: usize) -> Option<Arc<DeadLetters>> {
    state.operations.replays.letters(sink).cloned()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DeadLetterError> + Send + 'static,
) -> Result<T, Problem> {
    let done = tokio::task::spawn_blocking(work).await.map_err(Problem::failed)?;
    done.map_err(Problem::failed)
}

async fn list(state: Arc<State>, mut query: Query) -> Answer {
    let limit = query.limit()?;
    let after = query.one("after")?.map(|after| place(&state, &after)).transpose()?;
    let chosen = choose(&state, &mut query)?;
    query.end()?;
    let (first, mut after_id) = after.unwrap_or((0, 0));
    let mut found = Vec::new();
    for sink in chosen.sinks.into_iter().filter(|sink| *sink >= first) {
        let from = if sink == first { std::mem::take(&mut after_id) } else { 0 };
        let Some(store) = store(&state, sink) else { continue };
        let (filter, left) = (chosen.filter.clone(), limit + 1 - found.len());
        let name = state.config.sinks[sink].name.clone();
        found.extend(blocking(move || summaries(&store, &name, &filter, from, left)).await?);
        if found.len() > limit {
            break;
        }
    }
    // One more than asked for was looked for, to know whether there is a next page.
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|last| format!("{}/{}", last.sink, last.id));
    Ok(json(&LetterList { dead_letters: found, next }))
}

/// Reads `SINK/ID`.
fn place(state: &State, after: &str) -> Result<(usize, u64), Problem> {
    let split = after.rsplit_once('/').and_then(|(sink, id)| Some((sink, id.parse().ok()?)));
    let (sink, id) = split.ok_or_else(|| Problem::bad("`after` is a list's `next`, like bus/17"))?;
    Ok((sink_index(state, sink)?, id))
}

fn summaries(
    store: &DeadLetters,
    sink: &str,
    filter: &LetterFilter,
    after: u64,
    limit: usize,
) -> Result<Vec<LetterSummary>, DeadLetterError> {
    let mut found = Vec::new();
    store.visit(after, &mut |letter| {
        if filter.fits(&letter) {
            found.push(LetterSummary::new(sink, letter));
        }
        found.len() < limit
    })?;
    Ok(found)
}

async fn show(state: Arc<State>, sink: String, id: u64) -> Answer {
    let index = sink_index(&state, &sink)?;
    let none = || Problem::not_found(format!("the sink `{sink}` has no dead letter {id}"));
    let store = store(&state, index).ok_or_else(none)?;
    let mut letter = blocking(move || store.get(id)).await?.ok_or_else(none)?;
    let event = letter.event.clone();
    letter.event.shrink_to_fit();
    Ok(json(&LetterShown { summary: LetterSummary::new(&sink, letter), event }))
}

fn replay(state: &State, query: Query) -> Answer {
    let chosen = choose_some(state, query)?;
    let replays = &state.operations.replays;
    let only = chosen.sinks.len() == 1;
    let mut begun = Vec::new();
    for sink in chosen.sinks {
        if replays.letters(sink).is_some_and(|letters| letters.count() > 0) || only {
            begun.push(replays.start_letters(sink, chosen.filter.clone()).map_err(|e| refused(&e))?);
        }
    }
    Ok(json(&ReplaysBegun { replays: begun }))
}

async fn discard(state: Arc<State>, query: Query) -> Answer {
    let chosen = choose_some(&state, query)?;
    let mut discarded = 0;
    for sink in chosen.sinks {
        let Some(store) = store(&state, sink) else { continue };
        let filter = chosen.filter.clone();
        let here = blocking(move || discard_from(&store, &filter)).await?;
        if here > 0 {
            tracing::warn!(sink = %state.config.sinks[sink].name, dead_letters = here, "discarded");
        }
        discarded += here;
    }
    Ok(json(&Discarded { discarded }))
}

/// Discards what fits among the letters that are there now.
fn discard_from(store: &DeadLetters, filter: &LetterFilter) -> Result<u64, DeadLetterError> {
    let (end, mut after, mut discarded) = (store.next_id(), 0, 0);
    loop {
        let mut ids = Vec::new();
        store.visit(after, &mut |letter| {
            after = letter.id;
            if letter.id < end && filter.fits(&letter) {
                ids.push(letter.id);
            }
            letter.id < end && ids.len() < DISCARD_AT_ONCE
        })?;
        if ids.is_empty() {
            return Ok(discarded);
        }
        discarded += store.remove(&ids)?;
    }
}
