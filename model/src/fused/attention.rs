//! Attention without scores in memory: each thread keeps those of a few queries, and the gradient computes them again.
//!
//! Place: the core of `attention`. Shapes: q (B, T, H, D), k and v (B, S, K, D) -> (B, T, H, D); the mask, which is added to the
//! scores, broadcasts to (B, H, T, S). Invariant: a query's result depends on what it sees alone: columns whose mask is the lowest
//! number change no bit, so padding does not.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

use super::{by_type, held, stored, values};
use crate::product::{Coefficients, Rows, Tiles, blend};
use crate::threads::{share, share_map, zeros};
use crate::wide::{LANES, Real, Vector, Wide, last_vector, max_of, sum_of, wide};

/// Queries that one thread takes at a time: one a lane.
const QUERIES: usize = LANES;
/// Multiplications of queries with keys below which other cores are not woken.
const SHARED_MIN: usize = 1 << 17;

/// `softmax(scale q k^T + mask) v`, query head h with key head h K / H.
#[derive(Clone)]
pub(crate) struct Attend {
    pub mask: Tensor,
    pub scale: f64,
}

/// Where the values of one call lie.
#[derive(Clone, Copy)]
struct Sizes {
    b: usize,
    t: usize,
    s: usize,
    heads: usize,
    kv_heads: usize,
    d: usize,
    /// Values between the keys of one row of the batch and the next.
    kv_stride: usize,
}

/// The tensors of one call.
struct Inputs<'a, T> {
    q: &'a [T],
    k: &'a [T],
    v: &'a [T],
    mask: Mask<'a, T>,
    scale: T,
    sizes: Sizes,
}

/// A mask of any shape that broadcasts to (B, H, T, S).
struct Mask<'a, T> {
    values: &'a [T],
    strides: [usize; 4],
    s: usize,
    /// Columns of each row up to the last one that is visible.
    seen: Vec<usize>,
}

impl<'a, T: Real> Mask<'a, T> {
    fn new(values: &'a [T], dims: &[usize], s: usize) -> Self {
        let mut strides = [0; 4];
        let mut stride = 1;
        for (i, &dim) in dims.iter().enumerate().rev() {
            strides[4 - dims.len() + i] = if dim == 1 { 0 } else { stride };
            stride *= dim;
        }
        let seen = |row: &[T]| row.iter().rposition(|&m| m > T::LOWEST).map_or(0, |last| last + 1);
        Self {
            values,
            strides,
            s,
            seen: values.chunks(s).map(seen).collect(),
        }
    }

    #[inline(always)]
    fn at(&self, b: usize, head: usize, t: usize) -> usize {
        let [of_b, of_head, of_t, _] = self.strides;
        b * of_b + head * of_head + t * of_t
    }

    /// The mask of one query.
    #[inline(always)]
    fn row(&self, b: usize, head: usize, t: usize) -> &'a [T] {
        &self.values[self.at(b, head, t)..][..self.s]
    }

    /// Columns that some of these queries see, up to the last one.
    #[inline(always)]
    fn seen(&self, at: Queries) -> usize {
        let of = |t| self.seen[self.at(at.b, at.head, t) / self.s];
        (at.t..at.t + at.count).map(of).max().unwrap_or(0)
    }
}

impl<'a, T: Real> Inputs<'a, T> {
    /// Rows of a head's queries from token `t` on.
    #[inline(always)]
    fn queries(&self, of: &'a [T], b: usize, t: usize, head: usize, count: usize) -> Rows<'a, T> {
        let Sizes { t: all, heads, d, .. } = self.sizes;
        Rows {
            values: &of[((b * all + t) * heads + head) * d..],
            stride: heads * d,
            count,
        }
    }

    /// Rows of a head's first keys or values.
    #[inline(always)]
    fn keys(&self, of: &'a [T], b: usize, kv_head: usize, count: usize) -> Rows<'a, T> {
        let Sizes {
            kv_heads, d, kv_stride, ..
        } = self.sizes;
        Rows {
            values: &of[b * kv_stride + kv_head * d..],
            stride: kv_heads * d,
            count,
        }
    }

    /// Weights of `count` queries over their first `seen` columns, into rows of `weights` that start every S.
    #[inline(always)]
    fn weigh<V: Vector<T>, const N: usize>(&self, at: Queries, seen: usize, weights: &mut [T]) {
        let Queries { b, t, head, count } = at;
        let Sizes {
            s, heads, kv_heads, d, ..
        } = self.sizes;
        Tiles {
            x: self.queries(self.q, b, t, head, count),
            w: self.keys(self.k, b, head * kv_heads / heads, seen),
            width: d,
            y: weights,
            stride: s,
        }
        .run::<V, N>();
        for (i, weights) in weights.chunks_mut(s).take(count).enumerate() {
            let (weights, mask) = (&mut weights[..seen], self.mask.row(b, head, t + i));
            for (w, &mask) in weights.iter_mut().zip(mask) {
                *w = w.mul_add(self.scale, mask);
            }
            let largest = max_of(weights);
            weights.iter_mut().for_each(|w| *w = (*w - largest).exp());
        }
        let sums = sums_in_order::<T, V>(weights, (count, seen, s));
        for (weights, &sum) in weights.chunks_mut(s).zip(&sums[..count]) {
            let share = T::one() / sum;
            weights[..seen].iter_mut().for_each(|w| *w *= share);
        }
    }
}

/// The sum of each of `count` rows that start every `stride`, over their first `seen` values.
///
/// In order, so that hidden columns, which are zero, change nothing; rows side by side, so that it takes no longer.
#[inline(always)]
fn sums_in_order<T: Real, V: Vector<T>>(rows: &[T], (count, seen, stride): (usize, usize, usize)) -> [T; QUERIES] {
    let zero = V::load(&[T::zero(); LANES]);
    let one = V::load(&[T::one(); LANES]);
    let mut sums = zero;
    for from in (0..seen).step_by(LANES) {
        let columns = from..seen.min(from + LANES);
        let rows = std::array::from_fn(|i| match i < count {
            true => last_vector(&rows[i * stride..][columns.clone()], 0),
            false => zero,
        });
        sums = V::transposed(rows)
            .into_iter()
            .fold(sums, |sums, column| column.mul_add(one, sums));
    }
    sums.lanes()
}

/// Some queries of one head.
#[derive(Clone, Copy)]
struct Queries {
    b: usize,
    t: usize,
    head: usize,
    count: usize,
}

/// The outputs of some tokens in some heads.
struct Forward<'a, 'y, T> {
    inputs: &'a Inputs<'a, T>,
    b: usize,
    t: usize,
    tokens: usize,
    heads: std::ops::Range<usize>,
    /// (tokens, heads, D).
    y: &'y mut [T],
}

impl<T: Real> Wide for Forward<'_, '_, T> {
    type Value = T;
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<T>, const N: usize>(self) {
        let (inputs, b, t, count) = (self.inputs, self.b, self.t, self.tokens);
        let Sizes {
            s, heads, kv_heads, d, ..
        } = inputs.sizes;
        let stride = self.heads.len() * d;
        let mut weights = vec![T::zero(); count * s];
        for (i, head) in self.heads.enumerate() {
            let queries = Queries { b, t, head, count };
            let seen = inputs.mask.seen(queries);
            inputs.weigh::<V, N>(queries, seen, &mut weights);
            let a = Coefficients {
                values: &weights,
                row: s,
                column: 1,
            };
            let v = inputs.keys(inputs.v, b, head * kv_heads / heads, seen);
            blend::<T, V, N>(a, v, &mut self.y[i * d..], (count, d, stride));
        }
    }
}

fn forward<T: Real>(inputs: &Inputs<T>) -> Vec<T> {
    let Sizes { b, t, s, heads, d, .. } = inputs.sizes;
    let mut y = zeros(b * t * heads * d);
    // one token has its heads side by side, so each can be another task
    let (tokens, of_task) = if t == 1 { (1, 1) } else { (QUERIES, heads) };
    let tasks = y.chunks_mut(t * heads * d).enumerate().flat_map(|(b, y)| {
        let parts = y.chunks_mut(tokens * of_task * d).enumerate();
        parts.map(move |(i, y)| (b, i, y))
    });
    let tasks: Vec<(usize, usize, &mut [T])> = tasks.collect();
    let run = |(b, i, y): (usize, usize, &mut [T])| {
        let (t, first) = if t == 1 { (0, i) } else { (i * tokens, 0) };
        let tokens = y.len() / (of_task * d);
        wide(Forward {
            inputs,
            b,
            t,
            tokens,
            heads: first..first + of_task,
            y,
        });
    };
    if b * t * s * heads * d < SHARED_MIN {
        tasks.into_iter().for_each(run);
    } else {
        share(tasks, |_, task| run(task));
    }
    y
}

/// Gradients of the queries (G, T, D), keys and values (S, D) of one key head.
struct Backward<'a, T> {
    inputs: &'a Inputs<'a, T>,
    grad: &'a [T],
    b: usize,
    kv_head: usize,
}

impl<T: Real> Wide for Backward<'_, T> {
    type Value = T;
    type Output = [Vec<T>; 3];

    #[inline(always)]
    fn run<V: Vector<T>, const N: usize>(self) -> [Vec<T>; 3] {
        let (inputs, b, kv_head) = (self.inputs, self.b, self.kv_head);
        let Sizes {
            t: all,
            s,
            heads,
            kv_heads,
            d,
            ..
        } = inputs.sizes;
        let group = heads / kv_heads;
        let mut dq = vec![T::zero(); group * all * d];
        let (mut dk, mut dv) = (vec![T::zero(); s * d], vec![T::zero(); s * d]);
        let (mut weights, mut slopes) = (vec![T::zero(); QUERIES * s], vec![T::zero(); QUERIES * s]);
        for (g, t) in (0..group).flat_map(|g| (0..all).step_by(QUERIES).map(move |t| (g, t))) {
            let (head, count) = (kv_head * group + g, QUERIES.min(all - t));
            let queries = Queries { b, t, head, count };
            let seen = inputs.mask.seen(queries);
            inputs.weigh::<V, N>(queries, seen, &mut weights);
            let grads = inputs.queries(self.grad, b, t, head, count);
            let queries = inputs.queries(inputs.q, b, t, head, count);
            Tiles {
                x: grads,
                w: inputs.keys(inputs.v, b, kv_head, seen),
                width: d,
                y: &mut slopes,
                stride: s,
            }
            .run::<V, N>();
            let across = |values| Coefficients {
                values,
                row: 1,
                column: s,
            };
            blend::<T, V, N>(across(&weights), grads, &mut dv, (seen, d, d));
            for i in 0..count {
                let (weights, slopes) = (&weights[i * s..][..seen], &mut slopes[i * s..][..seen]);
                let mean = sum_of(seen, |j| weights[j] * slopes[j]);
                for (slope, &w) in slopes.iter_mut().zip(weights) {
                    *slope = w * (*slope - mean) * inputs.scale;
                }
            }
            let across = |values| Coefficients {
                values,
                row: 1,
                column: s,
            };
            blend::<T, V, N>(across(&slopes), queries, &mut dk, (seen, d, d));
            let a = Coefficients {
                values: &slopes,
                row: s,
                column: 1,
            };
            let keys = inputs.keys(inputs.k, b, kv_head, seen);
            blend::<T, V, N>(a, keys, &mut dq[(g * all + t) * d..], (count, d, d));
        }
        [dq, dk, dv]
    }
}

/// Gradients of q, k and v, one after the other.
fn backward<T: Real>(inputs: &Inputs<T>, grad: &[T]) -> Vec<T> {
    let Sizes {
        b,
        t,
        s,
        heads,
        kv_heads,
        d,
        ..
    } = inputs.sizes;
    let parts: Vec<[Vec<T>; 3]> = share_map((0..b * kv_heads).collect(), |i| {
        let (b, kv_head) = (i / kv_heads, i % kv_heads);
        wide(Backward {
            inputs,
            grad,
            b,
            kv_head,
        })
    });
    let (of_q, of_k) = (b * t * heads * d, b * s * kv_heads * d);
    let mut grads = zeros(of_q + 2 * of_k);
    let (dq, rest) = grads.split_at_mut(of_q);
    let (dk, dv) = rest.split_at_mut(of_k);
    // (n, rows, D) of one row of the batch and one key head -> (rows, heads, D)
    let spread = |y: &mut [T], part: &[T], heads: usize, head: usize, rows: usize| {
        for (i, row) in part.chunks(d).enumerate() {
            y[(i % rows * heads + head + i / rows) * d..][..d].copy_from_slice(row);
        }
    };
    for (i, [q, k, v]) in parts.iter().enumerate() {
        let (b, kv_head) = (i / kv_heads, i % kv_heads);
        spread(&mut dq[b * t * heads * d..], q, heads, kv_head * heads / kv_heads, t);
        spread(&mut dk[b * s * kv_heads * d..], k, kv_heads, kv_head, s);
        spread(&mut dv[b * s * kv_heads * d..], v, kv_heads, kv_head, s);
    }
    grads
}

/// Sizes of a call, its keys in a tensor of their own or the first columns of a cache.
fn sizes(q: &Layout, k: &Layout, v: &Layout) -> Result<Sizes> {
    let ((b, t, heads, d), (kb, s, kv_heads, kd)) = (q.shape().dims4()?, k.shape().dims4()?);
    let &[kv_stride, of_s, of_head, 1] = k.stride() else {
        candle_core::bail!("attention takes keys whose dimensions lie side by side, not {k:?}")
    };
    let fits = (kb, kd) == (b, d) && heads % kv_heads == 0 && v.shape() == k.shape() && v.stride() == k.stride();
    if !fits || (of_s, of_head) != (kv_heads * d, d) {
        candle_core::bail!("attention of queries {q:?} over keys {k:?} and values {v:?}");
    }
    Ok(Sizes {
        b,
        t,
        s,
        heads,
        kv_heads,
        d,
        kv_stride,
    })
}

impl Attend {
    fn on<T: Real, R>(&self, [q, k, v]: [(&CpuStorage, &Layout); 3], f: impl FnOnce(&Inputs<T>) -> R) -> Result<R> {
        let sizes = sizes(q.1, k.1, v.1)?;
        let mask = self.mask.storage_and_layout();
        let rest = |(storage, layout): (&'_ CpuStorage, &Layout)| -> Result<std::ops::Range<usize>> {
            Ok(layout.start_offset()..storage.as_slice::<T>()?.len())
        };
        Ok(f(&Inputs {
            q: values(q.0, q.1)?,
            k: &k.0.as_slice()?[rest(k)?],
            v: &v.0.as_slice()?[rest(v)?],
            mask: Mask::new(held(&mask)?, self.mask.dims(), sizes.s),
            scale: T::from_f64(self.scale),
            sizes,
        }))
    }
}

impl CustomOp3 for Attend {
    fn name(&self) -> &'static str {
        "attend"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        l1: &Layout,
        k: &CpuStorage,
        l2: &Layout,
        v: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let inputs = [(q, l1), (k, l2), (v, l3)];
        let y = by_type!(q, T => stored(self.on::<T, _>(inputs, forward)?));
        Ok((y, l1.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let backward = AttendBackward {
            of: self,
            grad: grad.contiguous()?,
        };
        let grads = q.apply_op3_no_bwd(k, v, &backward)?;
        let (of_q, of_k) = (q.elem_count(), k.elem_count());
        let part = |from, of: &Tensor| grads.narrow(0, from, of.elem_count())?.reshape(of.shape()).map(Some);
        Ok((part(0, q)?, part(of_q, k)?, part(of_q + of_k, v)?))
    }
}

struct AttendBackward<'a> {
    of: &'a Attend,
    grad: Tensor,
}

impl CustomOp3 for AttendBackward<'_> {
    fn name(&self) -> &'static str {
        "attend-backward"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        l1: &Layout,
        k: &CpuStorage,
        l2: &Layout,
        v: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let inputs = [(q, l1), (k, l2), (v, l3)];
        let grad = self.grad.storage_and_layout();
        let grads: CpuStorage = by_type!(q, T => {
            let grad = held::<T>(&grad)?;
            stored(self.of.on::<T, _>(inputs, |inputs| backward(inputs, grad))?)
        });
        let n = l1.shape().elem_count() + l2.shape().elem_count() + l3.shape().elem_count();
        Ok((grads, Shape::from(n)))
    }
}
