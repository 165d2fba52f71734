//! Segments made in advance, so that the writer does not wait for a disk full of zeros.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::disk::SegmentFile;
use super::format::SegmentHeader;
use super::segments::Segment;
use crate::journal::{Micros, Offset};

/// The writer's end.
pub struct Spares {
    folder: PathBuf,
    identity: [u8; 16],
    segment_bytes: u64,
    /// The thread's ends of these close when they are taken.
    ends: Option<(SyncSender<()>, Receiver<SegmentFile>)>,
    recycled: Arc<Mutex<Option<PathBuf>>>,
    maker: Option<JoinHandle<()>>,
}

/// A segment's file name.
pub fn segment_path(folder: &Path, base: Offset) -> PathBuf {
    folder.join(format!("{base:020}.seg"))
}

/// What the names of segments in waiting begin with.
pub const SPARE: &str = "spare-";

/// A name that no other spare has: two that shared one would be one file.
fn spare_path(folder: &Path) -> PathBuf {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    folder.join(format!("{SPARE}{}.seg", NUMBER.fetch_add(1, Ordering::Relaxed)))
}

impl Spares {
    /// Starts the thread that makes spares. Dropping the writer's end waits for it: it must not
    /// write into a folder that another journal has opened since.
    ///
    /// # Errors
    /// No thread to be had.
    pub fn start(folder: &Path, identity: [u8; 16], segment_bytes: u64) -> io::Result<Self> {
        let (want, wanted) = sync_channel(1);
        let (made, ready) = sync_channel(0); // one in waiting: the maker's hand
        let recycled = Arc::new(Mutex::new(None));
        let maker = Maker { folder: folder.to_owned(), segment_bytes, recycled: recycled.clone() };
        let thread = std::thread::Builder::new().name("journal-spares".into());
        let maker = Some(thread.spawn(move || maker.run(&wanted, &made))?);
        let ends = Some((want, ready));
        Ok(Self { folder: folder.to_owned(), identity, segment_bytes, ends, recycled, maker })
    }

    /// Asks for a spare; one is made at a time.
    pub fn want(&self) {
        if let Some((want, _)) = &self.ends {
            // Full: one is asked for already. Closed: the maker is gone, and `begin` makes its own.
            let (Ok(()) | Err(TrySendError::Full(()) | TrySendError::Disconnected(()))) = want.try_send(());
        }
    }

    /// Begins the segment whose first record is `base`: a spare, when one of the right size is ready.
    ///
    /// # Errors
    /// The disk's, no room among them.
    pub fn begin(&self, bytes: u64, base: Offset, now: Micros) -> io::Result<Segment> {
        let ready = self.ends.as_ref().filter(|_| bytes == self.segment_bytes);
        let spare = ready.and_then(|(_, ready)| ready.try_recv().ok());
        let mut file = match spare.or_else(|| self.recycled(bytes)) {
            Some(file) => file,
            None => SegmentFile::create(&spare_path(&self.folder), bytes)?,
        };
        begin(&mut file, &self.folder, SegmentHeader { base, created: now, identity: self.identity })?;
        Ok(Segment::new(base, now, bytes, file))
    }

    /// The segment that was given back last, if it waits and has this size. At the journal's limit it
    /// is the only one to be had without writing a disk full of zeros first.
    fn recycled(&self, bytes: u64) -> Option<SegmentFile> {
        if bytes != self.segment_bytes {
            return None;
        }
        let path = self.recycled.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        SegmentFile::open(&path)
            .inspect_err(|error| tracing::warn!(%error, path = %path.display(), "cannot use a segment again"))
            .ok()
    }

    /// Takes a segment that nobody needs any more: one is kept for use again, the rest removed.
    pub fn recycle(&self, segment: Arc<Segment>) {
        let mut recycled = self.recycled.lock().unwrap_or_else(PoisonError::into_inner);
        let path = segment.file.path();
        // A reader may still have the old file open; it tells by the offsets that it is another now.
        let kept = recycled.is_none() && segment.bytes == self.segment_bytes;
        let done = if kept {
            let to = spare_path(&self.folder);
            std::fs::rename(path, &to).map(|()| *recycled = Some(to))
        } else {
            std::fs::remove_file(path)
        };
        if let Err(error) = done {
            tracing::warn!(%error, path = %path.display(), "cannot give a segment of the journal back");
        }
    }
}

impl Drop for Spares {
    fn drop(&mut self) {
        self.ends = None;
        if self.maker.take().is_some_and(|maker| maker.join().is_err()) {
            tracing::error!("the thread that makes segments in advance has panicked");
        }
    }
}

/// Makes the first segment of a new journal.
///
/// # Errors
/// The disk's.
pub fn first(folder: &Path, identity: [u8; 16], bytes: u64, now: Micros) -> io::Result<Segment> {
    let mut file = SegmentFile::create(&spare_path(folder), bytes)?;
    begin(&mut file, folder, SegmentHeader { base: 1, created: now, identity })?;
    Ok(Segment::new(1, now, bytes, file))
}

/// Writes a segment's header and gives the file its name, both durably, in this order: a file with a
/// segment's name always has its header.
///
/// # Errors
/// The disk's.
fn begin(file: &mut SegmentFile, folder: &Path, header: SegmentHeader) -> io::Result<()> {
    file.write(0, &header.encode())?;
    file.sync()?;
    file.rename(&segment_path(folder, header.base))
}

/// The thread's side.
struct Maker {
    folder: PathBuf,
    segment_bytes: u64,
    recycled: Arc<Mutex<Option<PathBuf>>>,
}

impl Maker {
    fn run(&self, wanted: &Receiver<()>, made: &SyncSender<SegmentFile>) {
        while wanted.recv().is_ok() {
            match self.make() {
                Ok(file) => {
                    if made.send(file).is_err() {
                        return;
                    }
                }
                // The writer tries by itself when it needs one, and tells who waits.
                Err(error) => tracing::warn!(%error, "cannot make a segment of the journal in advance"),
            }
        }
    }

    fn make(&self) -> io::Result<SegmentFile> {
        let recycled = self.recycled.lock().unwrap_or_else(PoisonError::into_inner).take();
        match recycled {
            Some(path) => SegmentFile::open(&path),
            None => SegmentFile::create(&spare_path(&self.folder), self.segment_bytes),
        }
    }
}
