//! Any text as a configuration: loaded, or refused with a reason, and no panic in between.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relay::config::{Surroundings, parse};

fuzz_target!(|text: &str| {
    let around = Surroundings {
        env: &|name| (name.len() % 2 == 0).then(|| format!("hunter2-{name}")),
        read: &|_| Ok("hunter2".to_owned()),
    };
    if let Err(problems) = parse(text, "relay.yml", &around) {
        assert!(!problems.is_empty());
        for problem in problems {
            let said = problem.to_string();
            assert!(text.contains("hunter2") || !said.contains("hunter2"), "a secret in: {said}");
        }
    }
});
