//! `/api/v1/quarantine`. The filters, all of which must hold: `id` (several), `reason` (a part of
//! it), `older_than` and `newer_than` (ages of the arrival).

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::StatusCode;
use warp::http::header::CONTENT_TYPE;
use warp::reply::{Reply as _, Response};

use super::query::Query;
use super::{Answer, Problem, answer, changing, query, with};
use crate::admin::{State, json};
use crate::journal::Micros;
use crate::journal::local::now;
use crate::quarantine::{Entry, Id, Kept, Note, QuarantineError, QuarantineStats};
use crate::receiver::{Refusal, Replayed};

use super::dead_letters::Discarded;

/// Bodies that one request replays or discards; the answer says whether there are more.
const AT_ONCE_MAX: usize = 1000;

/// How many entries are read at a time while looking for those that fit.
const PAGE: usize = 256;

/// What `GET /api/v1/quarantine` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BodyList {
    /// How full the quarantine is.
    #[serde(flatten)]
    pub stats: QuarantineStats,
    /// The oldest first.
    pub quarantine: Vec<Entry>,
    /// What `after` is to be for the rest; absent when there is no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Id>,
}

/// What `GET /api/v1/quarantine/ID` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BodyShown {
    /// When it came, in microseconds since 1970 (moved on where two came at once).
    pub id: Id,
    pub bytes: usize,
    pub note: Note,
    /// The body as a text, where it is one: `/ID/body` gives the bytes.
    pub body: Option<String>,
}

/// What `POST /api/v1/quarantine/replay` answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BodiesReplayed {
    /// Bodies that could be read now; they are gone from the quarantine.
    pub replayed: usize,
    /// Their events that are new, and those that the journal had already.
    pub accepted: usize,
    pub duplicates: usize,
    /// Those that still cannot be read, and why; they stay.
    pub unreadable: Vec<Unreadable>,
    /// What `after` is to be for the rest; absent when there is no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Id>,
}

/// A body that still cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreadable {
    pub id: Id,
    pub reason: String,
}

pub(super) fn routes(state: &Arc<State>) -> BoxedFilter<(Response,)> {
    let at = || warp::path("quarantine");
    let to_list = at().and(warp::path::end()).and(warp::get()).and(with(state)).and(query());
    let to_show = at().and(warp::path!(u64)).and(warp::get()).and(with(state));
    let to_read = at().and(warp::path!(u64 / "body")).and(warp::get()).and(with(state));
    let to_replay = at().and(warp::path!("replay")).and(warp::post()).and(changing());
    let to_discard = at().and(warp::path!("discard")).and(warp::post()).and(changing());
    to_list
        .then(|state, query| async move { answer(list(state, query).await) })
        .or(to_show.then(|id, state| async move { answer(show(state, Id(id)).await) }))
        .unify()
        .or(to_read.then(|id, state| async move { answer(body(state, Id(id)).await) }))
        .unify()
        .or(to_replay
            .and(with(state))
            .and(query())
            .then(|state, query| async move { answer(replay(state, query).await) }))
        .unify()
        .or(to_discard
            .and(with(state))
            .and(query())
            .then(|state, query| async move { answer(discard(state, query).await) }))
        .unify()
        .boxed()
}

/// Which bodies.
#[derive(Debug, Default)]
struct Chosen {
    ids: Vec<Id>,
    /// In lower case.
    reason: Option<String>,
    before: Option<Micros>,
    since: Option<Micros>,
}

impl Chosen {
    fn read(query: &mut Query) -> Result<Self, Problem> {
        let ids = query
            .all("id")
            .into_iter()
            .map(|id| id.parse().map_err(|_| Problem::bad(format!("`id`: `{id}` is not a body's number"))));
        Ok(Self {
            ids: ids.collect::<Result<_, _>>()?,
            reason: query.one("reason")?.map(|text| text.to_lowercase()),
            before: query.ago("older_than")?,
            since: query.ago("newer_than")?,
        })
    }

    /// The same for what changes something: all of them must be said to be meant. Answers also
    /// where to begin.
    fn some(mut query: Query) -> Result<(Self, Option<Id>), Problem> {
        let chosen = Self::read(&mut query)?;
        let (all, after) = (query.flag("all")?, query.parsed("after", "a body's number")?);
        query.end()?;
        let everything = chosen.ids.is_empty()
            && chosen.reason.is_none()
            && chosen.before.is_none()
            && chosen.since.is_none();
        if everything && !all {
            return Err(Problem::bad("say which: id, reason, older_than, newer_than; or all=true"));
        }
        Ok((chosen, after))
    }

    fn fits(&self, entry: &Entry) -> bool {
        let arrived = Micros::try_from(entry.id.0).unwrap_or(Micros::MAX);
        let reason = entry.note.as_ref().map_or(String::new(), |note| note.reason.to_lowercase());
        (self.ids.is_empty() || self.ids.contains(&entry.id))
            && self.reason.as_ref().is_none_or(|text| reason.contains(text))
            && self.before.is_none_or(|time| arrived < time)
            && self.since.is_none_or(|time| arrived >= time)
    }
}

/// The first `limit` that fit behind `after`, and what `after` is to be for more.
async fn entries(
    state: &State,
    chosen: &Chosen,
    mut after: Option<Id>,
    limit: usize,
) -> Result<(Vec<Entry>, Option<Id>), Problem> {
    let mut found: Vec<Entry> = Vec::new();
    loop {
        let page = state.operations.quarantine.list(after, PAGE).await.map_err(|e| failed(&e))?;
        let Some(last) = page.last().map(|entry| entry.id) else { return Ok((found, None)) };
        for entry in page.into_iter().filter(|entry| chosen.fits(entry)) {
            if found.len() == limit {
                let next = found.last().map(|entry| entry.id);
                return Ok((found, next));
            }
            found.push(entry);
        }
        after = Some(last);
    }
}

async fn list(state: Arc<State>, mut query: Query) -> Answer {
    let (limit, after) = (query.limit()?, query.parsed("after", "a body's number")?);
    let chosen = Chosen::read(&mut query)?;
    query.end()?;
    let (quarantine, next) = entries(&state, &chosen, after, limit).await?;
    Ok(json(&BodyList { stats: state.operations.quarantine.stats(), quarantine, next }))
}

async fn get(state: &State, id: Id) -> Result<Kept, Problem> {
    let found = state.operations.quarantine.get(id).await.map_err(|error| failed(&error))?;
    found.ok_or_else(|| Problem::not_found(format!("there is no body {id} in the quarantine")))
}

async fn show(state: Arc<State>, id: Id) -> Answer {
    let Kept { id, note, body } = get(&state, id).await?;
    let text = std::str::from_utf8(&body).ok().map(str::to_owned);
    Ok(json(&BodyShown { id, bytes: body.len(), note, body: text }))
}

async fn body(state: Arc<State>, id: Id) -> Answer {
    let kept = get(&state, id).await?;
    // Never as what it claims to be: a browser must not run what a stranger has sent.
    let headers =
        [(CONTENT_TYPE.as_str(), "application/octet-stream"), ("x-content-type-options", "nosniff")];
    let mut answer = Response::new(kept.body.into()).into_response();
    for (name, value) in headers {
        answer.headers_mut().insert(name, warp::http::HeaderValue::from_static(value));
    }
    Ok(answer)
}

async fn replay(state: Arc<State>, query: Query) -> Answer {
    let (chosen, after) = Chosen::some(query)?;
    let (entries, next) = entries(&state, &chosen, after, AT_ONCE_MAX).await?;
    let mut done = BodiesReplayed { next, ..BodiesReplayed::default() };
    for Entry { id, .. } in entries {
        match state.operations.intake.replay(id, now()).await {
            Ok(Replayed::Appended(appended)) => {
                done.replayed += 1;
                done.accepted += appended.accepted;
                done.duplicates += appended.duplicates;
            }
            Ok(Replayed::Unreadable(error)) => {
                done.unreadable.push(Unreadable { id, reason: error.to_string() });
            }
            Ok(Replayed::Unknown) => {} // discarded meanwhile
            Err(Refusal::Quarantine(error @ QuarantineError::Damaged(_))) => {
                done.unreadable.push(Unreadable { id, reason: error.to_string() });
            }
            Err(refusal) => return Err(broken_off(&done, &refusal)),
        }
    }
    tracing::info!(
        replayed = done.replayed,
        accepted = done.accepted,
        duplicates = done.duplicates,
        unreadable = done.unreadable.len(),
        "replayed bodies of the quarantine"
    );
    Ok(json(&done))
}

/// A refusal, with what was done before it.
fn broken_off(done: &BodiesReplayed, refusal: &Refusal) -> Problem {
    let status = match refusal {
        Refusal::Quarantine(QuarantineError::Io(_)) => StatusCode::INTERNAL_SERVER_ERROR,
        Refusal::Journal(_) | Refusal::Quarantine(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    Problem::new(status, format!("{refusal} ({} bodies were replayed before)", done.replayed))
}

async fn discard(state: Arc<State>, query: Query) -> Answer {
    let (chosen, mut after) = Chosen::some(query)?;
    let mut discarded = 0;
    loop {
        let (found, next) = entries(&state, &chosen, after, AT_ONCE_MAX).await?;
        for Entry { id, .. } in found {
            let gone = state.operations.quarantine.discard(id).await.map_err(|error| failed(&error))?;
            discarded += u64::from(gone);
        }
        after = next;
        if after.is_none() {
            break;
        }
    }
    tracing::warn!(bodies = discarded, "discarded bodies of the quarantine");
    Ok(json(&Discarded { discarded }))
}

fn failed(error: &QuarantineError) -> Problem {
    match error {
        QuarantineError::Closed => Problem::new(StatusCode::SERVICE_UNAVAILABLE, error),
        _ => Problem::failed(error),
    }
}
