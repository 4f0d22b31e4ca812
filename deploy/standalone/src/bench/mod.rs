//! `meit bench`: how fast the parts are on this machine, and how well the quality gate decides, as JSON.
//!
//! Place: beside the demo; each part has a module. Invariant: a figure is measured in the run that prints it, and the object
//! says over what and by which clock.

pub mod dsp;
pub mod gate;
pub mod infer;
mod requests;
mod shape;
pub mod stream;
pub mod train;

/// Arguments of `meit bench`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    part: Part,
}

/// The parts that can be measured.
#[derive(clap::Subcommand, Debug)]
enum Part {
    /// Signal processing of whole windows: filter, beats, signal-to-noise ratio, quality, measurements.
    Dsp(dsp::Arguments),
    /// Accuracy of the quality gate: clean PTB-XL recordings against the same with recorded noise.
    ///
    /// Example: meit bench gate --dataset ptbxl:/data/ptbxl --noise /data/nstdb --folds 9
    Gate(gate::Arguments),
    /// Packets through Kafka and the agent, beside the same bytes through a bare consumer and producer.
    Stream(stream::Arguments),
    /// Decoding by a decoder of a named size with random weights.
    Infer(infer::Arguments),
    /// Training an adapter on a decoder of a named size with random weights.
    Train(train::Arguments),
}

/// Measures the part and prints one JSON object.
///
/// # Errors
/// What the part's own measurement fails with.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    match &arguments.part {
        Part::Dsp(arguments) => dsp::run(arguments),
        Part::Gate(arguments) => gate::run(arguments),
        Part::Stream(arguments) => stream::run(arguments),
        Part::Infer(arguments) => infer::run(arguments),
        Part::Train(arguments) => train::run(arguments),
    }
}
