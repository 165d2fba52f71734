//! What is done to whom, and when: a plan that follows from the seed alone.

use std::{fmt, time::Duration};

use crate::event::Random;

/// Sinks that a fault can touch, in the order of the configuration.
pub const SINKS: [&str; 4] = ["kafka", "rabbitmq", "jetstream", "file"];
/// Those of them that are brokers.
pub const BROKERS: [usize; 3] = [0, 1, 2];

/// Where a fault strikes. Two that strike one place do not come in one round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The relay's process, and its disk: most faults of a disk end in a restart.
    Relay,
    Clock,
    /// A broker's process, by its place in [`SINKS`].
    Broker(usize),
    /// The connections to a broker.
    Network(usize),
}

/// What happens there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// SIGKILL, and a start after the fault's duration.
    Kill,
    /// SIGTERM, and a start after the fault's duration.
    Stop,
    /// SIGSTOP, SIGCONT after the fault's duration.
    Freeze,
    /// A bit of an acknowledged record flips while the relay is down.
    Damage,
    SyncFails,
    OtherSyncsFail,
    SlowSyncs,
    WriteFails,
    TornWrite,
    NoSpace,
    /// The wall clock jumps by so many minutes, and back at the end.
    ClockJumps(i64),
    /// All connections are reset, once.
    Cut,
    /// The same once so many more bytes have gone to the broker.
    CutAfter(u64),
    /// Nothing passes.
    Stall,
    /// So many bytes a second pass.
    Slow(usize),
    /// What is sent is lost, and the connections are reset at the end.
    Swallow,
    /// Connections are reset and refused.
    Down,
}

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    pub number: usize,
    pub place: Place,
    pub kind: Kind,
    /// After the beginning of its round.
    pub begins: Duration,
    pub lasts: Duration,
}

impl Fault {
    /// Whether a sink's deliveries can be disturbed by it.
    pub fn touches(&self, sink: usize) -> bool {
        match self.place {
            Place::Relay | Place::Clock => true,
            Place::Broker(of) | Place::Network(of) => of == sink,
        }
    }

    /// A word for reports: what kind, where.
    pub fn label(&self) -> String {
        let place = match self.place {
            Place::Relay => "relay",
            Place::Clock => "clock",
            Place::Broker(sink) | Place::Network(sink) => SINKS[sink],
        };
        let kind = match self.kind {
            Kind::Kill => "kill -9",
            Kind::Stop => "stop",
            Kind::Freeze => "freeze",
            Kind::Damage => "flip a bit of the journal",
            Kind::SyncFails => "fail a sync of the journal",
            Kind::OtherSyncsFail => "fail syncs elsewhere",
            Kind::SlowSyncs => "slow syncs",
            Kind::WriteFails => "fail a write to the journal",
            Kind::TornWrite => "tear a write to the journal",
            Kind::NoSpace => "disk full",
            Kind::ClockJumps(minutes) if minutes > 0 => "jump forward",
            Kind::ClockJumps(_) => "jump back",
            Kind::Cut => "cut connections",
            Kind::CutAfter(_) => "cut in mid flow",
            Kind::Stall => "stall connections",
            Kind::Slow(_) => "slow connections",
            Kind::Swallow => "swallow what is sent",
            Kind::Down => "refuse connections",
        };
        format!("{place}: {kind}")
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (begins, lasts) = (self.begins.as_secs_f64(), self.lasts.as_secs_f64());
        write!(f, "#{} {} at +{begins:.1} s for {lasts:.1} s", self.number, self.label())?;
        match self.kind {
            Kind::ClockJumps(minutes) => write!(f, " ({minutes} min)"),
            Kind::CutAfter(bytes) => write!(f, " (after {bytes} bytes)"),
            Kind::Slow(bytes) => write!(f, " ({bytes} bytes/s)"),
            _ => Ok(()),
        }
    }
}

/// Everything that can be done, with the shortest and the longest time in milliseconds that it lasts.
fn deck() -> Vec<(Place, Kind, u64, u64)> {
    let mut deck = vec![
        (Place::Relay, Kind::Kill, 0, 1_000),
        (Place::Relay, Kind::Kill, 0, 100),
        (Place::Relay, Kind::Stop, 0, 1_000),
        (Place::Relay, Kind::Freeze, 300, 1_500),
        (Place::Relay, Kind::Freeze, 3_500, 5_000),
        (Place::Relay, Kind::Damage, 0, 500),
        (Place::Relay, Kind::SyncFails, 200, 1_500),
        (Place::Relay, Kind::OtherSyncsFail, 500, 2_000),
        (Place::Relay, Kind::SlowSyncs, 1_000, 3_000),
        (Place::Relay, Kind::WriteFails, 200, 1_500),
        (Place::Relay, Kind::TornWrite, 200, 1_500),
        (Place::Relay, Kind::NoSpace, 1_500, 4_000),
        // Far over the duplicate window. A record from more than an hour ahead Kafka does not take.
        (Place::Clock, Kind::ClockJumps(50), 500, 4_000),
        (Place::Clock, Kind::ClockJumps(-180), 500, 4_000),
    ];
    for sink in BROKERS {
        let (broker, network) = (Place::Broker(sink), Place::Network(sink));
        deck.extend([
            (broker, Kind::Kill, 200, 3_000),
            (broker, Kind::Stop, 200, 3_000),
            // Shorter and longer than the sink's timeout of two seconds.
            (broker, Kind::Freeze, 300, 1_500),
            (broker, Kind::Freeze, 3_000, 6_000),
            (network, Kind::Cut, 0, 1),
            (network, Kind::CutAfter(0), 1_000, 1_001),
            (network, Kind::Stall, 500, 4_000),
            (network, Kind::Slow(0), 1_000, 4_000),
            (network, Kind::Swallow, 500, 4_000),
            (network, Kind::Down, 500, 3_000),
        ]);
    }
    deck
}

/// Deals rounds without end, from one shuffled deck after the other: each kind of fault comes about as often.
pub struct Plan {
    random: Random,
    left: Vec<(Place, Kind, u64, u64)>,
    dealt: usize,
}

impl Plan {
    pub fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), left: Vec::new(), dealt: 0 }
    }

    /// The next round: four to seven faults in places of their own, each beginning within a second and a
    /// half.
    pub fn round(&mut self) -> Vec<Fault> {
        let count = self.random.between(4, 8) as usize;
        let mut round: Vec<Fault> = Vec::new();
        while round.len() < count {
            let free = |card: &(Place, Kind, u64, u64)| round.iter().all(|fault| fault.place != card.0);
            let Some(at) = self.left.iter().position(free) else {
                // What is left waits for a later round.
                let mut deck = deck();
                self.random.shuffle(&mut deck);
                self.left.extend(deck);
                continue;
            };
            let card = self.left.remove(at);
            round.push(self.fault(card));
        }
        round
    }

    fn fault(&mut self, (place, kind, shortest, longest): (Place, Kind, u64, u64)) -> Fault {
        let kind = match kind {
            Kind::CutAfter(_) => Kind::CutAfter(self.random.between(100, 50_000)),
            Kind::Slow(_) => Kind::Slow(self.random.between(2_000, 100_000) as usize),
            same => same,
        };
        self.dealt += 1;
        let begins = Duration::from_millis(self.random.between(0, 1_500));
        let lasts = Duration::from_millis(self.random.between(shortest, longest));
        Fault { number: self.dealt, place, kind, begins, lasts }
    }
}
