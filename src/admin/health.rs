//! What an orchestrator asks.

use warp::http::StatusCode;
use warp::reply::{Reply as _, Response};

use super::{Ready, State, json};
use crate::http::Problem;

/// The process answers.
pub(super) fn alive() -> Response {
    warp::reply::json(&serde_json::json!({"status": "ok"})).into_response()
}

/// Whether a registry's events would be taken now. A sink that is down does not matter: its events
/// wait in the journal, and to send the registry elsewhere would help nobody.
pub(super) fn ready(state: &State) -> Response {
    match Ready::of(state) {
        Ready { ready: true, .. } => json(&serde_json::json!({"status": "ready"})),
        Ready { reason, .. } => Problem {
            status: StatusCode::SERVICE_UNAVAILABLE,
            kind: "not-ready",
            title: "Events are not taken now",
            detail: reason.as_deref().unwrap_or_default(),
            sink: None,
        }
        .into_response(),
    }
}
