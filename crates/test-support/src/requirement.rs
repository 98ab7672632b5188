//! What a test needs of the machine, and what happens where it is not there.
//!
//! Under `cargo xtask test` a test that can't run is skipped, and named at the end of the output. Under a
//! bare `cargo test` nobody would see that, so there it fails and says how to get what is missing.

use std::io::Write;

/// Where skipped tests are written down, a line each; set by `cargo xtask test`.
pub const SKIPS_FILE: &str = "LIFEBOAT_TEST_SKIPS_FILE";

/// Skips the running test, or fails it; see the module. The caller returns after it.
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
