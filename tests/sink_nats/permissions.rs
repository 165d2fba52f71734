//! What the account may not do: publish to one subject, or read its own inbox.

use relay::sinks::FaultKind;

use crate::{
    PASSWORD, fault, server, sink,
    support::{
        contract::{BOUND, Driver, messages},
        nats::Nats,
        suite::{Shared, Suite},
        unique,
    },
    user,
};

const LIMITED: &str = r#"authorization { users: [
    { user: relay, password: "r1ght-secret" },
    { user: limited, password: "r1ght-secret", permissions: {
        publish: ["good.>", "_INBOX.>", "$JS.API.STREAM.INFO.*"], subscribe: ["_INBOX.>"] } },
    { user: mute, password: "r1ght-secret", permissions: { publish: ["good.>"], subscribe: ["_INBOX.>"] } },
    { user: deaf, password: "r1ght-secret", permissions: { publish: [">"], subscribe: ["nothing"] } }
] }"#;

pub fn register(suite: &mut Suite) {
    let shared = Shared::new(async || server(user(), &[LIMITED]).await);
    for jetstream in [false, true] {
        let nats = shared.clone();
        suite.test(&format!("permissions::one_subject::jetstream={jetstream}"), async move || {
            one_subject_is_not_allowed(&*nats.get().await, jetstream).await;
        });
        let nats = shared.clone();
        suite.test(&format!("permissions::inbox::jetstream={jetstream}"), async move || {
            let nats = nats.get().await;
            let mode = if jetstream { ", jetstream: {stream: S}" } else { "" };
            for user in ["mute", "deaf"] {
                let yaml = format!("{{servers: '{}', user: {user}, password: {PASSWORD}{mode}}}", nats.url());
                let mut driver = Driver::new(sink(&yaml), messages("good.push", 10));
                let fault = fault(&mut driver).await;
                assert_eq!(fault.kind, FaultKind::Refused, "{user}: {fault}");
                assert!(fault.text.to_lowercase().contains("permission"), "{user}: {fault}");
                assert!(driver.outcome.settled.is_empty(), "{user}");
            }
        });
    }
}

async fn one_subject_is_not_allowed(nats: &Nats, jetstream: bool) {
    let (good, bad) = (unique("good.push"), unique("bad.push"));
    let stream = unique("S");
    let mut mode = String::new();
    if jetstream {
        nats.create_stream(&stream, &[&good, &bad]).await;
        mode = format!(", jetstream: {{stream: {stream}}}");
    }
    let mut subscription = nats.subscribe(&good).await;
    let yaml = format!("{{servers: '{}', user: limited, password: {PASSWORD}{mode}}}", nats.url());
    // Every third message goes where it must not.
    let mut all = messages(&good, 300);
    for message in all.iter_mut().skip(1).step_by(3) {
        message.topic.clone_from(&bad);
    }
    let mut driver = Driver::new(sink(&yaml), all);
    driver.finish().await;
    assert_eq!(driver.outcome.faults, []);
    assert_eq!(driver.outcome.rejected.len(), 100);
    for (message, why) in &driver.outcome.rejected {
        assert_eq!((message.topic.as_str(), why.code), (bad.as_str(), "not_authorised"));
    }
    assert_eq!(subscription.take(200, BOUND).await.len(), 200);
}
