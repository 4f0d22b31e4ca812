//! A monitor: cuts what a bed plays into packets, as a device would send them.
//!
//! Place: between `plan` and the topic; pure, so a replay's samples are the same each time.
//! Invariant: packets follow one another without gap or overlap from sample 0; each holds samples of one recording only.
//! A stream ends with a heartbeat ten seconds past its last sample, which tells the agent that nothing follows, so
//! the last window closes by data and not by a timer.

use std::ops::Range;

use ecg::lead::Lead;
use ecg::packet::{Packet, PacketLead};
use ecg::{SAMPLE_RATE_HZ, SEGMENT_SAMPLES};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::noise::NoiseSource;
use crate::plan::Play;

/// Microvolts a unit of the packets' samples.
const UV_PER_UNIT: f32 = 1.0;

/// Identity of a bed's monitor.
#[derive(Clone, Debug)]
pub(crate) struct Monitor {
    /// The bed's stream.
    pub stream_id: String,
    /// This boot of the monitor.
    pub boot_id: u64,
    /// Samples in a packet.
    pub packet_samples: usize,
    /// Device time of sample 0, microseconds since the Unix epoch.
    pub start_time_us: i64,
}

/// Noise to add and the seed that places it.
#[derive(Clone, Copy)]
pub(crate) struct Disturbance<'a> {
    pub source: Option<&'a NoiseSource>,
    pub snr_db: f64,
    pub seed: u64,
    /// Number of the bed, so that beds differ.
    pub bed: u64,
}

impl Monitor {
    /// The packets of one play, in order; `gateway_time_us` is left 0.
    pub(crate) fn packets(&self, play: &Play, disturbance: Disturbance<'_>) -> Vec<Packet> {
        let mut leads = play.recording.leads.clone();
        if let Some(source) = disturbance.source {
            let mut rng = ChaCha8Rng::seed_from_u64(disturbance.seed);
            let number = play.samples.start as u64 / SEGMENT_SAMPLES as u64;
            rng.set_stream(disturbance.bed << 32 | number);
            source.add(&mut leads, disturbance.snr_db, &mut rng);
        }
        let starts = (0..SEGMENT_SAMPLES).step_by(self.packet_samples);
        let packet = |start: usize| {
            let range = start..(start + self.packet_samples).min(SEGMENT_SAMPLES);
            let leads = leads
                .iter()
                .map(|(lead, samples)| packet_lead(*lead, &samples[range.clone()]))
                .collect();
            Packet {
                leads,
                heartbeat: false,
                ..self.heartbeat(play.samples.start + start as i64)
            }
        };
        starts.map(packet).collect()
    }

    /// The packet that ends the stream after the sample before `end`.
    pub(crate) fn farewell(&self, end: i64) -> Packet {
        self.heartbeat(end + SEGMENT_SAMPLES as i64)
    }

    fn heartbeat(&self, first_sample: i64) -> Packet {
        let elapsed_us = (first_sample as f64 * 1e6 / SAMPLE_RATE_HZ).round() as i64;
        Packet {
            stream_id: self.stream_id.clone(),
            device_id: format!("monitor-{}", self.stream_id),
            boot_id: self.boot_id,
            sequence: (first_sample as u64).div_ceil(self.packet_samples as u64),
            first_sample,
            device_time_us: self.start_time_us + elapsed_us,
            gateway_time_us: 0,
            rate_hz: SAMPLE_RATE_HZ,
            leads: vec![],
            stat: false,
            filter_class: ecg::segment::FilterClass::Unspecified,
            heartbeat: true,
        }
    }
}

/// One lead's samples as 16-bit units; what is not finite is masked invalid, what does not fit is cut and masked saturated.
fn packet_lead(lead: Lead, samples: &[f32]) -> PacketLead {
    let units = |sample: &f32| (sample / UV_PER_UNIT).round();
    let fits = |unit: f32| (f32::from(i16::MIN)..=f32::from(i16::MAX)).contains(&unit);
    // `as` saturates and makes NaN 0
    let in_units = samples.iter().map(|sample| units(sample) as i16).collect();
    PacketLead {
        invalid: runs(samples, |sample| !sample.is_finite()),
        saturated: runs(samples, |sample| sample.is_finite() && !fits(units(sample))),
        ..PacketLead::of(lead, in_units, UV_PER_UNIT)
    }
}

/// Runs of samples for which `is` holds.
fn runs(samples: &[f32], is: impl Fn(&f32) -> bool) -> Vec<Range<u32>> {
    let mut runs: Vec<Range<u32>> = Vec::new();
    for (at, sample) in samples.iter().enumerate() {
        let at = at as u32;
        if !is(sample) {
            continue;
        }
        match runs.last_mut() {
            Some(run) if run.end == at => run.end += 1,
            _ => runs.push(at..at + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ecg::window::{Windower, WindowerConfig};

    use super::*;
    use crate::recording::Recording;

    const QUIET: Disturbance<'_> = Disturbance {
        source: None,
        snr_db: 0.0,
        seed: 1,
        bed: 0,
    };

    fn play(number: i64, value: f32) -> Play {
        let recording = Recording {
            name: "r".into(),
            header: "r.hea".into(),
            comments: vec![],
            leads: Lead::ALL.map(|lead| (lead, vec![value; SEGMENT_SAMPLES])).to_vec(),
        };
        Play {
            recording: Arc::new(recording),
            samples: number * 5000..(number + 1) * 5000,
        }
    }

    fn monitor(packet_samples: usize) -> Monitor {
        Monitor {
            stream_id: "bed-01".into(),
            boot_id: 1,
            packet_samples,
            start_time_us: 1_000_000,
        }
    }

    #[test]
    fn packets_cover_a_play_without_gap_or_overlap_and_pass_the_agents_checks() {
        for packet_samples in [125, 333, 5000] {
            let mut next = 5000;
            for packet in monitor(packet_samples).packets(&play(1, -3.4), QUIET) {
                assert_eq!(packet.first_sample, next);
                assert_eq!(packet.device_time_us, 1_000_000 + next * 2000);
                assert_eq!(packet.leads[4].samples[0], -3);
                next += packet.len() as i64;
                assert_eq!(Packet::decode(&packet.encode()).unwrap(), packet);
            }
            assert_eq!(next, 10_000);
        }
    }

    #[test]
    fn each_window_is_one_recording_and_the_farewell_closes_the_last_one() {
        let mut windower = Windower::new("bed-01", WindowerConfig::default());
        let mut values = Vec::new();
        let packets = (0..3).flat_map(|number| monitor(125).packets(&play(number, number as f32), QUIET));
        for packet in packets.chain([monitor(125).farewell(15_000)]) {
            windower.push(packet, 0).unwrap();
            while let Some(context) = windower.ready() {
                let window = &context.samples_uv[0][context.before..context.before + SEGMENT_SAMPLES];
                assert!(window.iter().all(|uv| *uv == window[0]));
                values.push(window[0]);
            }
        }
        assert_eq!(values, [0.0, 1.0, 2.0]);
    }

    #[test]
    fn what_is_invalid_or_too_large_is_masked() {
        let lead = packet_lead(Lead::I, &[1.0, f32::NAN, f32::NAN, 40_000.0, -40_000.0, 2.0]);
        let ends = |runs: &[Range<u32>]| runs.iter().map(|run| (run.start, run.end)).collect::<Vec<_>>();
        assert_eq!(
            (ends(&lead.invalid), ends(&lead.saturated)),
            (vec![(1, 3)], vec![(3, 5)])
        );
        assert_eq!(lead.samples, [1, 0, 0, i16::MAX, i16::MIN, 2]);
    }
}
