//! What a node says.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| agirails::kernel::chain::fuzzing::answer(bytes));
