//! Fuzz target `state_protocol`: what it does is in the package's library.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| weir_dataplane_fuzz::state_protocol(input));
