//! Faults of the samples: what electrodes, amplifiers and patients do to a signal.
//!
//! Place: under `fault`. Invariant: what comes through the electrodes is the same potential on every lead that uses
//! them, so Einthoven's identities survive, as they do at a bedside.

use std::f32::consts::TAU;
use std::ops::Range;

use ecg::lead::Lead;
use ecg::wire::{LeadSamples, SampleRange, WaveformPacket, bytes_of_samples, samples_of_bytes};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Active, FaultKind};

/// The converter's rail, microvolts.
const RAIL_UV: f32 = 32_767.0;
/// Electrodes: right arm, left arm, leg, V1 to V6.
const ELECTRODES: usize = 9;
/// How much of the heart's dipole each electrode sees; a plain left axis with R growing over the chest.
const DIPOLE: [f32; ELECTRODES] = [-0.35, 0.25, 0.65, -0.3, 0.1, 0.5, 0.9, 1.0, 0.9];

impl Active {
    /// Changes the samples of one packet.
    pub(super) fn signal(&mut self, packet: &mut WaveformPacket) {
        use FaultKind as K;
        if packet.heartbeat {
            return;
        }
        let (kind, whole) = (self.kind, self.span.clone());
        match kind {
            K::NonFinite if self.strikes(packet) => packet.leads[0].uv_per_unit = f32::NAN,
            K::LeadUnknown if self.strikes(packet) => packet.leads[0].name = "V9".to_owned(),
            K::Name if self.strikes(packet) => packet.leads[0].name = "DOE^JOHN 1950-01-01".to_owned(),
            K::LeadDuplicate if self.strikes(packet) => {
                let again = packet.leads[1].clone();
                packet.leads.push(again);
                packet.leads.remove(0);
            }
            K::ThreeLeads if self.hits(packet) => packet.leads.retain(|lead| matches!(&*lead.name, "I" | "II" | "V1")),
            K::EightLeads if self.hits(packet) => {
                packet
                    .leads
                    .retain(|lead| matches!(&*lead.name, "I" | "II") || lead.name.starts_with('V'));
            }
            K::LeadOrder if self.hits(packet) => {
                packet.leads.reverse();
                let code = |lead: &LeadSamples| Lead::parse(&lead.name).map(|lead| lead.mdc_code().to_string());
                for lead in &mut packet.leads {
                    lead.name = code(lead).unwrap_or_default();
                }
            }
            K::UnitError if self.hits(packet) => packet.leads.iter_mut().for_each(|lead| lead.uv_per_unit *= 1000.0),
            _ => self.samples(packet, &whole),
        }
    }

    /// Changes what the samples say.
    fn samples(&self, packet: &mut WaveformPacket, whole: &Range<i64>) {
        use FaultKind as K;
        let at_ms = |from: i64, to: i64| whole.start + from / 2..whole.start + to / 2;
        match self.kind {
            K::Blip => mask(packet, at_ms(0, 16), |lead| &mut lead.invalid),
            K::Hole => mask(packet, at_ms(0, 200), |lead| &mut lead.invalid),
            K::Paced => {
                for second in 0..10 {
                    mask(packet, at_ms(1000 * second, 1000 * second + 4), |lead| &mut lead.pace);
                }
            }
            K::LeadOff if self.hits(packet) && packet.first_sample < at_ms(0, 4000).end => {
                let limb = |lead: &&mut LeadSamples| lead.name != "I" && !lead.name.starts_with('V');
                packet
                    .leads
                    .iter_mut()
                    .filter(limb)
                    .for_each(|lead| lead.lead_off = true);
            }
            K::GainStep => edit(packet, at_ms(5000, 10_000), |_, _, uv| 2.0 * uv),
            K::Flat => edit(packet, whole.clone(), |_, _, _| 0.0),
            K::FlatLead => edit(
                packet,
                whole.clone(),
                |lead, _, uv| if lead == Lead::V4 { 0.0 } else { uv },
            ),
            K::Saturation => edit(
                packet,
                whole.clone(),
                |lead, _, uv| if lead.index() >= 7 { RAIL_UV } else { uv },
            ),
            // amplifiers clip I, II and the chest leads, from which the device reckons the others
            K::Shock => edit(packet, at_ms(8000, 9000), |lead, _, _| match lead {
                Lead::III => 0.0,
                Lead::AVR => -RAIL_UV,
                Lead::AVL | Lead::AVF => RAIL_UV / 2.0,
                _ => RAIL_UV,
            }),
            K::LeadSwap => swap_arms(packet, whole),
            K::Hum => through(packet, whole.clone(), 1.0, |at, e| {
                600.0 * (1.0 + 0.2 * e as f32) * sine(at, 50.0, 0.0)
            }),
            K::Wander => through(packet, whole.clone(), 1.0, |at, e| 2400.0 * sine(at, 0.25, e as f32)),
            K::Muscle => through(packet, whole.clone(), 1.0, |at, e| 600.0 * white(at, e)),
            K::Motion => through(packet, whole.clone(), 1.0, |at, e| {
                (0..6)
                    .map(|k| 250.0 * sine(at, 1.3 + 1.5 * k as f32, (k * 7 + e * 5) as f32))
                    .sum()
            }),
            K::Burst => through(packet, at_ms(4000, 6000), 1.0, |at, e| 30_000.0 * white(at, e)),
            K::Fibrillation => through(packet, whole.clone(), 0.0, |at, e| {
                let slow = 1.0 + 0.4 * sine(at, 0.7, 1.0);
                let waves = sine(at, 4.7, 0.0) + 0.7 * sine(at, 5.9, 2.0 + e as f32) + 0.5 * sine(at, 6.7, 4.0);
                300.0 * slow * DIPOLE[e] * waves
            }),
            K::Tachycardia => through(packet, whole.clone(), 0.0, |at, e| {
                DIPOLE[e] * beats(at, 220.0) + 5.0 * white(at, e)
            }),
            _ => {}
        }
    }
}

/// Rewrites the samples of `span` in microvolts: lead, stream sample and old value give the new value.
fn edit(packet: &mut WaveformPacket, span: Range<i64>, mut uv: impl FnMut(Lead, i64, f32) -> f32) {
    for lead in &mut packet.leads {
        let (Ok(name), Some(mut samples)) = (Lead::parse(&lead.name), samples_of_bytes(&lead.samples)) else {
            continue;
        };
        for (at, sample) in (packet.first_sample..).zip(&mut samples) {
            if span.contains(&at) {
                let old = f32::from(*sample) * lead.uv_per_unit + lead.offset_uv;
                // `as` saturates at the rail, as a converter does
                *sample = ((uv(name, at, old) - lead.offset_uv) / lead.uv_per_unit).round() as i16;
            }
        }
        lead.samples = bytes_of_samples(&samples);
    }
}

/// Adds potentials at the electrodes to what is there times `keep`.
fn through(packet: &mut WaveformPacket, span: Range<i64>, keep: f32, electrode_uv: impl Fn(i64, usize) -> f32) {
    edit(packet, span, |lead, at, uv| {
        let e = |electrode: usize| electrode_uv(at, electrode);
        let (right, left, leg) = (e(0), e(1), e(2));
        let added = match lead {
            Lead::I => left - right,
            Lead::II => leg - right,
            Lead::III => leg - left,
            Lead::AVR => right - (left + leg) / 2.0,
            Lead::AVL => left - (right + leg) / 2.0,
            Lead::AVF => leg - (right + left) / 2.0,
            chest => e(chest.index() - 3) - (right + left + leg) / 3.0,
        };
        keep * uv + added
    });
}

/// Right and left arm change places: I turns over, II and III, aVR and aVL change places.
fn swap_arms(packet: &mut WaveformPacket, span: &Range<i64>) {
    if !span.contains(&packet.first_sample) {
        return;
    }
    edit(
        packet,
        span.clone(),
        |lead, _, uv| if lead == Lead::I { -uv } else { uv },
    );
    for lead in &mut packet.leads {
        let name = match &*lead.name {
            "II" => "III",
            "III" => "II",
            "aVR" => "aVL",
            "aVL" => "aVR",
            _ => continue,
        };
        lead.name = name.to_owned();
    }
}

/// Masks the part of `span` that lies in the packet, on every lead.
fn mask(packet: &mut WaveformPacket, span: Range<i64>, which: impl Fn(&mut LeadSamples) -> &mut Vec<SampleRange>) {
    let first = packet.first_sample;
    for lead in &mut packet.leads {
        let samples = lead.samples.len() as i64 / 2;
        let (start, end) = ((span.start - first).max(0), (span.end - first).min(samples));
        if start < end {
            which(lead).push(SampleRange {
                start: start as u32,
                length: (end - start) as u32,
            });
        }
    }
}

fn sine(at: i64, hz: f32, phase: f32) -> f32 {
    (TAU * hz * (at % 500_000) as f32 / ecg::SAMPLE_RATE_HZ as f32 + phase).sin()
}

/// Noise in -1..1 of one electrode at one sample.
fn white(at: i64, electrode: usize) -> f32 {
    ChaCha8Rng::seed_from_u64(at as u64 * ELECTRODES as u64 + electrode as u64).random_range(-1.0..1.0)
}

/// P, QRS and T of a beat train, microvolts.
fn beats(at: i64, bpm: f32) -> f32 {
    let rr = 60.0 * ecg::SAMPLE_RATE_HZ as f32 / bpm;
    let x = (at as f32 - 40.0).rem_euclid(rr) - rr / 2.0;
    let bump = |centre: f32, width: f32, height: f32| height * (-((x - centre) / width).powi(2) / 2.0).exp();
    bump(-9.0, 4.0, -150.0) + bump(0.0, 5.0, 1300.0) + bump(10.0, 4.0, -250.0) + bump(45.0, 10.0, 220.0)
}
