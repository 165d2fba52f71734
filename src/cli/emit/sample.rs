//! Events as a registry of distribution 3.x writes them: same fields, same order, same indentation.

use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const BLOB: &str = "application/octet-stream";

/// What one event says; one of these is drawn for each.
struct Shape {
    action: &'static str,
    method: &'static str,
    media_type: &'static str,
    tagged: bool,
}

const fn shape(action: &'static str, method: &'static str, media_type: &'static str, tagged: bool) -> Shape {
    Shape { action, method, media_type, tagged }
}

/// In about the proportions of a busy registry: mostly pulls, two layers to a manifest.
const SHAPES: [Shape; 16] = [
    shape("push", "PUT", BLOB, false),
    shape("push", "PUT", BLOB, false),
    shape("push", "PUT", MANIFEST, true),
    shape("push", "PUT", MANIFEST, false),
    shape("mount", "POST", BLOB, false),
    shape("pull", "HEAD", MANIFEST, true),
    shape("pull", "HEAD", BLOB, false),
    shape("pull", "GET", MANIFEST, true),
    shape("pull", "GET", MANIFEST, true),
    shape("pull", "GET", MANIFEST, false),
    shape("pull", "GET", BLOB, false),
    shape("pull", "GET", BLOB, false),
    shape("pull", "GET", BLOB, false),
    shape("pull", "GET", BLOB, false),
    shape("delete", "DELETE", "", false),
    shape("delete", "DELETE", "", true),
];

/// A registry's events. The n-th is always the same, whoever asks for it and when.
#[derive(Clone, Debug)]
pub struct Sample {
    seed: u64,
    repositories: u64,
    began: Timestamp,
    instance: String,
}

impl Sample {
    /// Events over `repositories` (at least one) repositories, a millisecond apart from `began` on.
    pub fn new(seed: u64, repositories: u64, began: Timestamp) -> Self {
        let instance = uuid(&mut Random(seed));
        Self { seed, repositories: repositories.max(1), began, instance }
    }

    /// An envelope of the events that `numbers` names.
    pub fn envelope(&self, numbers: impl IntoIterator<Item = u64>) -> String {
        let mut json = String::with_capacity(1024);
        json.push_str("{\n   \"events\": [");
        for (place, number) in numbers.into_iter().enumerate() {
            json.push_str(if place == 0 { "\n      " } else { ",\n      " });
            self.event(number, &mut json);
        }
        json.push_str("\n   ]\n}");
        json
    }

    /// Appends the n-th event, indented as within an envelope.
    pub fn event(&self, number: u64, json: &mut String) {
        let mut random = Random(self.seed ^ number.wrapping_mul(0xd6e8_feb8_6659_fd93));
        let (id, request) = (uuid(&mut random), uuid(&mut random));
        let shape = &SHAPES[(random.next() % SHAPES.len() as u64) as usize];
        let repository = random.next() % self.repositories;
        let port = 32_768 + random.next() % 28_000;
        let at = SignedDuration::from_nanos((number * 1_000_000 + random.next() % 1_000_000) as i64);
        let timestamp = self.began.checked_add(at).unwrap_or(self.began);
        write!(
            json,
            r#"{{
         "id": "{id}",
         "timestamp": "{timestamp}",
         "action": "{action}",
         "target": {{
{target}
         }},
         "request": {{
            "id": "{request}",
            "addr": "10.0.{subnet}.7:{port}",
            "host": "registry.example",
            "method": "{method}",
            "useragent": "containers/5.34.0 (github.com/containers/image)"
         }},
         "actor": {{
            "name": "ci"
         }},
         "source": {{
            "addr": "registry-0:5000",
            "instanceID": "{instance}"
         }}
      }}"#,
            action = shape.action,
            method = shape.method,
            target = target(shape, &format!("team-{}/app-{repository}", repository % 7), number, &mut random),
            subnet = repository % 250,
            instance = self.instance,
        )
        .expect("writing to a string does not fail");
    }
}

/// The fields of `target`, in distribution's order; the fields of a deletion are mostly empty.
fn target(shape: &Shape, repository: &str, number: u64, random: &mut Random) -> String {
    let (media_type, tag) = (shape.media_type, format!("v{number}"));
    let digest: String = (0..4).map(|_| format!("{:016x}", random.next())).collect();
    let mut lines = Vec::with_capacity(7);
    match (media_type, shape.tagged) {
        ("", true) => lines.push("\"mediaType\": \"\",\n\"digest\": \"\",\n\"size\": 0".to_owned()),
        ("", false) => {
            lines.push(format!("\"mediaType\": \"\",\n\"digest\": \"sha256:{digest}\",\n\"size\": 0"))
        }
        _ => {
            let size = 400 + random.next() % 100_000;
            lines.push(format!("\"mediaType\": \"{media_type}\",\n\"digest\": \"sha256:{digest}\""));
            lines.push(format!("\"size\": {size},\n\"length\": {size}"));
        }
    }
    lines.push(format!("\"repository\": \"{repository}\""));
    if shape.action == "mount" {
        lines.push("\"fromRepository\": \"base/debian\"".to_owned());
    }
    if !media_type.is_empty() {
        let part = if media_type == BLOB { "blobs" } else { "manifests" };
        lines.push(format!("\"url\": \"https://registry.example/v2/{repository}/{part}/sha256:{digest}\""));
    }
    if shape.tagged {
        lines.push(format!("\"tag\": \"{tag}\""));
    }
    let fields = lines.join(",\n");
    let indented: Vec<_> = fields.lines().map(|line| format!("            {line}")).collect();
    indented.join("\n")
}

/// SplitMix64: events need to differ, not to be unpredictable.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
}

fn uuid(random: &mut Random) -> String {
    let bytes = (u128::from(random.next()) << 64) | u128::from(random.next());
    uuid::Builder::from_random_bytes(bytes.to_be_bytes()).into_uuid().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Envelope, Kind};
    use std::collections::BTreeSet;

    fn sample() -> Sample {
        Sample::new(7, 5, "2026-11-24T01:58:26Z".parse().expect("a time"))
    }

    #[test]
    fn envelopes_are_read_as_a_registry_s_are() {
        let json = sample().envelope(0..500);
        let events = Envelope::parse(&json.into()).expect("readable").events;
        assert_eq!(events.len(), 500);
        let ids: BTreeSet<_> = events.iter().map(|event| event.id()).collect();
        assert_eq!(ids.len(), 500);
        let actions: BTreeSet<_> = events.iter().map(|event| event.action()).collect();
        assert_eq!(actions.into_iter().collect::<Vec<_>>(), ["delete", "mount", "pull", "push"]);
        let repositories: BTreeSet<_> = events.iter().map(|event| event.repository()).collect();
        assert_eq!(repositories.len(), 5);
        for kind in [Kind::Blob, Kind::Manifest, Kind::Tag] {
            assert!(events.iter().any(|event| event.kind() == kind), "{kind:?}");
        }
    }

    #[test]
    fn indented_as_go_does_it() {
        let json = sample().envelope(0..40);
        let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        let mut go = Vec::new();
        let indent = serde_json::ser::PrettyFormatter::with_indent(b"   ");
        let mut to = serde_json::Serializer::with_formatter(&mut go, indent);
        serde::Serialize::serialize(&value, &mut to).expect("JSON");
        // `Value` sorts keys; the lines are the same ones but for the commas that follow from it.
        let lines = |text: &str| -> Vec<String> {
            let mut lines: Vec<_> = text.lines().map(|line| line.trim_end_matches(',').to_owned()).collect();
            lines.sort();
            lines
        };
        assert_eq!(lines(&json), lines(std::str::from_utf8(&go).expect("UTF-8")));
    }

    #[test]
    fn the_same_seed_gives_the_same_events() {
        assert_eq!(sample().envelope(3..9), sample().envelope(3..9));
        let other = Sample { seed: 8, ..sample() };
        assert_ne!(sample().envelope(3..4), other.envelope(3..4));
    }
}
