#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a folder");
    aethyr_event_store::fuzzing::damage(folder.path(), bytes);
});
