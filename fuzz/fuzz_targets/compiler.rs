#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| midge_fuzz::compiler(input));
