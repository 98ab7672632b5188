//! Compiles the few calls of etcd's API, in Rust alone: a build needs no system protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["proto/etcd.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .build_server(false)
        .bytes(".etcdserverpb.SnapshotResponse")
        .compile_fds(descriptors)?;
    Ok(())
}
