//! A server with data.

use anyhow::Result;
use std::path::Path;
use test_support::etcd_binaries::Binaries;
use test_support::etcd_client::Change;
use test_support::etcd_server::{Options, Server};

/// Makes a snapshot of a real server.
pub(super) fn make_snapshot(
    binaries: &Binaries,
    size_mib: u64,
    keys: u64,
    out: &Path,
) -> Result<()> {
    let server = filled_server(binaries, size_mib, keys);
    let saved = server.snapshot("snapshot.db", &[]);
    std::fs::copy(&saved, out)?;
    Ok(())
}

/// A real server whose database has the size, after overwrites and deletions.
pub(super) fn filled_server(binaries: &Binaries, size_mib: u64, keys: u64) -> Server {
    const CHANGES_AT_ONCE: u64 = 64;
    let server = Server::start_with(
        binaries,
        &Options {
            flags: vec![
                format!("--quota-backend-bytes={}", (size_mib + 4096) << 20),
                "--unsafe-no-fsync".into(),
                "--snapshot-count=1000000".into(),
            ],
            ..Options::default()
        },
    );
    let client = server.client();
    // Every third change of a key overwrites it, so that a key has about three records.
    let changes = keys * 3;
    let value_bytes = ((size_mib << 20) / changes).saturating_sub(130).max(16) as usize;
    println!(
        "filling etcd {} with {changes} changes of {value_bytes} bytes",
        binaries.version
    );
    let change = |number: u64| {
        let key = format!(
            "/registry/pods/namespace-{:04}/pod-{:08}",
            number % 97,
            number % keys
        );
        if number % 50 == 49 {
            return Change::DeleteRange(key.into_bytes(), Vec::new());
        }
        let value = number.to_le_bytes().repeat(value_bytes / 8 + 1);
        Change::Put(key.into_bytes(), value, 0)
    };
    client.transact_many((0..changes / CHANGES_AT_ONCE).map(|batch| {
        (0..CHANGES_AT_ONCE)
            .map(|index| change(batch * CHANGES_AT_ONCE + index))
            .collect()
    }));
    server
}
