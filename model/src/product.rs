//! Products of rows with rows, `x W^T`, on the CPU, that do not depend on how the rows are batched.
//!
//! Place: under `frozen`, wherever a decoder serves, and under `fused::attention`. candle's product sums in an order that depends
//! on the number of rows, and runs one row on one core (0.11.1). Invariant: an output's bits depend on its row of x and its row of
//! W alone, not on the other rows, the number of threads, or the processor's instruction set.

use rayon::prelude::*;

use crate::wide::{LANES, Real, Vector, Wide, last_vector, total, vector, wide};

/// Bytes of x, and of W, that a thread goes through at a time: both stay in a core's second-level cache.
const BLOCK_BYTES: usize = 1 << 18;
/// Multiplications below which other cores are not woken: the product is over before they are up.
const SHARED_MIN: usize = 1 << 18;

/// Some rows of a matrix: row i starts at `i * stride`.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a, T> {
    pub values: &'a [T],
    pub stride: usize,
    pub count: usize,
}

impl<'a, T> Rows<'a, T> {
    /// The whole of a matrix whose rows lie one after the other.
    pub fn dense(values: &'a [T], width: usize) -> Self {
        let count = values.len().checked_div(width).unwrap_or(0);
        Self {
            values,
            stride: width,
            count,
        }
    }

    #[inline(always)]
    fn from(self, first: usize, count: usize) -> Self {
        Self {
            values: &self.values[first * self.stride..],
            stride: self.stride,
            count: count.min(self.count - first),
        }
    }
}

/// x (N, `width`) and w (O, `width`) -> `x w^T` (N, O), on every core where that pays.
pub(crate) fn product<T: Real>(x: Rows<T>, w: Rows<T>, width: usize) -> Vec<T> {
    let outputs = w.count;
    let band = block(width, size_of::<T>());
    let mut y = vec![T::zero(); x.count * outputs];
    if x.count * outputs * width < SHARED_MIN {
        product_into(x, w, width, &mut y, outputs);
    } else if x.count == 1 {
        let bands = y.par_chunks_mut(band).enumerate();
        bands.for_each(|(i, y)| {
            let stride = y.len();
            product_into(x, w.from(i * band, band), width, y, stride);
        });
    } else {
        let bands: Vec<Vec<T>> = (0..outputs.div_ceil(band))
            .into_par_iter()
            .map(|i| {
                let w = w.from(i * band, band);
                let mut y = vec![T::zero(); x.count * w.count];
                product_into(x, w, width, &mut y, w.count);
                y
            })
            .collect();
        for (i, of_band) in bands.iter().enumerate() {
            let count = of_band.len() / x.count;
            for (y, of_band) in y.chunks_mut(outputs).zip(of_band.chunks(count)) {
                y[i * band..i * band + count].copy_from_slice(of_band);
            }
        }
    }
    y
}

/// Rows of a block, a multiple of every tile.
fn block(width: usize, value_bytes: usize) -> usize {
    let rows = BLOCK_BYTES / (width.max(1) * value_bytes);
    (rows / 8 * 8).clamp(8, 64)
}

/// As [`product`], on this thread, into rows of `y` that start every `stride` values.
pub(crate) fn product_into<T: Real>(x: Rows<T>, w: Rows<T>, width: usize, y: &mut [T], stride: usize) {
    let block = block(width, size_of::<T>());
    for first in (0..x.count).step_by(block) {
        let (x, y) = (x.from(first, block), &mut y[first * stride..]);
        wide(Tiles { x, w, width, y, stride });
    }
}

/// A product that runs tile by tile in registers.
pub(crate) struct Tiles<'a, T> {
    pub x: Rows<'a, T>,
    pub w: Rows<'a, T>,
    pub width: usize,
    pub y: &'a mut [T],
    pub stride: usize,
}

impl<T: Real> Wide for Tiles<'_, T> {
    type Value = T;
    type Output = ();

    /// Tiles of N rows of x and N rows of w, the rest in smaller ones: every tile gives the same bits.
    #[inline(always)]
    fn run<V: Vector<T>, const N: usize>(mut self) {
        let (rows, outputs) = (self.x.count - self.x.count % N, self.w.count - self.w.count % N);
        for o in (0..outputs).step_by(N) {
            for r in (0..rows).step_by(N) {
                self.tile::<V, N, N>(r, o);
            }
            for r in rows..self.x.count {
                self.tile::<V, 1, N>(r, o);
            }
        }
        for o in outputs..self.w.count {
            for r in 0..self.x.count {
                self.tile::<V, 1, 1>(r, o);
            }
        }
    }
}

impl<T: Real> Tiles<'_, T> {
    #[inline(always)]
    fn tile<V: Vector<T>, const R: usize, const O: usize>(&mut self, row: usize, output: usize) {
        let (x, w, width) = (self.x, self.w, self.width);
        let mut xs: [&[T]; R] = [&[]; R];
        for (r, xs) in xs.iter_mut().enumerate() {
            *xs = &x.values[(row + r) * x.stride..][..width];
        }
        let mut ws: [&[T]; O] = [&[]; O];
        for (o, ws) in ws.iter_mut().enumerate() {
            *ws = &w.values[(output + o) * w.stride..][..width];
        }
        let zero = V::load(&[T::zero(); LANES]);
        let (mut sums, mut xv, mut wv) = ([[zero; O]; R], [zero; R], [zero; O]);
        let whole = width - width % LANES;
        for at in (0..whole).step_by(LANES) {
            for r in 0..R {
                xv[r] = vector(xs[r], at);
            }
            for o in 0..O {
                wv[o] = vector(ws[o], at);
            }
            add_products(&mut sums, &xv, &wv);
        }
        if whole < width {
            for r in 0..R {
                xv[r] = last_vector(xs[r], whole);
            }
            for o in 0..O {
                wv[o] = last_vector(ws[o], whole);
            }
            add_products(&mut sums, &xv, &wv);
        }
        for (r, totals) in totals(&sums).into_iter().enumerate() {
            self.y[(row + r) * self.stride + output..][..O].copy_from_slice(&totals);
        }
    }
}

/// The [`total`] of each vector, of sixteen together.
#[inline(always)]
fn totals<T: Real, V: Vector<T>, const R: usize, const O: usize>(sums: &[[V; O]; R]) -> [[T; O]; R] {
    if R * O != LANES {
        return sums.map(|sums| sums.map(|sums| total(&sums.lanes())));
    }
    let one = V::load(&[T::one(); LANES]);
    let add = |a: V, b: V| a.mul_add(one, b);
    let all: [V; LANES] = V::transposed(std::array::from_fn(|i| sums[i / O][i % O]));
    let eight: [V; 8] = std::array::from_fn(|l| add(all[l], all[l + 8]));
    let four: [V; 4] = std::array::from_fn(|l| add(eight[l], eight[l + 4]));
    let totals = add(add(four[0], four[2]), add(four[1], four[3])).lanes();
    std::array::from_fn(|r| std::array::from_fn(|o| totals[r * O + o]))
}

/// `sums[r][o] += x[r] w[o]`.
#[inline(always)]
fn add_products<T: Real, V: Vector<T>, const R: usize, const O: usize>(sums: &mut [[V; O]; R], x: &[V; R], w: &[V; O]) {
    for r in 0..R {
        for o in 0..O {
            sums[r][o] = x[r].mul_add(w[o], sums[r][o]);
        }
    }
}

/// Coefficients of a blend: that of row r and summand j is at `r * row + j * column`.
#[derive(Clone, Copy)]
pub(crate) struct Coefficients<'a, T> {
    pub values: &'a [T],
    pub row: usize,
    pub column: usize,
}

/// Rows of y, each a sum of the rows of b in their order: `y[r] += sum over j of a[r][j] b[j]`, N rows of y at a time.
///
/// `y` has `rows` rows of `width` values that start every `stride`.
#[inline(always)]
pub(crate) fn blend<T: Real, V: Vector<T>, const N: usize>(
    a: Coefficients<T>,
    b: Rows<T>,
    y: &mut [T],
    (rows, width, stride): (usize, usize, usize),
) {
    let (whole, mut column) = (rows - rows % N, 0);
    while column < width {
        let left = width - column;
        if left >= 4 * LANES && N >= 4 {
            for row in (0..whole).step_by(N) {
                blend_tile::<T, V, N, 4>(a, b, &mut y[row * stride..], (row, column, stride));
            }
            for row in whole..rows {
                blend_tile::<T, V, 1, 4>(a, b, &mut y[row * stride..], (row, column, stride));
            }
            column += 4 * LANES;
        } else if left >= LANES {
            for row in (0..whole).step_by(N) {
                blend_tile::<T, V, N, 1>(a, b, &mut y[row * stride..], (row, column, stride));
            }
            for row in whole..rows {
                blend_tile::<T, V, 1, 1>(a, b, &mut y[row * stride..], (row, column, stride));
            }
            column += LANES;
        } else {
            for row in 0..rows {
                let y = &mut y[row * stride + column..][..left];
                let mut sums: V = last_vector(y, 0);
                for j in 0..b.count {
                    let summand = last_vector(&b.values[j * b.stride + column..][..left], 0);
                    sums = V::load(&[a.values[row * a.row + j * a.column]; LANES]).mul_add(summand, sums);
                }
                y.copy_from_slice(&sums.lanes()[..left]);
            }
            column = width;
        }
    }
}

/// R rows from `row` on and Z vectors of them; `y` begins with the first of these rows.
#[inline(always)]
fn blend_tile<T: Real, V: Vector<T>, const R: usize, const Z: usize>(
    a: Coefficients<T>,
    b: Rows<T>,
    y: &mut [T],
    (row, column, stride): (usize, usize, usize),
) {
    if b.count == 0 {
        return;
    }
    let mut sums: [[V; Z]; R] =
        std::array::from_fn(|r| std::array::from_fn(|z| vector(y, r * stride + column + z * LANES)));
    assert!((row + R - 1) * a.row + (b.count - 1) * a.column < a.values.len());
    for j in 0..b.count {
        let summand = &b.values[j * b.stride + column..][..Z * LANES];
        let summand: [V; Z] = std::array::from_fn(|z| vector(summand, z * LANES));
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: r is below R and j below the count, so this is at most the index that was looked at above
            let coefficient = unsafe { *a.values.get_unchecked((row + r) * a.row + j * a.column) };
            let coefficient = V::load(&[coefficient; LANES]);
            for (z, sum) in sums.iter_mut().enumerate() {
                *sum = coefficient.mul_add(summand[z], *sum);
            }
        }
    }
    for (r, sums) in sums.into_iter().enumerate() {
        for (z, sum) in sums.into_iter().enumerate() {
            y[r * stride + column + z * LANES..][..LANES].copy_from_slice(&sum.lanes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(n: usize, seed: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * seed).sin()).collect()
    }

    /// Sizes around tiles, lanes and bands, the last ones shared by cores.
    const SIZES: [(usize, usize, usize); 7] = [
        (1, 1, 1),
        (3, 5, 15),
        (8, 16, 16),
        (9, 67, 40),
        (1, 1021, 515),
        (8, 130, 515),
        (37, 70, 257),
    ];

    #[test]
    fn products_are_sums_of_products() {
        for (rows, outputs, width) in SIZES {
            let (x, w) = (values(rows * width, 0.37), values(outputs * width, 0.73));
            let y = product(Rows::dense(&x, width), Rows::dense(&w, width), width);
            for (i, y) in y.iter().enumerate() {
                let (x, w) = (&x[i / outputs * width..][..width], &w[i % outputs * width..][..width]);
                let exact: f64 = x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
                assert!(
                    (f64::from(*y) - exact).abs() < 1e-4,
                    "{rows} {outputs} {width} at {i}: {y} {exact}"
                );
            }
        }
    }

    #[test]
    fn neither_the_batch_nor_the_number_of_threads_changes_a_bit() {
        for (rows, outputs, width) in SIZES {
            let (x, w) = (values(rows * width, 0.37), values(outputs * width, 0.73));
            let w = Rows::dense(&w, width);
            let alone = x.chunks(width).flat_map(|x| product(Rows::dense(x, width), w, width));
            let alone: Vec<f32> = alone.collect();
            for threads in [1, 2, 5] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let together = pool.install(|| product(Rows::dense(&x, width), w, width));
                assert!(together == alone, "{rows} rows, {outputs} outputs, {threads} threads");
            }
        }
    }

    #[test]
    fn a_wider_instruction_set_changes_no_bit() {
        for (rows, outputs, width) in SIZES {
            let (x, w) = (values(rows * width, 0.37), values(outputs * width, 0.73));
            let (x, w) = (Rows::dense(&x, width), Rows::dense(&w, width));
            let (mut baseline, mut chosen) = (vec![0f32; rows * outputs], vec![0f32; rows * outputs]);
            let y = &mut baseline;
            let tiles = Tiles {
                x,
                w,
                width,
                y,
                stride: outputs,
            };
            tiles.run::<crate::wide::Lanes<f32>, 3>();
            product_into(x, w, width, &mut chosen, outputs);
            assert!(baseline == chosen, "{rows} {outputs} {width}");
        }
    }

    #[test]
    fn rows_may_lie_apart() {
        let x = values(4 * 10, 0.37);
        let apart = Rows {
            values: &x,
            stride: 10,
            count: 4,
        };
        let dense: Vec<f32> = x.chunks(10).flat_map(|x| x[..6].to_vec()).collect();
        let w = values(5 * 6, 0.73);
        let w = Rows::dense(&w, 6);
        assert_eq!(product(apart, w, 6), product(Rows::dense(&dense, 6), w, 6));
    }
}
