//! The NATS sink against real servers: the contract, in core and in JetStream, and each row of
//! `docs/failures/nats.md`.

mod answers;
mod cluster;
mod connecting;
mod destinations;
mod permissions;
mod streams;
#[path = "../support/mod.rs"]
mod support;

use std::{process::ExitCode, time::Duration};

use destinations::{Core, JetStream};
use relay::sinks::{Context, Fault, Options, Sink, nats::NatsOptions};
use support::{
    contract::{self, Destination, Driver, End, Received},
    nats::{Auth, Nats, Options as Server},
    suite::{Shared, Suite},
};

const PASSWORD: &str = "r1ght-secret";
const MAX_PAYLOAD: u32 = 64 * 1024;

fn main() -> ExitCode {
    let mut suite = Suite::new();
    contract_of(&mut suite, "jetstream", Shared::new(JetStream::start));
    contract_of(&mut suite, "core", Shared::new(Core::start));
    streams::register(&mut suite);
    answers::register(&mut suite);
    cluster::register(&mut suite);
    connecting::register(&mut suite);
    permissions::register(&mut suite);
    suite.run()
}

/// Registers every scenario of the contract.
fn contract_of<D: Destination + Send + Sync + 'static>(suite: &mut Suite, name: &str, shared: Shared<D>) {
    contract::register(suite, name, &shared);
    for end in [End::Stopped, End::Killed] {
        let destination = shared.clone();
        suite.test(&format!("{name}::survives_restart::{end:?}"), async move || {
            contract::survives_restart(&*destination.get().await, end).await;
        });
    }
}

fn context(timeout: Duration) -> Context {
    Context { name: "bus".to_owned(), timeout, literal_topics: Vec::new() }
}

fn options(yaml: &str) -> NatsOptions {
    let options: NatsOptions = serde_yaml::from_str(yaml).expect(yaml);
    assert_eq!(options.problems(), [], "{yaml}");
    options
}

fn sink(yaml: &str) -> Box<dyn Sink> {
    options(yaml).build(context(Duration::from_secs(5)))
}

async fn server(auth: Auth, config: &[&str]) -> Nats {
    let config = config.iter().map(|&line| line.to_owned()).collect();
    Nats::start(Server { own: true, auth, max_payload: Some(MAX_PAYLOAD), config, ..Server::default() }).await
}

fn user() -> Auth {
    Auth::User("relay".to_owned(), PASSWORD.to_owned())
}

fn received(message: &support::nats::Received) -> Received {
    Received {
        topic: message.subject.clone(),
        key: None,
        id: message.header("id").unwrap_or_default().to_owned(),
        headers: message
            .headers
            .iter()
            .flat_map(|(name, values)| values.iter().map(move |value| (name.to_string(), value.to_string())))
            .collect(),
        body: message.payload.clone(),
    }
}

/// The first fault, from whichever step tells it; `None` when everything was settled without one.
async fn first_fault(driver: &mut Driver) -> Option<Fault> {
    while !driver.unsettled().is_empty() {
        if let Err(fault) = driver.step().await {
            return Some(fault);
        }
    }
    None
}

async fn fault(driver: &mut Driver) -> Fault {
    first_fault(driver).await.unwrap_or_else(|| panic!("no fault; settled: {}", driver.outcome.settled.len()))
}
