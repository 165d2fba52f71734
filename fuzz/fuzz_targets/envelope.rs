//! Any body: parsed or refused, and what is parsed survives the journal and keeps its bytes.
#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use relay::event::{Envelope, Event, compact};

fuzz_target!(|body: &[u8]| {
    let body = Bytes::copy_from_slice(body);
    let Ok(envelope) = Envelope::parse(&body) else { return };
    for event in envelope.events {
        assert!(body.windows(event.raw().len()).any(|window| window == event.raw()));
        let mut stored = BytesMut::new();
        event.encode(&mut stored);
        let back = Event::decode(stored.freeze()).expect("what was encoded decodes");
        assert_eq!(back, event);
        assert_eq!((back.kind(), back.namespace()), (event.kind(), event.namespace()));
        let line = compact(event.raw());
        assert!(!line.contains(&b'\n'));
        let compacted = Event::parse(line).expect("white space is no part of the meaning");
        assert_eq!(compacted.repository(), event.repository());
    }
});
