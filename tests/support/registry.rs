//! A real Docker registry that notifies an endpoint.

use std::{fmt::Write as _, process::Command, time::Duration};

use super::{
    Folder,
    process::{Proc, Slot, accepts, free_ports},
    tool,
};

const START_BOUND: Duration = Duration::from_secs(20);

/// Which distribution: 2.8 (Debian's `docker-registry`), or 3.1 (built by `scripts/setup.sh` where Go is).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V2,
    V3,
}

impl Version {
    fn program(self) -> std::path::PathBuf {
        match self {
            Self::V2 => tool("RELAY_TEST_REGISTRY_V2", "docker-registry"),
            Self::V3 => tool("RELAY_TEST_REGISTRY_V3", "registry"),
        }
    }

    /// 2.8 always is, after `scripts/setup.sh`; 3.1 only where Go was.
    pub fn available(self) -> bool {
        Command::new(self.program()).arg("--version").output().is_ok()
    }
}

/// The endpoint block of the registry's `notifications`.
#[derive(Clone)]
pub struct Endpoint {
    /// Durations with a unit, as Go reads them.
    pub timeout: String,
    pub threshold: u32,
    pub backoff: String,
    /// Headers sent along, such as `Authorization`.
    pub headers: Vec<(String, String)>,
    /// `notifications.events.includereferences`.
    pub include_references: bool,
    /// A second endpoint that is told the same, without headers: what the registry sent, to compare with.
    pub mirror: Option<String>,
}

impl Default for Endpoint {
    fn default() -> Self {
        Self {
            timeout: "1s".to_owned(),
            threshold: 5,
            backoff: "200ms".to_owned(),
            headers: Vec::new(),
            include_references: false,
            mirror: None,
        }
    }
}

pub struct Registry {
    slot: Slot,
    version: Version,
    address: String,
    folder: Folder,
}

impl Registry {
    /// A registry with storage of its own, delete enabled, that notifies `relay_url` and sends `headers`
    /// along.
    pub async fn start(version: Version, relay_url: &str, headers: &[(&str, &str)]) -> Self {
        let headers = headers.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        Self::start_with(version, relay_url, Endpoint { headers, ..Default::default() }).await
    }

    pub async fn start_with(version: Version, relay_url: &str, endpoint: Endpoint) -> Self {
        let folder = Folder::new("registry");
        let [port] = free_ports();
        let address = format!("127.0.0.1:{port}");
        let storage = folder.join("storage");
        std::fs::create_dir(&storage).expect("a folder for the registry's storage");
        let mut config = format!(
            "version: 0.1\nlog: {{level: info}}\n\
             storage:\n  delete: {{enabled: true}}\n  filesystem: {{rootdirectory: {:?}}}\n\
             http:\n  addr: {address:?}\n  secret: loopback\n\
             notifications:\n  events: {{includereferences: {}}}\n  endpoints:\n\
             \x20   - name: relay\n      url: {relay_url:?}\n      timeout: {}\n      threshold: {}\n      backoff: {}\n",
            storage.display().to_string(),
            endpoint.include_references,
            endpoint.timeout,
            endpoint.threshold,
            endpoint.backoff,
        );
        if !endpoint.headers.is_empty() {
            config += "      headers:\n";
            for (name, value) in &endpoint.headers {
                writeln!(config, "        {name}: [{value:?}]").expect("to a string");
            }
        }
        if let Some(url) = &endpoint.mirror {
            writeln!(
                config,
                "    - name: mirror\n      url: {url:?}\n      timeout: 5s\n      backoff: 200ms"
            )
            .expect("to a string");
        }
        folder.write("config.yml", config);
        let slot = Slot::new("registry", spawn(version, &folder));
        let this = Self { slot, version, address, folder };
        this.wait_ready().await;
        this
    }

    /// `127.0.0.1:PORT`, what stands before a repository's name in a reference.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn log(&self) -> String {
        self.slot.with(|proc| proc.log())
    }

    /// With it go the events that it has not delivered: its queue is in memory.
    pub fn kill(&self) {
        self.slot.kill();
    }

    pub async fn stop(&self) {
        self.slot.stop(START_BOUND).await;
    }

    /// The same port and storage.
    pub async fn start_again(&self) {
        self.slot.kill();
        self.slot.put(spawn(self.version, &self.folder));
        self.wait_ready().await;
    }

    async fn wait_ready(&self) {
        let what = "the registry accepts connections";
        super::process::eventually(what, START_BOUND, async || {
            self.slot.with(|proc| {
                assert!(proc.exited().is_none(), "the registry ended; its log:\n{}", proc.tail());
            });
            accepts(&self.address).await
        })
        .await;
    }
}

fn spawn(version: Version, folder: &Folder) -> Proc {
    let mut command = Command::new(version.program());
    command.arg("serve").arg(folder.join("config.yml")).current_dir(folder.path());
    // 3.x would look for a collector of traces on this machine.
    command.env("OTEL_TRACES_EXPORTER", "none");
    Proc::spawn("registry", command, &folder.join("log"))
}
