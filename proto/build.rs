//! Compiles the `.proto` files without a `protoc` on the machine: protox parses, tonic generates.

const FILES: [&str; 2] = ["greeter.proto", "interop.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for file in FILES {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["."])?;
    tonic_prost_build::configure()
        // A generated `connect()` would bring tonic's own transport; a client is made on any service here.
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}
