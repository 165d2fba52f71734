//! A NATS server with or without JetStream, and what a subscriber finds in it; three as a cluster.

pub mod cluster;

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use async_nats::{
    Client, ConnectOptions, HeaderMap, Subscriber,
    jetstream::{self, consumer::pull, stream},
};
use futures_util::StreamExt;
use rustix::process::Signal;

use super::{
    Folder, given,
    process::{Proc, Slot, eventually, free_ports},
    tls::Tls,
    tool,
};

const START_BOUND: Duration = Duration::from_secs(20);

/// Who may connect. The tests' own client uses the same credentials.
#[derive(Default, Clone)]
pub enum Auth {
    #[default]
    Nobody,
    Token(String),
    User(String, String),
    /// With [`NKEY_SEED`].
    NKey,
    /// A JWT and its key, in the file that [`Nats::creds`] names.
    Creds,
}

/// A key pair for tests alone: its seed is public.
pub const NKEY_SEED: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
pub const NKEY_PUBLIC: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";

/// An operator, an account with JetStream, and a user's credentials; made once, for tests alone.
const OPERATOR: &str = include_str!("nats/operator.conf");
const USER_CREDS: &str = include_str!("nats/user.creds");

#[derive(Clone)]
pub struct Options {
    /// Start one even where `RELAY_TEST_NATS` names a running one: to stop, freeze or configure it.
    pub own: bool,
    /// On unless said otherwise.
    pub jetstream: bool,
    /// JetStream syncs each message before it confirms it; by default it does so every two minutes.
    pub syncs: bool,
    pub auth: Auth,
    /// The one listener speaks TLS.
    pub tls: bool,
    /// Bytes of the largest message; the server's default is 1 MiB.
    pub max_payload: Option<u32>,
    /// Further lines of the configuration file, such as an `authorization` block.
    pub config: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        let (auth, config) = (Auth::Nobody, Vec::new());
        Self { own: false, jetstream: true, syncs: false, auth, tls: false, max_payload: None, config }
    }
}

impl Options {
    fn plain(&self) -> bool {
        let open = matches!(self.auth, Auth::Nobody) && !self.tls && self.max_payload.is_none();
        open && !self.own && self.jetstream && !self.syncs && self.config.is_empty()
    }
}

/// A message as a subscriber got it.
#[derive(Debug, Clone)]
pub struct Received {
    pub subject: String,
    pub payload: Vec<u8>,
    pub headers: HeaderMap,
    /// Its place in the stream; 0 for a core subscription.
    pub sequence: u64,
}

impl Received {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.as_str())
    }
}

pub struct Nats {
    slot: Slot,
    url: String,
    port: u16,
    auth: Auth,
    tls: Option<Tls>,
    folder: Folder,
}

impl Nats {
    /// Starts the server and waits until a client can connect. A tenth of a second.
    pub async fn start(options: Options) -> Self {
        let folder = Folder::new("nats");
        if let Some(url) = given("RELAY_TEST_NATS").filter(|_| options.plain()) {
            return Self { slot: Slot::given("nats"), url, port: 0, auth: Auth::Nobody, tls: None, folder };
        }
        let [port] = free_ports();
        let tls = options.tls.then(Tls::new);
        folder.write("user.creds", USER_CREDS);
        folder.write("nats.conf", configuration(&options, port, &folder, tls.as_ref()));
        let scheme = if options.tls { "tls" } else { "nats" };
        let this = Self {
            slot: Slot::new("nats", spawn(&folder)),
            url: format!("{scheme}://127.0.0.1:{port}"),
            port,
            auth: options.auth,
            tls,
            folder,
        };
        this.wait_ready().await;
        this
    }

    /// `nats://…`, or `tls://…` with TLS; without credentials.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// `host:port`: what a proxy is put before.
    pub fn address(&self) -> &str {
        let rest = self.url.split_once("://").map_or(self.url.as_str(), |(_, rest)| rest);
        rest.rsplit_once('@').map_or(rest, |(_, host)| host).trim_end_matches('/')
    }

    /// The credentials file that a server with [`Auth::Creds`] accepts.
    pub fn creds(&self) -> PathBuf {
        self.folder.join("user.creds")
    }

    pub fn tls(&self) -> &Tls {
        self.tls.as_ref().expect("started without TLS")
    }

    /// A client of the tests' own.
    pub async fn connect(&self) -> Client {
        eventually("a connection to NATS", START_BOUND, async || self.try_connect().await).await
    }

    async fn try_connect(&self) -> Option<Client> {
        let mut options = ConnectOptions::new().connection_timeout(Duration::from_secs(5));
        options = match self.auth.clone() {
            Auth::Nobody => options,
            Auth::Token(token) => options.token(token),
            Auth::User(user, password) => options.user_and_password(user, password),
            Auth::NKey => options.nkey(NKEY_SEED.to_owned()),
            Auth::Creds => options.credentials(USER_CREDS).expect("a credentials file"),
        };
        if let Some(tls) = &self.tls {
            options = options.add_root_certificates(tls.ca.clone()).require_tls(true);
        }
        options.connect(self.url.as_str()).await.ok()
    }

    /// A core subscription that the server knows of when this returns.
    pub async fn subscribe(&self, subject: &str) -> Subscription {
        let client = self.connect().await;
        let subscriber = client.subscribe(subject.to_owned()).await.expect("subscribe");
        client.flush().await.expect("flush");
        // The answer to a round trip comes after the server has read the subscription.
        let _ = client.request(format!("{}.nobody", super::unique("ping")), "".into()).await;
        Subscription { subscriber, _client: client }
    }

    pub async fn jetstream(&self) -> jetstream::Context {
        jetstream::new(self.connect().await)
    }

    /// A stream kept in files.
    pub async fn create_stream(&self, name: &str, subjects: &[&str]) {
        let subjects = subjects.iter().map(|&subject| subject.to_owned()).collect();
        self.create_stream_with(stream::Config { name: name.to_owned(), subjects, ..Default::default() })
            .await;
    }

    pub async fn create_stream_with(&self, config: stream::Config) {
        self.jetstream().await.create_stream(config).await.expect("create a stream");
    }

    /// Makes a stream as soon as the server can: it may still be clearing away what one of the same name
    /// had, and a cluster's servers have to learn of each other.
    pub async fn create_stream_soon(&self, config: stream::Config) {
        let jetstream = self.jetstream().await;
        let create = async || jetstream.create_stream(config.clone()).await.ok();
        eventually("a stream to be made", START_BOUND, create).await;
    }

    /// How many messages a stream holds; 0 for one that does not exist.
    pub async fn count(&self, name: &str) -> u64 {
        match self.jetstream().await.get_stream(name).await {
            Ok(stream) => stream.cached_info().state.messages,
            Err(_) => 0,
        }
    }

    /// Reads a stream from its beginning until `expected` messages are there; waits for the stream as
    /// well. Panics after `bound`, and says how many came.
    pub async fn consume_stream(&self, name: &str, expected: usize, bound: Duration) -> Vec<Received> {
        let mut received = Vec::with_capacity(expected);
        self.consume_stream_each(name, expected, bound, |message| received.push(message)).await;
        received
    }

    /// The same, one message at a time.
    pub async fn consume_stream_each(
        &self,
        name: &str,
        expected: usize,
        bound: Duration,
        mut take: impl FnMut(Received),
    ) {
        let end = Instant::now() + bound;
        if expected == 0 {
            return;
        }
        let context = self.jetstream().await;
        let what = format!("stream {name}");
        let stream = eventually(&what, bound, async || context.get_stream(name).await.ok()).await;
        let consumer = stream.create_consumer(pull::OrderedConfig::default()).await.expect("a consumer");
        let mut messages = consumer.messages().await.expect("messages");
        for taken in 0..expected {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(next) = tokio::time::timeout(left, messages.next()).await else {
                panic!("{name}: {taken} of {expected} messages within {bound:?}");
            };
            let message = next.expect("the consumer goes on").expect("a message");
            let sequence = message.info().expect("JetStream's own reply subject").stream_sequence;
            take(Received { sequence, ..core(message.into()) });
        }
    }

    /// SIGTERM, and wait for its end.
    pub async fn stop(&self) {
        self.slot.stop(START_BOUND).await;
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

    /// Writes another configuration and has the running server read it (SIGHUP); what it makes of it, and
    /// when, is for the caller to wait for. Credentials and TLS stay as they are.
    pub fn reload(&self, options: &Options) {
        let text = configuration(options, self.port, &self.folder, self.tls.as_ref());
        self.folder.write("nats.conf", text);
        self.slot.with(|proc| proc.signal(Signal::HUP));
    }

    /// The folder that JetStream's own is in, as `jetstream`.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The same port and the same JetStream folder.
    pub async fn start_again(&self) {
        self.slot.kill();
        self.slot.put(spawn(&self.folder));
        self.wait_ready().await;
    }

    async fn wait_ready(&self) {
        let end = Instant::now() + START_BOUND;
        while self.try_connect().await.is_none() {
            self.slot.with(|proc| {
                let ended = proc.exited().is_some();
                assert!(
                    !ended && Instant::now() < end,
                    "NATS does not answer; end of its log:\n{}",
                    proc.tail()
                );
            });
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A core subscription: what is not read while it exists is lost.
pub struct Subscription {
    subscriber: Subscriber,
    _client: Client,
}

impl Subscription {
    /// The next `expected` messages. Panics after `bound`, and says how many came.
    pub async fn take(&mut self, expected: usize, bound: Duration) -> Vec<Received> {
        let end = Instant::now() + bound;
        let mut received = Vec::with_capacity(expected);
        while received.len() < expected {
            let left = end.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, self.subscriber.next()).await {
                Ok(Some(message)) => received.push(core(message)),
                Ok(None) => panic!("the subscription ended after {} messages", received.len()),
                Err(_) => panic!("{} of {expected} messages within {bound:?}", received.len()),
            }
        }
        received
    }
}

fn core(message: async_nats::Message) -> Received {
    Received {
        subject: message.subject.to_string(),
        payload: message.payload.to_vec(),
        headers: message.headers.unwrap_or_default(),
        sequence: 0,
    }
}

fn spawn(folder: &Folder) -> Proc {
    let mut command = Command::new(tool("RELAY_TEST_NATS_SERVER", "nats-server"));
    command.arg("-c").arg(folder.join("nats.conf")).current_dir(folder.path());
    Proc::spawn("nats", command, &folder.join("log"))
}

fn configuration(options: &Options, port: u16, folder: &Folder, tls: Option<&Tls>) -> String {
    let mut text = format!("listen: \"127.0.0.1:{port}\"\n");
    if options.jetstream {
        let store = folder.join("jetstream");
        let sync = if options.syncs { ", sync_interval: always" } else { "" };
        writeln!(text, "jetstream {{ store_dir: \"{}\"{sync} }}", store.display()).expect("to a string");
    }
    if let Some(bytes) = options.max_payload {
        writeln!(text, "max_payload: {bytes}").expect("to a string");
    }
    match &options.auth {
        Auth::Nobody => {}
        Auth::Token(token) => writeln!(text, "authorization {{ token: \"{token}\" }}").expect("to a string"),
        Auth::User(user, password) => {
            writeln!(text, "authorization {{ user: \"{user}\", password: \"{password}\" }}")
                .expect("to a string");
        }
        Auth::NKey => {
            writeln!(text, "authorization {{ users: [ {{ nkey: \"{NKEY_PUBLIC}\" }} ] }}")
                .expect("to a string");
        }
        Auth::Creds => text += OPERATOR,
    }
    if let Some(tls) = tls {
        let (cert, key, ca) = (tls.cert.display(), tls.key.display(), tls.ca.display());
        writeln!(text, "tls {{ cert_file: \"{cert}\", key_file: \"{key}\", ca_file: \"{ca}\" }}")
            .expect("to a string");
    }
    for line in &options.config {
        text = text + line + "\n";
    }
    text
}
