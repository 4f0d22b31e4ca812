//! What the decoder sees of the ECG: made once per request, reused at every step.
//!
//! Place: after `projector`, before `decoder`. Invariant: a key/value prefix is never rotated and never masked (MEIT section
//! 3.4, eqs 3-5); cross-attention keys carry no text position; input tokens are the text's first positions.

use candle_core::{Result, Tensor, Var};

/// Keys and values of one layer: of self-attention each (B, P, K, D), of cross-attention (B, H, P, D).
pub type KeysValues = (Tensor, Tensor);

/// The ECG of one batch, in the form that the decoder's fusion asks for.
pub struct EcgPrefix {
    form: Form,
}

pub(crate) enum Form {
    /// One entry a layer: prepended to self-attention, or None where the layer has no prefix.
    SelfAttention(Vec<Option<KeysValues>>),
    /// One entry a layer: what its cross-attention block attends to.
    CrossAttention(Vec<Option<KeysValues>>),
    /// (B, P, C), before the text.
    Input(Tensor),
}

impl EcgPrefix {
    pub(crate) fn new(form: Form) -> Self {
        Self { form }
    }

    /// Keys and values that a layer's self-attention sees before the text.
    pub fn layer(&self, index: usize) -> Option<&KeysValues> {
        match &self.form {
            Form::SelfAttention(layers) => layers.get(index)?.as_ref(),
            Form::CrossAttention(_) | Form::Input(_) => None,
        }
    }

    /// Keys and values of the cross-attention block before a layer.
    pub fn cross(&self, index: usize) -> Option<&KeysValues> {
        match &self.form {
            Form::CrossAttention(layers) => layers.get(index)?.as_ref(),
            Form::SelfAttention(_) | Form::Input(_) => None,
        }
    }

    /// Zeros of the same form for `rows` rows; none where rows need nothing after their prompt.
    pub(crate) fn room(&self, rows: usize) -> Result<Option<Self>> {
        let zeros = |tensor: &Tensor| {
            let mut dims = tensor.dims().to_vec();
            dims[0] = rows;
            Tensor::zeros(dims, tensor.dtype(), tensor.device())
        };
        match &self.form {
            Form::Input(_) => Ok(None),
            Form::SelfAttention(_) | Form::CrossAttention(_) => self.map(zeros).map(Some),
        }
    }

    /// Rows `from .. from + n`.
    pub(crate) fn rows(&self, from: usize, n: usize) -> Result<Self> {
        self.map(|tensor| tensor.narrow(0, from, n))
    }

    /// Writes `rows` over those from `at` on.
    pub(crate) fn set_rows(&self, at: usize, rows: &Self) -> Result<()> {
        let (all, new) = (self.tensors(), rows.tensors());
        let fit = |(all, new): (&&Tensor, &&Tensor)| all.dims()[1..] == new.dims()[1..];
        if all.len() != new.len() || !all.iter().zip(&new).all(fit) {
            candle_core::bail!("an ECG of another form or of another number of tokens than those before it");
        }
        let mut pairs = all.into_iter().zip(new);
        pairs.try_for_each(|(all, new)| all.slice_set(&new.force_contiguous()?, 0, at))
    }

    fn tensors(&self) -> Vec<&Tensor> {
        match &self.form {
            Form::SelfAttention(layers) | Form::CrossAttention(layers) => {
                layers.iter().flatten().flat_map(|(k, v)| [k, v]).collect()
            }
            Form::Input(tokens) => vec![tokens],
        }
    }

    fn map(&self, mut f: impl FnMut(&Tensor) -> Result<Tensor>) -> Result<Self> {
        let mut pairs = |layers: &[Option<KeysValues>]| -> Result<Vec<Option<KeysValues>>> {
            let pairs = layers.iter().map(|layer| match layer {
                Some((k, v)) => Ok(Some((f(k)?, f(v)?))),
                None => Ok(None),
            });
            pairs.collect()
        };
        let form = match &self.form {
            Form::SelfAttention(layers) => Form::SelfAttention(pairs(layers)?),
            Form::CrossAttention(layers) => Form::CrossAttention(pairs(layers)?),
            Form::Input(tokens) => Form::Input(f(tokens)?),
        };
        Ok(Self { form })
    }

    /// A copy that is cut from what it was computed of: variables in place of what has a gradient. Returns it and each tensor with
    /// the variable in its place.
    pub(crate) fn cut(&self) -> Result<(Self, Vec<(Tensor, Var)>)> {
        let mut leaves = Vec::new();
        let cut = self.map(|tensor| {
            if !tensor.track_op() {
                return Ok(tensor.clone());
            }
            let var = Var::from_tensor(&tensor.detach())?;
            leaves.push((tensor.clone(), var.clone()));
            Ok(var.into_inner())
        })?;
        Ok((cut, leaves))
    }

    /// Tokens (B, P, C) that come before the text.
    pub fn input(&self) -> Option<&Tensor> {
        match &self.form {
            Form::Input(tokens) => Some(tokens),
            Form::SelfAttention(_) | Form::CrossAttention(_) => None,
        }
    }

    /// Columns of text that it takes.
    pub fn text_columns(&self) -> Result<usize> {
        self.input().map_or(Ok(0), |tokens| tokens.dim(1))
    }

    /// Columns of self-attention that are the prefix's.
    pub fn columns(&self) -> Result<usize> {
        match &self.form {
            Form::SelfAttention(layers) => layers.iter().flatten().next().map_or(Ok(0), |(k, _)| k.dim(1)),
            Form::CrossAttention(_) | Form::Input(_) => Ok(0),
        }
    }
}
