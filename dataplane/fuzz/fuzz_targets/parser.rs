//! Fuzz target `parser`: what it does is in the package's library.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| weir_dataplane_fuzz::parser(input));
