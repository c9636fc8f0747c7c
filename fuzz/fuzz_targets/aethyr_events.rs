#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| aethyr_event_store::fuzzing::aethyr_events(bytes));
