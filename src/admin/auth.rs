//! Bearer tokens of the admin listener.

use std::sync::Arc;

use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::StatusCode;
use warp::http::header::{HeaderValue, WWW_AUTHENTICATE};
use warp::reply::Response;

use crate::config::Secret;
use crate::http::Problem;

/// The tokens that are accepted; none: everybody is.
pub(super) struct Tokens(Vec<Secret>);

impl Tokens {
    pub(super) fn new(tokens: Vec<Secret>) -> Self {
        Self(tokens)
    }

    /// Whether an `Authorization` header may pass. All tokens are compared, each in constant time.
    fn accept(&self, authorization: Option<&str>) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let Some((scheme, token)) = authorization.and_then(|value| value.split_once(' ')) else {
            return false;
        };
        let given = Secret::new(token.trim());
        let known = self.0.iter().fold(false, |known, token| known | (*token == given));
        known && scheme.eq_ignore_ascii_case("bearer")
    }
}

/// Lets requests through to `routes` only with a token. What the routes do not have is not found
/// rather than forbidden, token or not: that says no more than the source does.
pub(super) fn guard<F>(tokens: Arc<Tokens>, routes: F) -> BoxedFilter<(Response,)>
where
    F: Filter<Extract = (Response,), Error = warp::Rejection> + Clone + Send + Sync + 'static,
    F::Future: Send,
{
    warp::header::optional::<String>("authorization")
        .and_then(move |value: Option<String>| {
            let accepted = tokens.accept(value.as_deref());
            async move { if accepted { Ok(()) } else { Err(warp::reject::custom(Forbidden)) } }
        })
        .untuple_one()
        .and(routes)
        .recover(unauthorised)
        .unify()
        .boxed()
}

/// No token, or a wrong one.
#[derive(Debug)]
struct Forbidden;

impl warp::reject::Reject for Forbidden {}

async fn unauthorised(rejection: warp::Rejection) -> Result<Response, warp::Rejection> {
    if rejection.find::<Forbidden>().is_none() {
        return Err(rejection);
    }
    let mut answer = Problem {
        status: StatusCode::UNAUTHORIZED,
        kind: "unauthorised",
        title: "Credentials are missing or wrong",
        detail: "send `Authorization: Bearer TOKEN` with one of admin.tokens",
        sink: None,
    }
    .into_response();
    answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"relay\""));
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_any_of_its_tokens_and_nothing_else() {
        let tokens = Tokens::new(vec![Secret::new("first"), Secret::new("second")]);
        for (header, expected) in [
            (Some("Bearer first"), true),
            (Some("bearer second"), true),
            (Some("Bearer third"), false),
            (Some("Bearer "), false),
            (Some("Basic first"), false),
            (Some("first"), false),
            (None, false),
        ] {
            assert_eq!(tokens.accept(header), expected, "{header:?}");
        }
        assert!(Tokens::new(Vec::new()).accept(None));
    }
}
