//! The few calls that the journal makes to the disk, in one place.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};

/// How much is zeroed at a time when a segment is made.
const ZERO_BYTES: usize = 1 << 20;

/// A segment's file.
#[derive(Debug)]
pub struct SegmentFile {
    file: File,
    path: PathBuf,
}

impl SegmentFile {
    /// Makes a file of `bytes` zeros, durable, at `path`, where nothing must be yet.
    ///
    /// Zeros are really written: into blocks that are merely reserved each later write would first
    /// have to change the file's metadata, which makes `fdatasync` about half as fast.
    ///
    /// # Errors
    /// The disk's, no room among them; the file is removed again then.
    pub fn create(path: &Path, bytes: u64) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        let made = Self { file, path: path.to_owned() };
        if let Err(error) = made.zero(0, bytes).and_then(|()| made.file.sync_all()) {
            let _ = std::fs::remove_file(path); // the first error is the one to tell
            return Err(error);
        }
        Ok(made)
    }

    /// # Errors
    /// The disk's.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Opens without the right to write, for tools.
    ///
    /// # Errors
    /// The disk's.
    pub fn open_read_only(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::open(path)?, path: path.to_owned() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// # Errors
    /// The disk's.
    pub fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Writes zeros from byte `from` to byte `to`.
    ///
    /// # Errors
    /// The disk's.
    pub fn zero(&self, from: u64, to: u64) -> io::Result<()> {
        let zeros = vec![0; ZERO_BYTES.min((to.saturating_sub(from)) as usize)];
        let mut at = from;
        while at < to {
            let len = zeros.len().min((to - at) as usize);
            self.file.write_all_at(&zeros[..len], at)?;
            at += len as u64;
        }
        Ok(())
    }

    /// At most `len` bytes from byte `at`; fewer when the file ends.
    ///
    /// # Errors
    /// The disk's.
    pub fn read(&self, at: u64, len: usize) -> io::Result<Bytes> {
        let mut buffer = BytesMut::zeroed(len);
        let mut filled = 0;
        while filled < len {
            match self.file.read_at(&mut buffer[filled..], at + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        buffer.truncate(filled);
        Ok(buffer.freeze())
    }

    /// # Errors
    /// The disk's. What was written of `bytes` is then unknown.
    pub fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, at)
    }

    /// `fdatasync`.
    ///
    /// # Errors
    /// The disk's. The pages may be gone then, whatever a later call says: see the writer.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Gives the file another name, durably.
    ///
    /// # Errors
    /// The disk's.
    pub fn rename(&mut self, to: &Path) -> io::Result<()> {
        std::fs::rename(&self.path, to)?;
        self.path = to.to_owned();
        sync_folder_of(to)
    }
}

/// Makes the names in `path`'s folder durable.
///
/// # Errors
/// The disk's.
pub fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// What the writer does to the disk: a seam for tests that make writes and syncs fail.
pub trait Disk: Send + Sync + 'static {
    /// # Errors
    /// The disk's.
    fn write(&self, file: &SegmentFile, at: u64, bytes: &[u8]) -> io::Result<()>;

    /// # Errors
    /// The disk's.
    fn sync(&self, file: &SegmentFile) -> io::Result<()>;
}

/// The disk as it is.
#[derive(Debug)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn write(&self, file: &SegmentFile, at: u64, bytes: &[u8]) -> io::Result<()> {
        file.write(at, bytes)
    }

    fn sync(&self, file: &SegmentFile) -> io::Result<()> {
        file.sync()
    }
}
