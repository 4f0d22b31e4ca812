//! Products in panels: what they come to, and that nothing else changes their bits.

use super::*;
use crate::wide::Lanes;

fn values(n: usize, seed: f32) -> Vec<f32> {
    (0..n).map(|i| (i as f32 * seed).sin()).collect()
}

/// Rows, inputs, outputs and rank around lanes, tiles, panels, bands and depths.
const SIZES: [(usize, usize, usize, usize); 7] = [
    (1, 1, 1, 1),
    (5, 17, 7, 2),
    (63, 40, 49, 16),
    (65, 15, 130, 6),
    (101, 1030, 65, 3),
    (200, 33, 64, 7),
    (300, 20, 50, 3), // a panel a task with one thread, a band with more
];

struct Case {
    x: Vec<f32>,
    w: Vec<f32>,
    a: Vec<f32>,
    b: Vec<f32>,
    grad: Vec<f32>,
}

impl Case {
    fn of((n, i, o, r): (usize, usize, usize, usize)) -> Self {
        Self {
            x: values(n * i, 0.37),
            w: values(o * i, 0.73),
            a: values(r * i, 0.21),
            b: values(o * r, 0.31),
            grad: values(n * o, 0.11),
        }
    }

    /// The layer forward and the adapter's inner values, then the gradient of its input.
    fn run(&self, (_, i, o, r): (usize, usize, usize, usize)) -> [Vec<f32>; 3] {
        let (x, w) = (Matrix::new(&self.x, i), Matrix::new(&self.w, i));
        let (a, b) = (Matrix::new(&self.a, i), Matrix::new(&self.b, r));
        let (y, inner) = adapted(x, w, Some(LowRank { a, b, scale: 0.5 }));
        let grad = Matrix::new(&self.grad, o);
        let low = sum_of_products(&[(grad, b)]);
        [y, inner, sum_of_products(&[(grad, w), (Matrix::new(&low, r), a)])]
    }
}

#[test]
fn products_are_sums_of_products() {
    for (n, i, o, r) in SIZES {
        let case = Case::of((n, i, o, r));
        let [y, inner, dx] = case.run((n, i, o, r));
        let at = |v: &[f32], width: usize, row: usize, column: usize| f64::from(v[row * width + column]);
        for (k, &got) in y.iter().enumerate() {
            let (row, output) = (k / o, k % o);
            let own: f64 = (0..i).map(|j| at(&case.x, i, row, j) * at(&case.w, i, output, j)).sum();
            let low = |l| {
                (0..i)
                    .map(|j| at(&case.x, i, row, j) * at(&case.a, i, l, j))
                    .sum::<f64>()
            };
            let change: f64 = (0..r).map(|l| low(l) * at(&case.b, r, output, l)).sum();
            let exact = own + 0.5 * change;
            assert!(
                (f64::from(got) - exact).abs() < 2e-4 * exact.abs().max(1.0),
                "{n} {i} {o} {r} at {k}: {got} {exact}"
            );
        }
        assert_eq!(inner.len(), r * n);
        for (k, &got) in inner.iter().enumerate() {
            let (of, row) = (k / n, k % n);
            let exact: f64 = (0..i)
                .map(|j| 0.5 * at(&case.x, i, row, j) * at(&case.a, i, of, j))
                .sum();
            assert!(
                (f64::from(got) - exact).abs() < 2e-4 * exact.abs().max(1.0),
                "{n} {i} {o} {r}, inner value {of} of row {row}: {got} {exact}"
            );
        }
        for (k, &got) in dx.iter().enumerate() {
            let (row, input) = (k / i, k % i);
            let own: f64 = (0..o)
                .map(|j| at(&case.grad, o, row, j) * at(&case.w, i, j, input))
                .sum();
            let low = |l| {
                (0..o)
                    .map(|j| at(&case.grad, o, row, j) * at(&case.b, r, j, l))
                    .sum::<f64>()
            };
            let change: f64 = (0..r).map(|l| low(l) * at(&case.a, i, l, input)).sum();
            let exact = own + change;
            assert!(
                (f64::from(got) - exact).abs() < 2e-4 * exact.abs().max(1.0),
                "{n} {i} {o} {r} at {k}: {got} {exact}"
            );
        }
    }
}

#[test]
fn neither_the_number_of_threads_nor_the_other_rows_change_a_bit() {
    for sizes in SIZES {
        let (n, i, o, r) = sizes;
        let case = Case::of(sizes);
        let together = case.run(sizes);
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert!(
                pool.install(|| case.run(sizes)) == together,
                "{sizes:?}, {threads} threads"
            );
        }
        let last = Case {
            x: case.x[(n - 1) * i..].to_vec(),
            grad: case.grad[(n - 1) * o..].to_vec(),
            ..Case::of(sizes)
        };
        let [y, inner, dx] = last.run((1, i, o, r));
        let of_last = together[1].chunks(n).map(|of| of[n - 1]);
        assert!(
            y == together[0][(n - 1) * o..] && of_last.eq(inner) && dx == together[2][(n - 1) * i..],
            "{sizes:?}"
        );
    }
}

#[test]
fn a_wider_instruction_set_changes_no_bit() {
    for (n, i, o, _) in SIZES {
        let (x, w, grad) = (values(n * i, 0.37), values(o * i, 0.73), values(n * o, 0.11));
        let (x, w, grad) = (Matrix::new(&x, i), Matrix::new(&w, i), Matrix::new(&grad, o));
        let (mut y, mut dx) = (vec![0f32; n * o], vec![0f32; n * i]);
        in_bands(&mut y, o, BAND, |first, y| {
            for (p, y) in y.chunks_mut(PANEL).enumerate() {
                let pack = Pack {
                    x,
                    first: p * PANEL,
                    adapter: None,
                };
                let panel = &pack.run::<Lanes<f32>, 2>();
                let band = Forward {
                    panel,
                    w,
                    adapter: None,
                    first,
                    y,
                };
                band.run::<Lanes<f32>, 2>();
            }
        });
        in_bands(&mut dx, i, PANEL, |first, y| {
            for depth in (0..o).step_by(DEPTH) {
                Direct {
                    x: grad,
                    w,
                    first,
                    depth,
                    y,
                }
                .run::<Lanes<f32>, 2>();
            }
        });
        assert!(
            y == times_transposed(x, w) && dx == sum_of_products(&[(grad, w)]),
            "{n} {i} {o}"
        );
    }
}
