//! What a test needs from the machine, and what happens if it is missing.
//!
//! Under `cargo xtask test` a test that can't run is skipped, and named at the end of the output. Under a
//! bare `cargo test` nobody would see that, so there it fails and says how to get what is missing.

use std::io::Write;

/// Environment variable: the file for the names of skipped tests, one per line. `cargo xtask test` sets it.
pub const SKIPS_FILE: &str = "LIFEBOAT_TEST_SKIPS_FILE";

/// The image as it ships, for this machine's architecture, in the folder for temporary files of tests in cargo's target folder.
/// `cargo xtask test` makes it.
pub const SHIPPED_IMAGE: &str = "etcd-lifeboat.oci.tar";

/// Environment variable: how many times slower than usual this machine is, such as `10` for an emulated one.
pub const SLOWNESS: &str = "LIFEBOAT_TEST_SLOWNESS";

/// How long to wait here for what takes at most `usual` elsewhere.
#[must_use]
pub fn patience(usual: std::time::Duration) -> std::time::Duration {
    let slowness = std::env::var(SLOWNESS).ok();
    usual * slowness.and_then(|times| times.parse().ok()).unwrap_or(1)
}

/// Skips the running test or fails it, as the module describes. The caller must return after this call.
pub fn skip(missing: &str) {
    let test = std::thread::current()
        .name()
        .unwrap_or("a test")
        .to_string();
    match std::env::var_os(SKIPS_FILE) {
        Some(path) => {
            let mut file = std::fs::OpenOptions::new()
                .append(true)
                .create(true)
                .open(path)
                .expect("open the list of skipped tests");
            writeln!(file, "{test}: {missing}").expect("write down a skipped test");
        }
        None => panic!(
            "{missing}\n`cargo xtask test` gets what it can and skips, by name, what it can't"
        ),
    }
}
