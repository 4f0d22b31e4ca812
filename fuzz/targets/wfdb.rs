//! Any two files as a WFDB recording: the input up to its first zero byte is the header, the rest the signals.
//!
//! Place: `wfdb::read`, for recordings from anywhere. Invariant: no panic and no allocation beyond what the files hold.

#![no_main]

use std::cell::OnceCell;

thread_local! {
    static FOLDER: OnceCell<tempfile::TempDir> = const { OnceCell::new() };
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    FOLDER.with(|folder| {
        let folder = folder.get_or_init(|| tempfile::tempdir().expect("a temporary folder")).path();
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        let header = folder.join("r.hea");
        std::fs::write(&header, &bytes[..end]).expect("write header");
        let signals = bytes.get(end + 1..).unwrap_or(&[]);
        for name in ["r.dat", "r.mat"] {
            std::fs::write(folder.join(name), signals).expect("write signals");
        }
        if let Ok(record) = ecg::wfdb::read(&header) {
            // too few leads or too short is an answer too
            let _ = record.context();
        }
    });
});
