//! Ending librdkafka's clients, which wait for their threads, on no thread of the runtime.

use std::ops::Deref;

/// A client that is dropped on a thread of its own.
pub(super) struct Aside<T: Send + 'static>(Option<T>);

impl<T: Send + 'static> Aside<T> {
    pub fn new(client: T) -> Self {
        Self(Some(client))
    }
}

impl<T: Send + 'static> Deref for Aside<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("only `drop` takes it")
    }
}

impl<T: Send + 'static> Drop for Aside<T> {
    fn drop(&mut self) {
        let client = self.0.take();
        let spawned = std::thread::Builder::new().name("kafka-end".to_owned()).spawn(move || drop(client));
        if let Err(error) = spawned {
            tracing::debug!(%error, "no thread to end a Kafka client on; ended in place");
        }
    }
}
