//! Time of the signal processing of one window, whole and by stage: `cargo bench -p ecg`.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use ecg::dsp::lanes::Frame;
use ecg::dsp::{DspConfig, analyse, filter, resample};
use ecg::window::Context;
use ecg::{CONTEXT_SAMPLES, LEADS, SEGMENT_SAMPLES};

/// Ten seconds and their context: a beat every 0.8 s with its own size on each lead, and a ripple that never repeats.
fn context() -> Context {
    let bump = |x: f64, centre: f64, width: f64| (-((x - centre) / width).powi(2) / 2.0).exp();
    let sample = |lead: usize, i: usize| {
        let x = (i % 400) as f64 - 200.0;
        let beat = 120.0 * bump(x, -75.0, 10.0) + 1000.0 * bump(x, 0.0, 5.0) + 250.0 * bump(x, 140.0, 20.0);
        let ripple = 10.0 * ((i * i) as f64 * 0.37 + lead as f64).sin();
        ((0.4 + 0.1 * lead as f64) * beat + ripple) as f32
    };
    let length = SEGMENT_SAMPLES + 2 * CONTEXT_SAMPLES;
    let leads = (0..LEADS).map(|lead| (0..length).map(|i| sample(lead, i)).collect());
    Context {
        before: CONTEXT_SAMPLES,
        after: CONTEXT_SAMPLES,
        ..Context::of("bench", leads.collect())
    }
}

fn dsp(criterion: &mut Criterion) {
    let (context, config) = (context(), DspConfig::default());
    criterion.bench_function("analyse a window with context", |b| {
        b.iter(|| analyse(black_box(&context), &config))
    });
    let frames: Vec<Frame> = (0..context.samples_uv[0].len())
        .map(|i| std::array::from_fn(|lead| context.samples_uv[lead][i]))
        .collect();
    for notch_hz in [None, Some(50.0)] {
        let plan = filter::Plan::new(filter::Band {
            high_pass_hz: config.high_pass_hz,
            low_pass_hz: config.low_pass_hz,
            notch_hz,
        });
        let mut out = Vec::new();
        criterion.bench_function(&format!("filter 12 leads with context, notch {notch_hz:?}"), |b| {
            b.iter(|| filter::zero_phase(black_box(&frames), &mut out, &plan))
        });
    }
    for rate_hz in [360.0, 249.89] {
        let second: Vec<f32> = context.samples_uv[0][..rate_hz as usize].to_vec();
        let resampler = resample::Resampler::new(rate_hz);
        criterion.bench_function(&format!("resample one lead's second from {rate_hz} Hz"), |b| {
            b.iter(|| resampler.at_grid(black_box(&second), 0, 0..500))
        });
    }
}

criterion_group!(benches, dsp);
criterion_main!(benches);
