//! What the integration tests stand on: real brokers, a real registry, a proxy that breaks
//! connections, and the relay's own binary as a child process. Everything listens on loopback, in a
//! folder and on ports of its own, and ends with the value that started it.
//!
//! A test binary says `mod support;`. How to run one suite, and which environment variables name tools
//! and brokers that are already there: `docs/testing.md`.

// Every test binary compiles all of this and uses a part of it.
#![allow(dead_code)]

pub mod contract;
pub mod disk;
pub mod process;
pub mod suite;
pub mod tls;

pub mod http_sink;
#[cfg(feature = "kafka")]
pub mod kafka;
#[cfg(feature = "nats")]
pub mod nats;
pub mod proxy;
#[cfg(feature = "rabbitmq")]
pub mod rabbitmq;
pub mod registry;
#[cfg(feature = "webhook")]
pub mod load;
#[cfg(feature = "webhook")]
pub mod relay;
pub mod skopeo;
#[cfg(all(feature = "kafka", feature = "rabbitmq", feature = "nats", feature = "webhook"))]
pub mod trio;

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

/// A name that no other test and no earlier run has used: brokers that were there before, and one
/// broker shared by many tests, keep what was sent to them.
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}-{:x}-{:x}-{number}", now.as_millis(), std::process::id())
}

/// A host that is not found, without a question to any name server: a part of a name has 63 bytes at most
/// (RFC 1035), and the resolver sees that for itself.
pub const NO_NAME: &str = "a-name-of-more-than-sixty-three-bytes-is-none-that-anybody-could-have.invalid";

/// The tool that environment variable `variable` names, or that `scripts/setup.sh` put below
/// `target/brokers`, or that is in `PATH`.
pub fn tool(variable: &str, name: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable).filter(|path| !path.is_empty()) {
        return path.into();
    }
    let built = tools_dir().join("bin").join(name);
    if built.is_file() { built } else { name.into() }
}

/// Where `scripts/setup.sh` puts what is not a Debian package.
pub fn tools_dir() -> PathBuf {
    match std::env::var_os("RELAY_TEST_TOOLS").filter(|path| !path.is_empty()) {
        Some(path) => path.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("target/brokers"),
    }
}

/// The address of a broker that is already running, if the environment names one.
pub fn given(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|address| !address.is_empty())
}

/// A folder that goes with the value, unless `RELAY_TEST_KEEP=1` asks to look into it afterwards.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new(name: &str) -> Self {
        let mut folder = tempfile::Builder::new()
            .prefix(&format!("relay-test-{name}-"))
            .tempdir()
            .expect("a temporary folder");
        if given("RELAY_TEST_KEEP").is_some() {
            folder.disable_cleanup(true);
            eprintln!("{name}: {}", folder.path().display());
        }
        Self(folder)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file and returns its path.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        std::fs::write(&path, content).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        path
    }
}
