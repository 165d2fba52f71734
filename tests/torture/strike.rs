//! Carries out one fault, from its beginning to its end.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::time::sleep;

use crate::{
    damage,
    event::{Name, Random},
    plan::{Fault, Kind, Place, SINKS},
    run::Bench,
    shim::Order,
    support::proxy::{Direction, Mode, Proxy},
};

/// How long the disk's next failure may take to come: only under load is something written.
const CHANCE: Duration = Duration::from_secs(5);
/// How long the relay may take to say that its disk has failed.
const SAID_BOUND: Duration = Duration::from_secs(10);

/// What became of a fault.
#[derive(Debug, Default)]
pub struct Outcome {
    /// It had no chance to happen: too little was written, say.
    pub missed: bool,
    /// A record that is gone by the harness's own doing.
    pub damaged: Option<Name>,
    /// What the relay should have done and has not.
    pub wrong: Option<String>,
}

impl Bench {
    /// The fault is over when this returns, and whoever was stopped runs again.
    pub async fn strike(&self, fault: &Fault) -> Outcome {
        sleep(fault.begins).await;
        match fault.place {
            Place::Relay => self.strike_relay(fault).await,
            Place::Broker(sink) => self.strike_broker(SINKS[sink], fault).await,
            Place::Network(sink) => self.strike_network(self.proxy(sink), fault).await,
            Place::Clock => {
                let Kind::ClockJumps(minutes) = fault.kind else { unreachable!("a clock only jumps") };
                self.with_order(Order::Clock, minutes * 60_000, fault.lasts).await
            }
        }
    }

    async fn strike_relay(&self, fault: &Fault) -> Outcome {
        match fault.kind {
            Kind::Kill => {
                self.relay.kill_9();
                sleep(fault.lasts).await;
                self.relay.restart().await;
                Outcome::default()
            }
            Kind::Stop => {
                let code = self.relay.terminate().await;
                sleep(fault.lasts).await;
                self.relay.restart().await;
                let wrong = (code != Some(0)).then(|| format!("a stop ended with {code:?}"));
                Outcome { wrong, ..Outcome::default() }
            }
            Kind::Freeze => {
                self.relay.freeze();
                sleep(fault.lasts).await;
                self.relay.thaw();
                Outcome::default()
            }
            Kind::Damage => self.damage(fault).await,
            Kind::SyncFails => self.fail_disk(Order::SyncFail, fault).await,
            Kind::WriteFails => self.fail_disk(Order::WriteFail, fault).await,
            Kind::TornWrite => self.fail_disk(Order::WriteTorn, fault).await,
            Kind::OtherSyncsFail => self.with_order(Order::OtherSyncFail, 3, fault.lasts).await,
            Kind::NoSpace => self.with_order(Order::NoSpace, 1, fault.lasts).await,
            Kind::SlowSyncs => self.with_order(Order::SyncDelay, 300, fault.lasts).await,
            _ => unreachable!("not a fault of the relay"),
        }
    }

    /// An order to the shim for as long as the fault lasts.
    async fn with_order(&self, order: Order, number: i64, lasts: Duration) -> Outcome {
        let before = (order != Order::Clock).then(|| self.shim.done(order));
        self.shim.order(order, number);
        sleep(lasts).await;
        self.shim.order(order, 0);
        let missed = before.is_some_and(|before| self.shim.done(order) == before);
        Outcome { missed, ..Outcome::default() }
    }

    /// A write or sync of the journal fails. The relay must say so and take nothing more, until it is
    /// started anew, as its supervisor would by its health check.
    async fn fail_disk(&self, order: Order, fault: &Fault) -> Outcome {
        let before = self.shim.done(order);
        self.shim.order(order, 1);
        let given_up = Instant::now() + CHANCE;
        while self.shim.done(order) == before && Instant::now() < given_up {
            sleep(Duration::from_millis(10)).await;
        }
        self.shim.order(order, 0);
        if self.shim.done(order) == before {
            return Outcome { missed: true, ..Outcome::default() };
        }
        let failed = |status: &Value| !status["journal"]["failed"].is_null() && status["ready"] == false;
        let said = self.look_until(SAID_BOUND, failed).await;
        sleep(fault.lasts).await;
        // By turns as a supervisor that asks first, and as one that does not.
        if fault.number.is_multiple_of(2) {
            self.relay.terminate().await;
        }
        self.relay.restart().await;
        let wrong = (!said).then(|| format!("{} went unsaid for {SAID_BOUND:?}", fault.label()));
        Outcome { wrong, ..Outcome::default() }
    }

    async fn damage(&self, fault: &Fault) -> Outcome {
        self.relay.kill_9();
        sleep(fault.lasts).await;
        let (folder, recipe) = (self.data().join("journal"), self.settings.recipe());
        let mut random = Random::new(recipe.seed ^ fault.number as u64);
        let done = tokio::task::spawn_blocking(move || {
            let Some((name, offset)) = damage::flip(&folder, &recipe, &mut random)? else {
                return Ok(None);
            };
            Ok::<_, std::io::Error>(Some((name, offset, damage::verified_lost(&folder)?)))
        });
        let done = done.await.expect("no panic").expect("read and write the journal's files");
        self.relay.restart().await;
        let Some((name, offset, lost)) = done else {
            return Outcome { missed: true, ..Outcome::default() };
        };
        // What was damaged in earlier rounds may still be there.
        let found = lost.contains(&offset);
        let wrong =
            (!found).then(|| format!("`relay journal verify` does not tell of offset {offset}: {lost:?}"));
        Outcome { damaged: Some(name), wrong, missed: false }
    }

    async fn strike_broker(&self, sink: &str, fault: &Fault) -> Outcome {
        match fault.kind {
            Kind::Kill => {
                self.trio.kill(sink);
                sleep(fault.lasts).await;
                self.trio.start_again(sink).await;
            }
            Kind::Stop => {
                self.trio.stop(sink).await;
                sleep(fault.lasts).await;
                self.trio.start_again(sink).await;
            }
            _ => {
                let frozen = self.trio.freeze(sink);
                sleep(fault.lasts).await;
                drop(frozen);
            }
        }
        Outcome::default()
    }

    async fn strike_network(&self, proxy: &Proxy, fault: &Fault) -> Outcome {
        match fault.kind {
            Kind::Cut => proxy.cut(),
            Kind::CutAfter(bytes) => proxy.cut_after(bytes),
            Kind::Stall => proxy.set(Direction::Both, Mode::Stall),
            Kind::Slow(bytes) => proxy.set(Direction::Both, Mode::Slow(bytes)),
            Kind::Swallow => proxy.set(Direction::ToServer, Mode::Swallow),
            _ => proxy.down(),
        }
        sleep(fault.lasts).await;
        if fault.kind == Kind::Swallow {
            // TCP never goes on after a gap.
            proxy.cut();
        }
        proxy.pass();
        Outcome::default()
    }
}
