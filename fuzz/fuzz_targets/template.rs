//! Any template and any repository: refused, or a name that its broker takes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relay::event::Event;
use relay::route::Template;
use relay::sinks::Naming;

fuzz_target!(|input: (&str, &str, &str)| {
    let (template, repository, tag) = input;
    let Ok(template) = Template::parse(template) else { return };
    let json = format!(
        r#"{{"action":"push","target":{{"repository":{},"tag":{}}}}}"#,
        quoted(repository),
        quoted(tag)
    );
    let event = Event::parse(json.into()).expect("an event");
    let _ = template.text(&event);
    for naming in [Naming::Kafka, Naming::Amqp, Naming::Nats, Naming::Path, Naming::Plain] {
        let name = template.name(&event, naming);
        if template.misnamed(naming).is_some() {
            continue; // the configuration is refused for what it says literally
        }
        match naming {
            Naming::Kafka => {
                assert!(name.len() <= 249);
                assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c)), "{name:?}");
            }
            Naming::Amqp => assert!(name.len() <= 255),
            Naming::Nats => assert!(!name.contains([' ', '*', '>', '\r', '\n', '\t']), "{name:?}"),
            Naming::Path | Naming::Plain => assert!(!name.chars().any(char::is_control), "{name:?}"),
        }
    }
});

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if (c as u32) < 0x20 => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out + "\""
}
