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
/// Records that could not be read; the original key and bytes, the reason and the place in headers.
pub const DEAD_LETTERS: &str = "ecg.dead-letters.v1";
/// Which windows of each stream were made; JSON, keyed by stream, the partition of its waveforms. Only the agents read it.
pub const AGENT_MARKS: &str = "ecg.agent-marks.v1";
/// What the nightly job did: gate decisions, promotions, ends of runs, erasures; JSON, keyed by run.
pub const PIPELINE_EVENTS: &str = "ecg.pipeline-events.v1";

/// Every topic.
pub const ALL: [&str; 9] = [
    WAVEFORMS,
    SEGMENTS,
    SEGMENTS_STAT,
    REJECTS,
    REPORTS,
    SIGNED_REPORTS,
    DEAD_LETTERS,
    AGENT_MARKS,
    PIPELINE_EVENTS,
];

/// Every topic with the hours that its records are kept, and whether only the last record of each key is needed. Marks need
/// not outlive the waveforms that they are about by much.
pub const KEPT: [(&str, u64, bool); 9] = [
    (WAVEFORMS, 72, false),
    (SEGMENTS, 7 * 24, false),
    (SEGMENTS_STAT, 7 * 24, false),
    (REJECTS, 30 * 24, false),
    (REPORTS, 30 * 24, false),
    (SIGNED_REPORTS, 30 * 24, false),
    (DEAD_LETTERS, 30 * 24, false),
    (AGENT_MARKS, 96, true),
    (PIPELINE_EVENTS, 30 * 24, false),
];
