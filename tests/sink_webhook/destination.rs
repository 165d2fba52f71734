//! The contract's destination: a server that wants a password, and a proxy before it.

use std::time::Duration;

use relay::sinks::Sink;

use crate::{
    PASSWORD,
    server::{Got, Server, status},
    sink,
    support::{
        contract::{Destination, Received, Variant, WRONG_SECRET},
        process::eventually,
        proxy::{Direction, Mode, Proxy},
        unique,
    },
};

const TOO_LARGE: usize = 100_000;

pub struct Web {
    server: Server,
    proxy: Proxy,
    concurrency: usize,
}

impl Web {
    pub async fn start(concurrency: usize) -> Self {
        let server = Server::start(|got| {
            if got.header("authorization") != Some("Basic cmVsYXk6cjFnaHQtc2VjcmV0") {
                return status(401);
            }
            if got.path.starts_with("/missing") {
                return status(404);
            }
            status(if got.body.len() >= TOO_LARGE { 413 } else { 202 })
        })
        .await;
        let proxy = Proxy::start(&server.address).await;
        Self { server, proxy, concurrency }
    }
}

impl Destination for Web {
    async fn topic(&self) -> String {
        unique("push")
    }

    fn sink(&self, topic: &str, variant: Variant) -> Box<dyn Sink> {
        let password = if variant == Variant::WrongCredentials { WRONG_SECRET } else { PASSWORD };
        let path = if variant == Variant::Missing { format!("missing/{topic}") } else { topic.to_owned() };
        let address = self.proxy.address();
        sink(&format!(
            "{{url: 'http://relay:{password}@{address}/{path}?token={password}', concurrency: {}}}",
            self.concurrency
        ))
    }

    async fn consume(&self, topic: &str, count: usize, bound: Duration) -> Vec<Received> {
        let path = format!("/{topic}");
        let here = || self.server.taken().into_iter().filter(|got| got.path == path).collect::<Vec<_>>();
        let what = format!("{count} requests to {topic}");
        let got = eventually(&what, bound, async || Some(here()).filter(|got| got.len() >= count)).await;
        let received = |got: Got| Received {
            topic: topic.to_owned(),
            key: None,
            // The contract's ids have a `#`, which is fit for a header.
            id: got.header("relay-id").expect("an id").to_owned(),
            headers: got.headers,
            body: got.body.to_vec(),
        };
        got.into_iter().map(received).collect()
    }

    async fn stop(&self) {
        self.proxy.down();
    }

    async fn kill(&self) {
        self.proxy.down();
    }

    async fn start_again(&self) {
        self.proxy.pass();
    }

    fn freeze(&self) {
        self.proxy.set(Direction::Both, Mode::Stall);
    }

    fn thaw(&self) {
        self.proxy.pass();
    }

    fn too_large_bytes(&self) -> usize {
        TOO_LARGE
    }

    fn load(&self) -> usize {
        500
    }
}
