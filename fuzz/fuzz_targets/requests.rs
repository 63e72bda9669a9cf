//! The head of a request at the paywall.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| agirails::paywall::fuzzing::request(bytes));
