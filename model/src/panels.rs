//! Products of many rows with weights, for training.
//!
//! Place: under `frozen` and `fused`, where a batch of tokens learns. One side is laid out in panels, whose values at one place
//! lie side by side in lanes; the other is read where it lies, a value at a time. Weights come as they are in both directions, so no
//! transposed copy of them is kept or made. Invariant: an output is the sum of its products in their order, so its bits do not
//! depend on the other rows, the number of threads, or the processor's instruction set.

use crate::threads::{share, share_map, zeros};
use crate::wide::{LANES, Real, Vector, Wide, prefetch, vector, wide};

/// Values of a panel at one place.
const PANEL: usize = 4 * LANES;
/// Rows that are read beside a panel at a time.
const ROWS: usize = 6;
/// Outputs of a task: a whole number of [`ROWS`].
const BAND: usize = 8 * ROWS;
/// Places of a panel that stay in a core's second-level cache.
const DEPTH: usize = 1024;
/// Rows of a task whose outputs are few: a whole number of [`ROWS`].
const TALL: usize = 16 * ROWS;
/// Rows for which weights are read where they lie: too few to pay for a panel.
const FEW: usize = 3 * ROWS;

/// A matrix whose rows lie one after the other.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, T> {
    pub values: &'a [T],
    pub width: usize,
}

impl<'a, T: Real> Matrix<'a, T> {
    pub fn new(values: &'a [T], width: usize) -> Self {
        Self { values, width }
    }

    pub fn rows(&self) -> usize {
        self.values.len() / self.width
    }

    fn rows_from(self, first: usize, count: usize) -> Self {
        let values = &self.values[first * self.width..][..count * self.width];
        Self { values, ..self }
    }

    #[inline(always)]
    fn row(&self, row: usize) -> &'a [T] {
        &self.values[row * self.width..][..self.width]
    }

    /// Columns from `from` on of the rows from `first` on, zeros where either have ended.
    #[inline(always)]
    fn columns<V: Vector<T>>(&self, first: usize, from: usize) -> [V; LANES] {
        V::transposed(std::array::from_fn(|l| match first + l < self.rows() {
            true => loaded(self.row(first + l), from),
            false => V::load(&[T::zero(); LANES]),
        }))
    }

    /// (N, width) -> (width, N).
    pub fn transposed(self) -> Vec<T> {
        wide(Transpose(self))
    }
}

struct Transpose<'a, T>(Matrix<'a, T>);

impl<T: Real> Wide for Transpose<'_, T> {
    type Value = T;
    type Output = Vec<T>;

    #[inline(always)]
    fn run<V: Vector<T>, const N: usize>(self) -> Vec<T> {
        let Matrix { values, width } = self.0;
        let rows = self.0.rows();
        let mut y = vec![T::zero(); values.len()];
        for n in (0..rows).step_by(LANES) {
            for from in (0..width).step_by(LANES) {
                let columns = self.0.columns::<V>(n, from).into_iter().take(width - from);
                for (k, column) in columns.enumerate() {
                    store(column, &mut y[(from + k) * rows..][..rows], n);
                }
            }
        }
        y
    }
}

/// What an adapter adds to a product: `scale (x a^T) b^T`, a (R, I), b (O, R).
#[derive(Clone, Copy)]
pub(crate) struct LowRank<'a, T> {
    pub a: Matrix<'a, T>,
    pub b: Matrix<'a, T>,
    pub scale: T,
}

/// `x w^T`: x (N, I), w (O, I) -> (N, O).
pub(crate) fn times_transposed<T: Real>(x: Matrix<T>, w: Matrix<T>) -> Vec<T> {
    adapted(x, w, None).0
}

/// `x w^T` and what an adapter adds, x (N, I), w (O, I) -> (N, O), and the adapter's inner values `scale a x^T` (R, N).
pub(crate) fn adapted<T: Real>(x: Matrix<T>, w: Matrix<T>, adapter: Option<LowRank<T>>) -> (Vec<T>, Vec<T>) {
    let (n, outputs) = (x.rows(), w.rows());
    let rank = adapter.map_or(0, |adapter| adapter.a.rows());
    let pack = |p: usize| {
        let first = p * PANEL;
        wide(Pack { x, first, adapter })
    };
    let fill = |panel: &[T], first, y: &mut [&mut [T]]| {
        wide(Forward {
            panel,
            w,
            adapter,
            first,
            y,
        })
    };
    let mut y = zeros(n * outputs);
    let inner = |panel: &[T]| panel[x.width * (panel.len() / (x.width + rank))..].to_vec();
    let parts: Vec<Vec<T>> = if n >= 4 * PANEL * rayon::current_num_threads() {
        // a panel stays in its core's cache, the weights pass by
        share_map(y.chunks_mut(PANEL * outputs).enumerate().collect(), |(p, y)| {
            let panel = pack(p);
            for first in (0..outputs).step_by(BAND) {
                let rows = y.chunks_mut(outputs);
                let mut rows: Vec<&mut [T]> = rows.map(|y| &mut y[first..outputs.min(first + BAND)]).collect();
                fill(&panel, first, &mut rows);
            }
            inner(&panel)
        })
    } else {
        let panels: Vec<Vec<T>> = share_map((0..n.div_ceil(PANEL)).collect(), pack);
        in_bands(&mut y, outputs, BAND, |first, y| {
            for (panel, y) in panels.iter().zip(y.chunks_mut(PANEL)) {
                fill(panel, first, y);
            }
        });
        panels.iter().map(|panel| inner(panel)).collect()
    };
    let mut low = Vec::with_capacity(rank * n);
    for r in 0..rank {
        for (p, part) in parts.iter().enumerate() {
            let count = PANEL.min(n - p * PANEL);
            low.extend_from_slice(&part[r * lanes(count)..][..count]);
        }
    }
    (y, low)
}

/// The sum of products `x w`: each x (N, I), w (I, O) -> (N, O). I may differ.
pub(crate) fn sum_of_products<T: Real>(products: &[(Matrix<T>, Matrix<T>)]) -> Vec<T> {
    let (n, outputs) = (products[0].0.rows(), products[0].1.width);
    let mut y = zeros(n * outputs);
    let add = |from: usize, first: usize, y: &mut [&mut [T]]| {
        for &(x, w) in products {
            let x = x.rows_from(from, y.len());
            for depth in (0..x.width).step_by(DEPTH) {
                wide(Direct { x, w, first, depth, y });
            }
        }
    };
    if outputs <= PANEL {
        // one band: its rows are shared between the cores
        share(y.chunks_mut(TALL * outputs).collect(), |i, y| {
            add(i * TALL, 0, &mut y.chunks_mut(outputs).collect::<Vec<_>>());
        });
    } else {
        in_bands(&mut y, outputs, PANEL, |first, y| add(0, first, y));
    }
    y
}

/// Calls `fill` for each band of columns of y, on every core, with the band's first column and its part of each row.
fn in_bands<T: Real>(y: &mut [T], width: usize, band: usize, fill: impl Fn(usize, &mut [&mut [T]]) + Sync) {
    let mut bands: Vec<Vec<&mut [T]>> = Vec::new();
    bands.resize_with(width.div_ceil(band), || Vec::with_capacity(y.len() / width));
    for row in y.chunks_mut(width) {
        for (part, of_band) in row.chunks_mut(band).zip(&mut bands) {
            of_band.push(part);
        }
    }
    share(bands, |i, mut rows| fill(i * band, &mut rows));
}

/// Lanes that hold `n` values.
fn lanes(n: usize) -> usize {
    n.next_multiple_of(LANES)
}

/// `sums` and what the places of a panel add for R rows, which have as many values as the panel has places.
///
/// The panel's values at a place start every `stride`; Z vectors of them are read. `ask` is called every [`LANES`] places, to ask for
/// what is read next.
#[inline(always)]
fn with_tile<T: Real, V: Vector<T>, const R: usize, const Z: usize>(
    mut sums: [[V; Z]; R],
    panel: &[T],
    stride: usize,
    rows: [&[T]; R],
    mut ask: impl FnMut(usize),
) -> [[V; Z]; R] {
    let depth = rows[0].len();
    assert!(rows.iter().all(|row| row.len() == depth));
    assert!(depth == 0 || panel.len() >= (depth - 1) * stride + Z * LANES);
    for from in (0..depth).step_by(LANES) {
        ask(from);
        for k in from..depth.min(from + LANES) {
            // SAFETY: k is below the depth, and the panel is as long as the lines above say
            let values = unsafe { panel.get_unchecked(k * stride..k * stride + Z * LANES) };
            let values: [V; Z] = std::array::from_fn(|z| vector(values, z * LANES));
            for r in 0..R {
                // SAFETY: every row has this depth
                let x = V::load(&[unsafe { *rows[r].get_unchecked(k) }; LANES]);
                for z in 0..Z {
                    sums[r][z] = x.mul_add(values[z], sums[r][z]);
                }
            }
        }
    }
    sums
}

/// Rows of a matrix from `first` on; the last one again where there are no more.
#[inline(always)]
fn some_rows<'a, T: Real>(m: Matrix<'a, T>, first: usize) -> [&'a [T]; ROWS] {
    let last = m.rows() - 1;
    std::array::from_fn(|r| m.row((first + r).min(last)))
}

/// Calls `$run` with Z, a number of vectors that fits into registers, for parts of a panel of `$width` values.
macro_rules! by_vectors {
    ($N:ident, $width:expr, $at:ident, $Z:ident => $run:expr) => {
        let (width, mut $at) = ($width, 0);
        while $at < width {
            match (width - $at) / LANES {
                4.. if $N >= 4 => {
                    const $Z: usize = 4;
                    $run;
                    $at += 4 * LANES;
                }
                2.. if $N >= 4 => {
                    const $Z: usize = 2;
                    $run;
                    $at += 2 * LANES;
                }
                _ => {
                    const $Z: usize = 1;
                    $run;
                    $at += LANES;
                }
            }
        }
    };
}

/// Rows of x from `first` on, at most [`PANEL`], in a panel, with the adapter's inner values behind them.
struct Pack<'a, T> {
    x: Matrix<'a, T>,
    first: usize,
    adapter: Option<LowRank<'a, T>>,
}

impl<T: Real> Wide for Pack<'_, T> {
    type Value = T;
    type Output = Vec<T>;

    #[inline(always)]
    fn run<V: Vector<T>, const N: usize>(self) -> Vec<T> {
        let (x, inputs) = (self.x, self.x.width);
        let count = PANEL.min(x.rows() - self.first);
        let width = lanes(count);
        let rank = self.adapter.map_or(0, |adapter| adapter.a.rows());
        let mut panel = Vec::with_capacity((inputs + rank) * width);
        for from in (0..inputs).step_by(LANES) {
            let mut places = [T::zero(); LANES * PANEL];
            for n in (0..count).step_by(LANES) {
                for (k, column) in x.columns::<V>(self.first + n, from).into_iter().enumerate() {
                    places[k * width + n..][..LANES].copy_from_slice(&column.lanes());
                }
            }
            panel.extend_from_slice(&places[..LANES.min(inputs - from) * width]);
        }
        if let Some(LowRank { a, scale, .. }) = self.adapter {
            for first in (0..rank).step_by(ROWS) {
                let rows = some_rows(a, first);
                let mut low = [T::zero(); ROWS * PANEL];
                by_vectors!(N, width, at, Z => {
                    let sums = [[V::load(&[T::zero(); LANES]); Z]; ROWS];
                    let sums = with_tile(sums, &panel[at..], width, rows, |_| ());
                    for (r, sums) in sums.into_iter().enumerate() {
                        for (z, sum) in sums.into_iter().enumerate() {
                            let y = &mut low[r * width + at + z * LANES..][..LANES];
                            y.copy_from_slice(&sum.lanes().map(|sum| sum * scale));
                        }
                    }
                });
                panel.extend_from_slice(&low[..ROWS.min(rank - first) * width]);
            }
        }
        panel
    }
}

/// A band of outputs of one panel.
struct Forward<'a, 'y, T> {
    panel: &'a [T],
    w: Matrix<'a, T>,
    adapter: Option<LowRank<'a, T>>,
    first: usize,
    y: &'a mut [&'y mut [T]],
}

impl<T: Real> Wide for Forward<'_, '_, T> {
    type Value = T;
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<T>, const N: usize>(self) {
        let (w, width, count) = (self.w, lanes(self.y.len()), self.y[0].len());
        let (x, low) = self.panel.split_at(w.width * width);
        // (outputs, places of the panel)
        let mut outputs = [T::zero(); BAND * PANEL];
        for o in (0..count).step_by(ROWS) {
            let rows = some_rows(w, self.first + o);
            let next = some_rows(w, self.first + o + ROWS);
            let rows_b = self.adapter.map(|adapter| some_rows(adapter.b, self.first + o));
            by_vectors!(N, width, at, Z => {
                let sums = [[V::load(&[T::zero(); LANES]); Z]; ROWS];
                let ask = |k: usize| next.iter().for_each(|row| prefetch(&row[k..k + 1]));
                let mut sums = with_tile(sums, &x[at..], width, rows, ask);
                if let Some(rows) = rows_b {
                    sums = with_tile(sums, &low[at..], width, rows, |_| ());
                }
                for (r, sums) in sums.into_iter().enumerate() {
                    for (z, sum) in sums.into_iter().enumerate() {
                        let at = (o + r) * PANEL + at + z * LANES;
                        outputs[at..at + LANES].copy_from_slice(&sum.lanes());
                    }
                }
            });
        }
        for n in (0..self.y.len()).step_by(LANES) {
            for o in (0..count).step_by(LANES) {
                let outputs = std::array::from_fn(|l| vector(&outputs, (o + l) * PANEL + n));
                for (y, outputs) in self.y[n..].iter_mut().zip(V::transposed(outputs)) {
                    store(outputs, y, o);
                }
            }
        }
    }
}

/// Adds to a band of outputs, at most [`PANEL`], the products of [`DEPTH`] inputs.
struct Direct<'a, 'y, T> {
    x: Matrix<'a, T>,
    w: Matrix<'a, T>,
    first: usize,
    depth: usize,
    y: &'a mut [&'y mut [T]],
}

impl<T: Real> Wide for Direct<'_, '_, T> {
    type Value = T;
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<T>, const N: usize>(self) {
        let (x, w, y) = (self.x, self.w, self.y);
        let (n, count) = (y.len(), y[0].len());
        let (width, inputs) = (lanes(count), DEPTH.min(x.width - self.depth));
        let mut packed = Vec::new();
        let (panel, stride) = if n <= FEW && count % LANES == 0 {
            (&w.values[self.depth * w.width + self.first..], w.width)
        } else {
            packed.reserve_exact(inputs * width);
            for k in 0..inputs {
                packed.extend_from_slice(&w.row(self.depth + k)[self.first..][..count]);
                packed.resize((k + 1) * width, T::zero());
            }
            (packed.as_slice(), width)
        };
        let (next_depth, next_first) = match self.depth + inputs {
            end if end < w.rows() => (end, self.first),
            _ => (0, w.width.min(self.first + count)),
        };
        let columns = next_first..w.width.min(next_first + PANEL);
        let mut next = (next_depth..w.rows().min(next_depth + DEPTH)).map(|k| &w.row(k)[columns.clone()]);
        for first in (0..n).step_by(ROWS) {
            let rows = some_rows(x, first).map(|row| &row[self.depth..][..inputs]);
            let of_tile = &mut y[first..n.min(first + ROWS)];
            by_vectors!(N, width, at, Z => {
                let mut sums = [[V::load(&[T::zero(); LANES]); Z]; ROWS];
                for (sums, y) in sums.iter_mut().zip(&*of_tile) {
                    for (z, sum) in sums.iter_mut().enumerate() {
                        *sum = loaded(y, at + z * LANES);
                    }
                }
                let sums = with_tile(sums, &panel[at..], stride, rows, |_| next.next().into_iter().for_each(prefetch));
                for (sums, y) in sums.into_iter().zip(&mut *of_tile) {
                    for (z, sum) in sums.into_iter().enumerate() {
                        store(sum, y, at + z * LANES);
                    }
                }
            });
        }
    }
}

/// Values of a row from a place on, zeros where it has ended.
#[inline(always)]
fn loaded<T: Real, V: Vector<T>>(row: &[T], at: usize) -> V {
    if at + LANES <= row.len() {
        return vector(row, at);
    }
    let mut values = [T::zero(); LANES];
    let rest = &row[at.min(row.len())..];
    values[..rest.len()].copy_from_slice(rest);
    V::load(&values)
}

/// As [`loaded`], the other way.
#[inline(always)]
fn store<T: Real, V: Vector<T>>(values: V, row: &mut [T], at: usize) {
    let end = row.len().min(at + LANES);
    let from = at.min(end);
    row[from..end].copy_from_slice(&values.lanes()[..end - from]);
}

#[cfg(test)]
mod tests;
