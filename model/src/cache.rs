//! Keys and values so far, one pair a layer: the ECG prefix's, then the text's.
//!
//! Place: owned by `generate` and `slots`, filled by `attention`. Invariant: in every layer column P + j of a row is its token j.
//! Nothing is copied but the new columns while there is room.

use candle_core::{Result, Tensor};

use crate::columns::Past;

/// A cache of keys and values, each (B, .., columns, .., D) with the columns on an axis that the caller names.
pub struct Cache {
    layers: Vec<Option<Kept>>,
    past: Past,
    room: Room,
    /// Where rows of different lengths go on, as [`Kept::ends`] has it, behind a prefix of so many tokens.
    ends: Option<(usize, Tensor)>,
}

/// How a cache has room for what comes.
#[derive(Clone, Copy)]
enum Room {
    /// The rows of the first forward; this many columns more whenever there is none.
    Growing { columns: usize },
    /// So many rows of so many columns of text, made at once. The next forward is of the rows from `first` on.
    Slots { rows: usize, columns: usize, first: usize },
}

/// Keys and values of one layer: the first columns, along `axis`, of larger tensors, of which `prefix` are the ECG's.
struct Kept {
    k: Tensor,
    v: Tensor,
    axis: usize,
    prefix: usize,
}

impl Cache {
    pub fn new(layers: usize) -> Self {
        Self::with_room(layers, 0)
    }

    /// A cache that will grow by `room` columns after those of the first forward.
    pub fn with_room(layers: usize, room: usize) -> Self {
        Self::of(layers, Room::Growing { columns: room })
    }

    /// A cache of `rows` rows, each with room for `columns` columns of text, that [`Self::select`] fills in parts.
    pub fn of_slots(layers: usize, rows: usize, columns: usize) -> Self {
        Self::of(
            layers,
            Room::Slots {
                rows,
                columns,
                first: 0,
            },
        )
    }

    fn of(layers: usize, room: Room) -> Self {
        Self {
            layers: (0..layers).map(|_| None).collect(),
            past: Past::alike(0),
            room,
            ends: None,
        }
    }

    /// Text that the rows of the next forward have.
    pub fn past(&self) -> &Past {
        &self.past
    }

    pub fn is_empty(&self) -> bool {
        self.past.longest() == 0
    }

    /// Says which rows the next forward is of, those from `from` on, and what text they have. One that has none starts anew.
    pub fn select(&mut self, from: usize, past: Past) {
        if let Room::Slots { first, .. } = &mut self.room {
            *first = from;
        }
        self.past = past;
        self.ends = None;
    }

    /// Appends columns to a layer, along `axis`, and returns all of them. Before the first come those of `prefix`.
    ///
    /// # Errors
    /// Shapes that do not fit; more columns than slots have.
    pub fn append(
        &mut self,
        layer: usize,
        axis: usize,
        new: [&Tensor; 2],
        prefix: Option<[&Tensor; 2]>,
    ) -> Result<[Tensor; 2]> {
        let kept = &mut self.layers[layer];
        match self.room {
            Room::Growing { columns } => {
                let past = self.past.longest();
                let (grown, all) = Kept::grown(kept.take(), axis, new, prefix, (past, columns))?;
                *kept = Some(grown);
                Ok(all)
            }
            Room::Slots { rows, columns, first } => {
                let kept = match kept {
                    Some(kept) => kept,
                    None => kept.insert(Kept::zeros(axis, new, prefix, (rows, columns))?),
                };
                if self.past.rows() > 1 && self.ends.as_ref().is_none_or(|(prefix, _)| *prefix != kept.prefix) {
                    self.ends = Some((kept.prefix, kept.ends(&self.past, new[0])?));
                }
                let ends = self.ends.as_ref().map(|(_, ends)| ends);
                kept.written(new, prefix, (first, &self.past, ends))
            }
        }
    }

    /// Called once a forward, after the last layer.
    pub fn advance(&mut self, tokens: usize) {
        self.past = self.past.after(tokens);
        self.ends = None;
    }

    /// Copies a slot that holds `tokens` of text over another one.
    ///
    /// # Errors
    /// A copy that fails.
    pub fn copy_row(&self, from: usize, to: usize, tokens: usize) -> Result<()> {
        for Kept { k, v, axis, prefix } in self.layers.iter().flatten() {
            for rows in [k, v] {
                let row = rows.narrow(0, from, 1)?.narrow(*axis, 0, prefix + tokens)?;
                // slice_set refuses a source in the same storage
                rows.narrow(0, to, 1)?.slice_set(&row.force_contiguous()?, *axis, 0)?;
            }
        }
        Ok(())
    }
}

impl Kept {
    /// These columns and then new ones; what has a gradient is joined and never written over.
    fn grown(
        kept: Option<Self>,
        axis: usize,
        [k, v]: [&Tensor; 2],
        prefix: Option<[&Tensor; 2]>,
        (past, room): (usize, usize),
    ) -> Result<(Self, [Tensor; 2])> {
        let old = match (kept, prefix) {
            (Some(kept), _) => kept,
            (None, Some([prefix_k, prefix_v])) => Self {
                k: prefix_k.clone(),
                v: prefix_v.clone(),
                axis,
                prefix: prefix_k.dim(axis)?,
            },
            (None, None) => {
                let (k, v) = (k.clone(), v.clone());
                let all = [k.clone(), v.clone()];
                let prefix = 0;
                return Ok((Self { k, v, axis, prefix }, all));
            }
        };
        let (from, prefix) = (old.prefix + past, old.prefix);
        let len = from + k.dim(axis)?;
        let learns = [&old.k, &old.v, k, v].iter().any(|t| t.track_op());
        let grow = |old: &Tensor, new: &Tensor| -> Result<Tensor> {
            if learns {
                return Tensor::cat(&[&old.narrow(axis, 0, from)?, new], axis);
            }
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
        let (k, v) = (grow(&old.k, k)?, grow(&old.v, v)?);
        let all = [k.narrow(axis, 0, len)?, v.narrow(axis, 0, len)?];
        Ok((Self { k, v, axis, prefix }, all))
    }

    /// Room for `rows` rows of the prefix and `columns` columns of text.
    fn zeros(
        axis: usize,
        [k, v]: [&Tensor; 2],
        prefix: Option<[&Tensor; 2]>,
        (rows, columns): (usize, usize),
    ) -> Result<Self> {
        let prefix = prefix.map_or(Ok(0), |[k, _]| k.dim(axis))?;
        let zeros = |like: &Tensor| {
            let mut dims = like.dims().to_vec();
            (dims[0], dims[axis]) = (rows, prefix + columns);
            Tensor::zeros(dims, like.dtype(), like.device())
        };
        let (k, v) = (zeros(k)?, zeros(v)?);
        Ok(Self { k, v, axis, prefix })
    }

    /// The column at which each row of `like` goes on, for each of its values.
    fn ends(&self, past: &Past, like: &Tensor) -> Result<Tensor> {
        let at = past.of_row().iter().map(|past| (self.prefix + past) as u32);
        let mut dims = vec![1; like.rank()];
        dims[0] = past.rows();
        let at = Tensor::from_vec(at.collect(), dims, like.device())?;
        at.broadcast_as(like.shape())?.contiguous()
    }

    /// Writes columns behind the text of the rows from `first` on, in rows without text those of the prefix too, and returns
    /// all of these rows.
    fn written(
        &self,
        new: [&Tensor; 2],
        prefix: Option<[&Tensor; 2]>,
        (first, past, ends): (usize, &Past, Option<&Tensor>),
    ) -> Result<[Tensor; 2]> {
        let (axis, starts) = (self.axis, past.longest() == 0);
        let tokens = prefix.map_or(Ok(0), |[k, _]| k.dim(axis))?;
        if starts && tokens != self.prefix {
            candle_core::bail!("a prefix of {tokens} tokens in slots for one of {}", self.prefix);
        }
        let write = |all: &Tensor, new: &Tensor, prefix: Option<&Tensor>| -> Result<Tensor> {
            let rows = all.narrow(0, first, new.dim(0)?)?;
            if let Some(prefix) = prefix.filter(|_| starts) {
                rows.slice_set(&prefix.contiguous()?, axis, 0)?;
            }
            let new = new.contiguous()?;
            match ends {
                None => rows.slice_set(&new, axis, self.prefix + past.longest())?,
                Some(ends) => rows.scatter_set(ends, &new, axis)?,
            }
            rows.narrow(axis, 0, self.prefix + past.longest() + new.dim(axis)?)
        };
        let ([new_k, new_v], [prefix_k, prefix_v]) = (new, prefix.map_or([None; 2], |[k, v]| [Some(k), Some(v)]));
        Ok([write(&self.k, new_k, prefix_k)?, write(&self.v, new_v, prefix_v)?])
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
                cache.advance(n);
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
            cache.advance(1);
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

    #[test]
    fn slots_are_filled_copied_and_continued_each_at_its_own_end() -> Result<()> {
        let (prefix, long, short) = (columns(9, 1)?, columns(1, 3)?, columns(2, 2)?);
        let row = |t: &Tensor, row| t.narrow(0, row, 1)?.contiguous();
        let mut cache = Cache::of_slots(1, 3, 4);
        for (slot, text) in [(0, &long), (1, &short), (2, &long)] {
            let (text, prefix) = (row(text, slot % 2)?, row(&prefix, slot % 2)?);
            cache.select(slot, Past::alike(0));
            let [k, v] = cache.append(0, 1, [&text, &text], Some([&prefix, &prefix]))?;
            let expected = Tensor::cat(&[prefix, text], 1)?.to_vec3::<f32>()?;
            assert_eq!((k.to_vec3::<f32>()?, v.to_vec3::<f32>()?), (expected.clone(), expected));
        }
        cache.copy_row(2, 0, 3)?; // now rows of 3 and of 2 columns
        cache.select(0, Past::of_rows(vec![3, 2]));
        let new = columns(5, 1)?;
        let [k, _] = cache.append(0, 1, [&new, &new], None)?;
        assert_eq!(k.dims(), [2, 5, 3]);
        let parts = [&row(&prefix, 0)?, &row(&long, 0)?, &row(&new, 0)?];
        let expected = Tensor::cat(&parts, 1)?.to_vec3::<f32>()?;
        assert_eq!(row(&k, 0)?.to_vec3::<f32>()?, expected);
        let parts = [&row(&prefix, 1)?, &row(&short, 1)?, &row(&new, 1)?];
        let expected = Tensor::cat(&parts, 1)?.to_vec3::<f32>()?;
        assert_eq!(row(&k, 1)?.narrow(1, 0, 4)?.to_vec3::<f32>()?, expected);
        Ok(())
    }

    #[test]
    fn what_does_not_fit_into_the_slots_is_refused() -> Result<()> {
        let mut cache = Cache::of_slots(1, 2, 4);
        let (prefix, other) = (columns(9, 1)?, columns(9, 2)?);
        let mut append = |n, prefix: &Tensor| {
            let new = columns(0, n)?;
            cache.append(0, 1, [&new, &new], Some([prefix, prefix]))
        };
        append(4, &prefix)?;
        assert!(append(5, &prefix).is_err());
        assert!(append(4, &other).is_err());
        Ok(())
    }
}
