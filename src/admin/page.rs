//! The page at `/`: three files, no framework, nothing from elsewhere. It shows what the other
//! paths tell, with the token that its reader types in, so the files themselves are for everybody.

use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::HeaderValue;
use warp::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use warp::reply::{Reply as _, Response};

/// Nothing but what this listener serves: neither scripts that an event smuggled in, nor frames.
const POLICY: &str = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

pub(super) fn routes() -> BoxedFilter<(Response,)> {
    let index = warp::path::end().map(|| file("text/html; charset=utf-8", include_str!("page/index.html")));
    let script = warp::path!("page.js").map(|| file("text/javascript", include_str!("page/page.js")));
    let style = warp::path!("page.css").map(|| file("text/css", include_str!("page/page.css")));
    warp::get().and(index.or(script).unify().or(style).unify()).boxed()
}

fn file(content_type: &'static str, text: &'static str) -> Response {
    let mut response = text.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Small, and to be that of the relay that runs.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
