//! What a service says that it costs.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| agirails::consumer::fuzzing::offers(bytes));
