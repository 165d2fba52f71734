//! Who may post.

use base64::Engine as _;
use relay::config::Secret;
use relay::telemetry::StatusLabel;

use crate::rig::Rig;

const BODY: &[u8] = b"{\"events\":[{\"action\":\"push\"}]}";

fn basic(pair: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
}

#[tokio::test]
async fn only_the_configured_may_post() {
    let rig = Rig::with(|config| {
        config.tokens = vec![Secret::new("one"), Secret::new("two")];
        config.users = vec![("ci".to_owned(), Secret::new("pw")), ("qa".to_owned(), Secret::new("x:y"))];
    });
    let cases = [
        ("Bearer one".to_owned(), 202),
        ("bearer two".to_owned(), 202),
        (basic("ci:pw"), 202),
        (basic("qa:x:y"), 202),
        ("Bearer three".to_owned(), 401),
        ("Bearer onetwo".to_owned(), 401),
        ("one".to_owned(), 401),
        (basic("ci:x:y"), 401),
        (basic("ci"), 401),
        ("Basic ???".to_owned(), 401),
    ];
    for (header, status) in &cases {
        let mut connection = rig.connect().await;
        let answer = connection.request("POST /events", &[("Authorization", header.as_str())], BODY).await;
        assert_eq!(answer.status, *status, "{header}");
    }
    let answer = rig.post(BODY).await;
    answer.problem(401, "unauthorised");
    assert_eq!(
        answer.header("www-authenticate"),
        ["Bearer realm=\"relay\"", "Basic realm=\"relay\", charset=\"UTF-8\""]
    );
    assert_eq!(rig.events().await.len(), 4);
    assert_eq!(rig.metrics.requests.get_or_create(&StatusLabel { status: 401 }).get(), 7);
}

#[tokio::test]
async fn a_stranger_learns_of_paths_and_methods_and_no_more() {
    let rig = Rig::with(|config| config.tokens = vec![Secret::new("one")]);
    rig.connect().await.post("/nowhere", BODY).await.problem(404, "not-found");
    rig.connect().await.request("GET /events", &[], b"").await.problem(405, "method-not-allowed");
    // An unreadable body of a stranger is no reason to keep it.
    rig.post("{").await.problem(401, "unauthorised");
    assert!(rig.quarantined().await.is_empty());
    let answer = rig.post(BODY).await;
    assert_eq!(answer.header("www-authenticate"), ["Bearer realm=\"relay\""]);
}

#[tokio::test]
async fn the_body_of_a_stranger_that_asks_first_is_not_called_for() {
    let rig = Rig::with(|config| config.tokens = vec![Secret::new("one")]);
    let mut connection = rig.connect().await;
    connection.send("POST / HTTP/1.1\r\nHost: r\r\nContent-Length: 99\r\nExpect: 100-continue\r\n\r\n").await;
    connection.answer().await.problem(401, "unauthorised");
}
