//! The one thread that writes to the folder. Bodies that wait while it syncs share the next sync of
//! the folder.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::{Id, Index, Note, QuarantineError, file, lock};
use crate::journal::Micros;

/// Bodies that are written before the folder is synced, at most.
const GROUP_MAX: usize = 64;

pub struct Put {
    pub body: Bytes,
    pub arrived: Micros,
    pub note: Note,
    pub answer: oneshot::Sender<Result<Id, QuarantineError>>,
}

/// A body that is in the folder, though perhaps not yet durably.
struct Written {
    id: Id,
    len: u64,
}

pub struct Writer {
    dir: PathBuf,
    index: Arc<Mutex<Index>>,
}

impl Writer {
    pub fn new(dir: PathBuf, index: Arc<Mutex<Index>>) -> Self {
        Self { dir, index }
    }

    /// Serves until the quarantine is dropped, and then what is still in the queue.
    pub fn run(self, mut puts: mpsc::Receiver<Put>) {
        let mut group = Vec::with_capacity(GROUP_MAX);
        while puts.blocking_recv_many(&mut group, GROUP_MAX) > 0 {
            let written: Vec<_> = group
                .drain(..)
                .map(|put| (self.write(put.body, put.arrived, put.note), put.answer))
                .collect();
            let synced = file::sync_dir(&self.dir).map_err(QuarantineError::from);
            for (written, answer) in written {
                let kept = written.and_then(|written| self.settle(written, synced.clone()));
                // Whoever asked may be gone; then the sender has no answer and sends it again.
                let _ = answer.send(kept);
            }
        }
    }

    fn write(&self, body: Bytes, arrived: Micros, note: Note) -> Result<Written, QuarantineError> {
        let header = file::header(&body, note);
        let len = (header.len() + body.len()) as u64;
        let id = {
            let mut index = lock(&self.index);
            index.reserve(len)?;
            index.next_id(arrived)
        };
        file::write(&self.dir, id, &header, &body)
            .inspect_err(|_| lock(&self.index).release(len))
            .map_err(QuarantineError::from)?;
        Ok(Written { id, len })
    }

    /// Makes a body known once the folder is synced, or takes it back.
    fn settle(&self, written: Written, synced: Result<(), QuarantineError>) -> Result<Id, QuarantineError> {
        let Written { id, len } = written;
        if let Err(error) = synced {
            // The sender gets a 503 and sends it again: a copy that stays would be one too many.
            let _ = file::remove(&self.dir, id, len);
            lock(&self.index).release(len);
            return Err(error);
        }
        lock(&self.index).add(id, len);
        Ok(id)
    }
}
