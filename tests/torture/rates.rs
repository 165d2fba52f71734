//! Whether a healthy sink keeps its rate while another is dead. Measured at the end of a long run.

use std::{
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use crate::{
    load::Load,
    plan::SINKS,
    report::Report,
    run::{Bench, Watch, position},
};

const MEASURED: Duration = Duration::from_secs(8);
/// More than any sink takes.
const RATE: u64 = 1_000_000;

/// Events a second that RabbitMQ, JetStream and the file confirmed, with Kafka there and with Kafka dead.
#[derive(Debug)]
pub struct Rates {
    pub undisturbed: [f64; 3],
    pub beside_dead: [f64; 3],
}

impl Bench {
    /// Under more load than the sinks can take.
    pub async fn compare_rates(&self, load: &Load, watch: &Watch, report: &mut Report) -> Rates {
        watch.lag_max.store(200_000, Relaxed);
        load.set_rate(RATE);
        let undisturbed = self.rates().await;
        load.pause(true);
        self.catch_up(&[0, 1, 2, 3], &mut report.recovery).await;
        self.trio.kill("kafka");
        load.pause(false);
        let beside_dead = self.rates().await;
        load.set_rate(self.settings.pace.rate);
        self.trio.start_again("kafka").await;
        self.catch_up(&[0, 1, 2, 3], &mut report.recovery).await;
        Rates { undisturbed, beside_dead }
    }

    async fn rates(&self) -> [f64; 3] {
        let begun = Instant::now();
        let before = self.look().await.expect("the relay answers");
        sleep(MEASURED).await;
        let after = self.look().await.expect("the relay answers");
        let seconds = begun.elapsed().as_secs_f64();
        [1, 2, 3].map(|sink| {
            let events = position(&after, SINKS[sink]) - position(&before, SINKS[sink]);
            events as f64 / seconds
        })
    }
}
