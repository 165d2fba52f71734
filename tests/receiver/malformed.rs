//! Ten thousand bodies that something has gone wrong with: none is refused, none is lost.

use std::collections::HashMap;
use std::sync::Arc;

use relay::event::Envelope;

use crate::captures::captures;
use crate::rig::Rig;

const BODIES: u64 = 10_000;
const SENDERS: usize = 64;
/// Printed by a failing assertion with the body; change it to look elsewhere.
const SEED: u64 = 20_261_124;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// Values to put in the place of others.
const ODD_VALUES: [&str; 16] = [
    "null",
    "true",
    "-0",
    "1e999",
    "99999999999999999999999999999999999999",
    "0.1e-400",
    "[]",
    "{}",
    "[[[[]]]]",
    "\"\"",
    "\"\\ud800\"",
    "\"\\u0000\"",
    "nul",
    "01",
    "NaN",
    "'single'",
];

/// Bodies that were never an envelope.
fn strangers() -> Vec<Vec<u8>> {
    let deep = |open: &str, close: &str, depth: usize| {
        [open.repeat(depth), close.repeat(depth)].concat().into_bytes()
    };
    let mut all: Vec<Vec<u8>> = [
        "",
        " ",
        "\n",
        "{}",
        "[]",
        "null",
        "0",
        "\"events\"",
        "{\"events\":null}",
        "{\"events\":{}}",
        "{\"events\":[null]}",
        "{\"events\":[[]]}",
        "{\"events\":[{}],\"events\":[{}]}",
        "{\"event\":[{}]}",
        "\u{feff}{\"events\":[]}",
        "{\"events\":[{}]}{\"events\":[{}]}",
        "payload=%7B%22events%22%3A%5B%5D%7D",
        "<?xml version=\"1.0\"?><events/>",
        "events:\n  - action: push\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into();
    all.push(vec![0; 4096]);
    all.push(vec![0xff; 64]);
    all.push(b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xabV*K\xcd+)V\xb2\x8a\x8e\xad\x05\0".to_vec());
    all.push(deep("[", "]", 20_000));
    all.push(deep("{\"events\":[", "]}", 5_000));
    all.push(deep("{\"action\":{\"a\":", "", 10_000));
    all
}

/// One body with something wrong in it.
fn mutant(random: &mut Random, originals: &[Vec<u8>], strangers: &[Vec<u8>]) -> Vec<u8> {
    let mut body = random.pick(originals).clone();
    for _ in 0..=random.below(3) {
        let at = random.below(body.len());
        match random.below(10) {
            0 => body.truncate(at),
            1 => drop(body.drain(..at)),
            2 if !body.is_empty() => body[at] ^= 1 << random.below(8),
            3 => body.insert(at, random.next() as u8),
            4 => drop(body.drain(at..(at + random.below(40)).min(body.len()))),
            5 => drop(body.splice(
                at..at,
                random.pick(&[&b"\xc3\x28"[..], b"\xf0\x9f", b"\0", b"\x80"]).iter().copied(),
            )),
            6 => swap_value(random, &mut body),
            7 => nest(random, &mut body),
            8 => {
                let other = random.pick(originals);
                body.splice(at..at, other[..random.below(other.len())].iter().copied());
            }
            _ => body = random.pick(strangers).clone(),
        }
    }
    body
}

/// Replaces what follows one of the colons, up to the next comma or line's end.
fn swap_value(random: &mut Random, body: &mut Vec<u8>) {
    let colons: Vec<_> = (0..body.len()).filter(|&at| body[at] == b':').collect();
    if colons.is_empty() {
        return;
    }
    let start = random.pick(&colons) + 1;
    let end = body[start..]
        .iter()
        .position(|byte| matches!(byte, b',' | b'\n'))
        .map_or(body.len(), |len| start + len);
    body.splice(start..end, random.pick(&ODD_VALUES).bytes());
}

/// Puts a deep value behind one of the colons.
fn nest(random: &mut Random, body: &mut Vec<u8>) {
    let Some(at) = body.iter().position(|&byte| byte == b':') else { return };
    let depth = 1 + random.below(3000);
    let deep = [vec![b'['; depth], vec![b']'; depth]].concat();
    body.splice(at + 1..at + 1, deep.into_iter().chain(*b","));
}

/// What serde_json's own reader says of a body, where it can say something: whether it is an
/// envelope or an event. It refuses deep nesting and huge numbers, of which it then knows nothing.
fn is_readable(body: &[u8]) -> Option<bool> {
    let value: serde_json::Value = match serde_json::from_slice(body) {
        Ok(value) => value,
        Err(error) => {
            let text = error.to_string();
            let of_its_own = text.contains("recursion limit") || text.contains("number out of range");
            // It undoes escapes, which nobody needs who leaves values alone.
            let of_its_own = of_its_own || text.contains("surrogate") || text.contains("hex escape");
            return if of_its_own { None } else { Some(false) };
        }
    };
    if String::from_utf8_lossy(body).matches("\"events\"").count() > 1 {
        // It takes the last of several; an envelope that says two things says nothing.
        return None;
    }
    Some(match value.get("events").filter(|events| !events.is_null()) {
        Some(serde_json::Value::Array(events)) => events.iter().all(serde_json::Value::is_object),
        Some(_) => false,
        None => value.get("action").is_some(),
    })
}

/// What was sent, and what the answer said of it.
struct Sent {
    body: Vec<u8>,
    accepted: u64,
    quarantined: Option<u64>,
}

async fn send(rig: &Rig, first: u64, originals: &[Vec<u8>], strangers: &[Vec<u8>]) -> Vec<Sent> {
    let mut connection = rig.connect().await;
    let mut sent = Vec::new();
    for number in (first..BODIES).step_by(SENDERS) {
        let body = mutant(&mut Random(SEED ^ (number << 20)), originals, strangers);
        let answer = connection.post("/events", &body).await;
        let (accepted, duplicates, quarantined) = answer.counts();
        assert!(quarantined == 0 || (accepted, duplicates) == (0, 0), "{answer:?}");
        assert!(
            quarantined == 0 || answer.json()["reason"].as_str().is_some_and(|reason| !reason.is_empty())
        );
        let id = answer.json()["id"].as_u64();
        assert_eq!(quarantined, u64::from(id.is_some()));
        sent.push(Sent { body, accepted: accepted + duplicates, quarantined: id });
    }
    sent
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_malformed_bodies_are_all_taken_and_all_kept() {
    let originals: Vec<_> = captures().into_iter().map(|capture| capture.body.into_bytes()).collect();
    let shared = Arc::new((Rig::start(), originals, strangers()));
    let senders: Vec<_> = (0..SENDERS)
        .map(|first| {
            let shared = Arc::clone(&shared);
            tokio::spawn(async move { send(&shared.0, first as u64, &shared.1, &shared.2).await })
        })
        .collect();
    let mut sent = Vec::new();
    for sender in senders {
        sent.extend(sender.await.expect("no sender panicked"));
    }
    assert_eq!(sent.len() as u64, BODIES);

    let rig = &shared.0;
    let mut kept: HashMap<u64, _> =
        rig.quarantined().await.into_iter().map(|kept| (kept.id.0, kept.body)).collect();
    let mut readable = 0;
    let mut events = 0;
    for Sent { body, accepted, quarantined } in &sent {
        let shown = String::from_utf8_lossy(&body[..body.len().min(2000)]);
        match quarantined {
            Some(id) => {
                assert_ne!(is_readable(body), Some(true), "{shown}");
                assert_eq!(kept.remove(id).as_deref(), Some(&body[..]), "{shown}");
            }
            None => {
                assert_ne!(is_readable(body), Some(false), "{shown}");
                readable += 1;
                events += accepted;
            }
        }
    }
    assert!(kept.is_empty(), "the quarantine holds what nobody sent");
    // The generator is worth something only if both happen, often.
    assert!(readable > 500 && BODIES - readable > 5_000, "{readable} of {BODIES} were readable");
    assert_eq!(rig.metrics.events_received.get() + rig.metrics.events_duplicated.get(), events);
    journal_holds_all(rig, &sent).await;
}

/// Every event of every readable body stands in the journal, byte for byte.
async fn journal_holds_all(rig: &Rig, sent: &[Sent]) {
    let stored = rig.events().await;
    assert_eq!(stored.len() as u64, rig.metrics.events_received.get());
    let raw: std::collections::HashSet<_> = stored.iter().map(|stored| stored.event.raw().clone()).collect();
    let ids: std::collections::HashSet<_> = stored.iter().map(|stored| stored.event.id()).collect();
    for body in sent.iter().filter(|sent| sent.quarantined.is_none()) {
        for event in Envelope::parse(&body.body.clone().into()).expect("it was readable").events {
            // A mutant that kept its id is the second copy of another, and dropped.
            assert!(raw.contains(event.raw()) || ids.contains(event.id()), "{event:?}");
        }
    }
}
