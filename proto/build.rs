//! Compiles `greeter.proto` without a `protoc` on the machine: protox parses, tonic generates.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=greeter.proto");
    let descriptors = protox::compile(["greeter.proto"], ["."])?;
    tonic_prost_build::configure()
        // A generated `connect()` would bring tonic's own transport; a client is made on any service here.
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}
