//! Compiles the calls of etcd's API with which tests fill a server, and those that a lying one serves.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let writes = protox::compile(["proto/etcd_writes.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .build_server(false)
        .compile_fds(writes)?;
    if std::env::var_os("CARGO_FEATURE_LYING_MEMBER").is_none() {
        return Ok(());
    }
    // Of the same package, so in a folder of its own.
    let lying = PathBuf::from(std::env::var("OUT_DIR")?).join("lying");
    std::fs::create_dir_all(&lying)?;
    let served = protox::compile(["proto/lying_member.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .build_client(false)
        .out_dir(lying)
        .compile_fds(served)?;
    Ok(())
}
