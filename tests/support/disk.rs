//! A file system of its own, small enough to fill. Mounting one takes root, or `sudo` without a password.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use super::Folder;

pub struct SmallDisk {
    folder: Folder,
}

impl SmallDisk {
    pub fn mount(bytes: u64) -> Self {
        let folder = Folder::new("disk");
        as_root(&["mount", "-t", "tmpfs", "-o", &format!("size={bytes},mode=0777"), "tmpfs"], folder.path());
        Self { folder }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    fn ballast(&self) -> PathBuf {
        self.folder.join("ballast")
    }

    /// Takes all the room there is, but for so many bytes.
    pub fn fill(&self, but: u64) {
        let mut file = fs::File::create(self.ballast()).expect("the ballast");
        let block = [0u8; 4096];
        while file.write_all(&block).is_ok() {}
        let length = file.metadata().expect("the ballast's length").len();
        file.set_len(length.saturating_sub(but)).expect("room");
    }

    /// Gives the room back.
    pub fn free(&self) {
        fs::remove_file(self.ballast()).expect("the ballast");
    }

    pub fn read_only(&self, yes: bool) {
        as_root(&["mount", "-o", if yes { "remount,ro" } else { "remount,rw" }], self.folder.path());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        as_root(&["umount", "-l"], self.folder.path());
    }
}

/// Runs a command on a folder as root, which mounting takes.
fn as_root(command: &[&str], folder: &Path) {
    let is_root = rustix::process::geteuid().is_root();
    let mut words = if is_root { vec![] } else { vec!["sudo", "-n"] };
    words.extend(command);
    let status = Command::new(words[0]).args(&words[1..]).arg(folder).status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "{words:?}: a full disk cannot be tried without a mount"
    );
}
