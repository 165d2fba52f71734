//! Real requests of real registries, byte for byte.

use crate::rig::Rig;

const FILES: [&str; 2] = ["distribution-2.8.3.jsonl", "distribution-3.1.1.jsonl"];

/// A request as it was recorded.
#[derive(serde::Deserialize)]
pub struct Capture {
    pub method: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

pub fn captures() -> Vec<Capture> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/captures");
    let read = |file: &str| std::fs::read_to_string(format!("{folder}/{file}")).expect("a capture");
    let lines = FILES.iter().map(|file| read(file)).collect::<Vec<_>>().concat();
    lines.lines().map(|line| serde_json::from_str(line).expect("a recorded request")).collect()
}

#[tokio::test]
async fn every_capture_goes_through_byte_for_byte() {
    let captures = captures();
    assert_eq!(captures.len(), 34);
    let rig = Rig::start();
    for capture in &captures {
        let mut connection = rig.connect().await;
        let headers: Vec<_> = capture
            .headers
            .iter()
            .filter(|(name, _)| !name.eq_ignore_ascii_case("content-length"))
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let line = format!("{} /events", capture.method);
        let answer = connection.request(&line, &headers, capture.body.as_bytes()).await;
        assert_eq!(answer.counts(), (1, 0, 0), "{}", capture.body);
        assert_eq!(answer.header("content-type"), ["application/json"]);
    }
    let events = rig.events().await;
    assert_eq!(events.len(), captures.len());
    for (stored, capture) in events.iter().zip(&captures) {
        let raw = std::str::from_utf8(stored.event.raw()).expect("UTF-8");
        // A registry's envelope of one event: what was taken out, put back, gives the whole request.
        assert_eq!(format!("{{\n   \"events\": [\n      {raw}\n   ]\n}}"), capture.body);
    }
    // The same once more: a registry that got no answer sends it again.
    for capture in &captures {
        assert_eq!(rig.post(&capture.body).await.counts(), (0, 1, 0));
    }
    assert_eq!(rig.metrics.events_received.get(), 34);
    assert_eq!(rig.metrics.events_duplicated.get(), 34);
    assert!(rig.quarantined().await.is_empty());
}

#[tokio::test]
async fn one_envelope_of_all_captured_events_is_taken_whole() {
    let events: Vec<String> = captures()
        .iter()
        .map(|capture| {
            let json: serde_json::Value = serde_json::from_str(&capture.body).expect("JSON");
            json["events"][0].to_string()
        })
        .collect();
    let rig = Rig::start();
    let answer = rig.post(format!(r#"{{"events":[{}]}}"#, events.join(","))).await;
    assert_eq!(answer.counts(), (34, 0, 0));
    let stored: Vec<_> = rig.events().await.iter().map(|stored| stored.event.raw().clone()).collect();
    assert_eq!(stored, events);
}
