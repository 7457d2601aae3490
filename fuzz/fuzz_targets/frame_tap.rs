//! The tap's reader of HTTP/2 frames, against a second reading of the same bytes: `src/grpc/link/reading.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| cenote::grpc::fuzz_frame_tap(input));
