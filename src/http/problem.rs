//! Failures as `application/problem+json` (RFC 9457).

use warp::http::StatusCode;
use warp::http::header::{CONTENT_TYPE, HeaderValue};
use warp::reply::{Reply as _, Response};

/// A failure's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem<'a> {
    pub status: StatusCode,
    /// The last part of the `type`, for scripts: `urn:relay:problem:<kind>`.
    pub kind: &'a str,
    /// The same for every problem of this kind.
    pub title: &'a str,
    /// What is wrong this time, and what to do about it.
    pub detail: &'a str,
    /// The sink that it is about.
    pub sink: Option<&'a str>,
}

#[derive(serde::Serialize)]
struct Document<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sink: Option<&'a str>,
}

impl Problem<'_> {
    pub fn into_response(self) -> Response {
        let document = Document {
            kind: format!("urn:relay:problem:{}", self.kind),
            title: self.title,
            status: self.status.as_u16(),
            detail: self.detail,
            sink: self.sink,
        };
        let body = serde_json::to_vec(&document).expect("strings and numbers serialise");
        let mut response = warp::reply::with_status(body, self.status).into_response();
        let content_type = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        response
    }
}
