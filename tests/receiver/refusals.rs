//! When nothing can be kept: the sender is told to keep it.

use relay::journal::AppendError;

use crate::rig::Rig;

const BODY: &str = r#"{"events":[{"id":"1","action":"push"}]}"#;

#[tokio::test]
async fn a_journal_that_refuses_gives_503_and_says_why() {
    let rig = Rig::start();
    let cases = [
        (AppendError::Full { held_by: Some("bus".into()) }, "journal-full", "1"),
        (AppendError::Full { held_by: None }, "journal-full", "1"),
        (AppendError::NoSpace("28 left".into()), "disk-full", "1"),
        (AppendError::Failed("EIO at fdatasync".into()), "journal-failed", "30"),
        (AppendError::Closed, "stopping", "1"),
    ];
    for (error, kind, retry_after) in cases {
        rig.journal.refuse(Some(error.clone()));
        let answer = rig.post(BODY).await;
        let problem = answer.problem(503, kind);
        assert_eq!(problem["detail"], error.to_string());
        assert_eq!(answer.header("retry-after"), [retry_after], "{error}");
        let named = matches!(error, AppendError::Full { held_by: Some(_) });
        assert_eq!(problem.get("sink").and_then(|sink| sink.as_str()), named.then_some("bus"));
    }
    // What cannot be read needs no journal.
    assert_eq!(rig.post("{").await.counts(), (0, 0, 1));
    rig.journal.refuse(None);
    assert_eq!(rig.post(BODY).await.counts(), (1, 0, 0));
    assert_eq!(rig.events().await.len(), 1);
    assert_eq!(rig.metrics.events_received.get(), 1);
}

#[tokio::test]
async fn a_full_quarantine_gives_503_and_readable_bodies_still_pass() {
    let rig = Rig::with_quarantine(2 * 4096, |_| {});
    for _ in 0..2 {
        assert_eq!(rig.post("oops").await.counts(), (0, 0, 1));
    }
    let answer = rig.post("oops").await;
    let problem = answer.problem(503, "quarantine-full");
    assert!(problem["detail"].as_str().expect("a text").contains("discard"), "{problem}");
    assert_eq!(answer.header("retry-after"), ["1"]);
    assert_eq!(rig.post(BODY).await.counts(), (1, 0, 0));
    let oldest = rig.quarantined().await[0].id;
    rig.quarantine.discard(oldest).await.expect("discarded");
    assert_eq!(rig.post("oops").await.counts(), (0, 0, 1));
}
