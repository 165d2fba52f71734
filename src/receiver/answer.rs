//! What the receiver answers: counts, or a problem (RFC 9457).

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use warp::Reply as _;
use warp::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use warp::http::{HeaderValue, Response, StatusCode};

use super::intake::{Outcome, Refusal};
use crate::http;
use crate::journal::AppendError;
use crate::quarantine::QuarantineError;

/// The answer to nearly every request: a stock registry sends one event at a time.
const ONE_ACCEPTED: &str = r#"{"accepted":1,"duplicates":0,"quarantined":0}"#;

/// When a sender that listens (a registry does not) is to try again, in seconds.
const RETRY_SOON: u32 = 1;
const RETRY_LATER: u32 = 30;

/// 202: all of the body is durable, in the journal or in the quarantine.
pub fn accepted(outcome: &Outcome) -> warp::reply::Response {
    let body = match outcome {
        Outcome::Appended(counts) if (counts.accepted, counts.duplicates) == (1, 0) => {
            Bytes::from_static(ONE_ACCEPTED.as_bytes())
        }
        Outcome::Appended(counts) => {
            let (accepted, duplicates) = (counts.accepted, counts.duplicates);
            format!(r#"{{"accepted":{accepted},"duplicates":{duplicates},"quarantined":0}}"#).into()
        }
        Outcome::Quarantined { id, reason } => serde_json::json!({
            "accepted": 0, "duplicates": 0, "quarantined": 1, "id": id, "reason": reason,
        })
        .to_string()
        .into(),
    };
    respond(StatusCode::ACCEPTED, "application/json", body).into_response()
}

/// Why a request was not taken. Nothing of it was kept: the sender still has it.
#[derive(Debug)]
pub enum Problem {
    NotFound,
    MethodNotAllowed,
    /// No credentials, or wrong ones; holds the `WWW-Authenticate` lines.
    Unauthorised(Vec<HeaderValue>),
    BodyTooLarge {
        bytes_max: u64,
    },
    BodyTimeout(Duration),
    /// The connection or its framing broke within the body.
    BodyBroken(String),
    /// A request that no route took, for a reason that none of the others names.
    Unexpected,
    Refused(Refusal),
}

impl Problem {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Unauthorised(_) => StatusCode::UNAUTHORIZED,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTimeout(_) => StatusCode::REQUEST_TIMEOUT,
            Self::BodyBroken(_) => StatusCode::BAD_REQUEST,
            Self::Unexpected => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Refused(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The last part of the `type`, for scripts.
    fn kind(&self) -> &'static str {
        match self {
            Self::NotFound => "not-found",
            Self::MethodNotAllowed => "method-not-allowed",
            Self::Unauthorised(_) => "unauthorised",
            Self::BodyTooLarge { .. } => "body-too-large",
            Self::BodyTimeout(_) => "body-timeout",
            Self::BodyBroken(_) => "body-broken",
            Self::Unexpected => "unexpected",
            Self::Refused(Refusal::Journal(AppendError::Full { .. })) => "journal-full",
            Self::Refused(Refusal::Journal(AppendError::NoSpace(_))) => "disk-full",
            Self::Refused(Refusal::Journal(AppendError::Failed(_))) => "journal-failed",
            Self::Refused(Refusal::Journal(AppendError::Closed)) => "stopping",
            Self::Refused(Refusal::Quarantine(QuarantineError::Full { .. })) => "quarantine-full",
            Self::Refused(Refusal::Quarantine(_)) => "quarantine-failed",
        }
    }

    fn title(&self) -> &'static str {
        match self {
            Self::NotFound => "No such path",
            Self::MethodNotAllowed => "Only POST is taken here",
            Self::Unauthorised(_) => "Credentials are missing or wrong",
            Self::BodyTooLarge { .. } => "The body is too large",
            Self::BodyTimeout(_) => "The body came too slowly",
            Self::BodyBroken(_) => "The body broke off",
            Self::Unexpected => "The request could not be routed",
            Self::Refused(Refusal::Journal(_)) => "The journal takes nothing now",
            Self::Refused(Refusal::Quarantine(_)) => "The quarantine takes nothing now",
        }
    }

    fn detail(&self) -> Cow<'static, str> {
        match self {
            Self::NotFound => {
                "a registry's endpoint is /, /event or /events, or one of the configured `paths`".into()
            }
            Self::MethodNotAllowed => "a registry posts its notifications".into(),
            Self::Unauthorised(_) => {
                "send one of the configured `tokens` as a bearer token, or one of the `users` by basic \
                 authentication, in the endpoint's `headers`"
                    .into()
            }
            Self::BodyTooLarge { bytes_max } => {
                format!("`body_max` allows {bytes_max} bytes; nothing of the body was kept").into()
            }
            Self::BodyTimeout(limit) => {
                format!("the body was not complete after {}", humantime::format_duration(*limit)).into()
            }
            Self::BodyBroken(what) => what.clone().into(),
            Self::Unexpected => "this is a mistake of the relay; its log has more".into(),
            Self::Refused(refusal) => refusal.to_string().into(),
        }
    }

    /// Seconds after which the same request may be taken.
    fn retry_after(&self) -> Option<u32> {
        match self {
            Self::Refused(Refusal::Journal(AppendError::Failed(_))) => Some(RETRY_LATER),
            Self::Refused(_) => Some(RETRY_SOON),
            _ => None,
        }
    }

    fn sink(&self) -> Option<&str> {
        match self {
            Self::Refused(Refusal::Journal(AppendError::Full { held_by })) => held_by.as_deref(),
            _ => None,
        }
    }

    pub fn into_response(self) -> warp::reply::Response {
        let mut response = http::Problem {
            status: self.status(),
            kind: self.kind(),
            title: self.title(),
            detail: &self.detail(),
            sink: self.sink(),
        }
        .into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after() {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        match self {
            Self::MethodNotAllowed => {
                headers.insert(ALLOW, HeaderValue::from_static("POST"));
            }
            Self::Unauthorised(challenges) => {
                for challenge in challenges {
                    headers.append(WWW_AUTHENTICATE, challenge);
                }
            }
            _ => {}
        }
        response
    }
}

fn respond(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_every_problem() {
        let journal = |error| Problem::Refused(Refusal::Journal(error));
        let quarantine = |error| Problem::Refused(Refusal::Quarantine(error));
        let all = [
            Problem::NotFound,
            Problem::MethodNotAllowed,
            Problem::Unauthorised(Vec::new()),
            Problem::BodyTooLarge { bytes_max: 1 },
            Problem::BodyTimeout(Duration::ZERO),
            Problem::BodyBroken(String::new()),
            Problem::Unexpected,
            journal(AppendError::Full { held_by: None }),
            journal(AppendError::NoSpace(String::new())),
            journal(AppendError::Failed(String::new())),
            journal(AppendError::Closed),
            quarantine(QuarantineError::Full { bytes: 1, bytes_max: 1 }),
            quarantine(QuarantineError::Io(String::new())),
        ];
        let documented: Vec<_> = include_str!("../../docs/receiver.md")
            .lines()
            .filter_map(|line| line.strip_prefix("| ")?.split_once("` |"))
            .map(|(row, _)| row.to_owned())
            .filter(|row| row.as_bytes()[0].is_ascii_digit())
            .collect();
        let ours = all.map(|problem| format!("{} | `{}", problem.status().as_u16(), problem.kind()));
        assert_eq!(documented, ours, "the rows of the table in docs/receiver.md, in this order");
    }
}
