//! Any bytes as a segment: walked to the end without a panic, records in ascending order.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use relay::event::Event;
use relay::journal::local::inspect;

fuzz_target!(|bytes: &[u8]| {
    let _ = Event::decode(Bytes::copy_from_slice(bytes));
    // A header is 4096 bytes of little interest: the fuzzer's bytes are the records.
    let mut segment = vec![0; 4096];
    segment.extend_from_slice(bytes);
    let mut last = 0;
    let report = inspect::walk_bytes(&segment.into(), 1, &mut |stored| {
        assert!(stored.offset > last);
        last = stored.offset;
        Ok(())
    });
    let report = report.expect("no disk to fail");
    for damage in &report.damage {
        assert!(damage.bytes.start < damage.bytes.end && damage.lost.start <= damage.lost.end);
    }
});
