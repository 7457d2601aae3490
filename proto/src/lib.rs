//! The greeter service of `greeter.proto`: messages, a client for any tonic-ready service, a server.
#![allow(missing_docs, reason = "generated code")]

tonic::include_proto!("cenote.greeter.v1");

/// The part of gRPC's interop service that the tests call.
pub mod interop {
    tonic::include_proto!("grpc.testing");
}
