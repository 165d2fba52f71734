//! The webhook sink against a real HTTP server: the contract, and each row of
//! `docs/failures/webhook.md`.

mod answers;
mod destination;
mod requests;
mod server;
#[path = "../support/mod.rs"]
mod support;
mod tls;

use std::{process::ExitCode, time::Duration};

use destination::Web;
use relay::sinks::{Context, Message, Options, Sink, format, webhook::WebhookOptions};
use support::{
    contract::{self, End, messages},
    suite::{Shared, Suite},
};

const PASSWORD: &str = "r1ght-secret";

fn main() -> ExitCode {
    let mut suite = Suite::new();
    for concurrency in [1, 8] {
        contract_of(&mut suite, concurrency);
    }
    macro_rules! tests {
        ($($module:ident: $($name:ident),*;)*) => {
            $($(suite.test(stringify!($name), $module::$name);)*)*
        };
    }
    tests! {
        requests:
            the_request_is_a_registrys,
            a_configured_content_type_wins,
            one_lane_keeps_strict_order,
            lanes_run_beside_each_other_and_keys_do_not,
            envelopes_are_joined,
            a_batch_that_is_rejected_is_taken_apart;
        answers:
            statuses_are_told_apart,
            says_when_to_come_back,
            follows_no_redirect,
            a_late_answer_is_no_answer,
            a_cut_answer_is_no_answer,
            nobody_listens,
            a_name_that_nobody_has,
            a_header_that_http_does_not_allow_is_refused;
        tls:
            speaks_tls,
            shows_a_client_certificate,
            files_that_cannot_be_read;
    }
    suite.run()
}

fn contract_of(suite: &mut Suite, concurrency: usize) {
    let shared = Shared::new(move || Web::start(concurrency));
    contract::register(suite, &format!("concurrency={concurrency}"), &shared);
    let web = shared.clone();
    suite.test(&format!("concurrency={concurrency}::refuses_missing"), async move || {
        contract::refuses_missing(&*web.get().await).await;
    });
    let web = shared.clone();
    suite.test(&format!("concurrency={concurrency}::survives_restart"), async move || {
        contract::survives_restart(&*web.get().await, End::Stopped).await;
    });
}

fn sink_with(yaml: &str, timeout: Duration) -> Box<dyn Sink> {
    let options: WebhookOptions = serde_yaml::from_str(yaml).expect(yaml);
    assert_eq!(options.problems(), [], "{yaml}");
    options.build(Context { name: "hook".to_owned(), timeout, literal_topics: Vec::new() })
}

fn sink(yaml: &str) -> Box<dyn Sink> {
    sink_with(yaml, Duration::from_secs(5))
}

/// Messages in the format that webhooks have by default.
fn envelopes(count: usize) -> Vec<Message> {
    let mut all = messages("registry.push", count);
    for message in &mut all {
        message.body = format::envelope(std::slice::from_ref(&message.body));
        message.content_type = format::ENVELOPE_MEDIA_TYPE;
    }
    all
}
