//! `cargo xtask book`.

use anyhow::Result;
use std::process::Command;
use test_support::etcd_binaries::cache_dir;
use xtask::command::{cargo, root, run as run_command};

const VERSION: &str = "0.5.4";

/// Builds the book; mdbook itself is built once, into the cache.
pub(crate) fn run() -> Result<()> {
    let tools = cache_dir().with_file_name("tools");
    let mdbook = tools.join("bin/mdbook");
    if !mdbook.exists() {
        println!("building mdbook {VERSION}: some minutes, once");
        let mut install = cargo();
        install.args([
            "install",
            "--locked",
            "--version",
            VERSION,
            "--no-default-features",
        ]);
        run_command(install.args(["mdbook", "--root"]).arg(&tools))?;
    }
    run_command(Command::new(mdbook).arg("build").current_dir(root()))?;
    println!("{}", root().join("target/book/index.html").display());
    Ok(())
}
