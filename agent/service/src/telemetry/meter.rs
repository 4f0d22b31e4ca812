//! Makes and registers the metrics of one process.
//!
//! Place: under every metrics.rs. Invariant: a name is `meit_<process>_<noun>_<unit>[_total]`, and a labelled metric has every
//! value of its closed label set from the start, so that a rate over it never starts from nothing.

use prometheus::core::Collector;
use prometheus::{
    Counter, Error, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
};
use prometheus::{IntGaugeVec, Opts, Registry};

/// Registers metrics of one process.
#[derive(Clone, Copy)]
pub struct Meter<'a> {
    registry: &'a Registry,
    process: &'static str,
}

/// A label and all of its values.
pub type Label<'a> = (&'a str, &'a [&'static str]);

impl<'a> Meter<'a> {
    /// Metrics will be called `meit_<process>_...`.
    pub fn new(registry: &'a Registry, process: &'static str) -> Self {
        Self { registry, process }
    }

    fn opts(&self, name: &str, help: &str) -> Opts {
        Opts::new(format!("meit_{}_{name}", self.process), help)
    }

    fn register<M: Collector + Clone + 'static>(&self, metric: M) -> Result<M, Error> {
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    /// A counter at 0.
    ///
    /// # Errors
    /// As of every method here: a name that is no metric name, or that is registered already.
    pub fn counter(&self, name: &str, help: &str) -> Result<IntCounter, Error> {
        self.register(IntCounter::with_opts(self.opts(name, help))?)
    }

    /// A counter for each value of a label.
    ///
    /// # Errors
    /// As [`Meter::counter`].
    pub fn counters(&self, name: &str, help: &str, (label, values): Label<'_>) -> Result<IntCounterVec, Error> {
        let counters = IntCounterVec::new(self.opts(name, help), &[label])?;
        values
            .iter()
            .for_each(|value| drop(counters.with_label_values(&[value])));
        self.register(counters)
    }

    /// A counter of seconds at 0.
    ///
    /// # Errors
    /// As [`Meter::counter`].
    pub fn seconds_counter(&self, name: &str, help: &str) -> Result<Counter, Error> {
        self.register(Counter::with_opts(self.opts(name, help))?)
    }

    /// A gauge of whole numbers at 0.
    ///
    /// # Errors
    /// As [`Meter::counter`].
    pub fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, Error> {
        self.register(IntGauge::with_opts(self.opts(name, help))?)
    }

    /// A gauge of whole numbers for each value of a label.
    ///
    /// # Errors
    /// As [`Meter::counter`].
    pub fn gauges(&self, name: &str, help: &str, (label, values): Label<'_>) -> Result<IntGaugeVec, Error> {
        let gauges = IntGaugeVec::new(self.opts(name, help), &[label])?;
        values.iter().for_each(|value| drop(gauges.with_label_values(&[value])));
        self.register(gauges)
    }

    /// A gauge of times, for each value of a label; 0 means never.
    ///
    /// # Errors
    /// As [`Meter::counter`].
    pub fn times(&self, name: &str, help: &str, (label, values): Label<'_>) -> Result<GaugeVec, Error> {
        let gauges = GaugeVec::new(self.opts(name, help), &[label])?;
        values.iter().for_each(|value| drop(gauges.with_label_values(&[value])));
        self.register(gauges)
    }

    /// A time, seconds since the Unix epoch; 0 means never.
    ///
    /// # Errors
    /// As [`Meter::counter`].
    pub fn time(&self, name: &str, help: &str) -> Result<Gauge, Error> {
        self.register(Gauge::with_opts(self.opts(name, help))?)
    }

    /// Facts as labels; the value is always 1.
    ///
    /// # Errors
    /// As [`Meter::counter`].
    pub fn info(&self, name: &str, help: &str, label: &str, value: &str) -> Result<(), Error> {
        let info = IntGaugeVec::new(self.opts(name, help), &[label])?;
        info.with_label_values(&[value]).set(1);
        self.register(info).map(drop)
    }

    /// A histogram with these upper bounds.
    ///
    /// # Errors
    /// As [`Meter::counter`].
    pub fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, Error> {
        let opts = HistogramOpts::from(self.opts(name, help)).buckets(buckets.to_vec());
        self.register(Histogram::with_opts(opts)?)
    }

    /// A histogram for each value of a label.
    ///
    /// # Errors
    /// As [`Meter::counter`].
    pub fn histograms(
        &self,
        name: &str,
        help: &str,
        (label, values): Label<'_>,
        buckets: &[f64],
    ) -> Result<HistogramVec, Error> {
        let opts = HistogramOpts::from(self.opts(name, help)).buckets(buckets.to_vec());
        let histograms = HistogramVec::new(opts, &[label])?;
        values
            .iter()
            .for_each(|value| drop(histograms.with_label_values(&[value])));
        self.register(histograms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_of_a_label_is_exported_from_the_start() {
        let registry = Registry::new();
        let meter = Meter::new(&registry, "test");
        meter
            .counters("lost_total", "Lost.", ("reason", &["late", "torn"]))
            .unwrap();
        meter
            .times("seen_timestamp_seconds", "Seen.", ("stage", &["in"]))
            .unwrap();
        meter.info("build_info", "Build.", "version", "1.2.3").unwrap();
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&registry.gather())
            .unwrap();
        for line in [
            "meit_test_lost_total{reason=\"torn\"} 0",
            "meit_test_seen_timestamp_seconds{stage=\"in\"} 0",
            "meit_test_build_info{version=\"1.2.3\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
        assert!(meter.counter("lost_total", "Lost.").is_err(), "a name is taken once");
    }
}
