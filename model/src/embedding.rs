//! Tokens to vectors, with what comes before the first layer.
//!
//! Place: first step of every `decoder` forward. Shapes: ids (B, T) -> (B, T, C). Invariant: a position that the decoder does not
//! have is an error with both numbers.

use candle_core::Tensor;

use crate::architecture::{Architecture, Positions};
use crate::columns::Past;
use crate::error::Result;
use crate::mode::Mode;
use crate::norm::NormLayer;
use crate::projection::{Projection, Site};

/// Token table, and where the family has them projection, learned positions and norm.
#[derive(Clone)]
pub(crate) struct Embedding {
    /// (V, E).
    pub tokens: Tensor,
    pub project_in: Option<Projection>,
    positions: Option<Learned>,
    norm: Option<NormLayer>,
}

#[derive(Clone)]
struct Learned {
    table: Tensor,
    rows: usize,
    offset: usize,
}

impl Embedding {
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn load(body: &Site, a: &Architecture) -> Result<Self> {
        let names = &a.names;
        let positions = match (&a.positions, names.learned_positions) {
            (&Positions::Learned { rows, offset }, Some(name)) => Some(Learned {
                table: body.pp(name).tensor(&[rows, a.hidden_size], "weight")?,
                rows,
                offset,
            }),
            _ => None,
        };
        let project_in = names.project_in;
        Ok(Self {
            tokens: body.pp(names.embed).tensor(&[a.vocab_size, a.embed_size], "weight")?,
            positions,
            norm: names.embed_norm.map(|name| body.norm(name)).transpose()?,
            project_in: project_in
                .map(|name| body.projection(name, a.embed_size, a.hidden_size, false))
                .transpose()?,
        })
    }

    /// ids (B, T) -> (B, T, C), without positions.
    pub fn embed(&self, ids: &Tensor, mode: &Mode) -> candle_core::Result<Tensor> {
        let (b, t) = ids.dims2()?;
        let (_, width) = self.tokens.dims2()?;
        let x = self
            .tokens
            .index_select(&ids.flatten_all()?, 0)?
            .reshape((b, t, width))?;
        let project_in = self.project_in.as_ref();
        project_in.map_or(Ok(x.clone()), |projection| projection.forward(&x, mode))
    }

    /// x (B, T, C), after what each row has, with learned positions and the embedding's norm, where the family has them.
    pub fn place(&self, mut x: Tensor, past: &Past) -> candle_core::Result<Tensor> {
        if let Some(learned) = &self.positions {
            x = x.broadcast_add(&learned.of(&x, past)?)?;
        }
        self.norm.as_ref().map_or(Ok(x.clone()), |norm| norm.forward(&x))
    }
}

impl Learned {
    /// (T, C), or (B, T, C) where rows differ.
    fn of(&self, x: &Tensor, past: &Past) -> candle_core::Result<Tensor> {
        let (_, t, c) = x.dims3()?;
        let text = past.longest() + t;
        if text + self.offset > self.rows {
            candle_core::bail!(
                "text of {text} tokens: the decoder has {} positions",
                self.rows - self.offset
            );
        }
        if let &[past] = past.of_row() {
            return self.table.narrow(0, past + self.offset, t);
        }
        let positions = past.positions(t).into_iter();
        let index: Vec<u32> = positions.map(|p| (p + self.offset) as u32).collect();
        let index = Tensor::from_vec(index, past.rows() * t, x.device())?;
        self.table.index_select(&index, 0)?.reshape((past.rows(), t, c))
    }
}
