//! Gradients held to central differences.
//!
//! Place: used by every test of a backward pass. Invariant: the variable has its values again when a check returns.

use candle_core::{Tensor, Var};

use crate::rig::device;

/// How a gradient is compared.
pub struct Differences {
    /// How far an element is moved to each side.
    pub step: f64,
    /// Largest error, relative to the gradient's largest element.
    pub relative_error_max: f64,
    /// A gradient smaller than this everywhere is compared as if its largest element were this.
    pub scale_min: f64,
}

impl Differences {
    /// Holds elements `indices` of `grad`, the gradient of `loss` by `var`, to their differences.
    #[track_caller]
    pub fn check(&self, name: &str, var: &Var, grad: &Tensor, indices: &[usize], loss: impl Fn() -> f64) {
        let grad: Vec<f64> = grad.flatten_all().unwrap().to_vec1().unwrap();
        let original = var.as_detached_tensor().copy().unwrap();
        let values: Vec<f64> = original.flatten_all().unwrap().to_vec1().unwrap();
        let scale = grad.iter().map(|g| g.abs()).fold(self.scale_min, f64::max);
        for &index in indices {
            let at = |delta: f64| {
                let mut moved = values.clone();
                moved[index] += delta;
                var.set(&Tensor::from_vec(moved, original.shape(), &device()).unwrap())
                    .unwrap();
                loss()
            };
            let numeric = (at(self.step) - at(-self.step)) / (2.0 * self.step);
            var.set(&original).unwrap();
            let error = (numeric - grad[index]).abs() / scale;
            assert!(
                error <= self.relative_error_max,
                "{name}[{index}]: {} but differences give {numeric}",
                grad[index]
            );
        }
    }
}
