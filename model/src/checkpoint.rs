//! Gradient checkpointing: a backward pass that keeps what goes into each layer and computes the rest of it again.
//!
//! Place: instead of `Decoder::forward` and `backward` where memory is scarce; costs a second forward. Invariant: the loss
//! is that of the pass that keeps everything, dropout included, bit for bit; so are the gradients, but where those of one tensor's several
//! uses are added in another order.

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var};

use crate::decoder::Decoder;
use crate::layers::widen;
use crate::mode::Mode;
use crate::prefix::EcgPrefix;

impl Decoder {
    /// `loss` of the logits (B, T, V) of `ids` (B, T), and the gradient of every variable that it depends on, those behind the
    /// prefix included. The graph of one layer is in memory at a time.
    ///
    /// # Errors
    /// A fusion other than a prefix of keys and values; a tensor operation that fails.
    pub fn backward_by_layer(
        &self,
        ids: &Tensor,
        prefix: Option<&EcgPrefix>,
        mode: &Mode,
        loss: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<(Tensor, GradStore)> {
        let layers = self.architecture().layers.len();
        let is_other = |prefix: &EcgPrefix| prefix.input().is_some() || (0..layers).any(|i| prefix.cross(i).is_some());
        if prefix.is_some_and(is_other) {
            candle_core::bail!(
                "fusion input or cross-attention: checkpointing by layer takes a prefix of keys and values"
            );
        }
        let (_, t) = ids.dims2()?;
        let (cut, leaves) = prefix.map(EcgPrefix::cut).transpose()?.unzip();
        let embedded = self.embed(ids, &self.cache(), mode)?;
        let step = self.step(t, cut.as_ref(), &self.cache(), mode)?;
        let mut x = embedded.detach();
        let mut kept = Vec::new();
        for i in 0..layers {
            let seed = mode.randomness();
            let y = self.layer(i, &x, &step, &mut self.cache())?.detach();
            kept.push((std::mem::replace(&mut x, y), seed));
        }
        let last = Var::from_tensor(&x)?;
        let loss = loss(&widen(&self.logits(last.as_tensor(), mode)?)?)?;
        let mut grads = GradStore::default();
        add_gradients(&mut grads, &loss)?;
        let after = mode.randomness();
        let mut slope = taken(&mut grads, &last)?;
        for (i, (input, seed)) in kept.into_iter().enumerate().rev() {
            mode.replay(seed);
            let input = Var::from_tensor(&input)?;
            let y = self.layer(i, &input, &step, &mut self.cache())?;
            add_gradients(&mut grads, &along(&y, &slope)?)?;
            slope = taken(&mut grads, &input)?;
        }
        mode.replay(after);
        let mut before = vec![along(&embedded, &slope)?];
        for (original, leaf) in leaves.iter().flatten() {
            before.push(along(original, &taken(&mut grads, leaf)?)?);
        }
        add_gradients(&mut grads, &Tensor::stack(&before, 0)?.sum_all()?)?;
        Ok((loss.detach(), grads))
    }
}

/// A scalar whose gradient by `y` is `slope`.
fn along(y: &Tensor, slope: &Tensor) -> Result<Tensor> {
    (y * slope)?.sum_all()
}

/// Adds the gradient of every variable that `scalar` depends on; those of what does not learn are dropped.
fn add_gradients(grads: &mut GradStore, scalar: &Tensor) -> Result<()> {
    let mut new = scalar.backward()?;
    for variable in scalar.sorted_nodes().into_iter().filter(|node| node.is_variable()) {
        if let Some(grad) = new.remove(variable) {
            let sum = match grads.remove(variable) {
                Some(old) => (old + grad)?,
                None => grad,
            };
            grads.insert(variable, sum);
        }
    }
    Ok(())
}

/// The gradient of a cut, which no longer belongs to the others.
fn taken(grads: &mut GradStore, cut: &Var) -> Result<Tensor> {
    grads.remove(cut).map_or_else(|| cut.zeros_like(), Ok)
}
