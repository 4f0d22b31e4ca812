//! Topics: the only interface between processes.
//!
//! Place: every producer and consumer names its topics from here.
//! Invariant: the version in a name changes only with a breaking change of the value.

/// Waveform packets from monitors; Protobuf `WaveformPacket`, keyed by stream.
pub const WAVEFORMS: &str = "ecg.waveforms.v1";
/// Routine segments; Protobuf `Segment`, keyed by stream.
pub const SEGMENTS: &str = "ecg.segments.v1";
/// Urgent segments; Protobuf `Segment`, keyed by stream.
pub const SEGMENTS_STAT: &str = "ecg.segments.stat.v1";
/// Segments that the gate refused; JSON `RejectRecord`, keyed by stream.
pub const REJECTS: &str = "ecg.rejects.v1";
/// Draft reports; JSON `DraftReport`, keyed by segment id.
pub const REPORTS: &str = "ecg.reports.v1";
/// Signed reports; JSON `SignedReport`, keyed by segment id.
pub const SIGNED_REPORTS: &str = "ecg.signed-reports.v1";
/// Records that could not be read; the original bytes, the reason in headers, no key.
pub const DEAD_LETTERS: &str = "ecg.dead-letters.v1";

/// Every topic.
pub const ALL: [&str; 7] = [
    WAVEFORMS,
    SEGMENTS,
    SEGMENTS_STAT,
    REJECTS,
    REPORTS,
    SIGNED_REPORTS,
    DEAD_LETTERS,
];
