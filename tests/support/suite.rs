//! The shape of a broker suite: a `harness = false` test whose `main` registers async tests, starts each
//! broker when the first test asks for it, and stops them at its end.
//!
//! ```ignore
//! mod support;
//! fn main() -> std::process::ExitCode {
//!     let mut suite = support::suite::Suite::new();
//!     let kafka = support::suite::Shared::new(|| Kafka::start(Default::default()));
//!     let k = kafka.clone();
//!     suite.test("keeps_order", async move || {
//!         let kafka = k.get().await;
//!         …
//!     });
//!     suite.run()
//! }
//! ```

use std::{future::Future, pin::Pin, process::ExitCode, sync::Arc, time::Duration};

use libtest_mimic::{Arguments, Failed, Trial};
use tokio::{runtime::Runtime, sync::OnceCell};

/// No test may hang a run: longer than this and it fails.
const TEST_BOUND: Duration = Duration::from_secs(180);

pub struct Suite {
    arguments: Arguments,
    runtime: Arc<Runtime>,
    trials: Vec<Trial>,
}

impl Suite {
    /// Reads the command line (as of any Rust test binary). Tests run one at a time unless
    /// `--test-threads` says otherwise: they stop and freeze brokers that they share.
    pub fn new() -> Self {
        let mut arguments = Arguments::from_args();
        arguments.test_threads.get_or_insert(1);
        // Several TLS stacks in one process: whoever comes first would choose otherwise.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a tokio runtime");
        Self { arguments, runtime: Arc::new(runtime), trials: Vec::new() }
    }

    /// Registers a test; it fails by panicking or by taking longer than three minutes.
    pub fn test<F, R>(&mut self, name: &str, body: F)
    where
        F: FnOnce() -> R + Send + 'static,
        R: Future<Output = ()>,
    {
        self.test_within(TEST_BOUND, name, body);
    }

    /// The same with a bound of its own.
    pub fn test_within<F, R>(&mut self, bound: Duration, name: &str, body: F)
    where
        F: FnOnce() -> R + Send + 'static,
        R: Future<Output = ()>,
    {
        let runtime = Arc::clone(&self.runtime);
        self.trials.push(Trial::test(name, move || {
            runtime
                .block_on(async { tokio::time::timeout(bound, body()).await })
                .map_err(|_| Failed::from(format!("not done within {bound:?}")))
        }));
    }

    /// Runs what the command line asks for. The tests' closures, and with them the brokers they hold,
    /// are gone when this returns and `main`'s own handles go out of scope.
    pub fn run(self) -> ExitCode {
        let conclusion = libtest_mimic::run(&self.arguments, self.trials);
        conclusion.exit_code()
    }
}

type Start<T> = dyn Fn() -> Pin<Box<dyn Future<Output = T>>> + Send + Sync;

/// Something dear (a broker) that several tests use: started by the first that asks for it, so that
/// `--list` and a filter cost nothing.
pub struct Shared<T> {
    cell: Arc<OnceCell<Arc<T>>>,
    start: Arc<Start<T>>,
}

impl<T> Shared<T> {
    pub fn new<F, R>(start: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = T> + 'static,
    {
        Self { cell: Arc::default(), start: Arc::new(move || Box::pin(start())) }
    }

    pub async fn get(&self) -> Arc<T> {
        Arc::clone(self.cell.get_or_init(|| async { Arc::new((self.start)().await) }).await)
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self { cell: Arc::clone(&self.cell), start: Arc::clone(&self.start) }
    }
}
