//! Three NATS servers with JetStream as one cluster.

use super::{Auth, Nats, Options};
use crate::support::process::{eventually, free_ports};

/// Electing a leader takes seconds.
const BOUND: std::time::Duration = std::time::Duration::from_secs(60);

pub struct Cluster {
    servers: [Nats; 3],
}

impl Cluster {
    /// Starts three and waits until they have agreed on a leader. A few seconds.
    pub async fn start() -> Self {
        let ports: [u16; 3] = free_ports();
        let routes = ports.map(|port| format!("\"nats://127.0.0.1:{port}\"")).join(", ");
        let start = async |index: usize| {
            let port = ports[index];
            let cluster =
                format!("cluster {{ name: \"trio\", listen: \"127.0.0.1:{port}\", routes: [{routes}] }}");
            let config = vec![format!("server_name: \"{}\"", name(index)), cluster];
            Nats::start(Options { own: true, auth: Auth::Nobody, config, ..Options::default() }).await
        };
        let (a, b, c) = tokio::join!(start(0), start(1), start(2));
        let this = Self { servers: [a, b, c] };
        this.wait_ready().await;
        this
    }

    /// Waits until JetStream answers at each server.
    pub async fn wait_ready(&self) {
        for server in &self.servers {
            let jetstream = server.jetstream().await;
            eventually("JetStream's leader", BOUND, async || jetstream.query_account().await.ok()).await;
        }
    }

    /// One of them.
    pub fn any(&self) -> &Nats {
        &self.servers[0]
    }

    /// The server that leads a stream: only it answers to publishers.
    pub async fn leader_of(&self, stream: &str) -> &Nats {
        let jetstream = self.any().jetstream().await;
        let leader = eventually("the stream's leader", BOUND, async || {
            jetstream.get_stream(stream).await.ok()?.cached_info().cluster.clone()?.leader
        })
        .await;
        let index = (0..3).find(|&index| name(index) == leader).expect("one of ours");
        &self.servers[index]
    }

    /// The two others.
    pub fn others(&self, one: &Nats) -> [&Nats; 2] {
        let others: Vec<_> = self.servers.iter().filter(|server| server.url() != one.url()).collect();
        others.try_into().unwrap_or_else(|_| panic!("{} is none of ours", one.url()))
    }
}

fn name(index: usize) -> String {
    format!("server-{index}")
}
