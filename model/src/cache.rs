//! Keys and values so far, one pair a layer: the ECG prefix's, then the text's.
//!
//! Place: owned by `generate`, filled by `attention`. Invariant: `len` columns of text are cached in every layer; without padding
//! the next token has position `len`. Nothing is copied but the new columns while there is room.

use candle_core::{Result, Tensor};

use crate::columns::Pads;

/// A cache of keys and values, each (B, .., columns, .., D) with the columns on an axis that the caller names.
pub struct Cache {
    layers: Vec<Option<Kept>>,
    len: usize,
    /// Columns for which room is made at once.
    room: usize,
    pads: Pads,
}

/// Keys and values of one layer: the first `len` columns of larger tensors.
struct Kept {
    k: Tensor,
    v: Tensor,
    len: usize,
}

impl Cache {
    pub fn new(layers: usize) -> Self {
        Self::with_room(layers, 0)
    }

    /// A cache that will grow by `room` columns after those of the first forward.
    pub fn with_room(layers: usize, room: usize) -> Self {
        Self {
            layers: (0..layers).map(|_| None).collect(),
            len: 0,
            room,
            pads: Pads::default(),
        }
    }

    /// Columns of text cached so far, padding included.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Padding among the columns.
    pub fn pads(&self) -> &Pads {
        &self.pads
    }

    /// Says that the last columns of each row are padding.
    pub fn pad(&mut self, of_row: Vec<usize>) {
        self.pads = Pads::new(self.len, of_row);
    }

    /// Appends columns to a layer, along `axis`, and returns all of them. Before the first come those of `prefix`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn append(
        &mut self,
        layer: usize,
        axis: usize,
        [k, v]: [&Tensor; 2],
        prefix: Option<[&Tensor; 2]>,
    ) -> Result<[Tensor; 2]> {
        let kept = match (self.layers[layer].take(), prefix) {
            (Some(kept), _) => kept.grown(axis, k, v, self.room)?,
            (None, Some([prefix_k, prefix_v])) => Kept::of(prefix_k, prefix_v, axis)?.grown(axis, k, v, self.room)?,
            (None, None) => Kept::of(k, v, axis)?,
        };
        let all = [kept.k.narrow(axis, 0, kept.len)?, kept.v.narrow(axis, 0, kept.len)?];
        self.layers[layer] = Some(kept);
        Ok(all)
    }

    /// Called once a forward, after the last layer.
    pub fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }
}

impl Kept {
    fn of(k: &Tensor, v: &Tensor, axis: usize) -> Result<Self> {
        let len = k.dim(axis)?;
        let (k, v) = (k.clone(), v.clone());
        Ok(Self { k, v, len })
    }

    /// These columns and then new ones; what has a gradient is joined and never written over.
    fn grown(self, axis: usize, k: &Tensor, v: &Tensor, room: usize) -> Result<Self> {
        let (from, len) = (self.len, self.len + k.dim(axis)?);
        if [&self.k, &self.v, k, v].iter().any(|t| t.track_op()) {
            let join = |old: &Tensor, new| Tensor::cat(&[&old.narrow(axis, 0, from)?, new], axis);
            let (k, v) = (join(&self.k, k)?, join(&self.v, v)?);
            return Ok(Self { k, v, len });
        }
        let grow = |old: &Tensor, new: &Tensor| -> Result<Tensor> {
            let all = if len <= old.dim(axis)? {
                old.clone()
            } else {
                let mut dims = old.dims().to_vec();
                dims[axis] = len + room.max(from);
                let all = Tensor::zeros(dims, old.dtype(), old.device())?;
                all.slice_set(&old.narrow(axis, 0, from)?.contiguous()?, axis, 0)?;
                all
            };
            all.slice_set(&new.contiguous()?, axis, from)?;
            Ok(all)
        };
        let (k, v) = (grow(&self.k, k)?, grow(&self.v, v)?);
        Ok(Self { k, v, len })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn columns(from: usize, n: usize) -> Result<Tensor> {
        let values: Vec<f32> = (0..2 * n * 3).map(|i| (from * 100 + i) as f32).collect();
        Tensor::from_vec(values, (2, n, 3), &Device::Cpu)
    }

    #[test]
    fn columns_come_back_in_order_with_and_without_room() -> Result<()> {
        for room in [0, 1, 5, 40] {
            let mut cache = Cache::with_room(1, room);
            let prefix = columns(9, 2)?;
            let mut expected = vec![prefix.clone()];
            for (i, n) in [4, 1, 1, 3, 1].into_iter().enumerate() {
                let new = columns(i, n)?;
                expected.push(new.clone());
                let [k, v] = cache.append(0, 1, [&new, &(&new + 0.5)?], Some([&prefix, &prefix]))?;
                let expected = Tensor::cat(&expected, 1)?.to_vec3::<f32>()?;
                assert_eq!(k.to_vec3::<f32>()?, expected);
                assert_eq!(v.dims(), k.dims());
            }
        }
        Ok(())
    }

    #[test]
    fn room_that_was_made_is_used() -> Result<()> {
        let mut cache = Cache::with_room(1, 8);
        let storage = |cache: &mut Cache| -> Result<usize> {
            let one = columns(0, 1)?;
            let [k, _] = cache.append(0, 1, [&one, &one], None)?;
            let (guard, _) = k.storage_and_layout();
            let candle_core::Storage::Cpu(storage) = &*guard else {
                candle_core::bail!("on the CPU")
            };
            Ok(storage.as_slice::<f32>()?.as_ptr() as usize)
        };
        storage(&mut cache)?;
        let second = storage(&mut cache)?;
        for _ in 0..7 {
            assert_eq!(storage(&mut cache)?, second);
        }
        Ok(())
    }
}
