//! Twelve leads side by side: one sample of every lead is a [`Frame`], and the hot loops run over frames.
//!
//! Place: under every stage of the chain. Invariant: an operation on a lane sees that lane alone, in a fixed order, so a wider
//! instruction set gives the same bits: no fused multiply-add, no reordered sums.

use crate::LEADS;

/// One sample of every lead, microvolts.
pub type Frame = [f32; LEADS];

pub(super) use crate::wide::wide;

/// Sum over the lanes.
#[inline(always)]
pub fn sum(frame: &Frame) -> f32 {
    let four: [f32; 4] = std::array::from_fn(|l| frame[l] + frame[l + 4] + frame[l + 8]);
    (four[0] + four[2]) + (four[1] + four[3])
}

/// Blocks that [`median_of_block_maxima`] cuts frames into.
const BLOCKS: usize = 8;

/// Largest magnitude of each lane in each eighth of the frames: median over the eighths.
pub fn median_of_block_maxima(frames: &[Frame]) -> Frame {
    let mut maxima = [[0f32; LEADS]; BLOCKS];
    let block = frames.len().div_ceil(BLOCKS).max(1);
    for (top, block) in maxima.iter_mut().zip(frames.chunks(block)) {
        *top = block_maximum(block);
    }
    std::array::from_fn(|l| {
        maxima.sort_unstable_by(|a, b| a[l].total_cmp(&b[l]));
        maxima[BLOCKS / 2][l]
    })
}

wide! {
    fn block_maximum(frames: &[Frame]) -> Frame {
        let mut top = [0f32; LEADS];
        for frame in frames {
            for l in 0..LEADS {
                let v = frame[l].abs();
                top[l] = if v > top[l] { v } else { top[l] };
            }
        }
        top
    }

    /// Dot product of two stretches of frames, all lanes together.
    pub fn dot(a: &[Frame], b: &[Frame]) -> f32 {
        let (mut even, mut odd) = ([0f32; LEADS], [0f32; LEADS]);
        let (pairs_a, pairs_b) = (a.chunks_exact(2), b.chunks_exact(2));
        if let ([x], [y]) = (pairs_a.remainder(), pairs_b.remainder()) {
            even = std::array::from_fn(|l| x[l] * y[l]);
        }
        for (x, y) in pairs_a.zip(pairs_b) {
            for l in 0..LEADS {
                even[l] += x[0][l] * y[0][l];
                odd[l] += x[1][l] * y[1][l];
            }
        }
        sum(&std::array::from_fn(|l| even[l] + odd[l]))
    }
}

/// Rows that [`medians`] takes at most; of more, so many evenly spaced ones.
pub const ROWS_MAX: usize = 32;
/// Frames that are sorted at a time: with 32 rows they stay in the first-level cache.
const TILE: usize = 8;

/// Median over the rows at each frame and lane, the mean of the middle two for an even count.
///
/// All rows have the length of `out`; no row gives zeros.
pub fn medians(rows: &[&[Frame]], out: &mut [Frame]) {
    let step = rows.len().div_ceil(ROWS_MAX).max(1);
    let mut tile = [[[0f32; LEADS]; TILE]; ROWS_MAX];
    let mut at = 0;
    while at < out.len() {
        let width = TILE.min(out.len() - at);
        let mut count = 0;
        for row in rows.iter().step_by(step) {
            tile[count][..width].copy_from_slice(&row[at..at + width]);
            count += 1;
        }
        sort_rows(&mut tile, count);
        let half = count / 2;
        for (i, frame) in out[at..at + width].iter_mut().enumerate() {
            *frame = match count {
                0 => [0.0; LEADS],
                n if n % 2 == 1 => tile[half][i],
                _ => std::array::from_fn(|l| (tile[half - 1][i][l] + tile[half][i][l]) / 2.0),
            };
        }
        at += width;
    }
}

wide! {
    /// Sorts each column of the first `count` rows: Batcher's merge exchange (Knuth, vol. 3, 5.2.2 M), row against row.
    fn sort_rows(tile: &mut [[Frame; TILE]; ROWS_MAX], count: usize) {
        let top = count.next_power_of_two() / 2;
        let mut p = top;
        while p > 0 {
            let (mut q, mut r, mut d) = (top, 0, p);
            loop {
                for i in (0..count.saturating_sub(d)).filter(|i| i & p == r) {
                    let (head, tail) = tile.split_at_mut(i + d);
                    let (low, high) = (head[i].as_flattened_mut(), tail[0].as_flattened_mut());
                    for (a, b) in low.iter_mut().zip(high) {
                        let (x, y) = (*a, *b);
                        (*a, *b) = if y < x { (y, x) } else { (x, y) };
                    }
                }
                if q == p {
                    break;
                }
                (d, q, r) = (q - p, q / 2, p);
            }
            p /= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dsp::testing::white_noise;

    #[test]
    fn medians_are_those_of_sorting_each_column() {
        for rows in [1usize, 2, 3, 5, 8, 11, 16, 31, 32] {
            let noise: Vec<f32> = white_noise(rows * 20 * LEADS).collect();
            let data: Vec<Vec<Frame>> = noise
                .chunks_exact(20 * LEADS)
                .map(|row| row.chunks_exact(LEADS).map(|f| f.try_into().unwrap()).collect())
                .collect();
            let mut out = vec![[0.0; LEADS]; 20];
            medians(&data.iter().map(Vec::as_slice).collect::<Vec<_>>(), &mut out);
            for (i, frame) in out.iter().enumerate() {
                for (l, &got) in frame.iter().enumerate() {
                    let mut column: Vec<f32> = data.iter().map(|row| row[i][l]).collect();
                    column.sort_by(f32::total_cmp);
                    let want = (column[(rows - 1) / 2] + column[rows / 2]) / 2.0;
                    assert_eq!(got, want, "{rows} rows, frame {i}, lead {l}");
                }
            }
        }
    }

    #[test]
    fn a_dot_product_has_every_frame_and_lane_once() {
        for n in [0usize, 1, 2, 7] {
            let a: Vec<Frame> = (0..n).map(|i| std::array::from_fn(|l| (i + l) as f32)).collect();
            let want: f32 = a.as_flattened().iter().map(|v| v * v).sum();
            assert_eq!(dot(&a, &a), want, "{n} frames");
        }
    }

    #[test]
    fn the_median_block_maximum_ignores_one_loud_block() {
        let mut frames = vec![[1.0; LEADS]; 50];
        frames[3][2] = -900.0;
        assert_eq!(median_of_block_maxima(&frames), [1.0; LEADS]);
    }
}
