//! What each query sees, and how strongly by position.
//!
//! Place: built once a forward by `decoder`, added to the scores by `attention`. Invariant: the ECG prefix is visible to every
//! query whatever the window, and carries no position bias (MEIT eqs 3-5).

use std::collections::BTreeMap;

use candle_core::{D, DType, Device, Result, Tensor};

use crate::architecture::{Architecture, Positions};
use crate::columns::Past;

/// Columns of the scores: P of the prefix, then the cached tokens, then `t` new ones; shorter rows end before the last column.
#[derive(Clone, Copy, Debug)]
pub struct Columns<'a> {
    pub prefix: usize,
    pub past: &'a Past,
    pub t: usize,
}

impl Columns<'_> {
    fn all(&self) -> usize {
        self.prefix + self.past.longest() + self.t
    }
}

/// Masks of one forward, one for each kind of window: (T, P + past + T), after axes of rows and heads where these differ.
pub struct Masks {
    by_window: BTreeMap<Option<usize>, Tensor>,
    prefix: usize,
}

impl Masks {
    pub fn new(architecture: &Architecture, columns: Columns, dtype: DType, device: &Device) -> Result<Self> {
        let bias = match architecture.positions {
            Positions::Alibi => Some(alibi(architecture.heads, columns, dtype, device)?),
            Positions::Learned { .. } | Positions::Rotary(_) => None,
        };
        let mut by_window = BTreeMap::new();
        for layer in &architecture.layers {
            if by_window.contains_key(&layer.window) {
                continue;
            }
            let mask = causal(columns, layer.window, dtype, device)?;
            let mask = bias
                .as_ref()
                .map_or(Ok(mask.clone()), |bias| mask.broadcast_add(bias))?;
            by_window.insert(layer.window, mask);
        }
        Ok(Self {
            by_window,
            prefix: columns.prefix,
        })
    }

    /// The mask of a layer; one without the prefix has no columns for it.
    pub fn of(&self, window: Option<usize>, has_prefix: bool) -> Result<Tensor> {
        let mask = &self.by_window[&window];
        if has_prefix || self.prefix == 0 {
            Ok(mask.clone())
        } else {
            mask.narrow(D::Minus1, self.prefix, mask.dim(D::Minus1)? - self.prefix)
        }
    }
}

/// (T, P + past + T), or (B, 1, ..) where rows differ: zero where visible. A window of w shows the query's own position and the
/// w - 1 before it.
fn causal(columns: Columns, window: Option<usize>, dtype: DType, device: &Device) -> Result<Tensor> {
    let Columns { prefix, past, t } = columns;
    let (all, window) = (columns.all(), window.unwrap_or(usize::MAX));
    let visible = |query: usize, key: usize| key <= query && query - key < window;
    let mut mask: Vec<f32> = Vec::with_capacity(past.rows() * t * all);
    for query in past.positions(t) {
        mask.extend((0..all).map(|j| {
            if j < prefix || visible(query, j - prefix) {
                0.0
            } else {
                f32::MIN
            }
        }));
    }
    let shape = if past.rows() == 1 {
        vec![t, all]
    } else {
        vec![past.rows(), 1, t, all]
    };
    Tensor::from_vec(mask, shape, device)?.to_dtype(dtype)
}

/// (H, 1, P + past + T): slope times the key's text position, zero on the prefix.
fn alibi(heads: usize, columns: Columns, dtype: DType, device: &Device) -> Result<Tensor> {
    let (prefix, all) = (columns.prefix, columns.all());
    let mut bias: Vec<f32> = Vec::with_capacity(heads * all);
    for slope in slopes(heads) {
        bias.extend(std::iter::repeat_n(0.0, prefix));
        bias.extend((0..all - prefix).map(|position| (slope * position as f64) as f32));
    }
    Tensor::from_vec(bias, (heads, 1, all), device)?.to_dtype(dtype)
}

/// One slope a head: powers of 2^(-8 / n) for the largest power of two n <= heads, then every other power of 2^(-4 / n).
/// Source: Press et al. 2022 (arXiv 2108.12409), as transformers' BLOOM.
fn slopes(heads: usize) -> Vec<f64> {
    let n = 1 << heads.ilog2();
    let whole = (1..=n).map(|i| 2f64.powf(-8.0 * i as f64 / n as f64));
    let between = (0..heads - n).map(|i| 2f64.powf(-4.0 * (2 * i + 1) as f64 / n as f64));
    whole.chain(between).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_of_a_power_of_two_halve_and_others_lie_between() {
        assert_eq!(slopes(8), (1..=8).map(|i| 0.5f64.powi(i)).collect::<Vec<_>>());
        let six = [0.25, 0.0625, 0.015_625, 0.003_906_25, 0.5, 0.125];
        assert_eq!(slopes(6), six);
    }

    #[test]
    fn a_shorter_row_sees_no_column_behind_its_own_last_one() -> Result<()> {
        let columns = Columns {
            prefix: 1,
            past: &Past::of_rows(vec![0, 2]),
            t: 1,
        };
        let mask = causal(columns, None, DType::F32, &Device::Cpu)?;
        assert_eq!(mask.dims(), [2, 1, 1, 4]);
        let visible: Vec<bool> = mask
            .flatten_all()?
            .to_vec1::<f32>()?
            .iter()
            .map(|&v| v == 0.0)
            .collect();
        assert_eq!(visible[..4], [true, true, false, false]);
        assert_eq!(visible[4..], [true; 4]);
        Ok(())
    }

    #[test]
    fn a_window_hides_old_text_but_never_the_prefix() -> Result<()> {
        let columns = Columns {
            prefix: 1,
            past: &Past::alike(2),
            t: 2,
        };
        let mask = causal(columns, Some(2), DType::F32, &Device::Cpu)?.to_vec2::<f32>()?;
        let visible: Vec<Vec<bool>> = mask.iter().map(|row| row.iter().map(|&v| v == 0.0).collect()).collect();
        assert_eq!(visible[0], [true, false, true, true, false]);
        assert_eq!(visible[1], [true, false, false, true, true]);
        Ok(())
    }
}
