//! Whether a forward pass serves or trains, and the seeded randomness of training.
//!
//! Place: an argument of every forward. Invariant: the same seed gives the same masks, on any device and thread count.

use std::cell::RefCell;

use candle_core::{Result, Tensor};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Serving uses running statistics and no dropout; training uses batch statistics and seeded dropout.
pub enum Mode<'a> {
    Eval,
    Train(&'a Training),
}

/// The randomness and rates of one training step.
pub struct Training {
    /// Probability that an activation is zeroed, in 0..1.
    pub dropout: f32,
    /// Weight of the batch in the running statistics of batch norms (PyTorch's momentum), 0.1 by default.
    pub momentum: f64,
    rng: RefCell<ChaCha8Rng>,
}

impl Training {
    pub fn new(dropout: f32, rng: ChaCha8Rng) -> Self {
        Self {
            dropout,
            momentum: 0.1,
            rng: RefCell::new(rng),
        }
    }
}

impl Mode<'_> {
    /// Where the randomness of training is now.
    pub(crate) fn randomness(&self) -> Option<ChaCha8Rng> {
        match self {
            Mode::Eval => None,
            Mode::Train(training) => Some(training.rng.borrow().clone()),
        }
    }

    /// Goes back to where the randomness was, to draw the same masks again.
    pub(crate) fn replay(&self, randomness: Option<ChaCha8Rng>) {
        if let (Mode::Train(training), Some(randomness)) = (self, randomness) {
            training.rng.replace(randomness);
        }
    }

    /// Inverted dropout with the mode's own probability.
    pub fn dropout(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Mode::Eval => Ok(x.clone()),
            Mode::Train(training) => self.dropout_of(x, training.dropout),
        }
    }

    /// True where dropout with probability `p` does anything.
    pub fn drops(&self, p: f32) -> bool {
        matches!(self, Mode::Train(_)) && p > 0.0
    }

    /// As [`Self::drops`], with the mode's own probability.
    pub fn drops_own(&self) -> bool {
        matches!(self, Mode::Train(training) if training.dropout > 0.0)
    }

    /// Inverted dropout: zeroes elements with probability `p` and scales the rest; the identity when serving.
    pub fn dropout_of(&self, x: &Tensor, p: f32) -> Result<Tensor> {
        let Mode::Train(training) = self else {
            return Ok(x.clone());
        };
        if p <= 0.0 {
            return Ok(x.clone());
        }
        let keep = 1.0 - p;
        let mut rng = training.rng.borrow_mut();
        let mask: Vec<f32> = (0..x.elem_count())
            .map(|_| if rng.random::<f32>() < keep { 1.0 / keep } else { 0.0 })
            .collect();
        x * Tensor::from_vec(mask, x.shape(), x.device())?.to_dtype(x.dtype())?
    }
}
