//! A disk that fails: `broken.c` stands between the sink and the system, in this suite's own binary, which
//! runs itself once more for that.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use relay::sinks::FaultKind;
use rustix::io::Errno;

use crate::{
    ids, sink,
    support::{
        Folder,
        contract::{Driver, messages},
        process,
        suite::Suite,
    },
};

/// Names the file of orders to those who run below the shim.
const ORDERS: &str = "RELAY_TEST_BROKEN_DISK";

pub fn register(suite: &mut Suite) {
    const DISCONNECTED: FaultKind = FaultKind::Disconnected;
    const BUSY: FaultKind = FaultKind::Busy { retry_after: None };
    let failures: [(&'static str, [i64; 5], FaultKind); 7] = [
        ("a_write_fails", [number(Errno::IO), 0, 0, 0, 0], DISCONNECTED),
        ("a_write_fails_half_way", [number(Errno::IO), 1_000, 0, 0, 0], DISCONNECTED),
        ("a_quota_is_full_half_way", [number(Errno::DQUOT), 1_000, 0, 0, 0], BUSY),
        ("a_file_is_too_large_half_way", [number(Errno::FBIG), 1_000, 0, 0, 0], BUSY),
        ("a_sync_fails", [0, 0, number(Errno::IO), i64::MAX, 0], DISCONNECTED),
        ("a_sync_fails_and_the_disk_lost_it", [0, 0, number(Errno::IO), LENGTH, 0], DISCONNECTED),
        ("a_sync_of_the_folder_fails", [0, 0, 0, 0, number(Errno::IO)], DISCONNECTED),
    ];
    for (name, orders, kind) in failures {
        let name = format!("broken::{name}");
        let again = name.clone();
        suite.test(&name, async move || match std::env::var_os(ORDERS) {
            None => below_the_shim(&again).await,
            Some(path) => fails_once(&PathBuf::from(path), orders, kind).await,
        });
    }
}

/// Stands for the file's length when the disk breaks.
const LENGTH: i64 = -1;

fn number(errno: Errno) -> i64 {
    errno.raw_os_error().into()
}

/// Runs one test of this suite with the shim before the system's own functions.
async fn below_the_shim(test: &str) {
    let folder = Folder::new("broken");
    let library = folder.join("broken.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sink_file/broken.c");
    let mut compiler = Command::new("cc");
    compiler.args(["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o"]).arg(&library).arg(source);
    process::run("cc", compiler, Duration::from_secs(60)).await;
    let orders = folder.write("orders", [0; 5 * 8]);
    let mut again = Command::new(std::env::current_exe().expect("this binary"));
    again.args(["--exact", test]).env("LD_PRELOAD", library).env(ORDERS, orders);
    let output = process::run(test, again, Duration::from_secs(120)).await;
    assert!(output.contains("1 passed"), "{output}");
}

/// What was confirmed before stays, what was on its way comes once more, no line is torn, and none is
/// there twice.
async fn fails_once(orders: &Path, mut what: [i64; 5], kind: FaultKind) {
    let folder = Folder::new("fails");
    let sent = messages("push.jsonl", 300);
    let path = folder.join("push.jsonl");
    let mut driver = Driver::new(sink(folder.path(), ""), sent.clone());
    if what[4] == 0 {
        driver.connect().await.expect("connect");
        driver.send_batch().await.expect("send");
        driver.settle().await.expect("a disk that is well");
    }
    let confirmed = driver.outcome.settled.len();
    if what[3] == LENGTH {
        what[3] = path.metadata().expect("the file").len() as i64;
        assert!(what[3] > 0);
    }
    let bytes: Vec<u8> = what.iter().flat_map(|number| number.to_ne_bytes()).collect();
    File::options().write(true).open(orders).and_then(|file| file.write_all_at(&bytes, 0)).expect("orders");
    let fault = loop {
        if let Err(fault) = driver.step().await {
            break fault;
        }
    };
    assert_eq!(fault.kind, kind, "{fault}");
    assert!(fault.text.contains("os error"), "{fault}");
    let all: Vec<_> = sent.iter().map(|message| message.id.clone()).collect();
    assert_eq!(ids(&path), all[..confirmed], "what was confirmed, and nothing else");
    driver.faulted(fault).await;
    driver.finish().await;
    assert!(driver.outcome.rejected.is_empty());
    assert_eq!(driver.outcome.faults.len(), 1, "{:?}", driver.outcome.faults);
    assert_eq!(ids(&path), all);
    driver.sink.close().await;
}
