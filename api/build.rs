//! Generates the protocols' types from `proto/`. protox compiles them in Rust: no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = ["state", "observe", "agent", "cni"].map(|it| format!("weir/v1/{it}.proto"));
    let descriptors = protox::compile(files, ["proto"])?;
    // Maps iterate in order, so the same state is always the same bytes.
    tonic_prost_build::configure().btree_map(".").compile_fds(descriptors)?;
    Ok(())
}
