//! The disk and the clock that the relay is given: orders to `shim.c`, which is preloaded into it.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::support::{Folder, process};

/// How many numbers the shared file holds, of eight bytes each.
const NUMBERS: u64 = 16;

/// What can be ordered; the place of its number in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// So many syncs of the journal's segments fail.
    SyncFail = 0,
    /// So many syncs of anything else fail: cursors, dead letters, quarantine, the file sink.
    OtherSyncFail = 1,
    /// So many writes to segments fail before a byte is written.
    WriteFail = 2,
    /// So many fail with half of their bytes written.
    WriteTorn = 3,
    /// While it is 1, no file grows.
    NoSpace = 4,
    /// Each sync takes so many milliseconds more.
    SyncDelay = 5,
    /// The wall clock is off by so many milliseconds.
    Clock = 6,
}

impl Order {
    /// Where the number of times is counted that it was carried out.
    fn done(self) -> Option<u64> {
        let places = [8, 9, 10, 11, 12, 13];
        places.get(self as usize).copied()
    }
}

pub struct Shim {
    library: PathBuf,
    control_path: PathBuf,
    control: File,
    _folder: Folder,
}

impl Shim {
    /// Compiles it. Half a second.
    pub async fn build() -> Self {
        let folder = Folder::new("shim");
        let library = folder.join("shim.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/torture/shim.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o"]).arg(&library).arg(source);
        compiler.arg("-ldl");
        process::run("cc", compiler, Duration::from_secs(60)).await;
        let control_path = folder.write("control", [0; NUMBERS as usize * 8]);
        let control = File::options().read(true).write(true).open(&control_path).expect("the control file");
        Self { library, control_path, control, _folder: folder }
    }

    /// What the relay's environment must hold.
    pub fn environment(&self) -> [(&'static str, &str); 2] {
        [("LD_PRELOAD", &self.library), ("RELAY_TORTURE_CONTROL", &self.control_path)]
            .map(|(name, path)| (name, path.to_str().expect("a UTF-8 path")))
    }

    /// Replaces an order; 0 takes it back.
    pub fn order(&self, order: Order, number: i64) {
        self.control.write_all_at(&number.to_ne_bytes(), order as u64 * 8).expect("write an order");
    }

    /// How often an order was carried out so far.
    pub fn done(&self, order: Order) -> i64 {
        let mut bytes = [0; 8];
        let place = order.done().expect("an order that is counted");
        self.control.read_exact_at(&mut bytes, place * 8).expect("read a count");
        i64::from_ne_bytes(bytes)
    }
}
