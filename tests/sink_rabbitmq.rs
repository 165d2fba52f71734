//! The RabbitMQ sink against a real RabbitMQ: the contract, and each row of
//! `docs/failures/rabbitmq.md` that a broker can be made to give.

mod support;

use std::collections::{HashMap, HashSet};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lapin::options::ExchangeDeleteOptions;
use lapin::types::{AMQPValue, FieldTable};
use relay::sinks::rabbitmq::RabbitMqOptions;
use relay::sinks::{Context, FaultKind, Options as _, Sink};
use support::contract::{self, Destination, Driver, End, Received, Variant, WRONG_SECRET};
use support::rabbitmq::{Delivery, Options, RabbitMq};
use support::suite::{Shared, Suite};
use support::unique;

/// The broker's `max_message_size`, in bytes.
const MESSAGE_BYTES_MAX: usize = 200_000;
const TIMEOUT: Duration = Duration::from_secs(3);
const BOUND: Duration = Duration::from_secs(30);
const EXCHANGE: &str = "contract";

fn sink(yaml: &str) -> Box<dyn Sink> {
    let options: RabbitMqOptions = serde_yaml::from_str(yaml).expect(yaml);
    assert_eq!(options.problems(), [], "{yaml}");
    options.build(Context { name: "bus".into(), timeout: TIMEOUT, literal_topics: Vec::new() })
}

/// A broker, and what was taken out of its queues so far: RabbitMQ forgets what it has handed out.
struct Broker {
    rabbit: Arc<RabbitMq>,
    uri: String,
    queues: Mutex<HashMap<String, (String, Vec<Received>)>>,
}

impl Broker {
    fn new(rabbit: Arc<RabbitMq>) -> Self {
        Self { uri: rabbit.amqp_uri().to_owned(), rabbit, queues: Mutex::default() }
    }

    /// The same broker as another user.
    fn by(&self, uri: &str) -> Self {
        let queues = Mutex::new(self.queues.lock().expect("queues").clone());
        Self { rabbit: Arc::clone(&self.rabbit), uri: uri.to_owned(), queues }
    }

    fn sink_with(&self, more: &str) -> Box<dyn Sink> {
        sink(&format!("{{uri: '{}', exchange: {{name: {EXCHANGE}}}{more}}}", self.uri))
    }

    async fn bind(&self, topic: &str) {
        self.rabbit.declare_exchange(EXCHANGE, lapin::ExchangeKind::Topic).await;
        let queue = self.rabbit.declare_queue_bound(EXCHANGE, topic).await;
        self.queues.lock().expect("queues").insert(topic.to_owned(), (queue, Vec::new()));
    }
}

fn received(delivery: Delivery) -> Received {
    let names: Vec<String> = match delivery.properties.headers() {
        Some(headers) => headers.inner().keys().map(ToString::to_string).collect(),
        None => Vec::new(),
    };
    Received {
        topic: delivery.routing_key.clone(),
        key: None,
        id: delivery.message_id().expect("an id").to_owned(),
        headers: names
            .into_iter()
            .filter_map(|name| delivery.header(&name).map(|value| (name, value)))
            .collect(),
        body: delivery.body,
    }
}

impl Destination for Broker {
    async fn topic(&self) -> String {
        let topic = unique("registry.push");
        self.bind(&topic).await;
        topic
    }

    fn sink(&self, _topic: &str, variant: Variant) -> Box<dyn Sink> {
        match variant {
            Variant::Good => self.sink_with(", window: 500"),
            Variant::WrongCredentials => {
                let uri = self.rabbit.amqp_uri_as("guest", WRONG_SECRET);
                sink(&format!("{{uri: '{uri}', exchange: {{name: {EXCHANGE}}}}}"))
            }
            Variant::Missing => {
                let uri = self.rabbit.amqp_uri();
                sink(&format!("{{uri: '{uri}', exchange: {{name: nowhere, declare: false}}}}"))
            }
        }
    }

    async fn consume(&self, topic: &str, count: usize, bound: Duration) -> Vec<Received> {
        let end = Instant::now() + bound;
        let (queue, mut all) = self.queues.lock().expect("queues").get(topic).expect(topic).clone();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let waiting = self.rabbit.depth(&queue).await as usize;
            let wanted = waiting.max(count.saturating_sub(all.len()));
            if wanted == 0 {
                break;
            }
            all.extend(self.rabbit.consume(&queue, wanted, left).await.into_iter().map(received));
        }
        self.queues.lock().expect("queues").insert(topic.to_owned(), (queue, all.clone()));
        all
    }

    async fn stop(&self) {
        self.rabbit.stop().await;
    }
    async fn kill(&self) {
        self.rabbit.kill();
    }
    async fn start_again(&self) {
        self.rabbit.start_again().await;
    }
    fn freeze(&self) {
        self.rabbit.freeze();
    }
    fn thaw(&self) {
        self.rabbit.thaw();
    }
    fn too_large_bytes(&self) -> usize {
        MESSAGE_BYTES_MAX + 1
    }
}

fn main() -> ExitCode {
    let mut suite = Suite::new();
    let rabbit = Shared::new(|| {
        let config = vec![format!("max_message_size = {MESSAGE_BYTES_MAX}")];
        RabbitMq::start(Options { own: true, tls: true, config })
    });
    macro_rules! tests {
        ($($name:ident: $body:path;)*) => {$(
            let shared = rabbit.clone();
            suite.test(stringify!($name), async move || $body(&Broker::new(shared.get().await)).await);
        )*};
    }
    tests! {
        keeps_order: contract::keeps_order;
        confirms_what_is_there: contract::confirms_what_is_there;
        settle_is_cancel_safe: contract::settle_is_cancel_safe;
        closes_in_mid_batch: contract::closes_in_mid_batch;
        rejects_too_large: contract::rejects_too_large;
        rejects_unroutable: rejects_unroutable;
        refuses_wrong_credentials: contract::refuses_wrong_credentials;
        refuses_a_missing_exchange: contract::refuses_missing;
        survives_freeze: contract::survives_freeze;
        survives_stop: survives_stop;
        survives_kill: survives_kill;
        tells_unroutable_messages_apart: tells_unroutable_messages_apart;
        loses_unroutable_messages_only_if_told_to: loses_unroutable_messages_only_if_told_to;
        rejects_a_forbidden_routing_key: rejects_a_forbidden_routing_key;
        refuses_a_forbidden_exchange: refuses_a_forbidden_exchange;
        finds_every_offender_of_a_window: finds_every_offender_of_a_window;
        rejects_headers_that_fit_no_frame: rejects_headers_that_fit_no_frame;
        is_busy_while_a_queue_is_full: is_busy_while_a_queue_is_full;
        is_busy_during_an_alarm: is_busy_during_an_alarm;
        speaks_tls: speaks_tls;
        refuses_an_untrusted_certificate: refuses_an_untrusted_certificate;
        tries_its_hosts_in_turn: tries_its_hosts_in_turn;
        declares_exchange_queue_and_binding: declares_exchange_queue_and_binding;
        refuses_an_exchange_that_went_away: refuses_an_exchange_that_went_away;
        keeps_a_long_id: keeps_a_long_id;
    }
    suite.run()
}

async fn rejects_unroutable(broker: &Broker) {
    contract::rejects_unknown_topic(broker, &unique("nowhere"), "unroutable").await;
}

async fn survives_stop(broker: &Broker) {
    contract::survives_restart(broker, End::Stopped).await;
}

async fn survives_kill(broker: &Broker) {
    contract::survives_restart(broker, End::Killed).await;
}

/// lapin gives a returned message to whichever confirmation comes next; each has to find its own.
async fn tells_unroutable_messages_apart(broker: &Broker) {
    let topic = broker.topic().await;
    let nowhere = unique("nowhere");
    let mut all = contract::messages(&topic, 3_000);
    for message in all.iter_mut().skip(1).step_by(3) {
        message.topic.clone_from(&nowhere);
    }
    let mut driver = Driver::new(broker.sink_with(", window: 1000"), all.clone());
    driver.finish().await;
    assert_eq!(driver.outcome.faults, []);
    let rejected: Vec<_> = driver.outcome.rejected.iter().map(|(message, _)| message.offset).collect();
    let expected: Vec<_> =
        all.iter().filter(|message| message.topic == nowhere).map(|message| message.offset).collect();
    assert!(rejected == expected, "not the ones that were unroutable");
    assert!(driver.outcome.rejected.iter().all(|(_, why)| why.code == "unroutable" && !why.text.is_empty()));
    assert_eq!(broker.consume(&topic, 2_000, BOUND).await.len(), 2_000);
}

async fn loses_unroutable_messages_only_if_told_to(broker: &Broker) {
    let mut driver = Driver::new(broker.sink_with(", mandatory: false"), contract::messages("nowhere", 10));
    driver.finish().await;
    assert!(driver.outcome.rejected.is_empty() && driver.outcome.faults.is_empty());
}

/// A topic permission is about a routing key: the broker closes the channel for that one message.
async fn rejects_a_forbidden_routing_key(broker: &Broker) {
    let topic = broker.topic().await;
    broker.rabbit.add_user("eve", "ev3", [".*", ".*", ".*"]).await;
    broker.rabbit.ctl(&["set_topic_permissions", "-p", "/", "eve", EXCHANGE, "^registry\\.", ".*"]).await;
    let broker = broker.by(&broker.rabbit.amqp_uri_as("eve", "ev3"));
    let mut bad = contract::message(&topic, 1_000_000);
    bad.topic = "secret.push".to_owned();
    contract::rejects_only(&broker, &topic, bad, "not_authorised").await;
}

/// Without the right to write to the exchange no message can go: the sink's failure, not theirs.
async fn refuses_a_forbidden_exchange(broker: &Broker) {
    let topic = broker.topic().await;
    broker.rabbit.add_user("mal", "m4l", [".*", "^$", ".*"]).await;
    let broker = broker.by(&broker.rabbit.amqp_uri_as("mal", "m4l"));
    let mut driver = Driver::new(broker.sink(&topic, Variant::Good), contract::messages(&topic, 5));
    let fault = driver.step().await.expect_err("no right to write");
    assert_eq!(fault.kind, FaultKind::Refused, "{fault}");
    assert!(fault.text.contains("access to exchange"), "{fault}");
}

async fn finds_every_offender_of_a_window(broker: &Broker) {
    let topic = broker.topic().await;
    let mut all = contract::messages(&topic, 200);
    for place in [0, 50, 51, 199] {
        all[place].body = vec![b'x'; MESSAGE_BYTES_MAX + 1].into();
    }
    let mut driver = Driver::new(broker.sink_with(", window: 200"), all.clone());
    driver.finish().await;
    let rejected: Vec<_> =
        driver.outcome.rejected.iter().map(|(message, why)| (message.offset, why.code)).collect();
    assert_eq!(rejected, [1, 51, 52, 200].map(|offset| (offset, "too_large")));
    assert_eq!(driver.outcome.faults, []);
    let settled: Vec<_> = driver.outcome.settled.iter().map(|message| message.offset).collect();
    assert_eq!(settled, (1..=200).collect::<Vec<u64>>());
}

async fn rejects_headers_that_fit_no_frame(broker: &Broker) {
    let topic = broker.topic().await;
    let mut bad = contract::message(&topic, 1_000_000);
    bad.headers.push(("x-large".into(), "y".repeat(200_000)));
    contract::rejects_only(broker, &topic, bad, "too_large").await;
}

/// A queue at its limit that refuses to take more (`overflow: reject-publish`).
async fn is_busy_while_a_queue_is_full(broker: &Broker) {
    let topic = unique("registry.full");
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(10));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    broker.rabbit.declare_exchange(EXCHANGE, lapin::ExchangeKind::Topic).await;
    let queue = broker.rabbit.declare_queue_with(EXCHANGE, &[&topic], arguments).await;
    let sent = contract::messages(&topic, 30);
    let mut driver = Driver::new(broker.sink(&topic, Variant::Good), sent.clone());
    let fault = loop {
        if let Err(fault) = driver.step().await {
            break fault;
        }
    };
    assert!(matches!(fault.kind, FaultKind::Busy { .. }), "{fault:?}");
    assert!(fault.text.contains("nack"), "{fault}");
    driver.faulted(fault).await;

    let mut ids = HashSet::new();
    let drain = async {
        while ids.len() < sent.len() {
            let waiting = broker.rabbit.depth(&queue).await as usize;
            let taken = broker.rabbit.consume(&queue, waiting.max(1), BOUND).await;
            ids.extend(taken.iter().map(|delivery| delivery.message_id().expect("an id").to_owned()));
        }
    };
    tokio::join!(driver.finish(), drain);
    assert!(driver.outcome.rejected.is_empty());
    assert!(driver.outcome.faults.iter().all(|fault| matches!(fault.kind, FaultKind::Busy { .. })));
}

/// A memory alarm: the broker stops to read.
async fn is_busy_during_an_alarm(broker: &Broker) {
    let topic = broker.topic().await;
    let sent = contract::messages(&topic, 200);
    let mut driver = Driver::new(broker.sink(&topic, Variant::Good), sent.clone());
    driver.connect().await.expect("a healthy broker");
    broker.rabbit.ctl(&["set_vm_memory_high_watermark", "0.00001"]).await;
    let fault = loop {
        if let Err(fault) = driver.step().await {
            break fault;
        }
        assert!(!driver.unsettled().is_empty(), "the alarm did not go off");
    };
    assert!(matches!(fault.kind, FaultKind::Busy { .. }), "{fault:?}");
    driver.faulted(fault).await;
    let fault = driver.step().await.expect_err("still busy");
    assert!(matches!(fault.kind, FaultKind::Busy { .. }), "{fault:?}");
    driver.faulted(fault).await;
    let ends = async { broker.rabbit.ctl(&["set_vm_memory_high_watermark", "0.6"]).await };
    tokio::join!(driver.finish(), ends);
    let ids: HashSet<_> = broker.consume(&topic, 200, BOUND).await.into_iter().map(|one| one.id).collect();
    assert_eq!(ids.len(), 200);
}

async fn speaks_tls(broker: &Broker) {
    let tls = broker.rabbit.tls();
    let (ca, cert, key) = (tls.ca.display(), tls.client_cert.display(), tls.client_key.display());
    for more in [format!("{{ca: {ca}}}"), format!("{{ca: {ca}, cert: {cert}, key: {key}}}")] {
        let topic = broker.topic().await;
        let uri = broker.rabbit.amqps_uri();
        let broker_by_tls = format!("{{uri: '{uri}', exchange: {{name: {EXCHANGE}}}, tls: {more}}}");
        let mut driver = Driver::new(sink(&broker_by_tls), contract::messages(&topic, 10));
        driver.finish().await;
        assert_eq!(driver.outcome.faults, []);
        assert_eq!(broker.consume(&topic, 10, BOUND).await.len(), 10);
    }
}

async fn refuses_an_untrusted_certificate(broker: &Broker) {
    let fault = sink(&format!("{{uri: '{}'}}", broker.rabbit.amqps_uri())).connect().await;
    let fault = fault.expect_err("not our authority");
    assert_eq!(fault.kind, FaultKind::Refused, "{fault}");
    assert!(fault.text.contains("certificate"), "{fault}");
}

async fn tries_its_hosts_in_turn(broker: &Broker) {
    let topic = broker.topic().await;
    let [port] = support::process::free_ports();
    let hosts = format!("['127.0.0.1:{port}', '{}']", broker.rabbit.address());
    let yaml = format!("{{hosts: {hosts}, exchange: {{name: {EXCHANGE}}}}}");
    let mut driver = Driver::new(sink(&yaml), contract::messages(&topic, 10));
    driver.finish().await;
    assert_eq!(driver.outcome.faults, []);
    let fault = sink(&format!("{{hosts: ['127.0.0.1:{port}']}}")).connect().await;
    let fault = fault.expect_err("nobody listens");
    assert_eq!(fault.kind, FaultKind::Disconnected, "{fault}");
}

async fn declares_exchange_queue_and_binding(broker: &Broker) {
    let (exchange, queue) = (unique("exchange"), unique("queue"));
    let uri = broker.rabbit.amqp_uri();
    let yaml = |kind: &str| {
        format!(
            "{{uri: '{uri}', exchange: {{name: {exchange}, type: {kind}}}, queue: {{name: {queue}, \
             type: quorum, bindings: ['registry.#'], arguments: {{x-max-length: 1000}}}}}}"
        )
    };
    let mut driver = Driver::new(sink(&yaml("topic")), contract::messages("registry.push", 10));
    driver.finish().await;
    assert_eq!(driver.outcome.faults, []);
    let taken = broker.rabbit.consume(&queue, 10, BOUND).await;
    let properties = &taken[0].properties;
    assert_eq!(properties.kind().as_ref().map(|kind| kind.as_str()), Some("push"));
    assert_eq!(properties.content_type().as_ref().map(|kind| kind.as_str()), Some("application/json"));
    assert_eq!(properties.app_id().as_ref().map(|id| id.as_str()), Some("relay"));
    assert_eq!(*properties.delivery_mode(), Some(2));
    assert_eq!(*properties.timestamp(), Some(1_764_000_000));

    let fault = sink(&yaml("fanout")).connect().await.expect_err("it is a topic exchange");
    assert_eq!(fault.kind, FaultKind::Refused, "{fault}");
}

/// The exchange goes away under a connection that is good.
async fn refuses_an_exchange_that_went_away(broker: &Broker) {
    let exchange = unique("exchange");
    let yaml = format!("{{uri: '{}', exchange: {{name: {exchange}}}}}", broker.rabbit.amqp_uri());
    let mut driver = Driver::new(sink(&yaml), contract::messages("registry.push", 10));
    driver.connect().await.expect("declared");
    let connection = broker.rabbit.connect().await;
    let channel = connection.create_channel().await.expect("a channel");
    let deleted = channel.exchange_delete(exchange.as_str().into(), ExchangeDeleteOptions::default());
    deleted.await.expect("deleted");
    let fault = driver.step().await.expect_err("no exchange");
    assert_eq!(fault.kind, FaultKind::Refused, "{fault}");
    assert!(fault.text.contains("no exchange"), "{fault}");
    connection.close(200, "done".into()).await.expect("closed");
}

/// An id longer than AMQP's 255 bytes stands whole in a header.
async fn keeps_a_long_id(broker: &Broker) {
    let topic = broker.topic().await;
    let mut message = contract::message(&topic, 0);
    message.id = "é".repeat(200);
    let mut driver = Driver::new(broker.sink(&topic, Variant::Good), vec![message.clone()]);
    driver.finish().await;
    let received = broker.consume(&topic, 1, BOUND).await;
    assert_eq!(received[0].id, "é".repeat(127));
    assert!(received[0].headers.contains(&("id".to_owned(), message.id)));
}
