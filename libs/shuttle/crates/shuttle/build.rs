//! Makes the server and the messages of `proto/weftline/shuttle/v1`, without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../../proto");
    let files = protox::compile(["weftline/shuttle/v1/shuttle.proto"], [&root])?;
    for folder in ["shuttle", "common"] {
        println!("cargo::rerun-if-changed={}", root.join("weftline").join(folder).display());
    }
    // The client is the tests'. Maps in order of their names, so that two answers about the same
    // counters are the same bytes.
    tonic_prost_build::configure().btree_map(".").build_transport(false).compile_fds(files)?;
    Ok(())
}
