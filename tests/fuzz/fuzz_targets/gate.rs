#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| switchpoint_fuzz::play(switchpoint_fuzz::targets::gate, input));
