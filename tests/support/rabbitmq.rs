//! A RabbitMQ node with an `epmd` of its own, and what a consumer finds in its queues.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use lapin::{
    BasicProperties, Connection, ConnectionProperties, ExchangeKind,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ExchangeDeclareOptions, QueueBindOptions,
        QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};

use super::{
    Folder, given,
    process::{Proc, Slot, accepts, eventually, free_ports, run},
    tls::Tls,
    unique,
};

const START_BOUND: Duration = Duration::from_secs(90);
const STOP_BOUND: Duration = Duration::from_secs(60);
const ACK_EVERY: usize = 256;

#[derive(Default, Clone)]
pub struct Options {
    /// Start one even where `RELAY_TEST_RABBITMQ` names a running one: to stop, freeze or configure it.
    pub own: bool,
    /// A TLS listener beside the plain one.
    pub tls: bool,
    /// Further lines of `rabbitmq.conf`.
    pub config: Vec<String>,
}

impl Options {
    fn plain(&self) -> bool {
        !self.own && !self.tls && self.config.is_empty()
    }
}

/// A message as a consumer got it.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    pub exchange: String,
    pub routing_key: String,
    pub redelivered: bool,
    pub body: Vec<u8>,
    pub properties: BasicProperties,
}

impl Delivery {
    pub fn message_id(&self) -> Option<&str> {
        self.properties.message_id().as_ref().map(|id| id.as_str())
    }

    /// A header that is a string of one kind or the other.
    pub fn header(&self, name: &str) -> Option<String> {
        match self.properties.headers().as_ref()?.inner().get(name)? {
            AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
            AMQPValue::ShortString(text) => Some(text.to_string()),
            _ => None,
        }
    }
}

pub struct RabbitMq {
    slot: Slot,
    /// Dropped after the node, which talks to it.
    _epmd: Option<Proc>,
    uri: String,
    amqp_port: u16,
    amqps_port: u16,
    node: Node,
    tls: Option<Tls>,
    folder: Folder,
}

/// What every one of RabbitMQ's programs must be told to meet the same node.
#[derive(Clone)]
struct Node {
    name: String,
    epmd_port: u16,
    dist_port: u16,
}

impl RabbitMq {
    /// Starts epmd and the node, and waits until a client can connect. About six seconds.
    pub async fn start(options: Options) -> Self {
        let folder = Folder::new("rabbitmq");
        let [amqp_port, amqps_port, epmd_port, dist_port] = free_ports();
        let node = Node { name: format!("{}@localhost", unique("relay")), epmd_port, dist_port };
        if let Some(uri) = given("RELAY_TEST_RABBITMQ").filter(|_| options.plain()) {
            let slot = Slot::given("rabbitmq");
            return Self { slot, _epmd: None, uri, amqp_port, amqps_port, node, tls: None, folder };
        }
        let tls = options.tls.then(Tls::new);
        let mut config = format!(
            "listeners.tcp.1 = 127.0.0.1:{amqp_port}\nlog.file = false\nlog.console = true\n\
             log.console.level = info\ndisk_free_limit.absolute = 50MB\n"
        );
        if let Some(tls) = &tls {
            config += &format!(
                "listeners.ssl.1 = 127.0.0.1:{amqps_port}\nlisteners.ssl.2 = 127.0.0.2:{amqps_port}\nssl_options.cacertfile = {}\n\
                 ssl_options.certfile = {}\nssl_options.keyfile = {}\n\
                 ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = false\n",
                tls.ca.display(),
                tls.cert.display(),
                tls.key.display(),
            );
        }
        for line in &options.config {
            config = config + line + "\n";
        }
        folder.write("rabbitmq.conf", config);
        folder.write("env.conf", "");
        folder.write("enabled_plugins", "[].\n");
        let epmd = spawn_epmd(&folder, epmd_port).await;
        let this = Self {
            slot: Slot::new("rabbitmq", spawn(&folder, &node)),
            _epmd: Some(epmd),
            uri: format!("amqp://guest:guest@127.0.0.1:{amqp_port}/%2f"),
            amqp_port,
            amqps_port,
            node,
            tls,
            folder,
        };
        this.wait_ready().await;
        this
    }

    /// As `guest`, who may do everything.
    pub fn amqp_uri(&self) -> &str {
        &self.uri
    }

    /// As another user.
    pub fn amqp_uri_as(&self, user: &str, password: &str) -> String {
        format!("amqp://{user}:{password}@{}/%2f", self.address())
    }

    /// `host:port` of the plain listener: what a proxy is put before.
    pub fn address(&self) -> String {
        if self.tls.is_none() && self.uri != format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.amqp_port) {
            let rest = self.uri.split_once("://").map_or(self.uri.as_str(), |(_, rest)| rest);
            let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
            return host.split('/').next().unwrap_or(host).to_owned();
        }
        format!("127.0.0.1:{}", self.amqp_port)
    }

    pub fn amqps_uri(&self) -> String {
        assert!(self.tls.is_some(), "started without TLS");
        format!("amqps://guest:guest@localhost:{}/%2f", self.amqps_port)
    }

    /// The same by an address that is not in its certificate.
    pub fn amqps_uri_by_another_name(&self) -> String {
        self.amqps_uri().replace("localhost", "127.0.0.2")
    }

    pub fn tls(&self) -> &Tls {
        self.tls.as_ref().expect("started without TLS")
    }

    /// A user with what `set_permissions` takes: patterns of names to configure, to write and to read.
    pub async fn add_user(&self, user: &str, password: &str, permissions: [&str; 3]) {
        self.ctl(&["add_user", user, password]).await;
        let [configure, write, read] = permissions;
        self.ctl(&["set_permissions", "-p", "/", user, configure, write, read]).await;
    }

    /// Runs `rabbitmqctl`; gives what it wrote. About a second and a half.
    pub async fn ctl(&self, arguments: &[&str]) -> String {
        self.slot.with(|_| ());
        let mut command = program(&self.folder, &self.node, "rabbitmqctl");
        command.arg("-q").arg("-n").arg(&self.node.name).args(arguments);
        run(&format!("rabbitmqctl {}", arguments[0]), command, START_BOUND).await
    }

    pub async fn connect(&self) -> Connection {
        eventually("a connection to RabbitMQ", START_BOUND, async || {
            Connection::connect(&self.uri, ConnectionProperties::default()).await.ok()
        })
        .await
    }

    /// A durable exchange, as the relay would declare it.
    pub async fn declare_exchange(&self, name: &str, kind: ExchangeKind) {
        let connection = self.connect().await;
        let channel = connection.create_channel().await.expect("a channel");
        let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
        let declared = channel.exchange_declare(name.into(), kind, options, FieldTable::default()).await;
        declared.expect("declare an exchange");
        let _ = connection.close(200, "done".into()).await;
    }

    /// A durable queue with a name of its own, bound to an exchange that exists.
    pub async fn declare_queue_bound(&self, exchange: &str, binding_key: &str) -> String {
        self.declare_queue_with(exchange, &[binding_key], FieldTable::default()).await
    }

    /// With several bindings, and arguments such as `x-max-length`.
    pub async fn declare_queue_with(&self, exchange: &str, keys: &[&str], arguments: FieldTable) -> String {
        let queue = unique("queue");
        let connection = self.connect().await;
        let channel = connection.create_channel().await.expect("a channel");
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare(queue.as_str().into(), options, arguments).await.expect("declare a queue");
        for &key in keys {
            let (queue, options) = (queue.as_str().into(), QueueBindOptions::default());
            let bound =
                channel.queue_bind(queue, exchange.into(), key.into(), options, FieldTable::default());
            bound.await.expect("bind a queue");
        }
        let _ = connection.close(200, "done".into()).await;
        queue
    }

    /// How many messages wait in a queue.
    pub async fn depth(&self, queue: &str) -> u32 {
        let connection = self.connect().await;
        let channel = connection.create_channel().await.expect("a channel");
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        let declared = channel.queue_declare(queue.into(), options, FieldTable::default()).await;
        let depth = declared.expect("a queue that exists").message_count();
        let _ = connection.close(200, "done".into()).await;
        depth
    }

    /// Takes `expected` messages out of a queue and acknowledges them. Panics after `bound`, and says how
    /// many came.
    pub async fn consume(&self, queue: &str, expected: usize, bound: Duration) -> Vec<Delivery> {
        let mut deliveries = Vec::with_capacity(expected);
        self.consume_each(queue, expected, bound, |delivery| deliveries.push(delivery)).await;
        deliveries
    }

    /// The same, one message at a time.
    pub async fn consume_each(
        &self,
        queue: &str,
        expected: usize,
        bound: Duration,
        mut take: impl FnMut(Delivery),
    ) {
        let end = Instant::now() + bound;
        if expected == 0 {
            return;
        }
        let connection = self.connect().await;
        let channel = connection.create_channel().await.expect("a channel");
        // Never more on the way than are wanted: the rest stays in the queue, and can be counted.
        let window = u16::try_from(expected).unwrap_or(u16::MAX);
        channel.basic_qos(window, BasicQosOptions::default()).await.expect("qos");
        let (name, tag) = (queue.into(), unique("consumer"));
        let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
        let consumer = channel.basic_consume(name, tag.as_str().into(), options, none).await;
        let mut consumer = consumer.expect("consume");
        for taken in 0..expected {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(next) = tokio::time::timeout(left, consumer.next()).await else {
                panic!("{queue}: {taken} of {expected} messages within {bound:?}");
            };
            let delivery = next.expect("the consumer goes on").expect("a delivery");
            // One for many: a frame and a record each would be most of the work.
            if (taken + 1) % ACK_EVERY == 0 || taken + 1 == expected {
                delivery.ack(BasicAckOptions { multiple: true }).await.expect("ack");
            }
            take(Delivery {
                exchange: delivery.exchange.to_string(),
                routing_key: delivery.routing_key.to_string(),
                redelivered: delivery.redelivered,
                body: delivery.data,
                properties: delivery.properties,
            });
        }
        let _ = connection.close(200, "done".into()).await;
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

    /// The same ports, name and folder; durable queues and persistent messages are there again.
    pub async fn start_again(&self) {
        self.slot.kill();
        self.slot.put(spawn(&self.folder, &self.node));
        self.wait_ready().await;
    }

    async fn wait_ready(&self) {
        let end = Instant::now() + START_BOUND;
        loop {
            let attempt = Connection::connect(&self.uri, ConnectionProperties::default());
            if let Ok(Ok(connection)) = tokio::time::timeout(Duration::from_secs(5), attempt).await {
                let _ = connection.close(200, "up".into()).await;
                return;
            }
            self.slot.with(|proc| {
                let ended = proc.exited().is_some();
                let tail = || proc.tail();
                assert!(
                    !ended && Instant::now() < end,
                    "RabbitMQ does not answer; end of its log:\n{}",
                    tail()
                );
            });
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// RabbitMQ's own folder. Debian's wrapper in PATH changes the user and the environment, so that the
/// scripts below it are run.
fn home() -> PathBuf {
    if let Some(home) = given("RELAY_TEST_RABBITMQ_HOME") {
        return home.into();
    }
    let installed = std::fs::read_dir("/usr/lib/rabbitmq/lib").into_iter().flatten().flatten();
    let newest = installed.map(|entry| entry.path()).filter(|path| path.join("sbin").is_dir()).max();
    newest.expect("RabbitMQ is not installed: run scripts/setup.sh, or name it in RELAY_TEST_RABBITMQ_HOME")
}

fn environment(command: &mut Command, folder: &Path, node: &Node) {
    command
        .current_dir(folder)
        // The Erlang cookie is made below HOME, whoever we run as.
        .env("HOME", folder)
        .env("ERL_EPMD_PORT", node.epmd_port.to_string())
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_NODENAME", &node.name)
        .env("RABBITMQ_DIST_PORT", node.dist_port.to_string())
        .env("RABBITMQ_CONF_ENV_FILE", folder.join("env.conf"))
        .env("RABBITMQ_CONFIG_FILE", folder.join("rabbitmq.conf"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("enabled_plugins"))
        .env("RABBITMQ_MNESIA_BASE", folder.join("mnesia"))
        .env("RABBITMQ_LOG_BASE", folder.join("logs"))
        .env("RABBITMQ_PID_FILE", folder.join("pid"))
        .env("LC_ALL", "C.UTF-8");
}

fn program(folder: &Folder, node: &Node, name: &str) -> Command {
    let mut command = Command::new(home().join("sbin").join(name));
    environment(&mut command, folder.path(), node);
    command
}

fn spawn(folder: &Folder, node: &Node) -> Proc {
    let mut command = program(folder, node, "rabbitmq-server");
    // Two schedulers that sleep when idle; the distribution's port on loopback only.
    command.env(
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
        "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}",
    );
    Proc::spawn("rabbitmq", command, &folder.join("log"))
}

/// The node would start an epmd as a daemon, outside of our group; with one of ours it finds it there.
async fn spawn_epmd(folder: &Folder, port: u16) -> Proc {
    let mut command = Command::new("epmd");
    command.args(["-address", "127.0.0.1", "-port", &port.to_string()]).current_dir(folder.path());
    let mut epmd = Proc::spawn("epmd", command, &folder.join("epmd.log"));
    let address = format!("127.0.0.1:{port}");
    epmd.ready("accepts connections", Duration::from_secs(20), || accepts(&address)).await;
    epmd
}
