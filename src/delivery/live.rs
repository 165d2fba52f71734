//! The live flow of one sink: what the feed hands out, rendered, with the sink's durable cursor.

use std::sync::Arc;

use async_trait::async_trait;

use super::feed::{FeedReader, Next, Run};
use super::source::{Room, Source, Supply, Taken};
use crate::journal::{Journal, Offset, ReadError, Stored};
use crate::route::Target;
use crate::sinks::Message;
use crate::sinks::format::Renderer;

/// A sink's place in the feed.
pub struct Live {
    sink: String,
    reader: FeedReader,
    renderer: Renderer,
    journal: Arc<dyn Journal>,
    rendered: Vec<Message>,
}

impl Live {
    /// `sink` names the cursor.
    pub fn new(sink: String, reader: FeedReader, renderer: Renderer, journal: Arc<dyn Journal>) -> Self {
        Self { sink, reader, renderer, journal, rendered: Vec::new() }
    }

    /// Renders the run's hits from the reader's place on, as far as there is room.
    fn take_from(&mut self, run: &Run, room: Room, out: &mut Vec<Taken>) {
        let hits = run.hits(self.reader.sink());
        let from = hits.partition_point(|hit| run.events[hit.event as usize].offset < self.reader.at());
        let sparse = run.is_sparse(hits);
        let mut bytes = 0;
        let begin = out.len();
        for hits in hits[from..].chunk_by(|a, b| a.event == b.event) {
            if out.len() - begin >= room.messages || bytes >= room.bytes {
                break;
            }
            let stored = &run.events[hits[0].event as usize];
            // What few events of a run go here must not keep all of its memory while they wait.
            let detached = sparse.then(|| Stored { event: stored.event.detached(), ..*stored });
            let stored = detached.as_ref().unwrap_or(stored);
            let table = self.reader.table();
            let targets = hits.iter().map(|hit| -> &Target { table.target(hit.target) });
            self.renderer.render(stored, targets, &mut self.rendered);
            self.reader.advance(stored.offset);
            bytes += self.rendered.iter().map(|message| message.body.len()).sum::<usize>();
            let place = stored.offset;
            out.extend(self.rendered.drain(..).map(|message| Taken { message, place, letter: 0 }));
        }
    }
}

#[async_trait]
impl Source for Live {
    async fn take(&mut self, room: Room, idle: bool, out: &mut Vec<Taken>) -> Result<Supply, ReadError> {
        let begin = out.len();
        let mut left = room;
        while !left.is_none() {
            let idle = idle && out.len() == begin;
            match self.reader.next(idle).await? {
                Next::Run(run) => self.take_from(&run, left, out),
                Next::Read(run) => {
                    self.take_from(&run, left, out);
                    break;
                }
                Next::CaughtUp => return Ok(Supply::CaughtUp),
            }
            left = room.without(&out[begin..]);
        }
        Ok(Supply::More)
    }

    async fn wait(&self) {
        self.reader.wait().await;
    }

    fn at(&self) -> u64 {
        self.reader.at()
    }

    fn has_more(&self) -> bool {
        self.reader.at() < self.journal.head()
    }

    fn done_below(&mut self, place: u64) {
        self.journal.save_cursor(&self.sink, place);
    }

    fn take_lost(&mut self) -> u64 {
        self.reader.take_lost()
    }

    async fn count_below(&mut self, offset: Offset) -> Result<u64, ReadError> {
        self.reader.count_below(offset).await
    }

    fn skip_to(&mut self, offset: Offset) {
        self.reader.skip_to(offset);
    }
}
