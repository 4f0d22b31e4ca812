//! Any packets at all: what holds for a windower however wild its stream.
//!
//! Place: tests only. Invariant: no panic, bounded memory, every instant has one fate, and the floor never runs ahead.

use proptest::prelude::*;

use super::*;
use crate::dsp::resample::{self, Grid, Resampler};
use crate::lead::Lead;
use crate::packet::PacketLead;

/// Bytes that a stream may hold: a window, its context, lateness and a packet, in blocks of 1000 of 12 leads.
const BYTES_MAX: usize = 60 * 12 * 1000 * 5;

#[derive(Clone, Debug)]
struct Wild {
    device: u8,
    boot_id: u64,
    step: i64,
    samples: usize,
    device_step_us: i64,
    gateway_step_us: i64,
    leads: usize,
    value: i16,
    heartbeat: bool,
}

fn wild() -> impl Strategy<Value = Wild> {
    let near = prop_oneof![8 => 0i64..400, 2 => -3000i64..3000, 1 => -(1i64 << 40)..1i64 << 40];
    let time = prop_oneof![8 => 0i64..800_000, 1 => -4_000_000_000i64..4_000_000_000, 1 => any::<i64>()];
    let gateway = prop_oneof![8 => 0i64..800_000, 1 => any::<i64>()];
    let shape = (1usize..500, 1usize..=12, 0i16..2, prop::bool::weighted(0.1));
    (
        prop::bool::weighted(0.05),
        prop::bool::weighted(0.03),
        near,
        time,
        gateway,
        shape,
    )
        .prop_map(
            |(other, boots, step, device_step_us, gateway_step_us, (samples, leads, value, heartbeat))| Wild {
                device: u8::from(other),
                boot_id: 1 + u64::from(boots),
                step,
                samples,
                device_step_us,
                gateway_step_us,
                leads,
                value,
                heartbeat,
            },
        )
}

/// Packets, each placed relative to the one before.
fn packets(wild: &[Wild], rate_hz: f64) -> Vec<Packet> {
    let (mut at, mut device_time_us, mut gateway_time_us) = (0i64, 1_700_000_000_000_000i64, 1_700_000_000_000_000i64);
    let packet = |(number, wild): (usize, &Wild)| {
        at = (at + wild.step).clamp(-(1 << 43), 1 << 43);
        device_time_us = device_time_us.wrapping_add(wild.device_step_us);
        gateway_time_us = gateway_time_us.wrapping_add(wild.gateway_step_us);
        let lead = |lead| PacketLead::of(lead, vec![wild.value; wild.samples], 1.0);
        let leads = Lead::ALL.into_iter().take(wild.leads).map(lead);
        Packet {
            stream_id: "bed-01".into(),
            device_id: format!("monitor-{}", wild.device),
            boot_id: wild.boot_id,
            sequence: number as u64,
            first_sample: at,
            device_time_us,
            gateway_time_us,
            rate_hz,
            leads: if wild.heartbeat { vec![] } else { leads.collect() },
            stat: false,
            filter_class: FilterClass::Unspecified,
            heartbeat: wild.heartbeat,
        }
    };
    wild.iter().enumerate().map(packet).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_packets_have_one_fate_an_instant_bounded_memory_and_windows_in_order(
        wild in prop::collection::vec(wild(), 1..200),
        rate_hz in prop::sample::select(vec![100.0, 250.0, 257.0, 500.0, 1000.0]),
    ) {
        let mut windower = Windower::new("bed-01", WindowerConfig::default());
        let mut last: Option<((String, u64), i64)> = None;
        let mut held = 0;
        for (tag, packet) in packets(&wild, rate_hz).into_iter().enumerate() {
            let length = packet.len();
            if let Ok(outcome) = windower.push(packet, tag as u64) {
                let told = outcome.fresh + outcome.duplicate + outcome.late;
                prop_assert_eq!(told, if outcome.held { 0 } else { length });
                held += usize::from(outcome.held);
                if outcome.takeover {
                    // boots of two devices have no order, so an earlier one may come back
                    last = None;
                }
            }
            let settled = windower.take_settled();
            held -= settled.len();
            if settled.iter().any(|settled| settled.fate.as_ref().is_ok_and(|outcome| outcome.takeover)) {
                last = None;
            }
            prop_assert_eq!(held, windower.held().len());
            while let Some(context) = windower.ready() {
                prop_assert_eq!(context.samples_uv[0].len(), context.before + SEGMENT_SAMPLES + context.after);
                let boot = (context.device_id, context.boot_id);
                if let Some((before, start)) = last && before == boot {
                    prop_assert!(context.start_sample > start, "{} after {start}", context.start_sample);
                }
                last = Some((boot, context.start_sample));
            }
            prop_assert!(windower.floor().is_none_or(|floor| floor <= tag as u64));
            prop_assert!(windower.bytes() <= BYTES_MAX, "{} bytes", windower.bytes());
        }
        windower.finish();
        prop_assert_eq!(held, windower.take_settled().len());
        prop_assert_eq!(windower.floor(), None);
    }

    #[test]
    fn any_range_of_the_grid_from_the_least_source_it_needs_has_the_bits_of_the_whole(
        rate_hz in prop_oneof![
            prop::sample::select(vec![100.0, 125.0, 240.0, 256.0, 257.0, 300.0, 360.0, 400.0, 500.0, 1000.0, 2000.0]),
            50.0f64..2000.0,
        ],
        start in -(1i64 << 40)..1i64 << 40,
        from in 200i64..400,
        length in 1i64..100,
        seed in any::<u32>(),
    ) {
        let (grid, resampler) = (Grid::new(rate_hz), Resampler::new(rate_hz));
        let reach = resample::reach(rate_hz) as i64;
        let source_start = grid.source_at_or_before(start) - reach;
        let samples = grid.source_at_or_after(start + 800) + reach - source_start;
        let value = |at: i64| ((at.wrapping_mul(i64::from(seed | 1)) >> 3) % 2000) as f32;
        let source: Vec<f32> = (0..samples).map(value).collect();
        let whole = resampler.at_grid(&source, source_start, start..start + 800);
        let range = start + from..start + from + length;
        let needs = grid.source_at_or_before(range.start) - reach..grid.source_at_or_after(range.end) + reach;
        let least = &source[(needs.start - source_start) as usize..(needs.end - source_start) as usize];
        let part = resampler.at_grid(least, needs.start, range);
        prop_assert!(part.iter().all(|uv| uv.is_finite()));
        prop_assert_eq!(&part, &whole[from as usize..(from + length) as usize]);
    }
}
