//! Generates the Protobuf types of `wire` from proto/ecg.proto; protox parses it, so no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/ecg.proto");
    let descriptors = protox::compile(["proto/ecg.proto"], ["proto"])?;
    prost_build::Config::new().compile_fds(descriptors)?;
    Ok(())
}
