//! A single Apache Kafka node (KRaft), and what a consumer finds in it.

mod admin;
pub mod second;
mod server;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, StreamConsumer},
    error::KafkaError,
    message::Headers,
};

use super::{
    Folder, given,
    process::{Slot, eventually, free_ports},
    proxy::Proxy,
    tls::Tls,
};

const START_BOUND: Duration = Duration::from_secs(60);
const STOP_BOUND: Duration = Duration::from_secs(30);

/// What the node is to have beside its plaintext listener.
#[derive(Default, Clone)]
pub struct Options {
    /// Start one even where `RELAY_TEST_KAFKA` names a running one: to stop, freeze or configure it.
    pub own: bool,
    /// Users of a SASL_PLAINTEXT listener: name and password, for PLAIN, SCRAM-SHA-256 and -512 alike.
    pub sasl: Vec<(String, String)>,
    /// An SSL listener, and a SASL_SSL one if there are users.
    pub tls: bool,
    /// `auto.create.topics.enable`.
    pub auto_create: bool,
    /// `message.max.bytes`, the broker's cap on a batch.
    pub message_max_bytes: Option<u32>,
    /// Checks access lists: what no entry speaks of is allowed, and the plaintext listener's clients
    /// are super users.
    pub acl: bool,
    /// A plaintext listener that a [`Proxy`] stands before. A client follows the address that the node
    /// advertises, so that a proxy put before another listener would see its first connection alone.
    pub proxied: bool,
    /// Further lines of `server.properties`.
    pub properties: Vec<(String, String)>,
}

impl Options {
    fn plain(&self) -> bool {
        !self.own
            && !self.proxied
            && !self.auto_create
            && !self.tls
            && !self.acl
            && self.sasl.is_empty()
            && self.message_max_bytes.is_none()
            && self.properties.is_empty()
    }
}

/// One of the node's listeners.
struct Listener<'a> {
    name: &'static str,
    protocol: &'static str,
    address: &'a str,
    /// What clients are told to connect to, where that is not the address.
    advertised: Option<String>,
}

impl<'a> Listener<'a> {
    fn new(name: &'static str, protocol: &'static str, address: &'a str) -> Self {
        Self { name, protocol, address, advertised: None }
    }
}

/// A record as a consumer got it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub value: Vec<u8>,
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Record {
    pub fn key_text(&self) -> &str {
        self.key.as_deref().map_or("", |key| std::str::from_utf8(key).expect("a UTF-8 key"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(key, _)| key == name)?;
        Some(std::str::from_utf8(value).expect("a UTF-8 header"))
    }
}

pub struct Kafka {
    slot: Slot,
    bootstrap: String,
    controller: String,
    sasl: Option<String>,
    ssl: Option<String>,
    sasl_ssl: Option<String>,
    tls: Option<Tls>,
    proxy: Option<Proxy>,
    folder: Folder,
}

impl Kafka {
    /// Formats a folder, starts the node and waits until it answers a client. About four seconds.
    pub async fn start(options: Options) -> Self {
        if let Some(bootstrap) = given("RELAY_TEST_KAFKA").filter(|_| options.plain()) {
            let (slot, folder) = (Slot::given("kafka"), Folder::new("kafka"));
            return Self {
                slot,
                bootstrap,
                controller: String::new(),
                sasl: None,
                ssl: None,
                sasl_ssl: None,
                tls: None,
                proxy: None,
                folder,
            };
        }
        let folder = Folder::new("kafka");
        let [plain, controller, sasl, ssl, sasl_ssl, proxied] =
            free_ports().map(|port| format!("127.0.0.1:{port}"));
        let tls = options.tls.then(Tls::new);
        let proxy = if options.proxied { Some(Proxy::start(&proxied).await) } else { None };
        let advertised = proxy.as_ref().map(|proxy| proxy.address().to_owned());
        let has_sasl = !options.sasl.is_empty();
        let listeners: Vec<_> = [
            (true, Listener::new("PLAINTEXT", "PLAINTEXT", &plain)),
            (has_sasl, Listener::new("SASL", "SASL_PLAINTEXT", &sasl)),
            (options.tls, Listener::new("SSL", "SSL", &ssl)),
            (has_sasl && options.tls, Listener::new("SASLSSL", "SASL_SSL", &sasl_ssl)),
            (options.proxied, Listener { advertised, ..Listener::new("PROXIED", "PLAINTEXT", &proxied) }),
        ]
        .into_iter()
        .filter_map(|(wanted, listener)| wanted.then_some(listener))
        .collect();
        let properties =
            server::properties(&options, &listeners, &controller, tls.as_ref(), &folder.join("data"));
        folder.write("server.properties", properties);
        server::format_storage(&folder, &options.sasl).await;
        let this = Self {
            slot: Slot::new("kafka", server::spawn(&folder)),
            bootstrap: plain,
            controller,
            sasl: has_sasl.then_some(sasl),
            ssl: options.tls.then_some(ssl),
            sasl_ssl: (has_sasl && options.tls).then_some(sasl_ssl),
            tls,
            proxy,
            folder,
        };
        this.wait_ready().await;
        this
    }

    /// Where plaintext clients connect.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    pub fn bootstrap_sasl(&self) -> &str {
        self.sasl.as_deref().expect("started without SASL users")
    }

    pub fn bootstrap_ssl(&self) -> &str {
        self.ssl.as_deref().expect("started without TLS")
    }

    pub fn bootstrap_sasl_ssl(&self) -> &str {
        self.sasl_ssl.as_deref().expect("started without TLS or SASL users")
    }

    /// Where clients connect whose connections [`Kafka::proxy`] is to break.
    pub fn bootstrap_proxied(&self) -> &str {
        self.proxy().address()
    }

    pub fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().expect("started without a proxy")
    }

    /// Where it keeps a partition's records.
    pub fn partition_folder(&self, topic: &str, partition: i32) -> PathBuf {
        self.folder.join("data").join(format!("{topic}-{partition}"))
    }

    /// The files of its TLS listeners.
    pub fn tls(&self) -> &Tls {
        self.tls.as_ref().expect("started without TLS")
    }

    /// Reads `topics` from their beginning until `expected` records are there, in the order of their
    /// arrival within a partition. Panics after `bound`, and says how many it got.
    pub async fn consume_all(&self, topics: &[&str], expected: usize, bound: Duration) -> Vec<Record> {
        let mut records = Vec::with_capacity(expected);
        self.consume_each(topics, expected, bound, |record| records.push(record)).await;
        records
    }

    /// The same, one record at a time.
    pub async fn consume_each(
        &self,
        topics: &[&str],
        expected: usize,
        bound: Duration,
        mut take: impl FnMut(Record),
    ) {
        let end = Instant::now() + bound;
        if expected == 0 {
            return;
        }
        let consumer: StreamConsumer = self.client().create().expect("a consumer");
        let mut assignment = TopicPartitionList::new();
        for (topic, partition) in self.partitions(topics, end).await {
            assignment.add_partition_offset(&topic, partition, Offset::Beginning).expect("assign");
        }
        consumer.assign(&assignment).expect("assign");
        let mut taken = 0;
        while taken < expected {
            let left = end.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, consumer.recv()).await {
                Ok(Ok(message)) => {
                    take(record(&message));
                    taken += 1;
                }
                // The node may be on its way back: the bound decides.
                Ok(Err(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
                Err(_) => panic!(
                    "{topics:?}: {taken} of {expected} records within {bound:?}; the broker has {}",
                    self.count(topics).await
                ),
            }
        }
    }

    /// How many records `topics` hold now; what a test for "once" compares with. Zero for a topic that
    /// does not exist.
    pub async fn count(&self, topics: &[&str]) -> i64 {
        let client = self.client();
        let topics: Vec<String> = topics.iter().map(|&topic| topic.to_owned()).collect();
        blocking(move || {
            let consumer: BaseConsumer = client.create()?;
            let mut sum = 0;
            for topic in &topics {
                for partition in metadata(&consumer, topic)? {
                    let (low, high) = consumer.fetch_watermarks(topic, partition, Duration::from_secs(10))?;
                    sum += high - low;
                }
            }
            Ok::<_, KafkaError>(sum)
        })
        .await
        .expect("watermarks")
    }

    /// SIGTERM, and wait for its end.
    pub async fn stop(&self) {
        self.slot.stop(STOP_BOUND).await;
    }

    pub fn kill(&self) {
        self.slot.kill();
    }

    pub fn freeze(&self) {
        self.slot.freeze();
    }

    pub fn thaw(&self) {
        self.slot.thaw();
    }

    /// The same ports, the same folder. Waits until it answers.
    pub async fn start_again(&self) {
        self.slot.kill();
        self.slot.put(server::spawn(&self.folder));
        self.wait_ready().await;
    }

    async fn wait_ready(&self) {
        let end = Instant::now() + START_BOUND;
        loop {
            let client = self.client();
            let up = blocking(move || {
                let consumer: BaseConsumer = client.create().ok()?;
                consumer
                    .fetch_metadata(None, Duration::from_secs(2))
                    .ok()
                    .filter(|m| !m.brokers().is_empty())?;
                Some(())
            });
            if up.await.is_some() {
                return;
            }
            self.slot.with(|proc| {
                let ended = proc.exited().is_some();
                assert!(
                    !ended && Instant::now() < end,
                    "Kafka does not answer; end of its log:\n{}",
                    proc.tail()
                );
            });
        }
    }

    /// Every partition of `topics`, once all of them exist.
    async fn partitions(&self, topics: &[&str], end: Instant) -> Vec<(String, i32)> {
        let topics: Vec<String> = topics.iter().map(|&topic| topic.to_owned()).collect();
        let what = format!("topics {topics:?}");
        eventually(&what, end.saturating_duration_since(Instant::now()), async || {
            let (client, topics) = (self.client(), topics.clone());
            blocking(move || {
                let consumer: BaseConsumer = client.create().ok()?;
                let mut all = Vec::new();
                for topic in topics {
                    let partitions = metadata(&consumer, &topic).ok().filter(|found| !found.is_empty())?;
                    all.extend(partitions.into_iter().map(|partition| (topic.clone(), partition)));
                }
                Some(all)
            })
            .await
        })
        .await
    }

    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.bootstrap)
            .set("group.id", super::unique("tests"))
            .set("enable.auto.commit", "false")
            .set("allow.auto.create.topics", "false")
            .set("reconnect.backoff.max.ms", "500")
            .set("log_level", "0");
        config
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("no panic")
}

fn metadata(consumer: &BaseConsumer, topic: &str) -> Result<Vec<i32>, KafkaError> {
    let found = consumer.fetch_metadata(Some(topic), Duration::from_secs(5))?;
    let partitions = found.topics().iter().filter(|t| t.error().is_none()).flat_map(|t| t.partitions());
    Ok(partitions.map(|partition| partition.id()).collect())
}

fn record(message: &impl Message) -> Record {
    let headers = message.headers().map(|headers| {
        headers.iter().map(|h| (h.key.to_owned(), h.value.unwrap_or_default().to_vec())).collect()
    });
    Record {
        topic: message.topic().to_owned(),
        partition: message.partition(),
        offset: message.offset(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().unwrap_or_default().to_vec(),
        headers: headers.unwrap_or_default(),
    }
}
