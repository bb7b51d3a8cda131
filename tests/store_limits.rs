//! A store on a full or a read-only file system says so.
//!
//! The test runs itself again in a user and mount namespace of its own, on a small file system in memory.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use builder::store::{Store, StoreError};

const ROOT: &str = "STORE_LIMITS_ROOT";

/// Runs the test `name` with a file system of 2 MiB at its root directory, mounted for it alone.
fn on_small_file_system(name: &str) {
    let root = tempfile::tempdir().unwrap();
    let script = r#"mount -t tmpfs -o size=2m,nr_inodes=300 none "$STORE_LIMITS_ROOT" && exec "$@""#;
    let mut unshare = Command::new("unshare");
    match rustix::process::geteuid().is_root() {
        true => unshare.arg("--mount"),
        false => unshare.args(["--user", "--map-root-user", "--mount"]),
    };
    let output = unshare
        .args(["sh", "-c", script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(ROOT, root.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("INSIDE"), "{said}");
}

fn inside() -> Option<std::path::PathBuf> {
    let root = std::env::var_os(ROOT)?;
    println!("INSIDE");
    Some(root.into())
}

fn remount_read_only(root: &Path) {
    let status = Command::new("mount")
        .args(["-o", "remount,ro"])
        .arg(root)
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn a_full_disk_is_named_and_nothing_half_written_stays() {
    let Some(root) = inside() else {
        return on_small_file_system("a_full_disk_is_named_and_nothing_half_written_stays");
    };
    let store = Store::open(&root).unwrap();
    let kept = store.write_blob(b"kept").unwrap();
    let mut writer = store.blob_writer().unwrap();
    let error = (0..100).find_map(|_| writer.write_all(&[1; 100_000]).err()).unwrap();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    drop(writer);
    let error = store.write_blob(&[2; 4_000_000]).unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    assert!(error.advice().is_some());
    // No inodes left.
    let error = (0..1000u32)
        .find_map(|number| store.write_blob(&number.to_le_bytes()).err())
        .unwrap();
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    assert_eq!(store.read_blob(&kept, 10).unwrap(), b"kept");
    for blob in fs::read_dir(root.join("blobs/sha256")).unwrap() {
        let name = blob.unwrap().file_name().into_string().unwrap();
        store.read_blob(&format!("sha256:{name}").parse().unwrap(), 10).unwrap();
    }
    drop(store);
    assert_eq!(fs::read_dir(root.join("tmp")).unwrap().count(), 0);
}

#[test]
fn a_store_that_cannot_be_written_is_named() {
    let Some(root) = inside() else {
        return on_small_file_system("a_store_that_cannot_be_written_is_named");
    };
    Store::open(&root).unwrap().write_blob(b"content").unwrap();
    remount_read_only(&root);
    // Depending on what is in SQLite's log, opening fails or the first change does.
    let error = match Store::open(&root) {
        Ok(store) => store.write_blob(b"other").unwrap_err(),
        Err(error) => error,
    };
    assert!(matches!(error, StoreError::NotWritable { .. }), "{error:?}");
    assert!(error.advice().is_some());
    let error = Store::open(&root.join("new")).unwrap_err();
    assert!(matches!(error, StoreError::NotWritable { .. }), "{error:?}");
}
