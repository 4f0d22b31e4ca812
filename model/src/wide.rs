//! Vector code that is written once and compiled for every width of the processor.
//!
//! Place: under `product` and `fused`. Invariant: an operation on a lane sees that lane alone, in a fixed order, and multiplies and
//! adds with one rounding, so the bits do not depend on the instruction set.

use candle_core::WithDType;

/// Values that are worked on side by side: sixteen f32 fill a register of AVX-512.
pub(crate) const LANES: usize = 16;
pub(crate) type Lanes<T> = [T; LANES];

/// Lanes in registers.
pub(crate) trait Vector<T: Real>: Copy {
    fn load(lanes: &Lanes<T>) -> Self;
    fn lanes(self) -> Lanes<T>;
    /// `self * a + b`, lane by lane, rounded once.
    fn mul_add(self, a: Self, b: Self) -> Self;

    /// Lane l of row k becomes lane k of row l.
    #[inline(always)]
    fn transposed(rows: [Self; LANES]) -> [Self; LANES] {
        let rows = rows.map(Self::lanes);
        std::array::from_fn(|l| Self::load(&std::array::from_fn(|k| rows[k][l])))
    }
}

impl<T: Real> Vector<T> for Lanes<T> {
    #[inline(always)]
    fn load(lanes: &Lanes<T>) -> Self {
        *lanes
    }

    #[inline(always)]
    fn lanes(self) -> Lanes<T> {
        self
    }

    #[inline(always)]
    fn mul_add(self, a: Self, mut b: Self) -> Self {
        for l in 0..LANES {
            b[l] = self[l].mul_add(a[l], b[l]);
        }
        b
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256, __m512, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm512_castpd_ps, _mm512_castps_pd,
        _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_shuffle_f32x4, _mm512_storeu_ps, _mm512_unpackhi_pd,
        _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
    };

    use super::{LANES, Lanes, Vector};

    // SAFETY of all below: loads and stores take whole arrays; `wide` picks these types only where the processor has the
    // instructions, and everything here is inlined into a function that is compiled for them

    impl Vector<f32> for __m512 {
        #[inline(always)]
        fn load(lanes: &Lanes<f32>) -> Self {
            unsafe { _mm512_loadu_ps(lanes.as_ptr()) }
        }

        #[inline(always)]
        fn lanes(self) -> Lanes<f32> {
            let mut lanes = [0.0; LANES];
            unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), self) };
            lanes
        }

        #[inline(always)]
        fn mul_add(self, a: Self, b: Self) -> Self {
            unsafe { _mm512_fmadd_ps(self, a, b) }
        }

        /// Pairs of rows, pairs of pairs, then quarters of registers.
        #[inline(always)]
        fn transposed(rows: [Self; LANES]) -> [Self; LANES] {
            let mut y = rows;
            unsafe {
                for g in 0..4 {
                    let [a, b, c, d] = [rows[4 * g], rows[4 * g + 1], rows[4 * g + 2], rows[4 * g + 3]];
                    let (ab, ab_high) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
                    let (cd, cd_high) = (_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
                    let pd = |x| _mm512_castps_pd(x);
                    y[4 * g] = _mm512_castpd_ps(_mm512_unpacklo_pd(pd(ab), pd(cd)));
                    y[4 * g + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(pd(ab), pd(cd)));
                    y[4 * g + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(pd(ab_high), pd(cd_high)));
                    y[4 * g + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(pd(ab_high), pd(cd_high)));
                }
                let quarters = y;
                for j in 0..4 {
                    let [a, b, c, d] = [quarters[j], quarters[4 + j], quarters[8 + j], quarters[12 + j]];
                    let (even, odd) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
                    let (even_high, odd_high) =
                        (_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xdd>(c, d));
                    y[j] = _mm512_shuffle_f32x4::<0x88>(even, even_high);
                    y[4 + j] = _mm512_shuffle_f32x4::<0x88>(odd, odd_high);
                    y[8 + j] = _mm512_shuffle_f32x4::<0xdd>(even, even_high);
                    y[12 + j] = _mm512_shuffle_f32x4::<0xdd>(odd, odd_high);
                }
            }
            y
        }
    }

    impl Vector<f32> for [__m256; 2] {
        #[inline(always)]
        fn load(lanes: &Lanes<f32>) -> Self {
            let half = |at: usize| unsafe { _mm256_loadu_ps(lanes[at..at + LANES / 2].as_ptr()) };
            [half(0), half(LANES / 2)]
        }

        #[inline(always)]
        fn lanes(self) -> Lanes<f32> {
            let mut lanes = [0.0; LANES];
            let (first, second) = lanes.split_at_mut(LANES / 2);
            unsafe {
                _mm256_storeu_ps(first.as_mut_ptr(), self[0]);
                _mm256_storeu_ps(second.as_mut_ptr(), self[1]);
            }
            lanes
        }

        #[inline(always)]
        fn mul_add(self, a: Self, b: Self) -> Self {
            unsafe {
                [
                    _mm256_fmadd_ps(self[0], a[0], b[0]),
                    _mm256_fmadd_ps(self[1], a[1], b[1]),
                ]
            }
        }
    }
}

/// f32, and f64 for tests of gradients.
pub(crate) trait Real: WithDType {
    /// Lanes in registers of AVX-512, and of AVX2.
    #[cfg(target_arch = "x86_64")]
    type Avx512: Vector<Self>;
    #[cfg(target_arch = "x86_64")]
    type Avx2: Vector<Self>;
    const LOWEST: Self;
    /// `self * a + b`, rounded once.
    fn mul_add(self, a: Self, b: Self) -> Self;
    fn sqrt(self) -> Self;
    fn ln(self) -> Self;
    /// e to this power; zero where that is below the smallest normal number.
    fn exp(self) -> Self;
}

impl Real for f32 {
    #[cfg(target_arch = "x86_64")]
    type Avx512 = std::arch::x86_64::__m512;
    #[cfg(target_arch = "x86_64")]
    type Avx2 = [std::arch::x86_64::__m256; 2];
    const LOWEST: Self = f32::MIN;

    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        f32::mul_add(self, a, b)
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        f32::sqrt(self)
    }

    #[inline(always)]
    fn ln(self) -> Self {
        f32::ln(self)
    }

    /// Within 2 units in the last place of the exact power. Free of branches, so that it runs in lanes: 2^n times a polynomial on
    /// half an octave. Source of the coefficients: Cephes, expf.c.
    #[inline(always)]
    fn exp(self) -> Self {
        const SHIFT: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer
        let x = if self > 88.0 { 88.0 } else { self };
        let small = x < -87.0;
        let x = if small { -87.0 } else { x };
        let shifted = x.mul_add(std::f32::consts::LOG2_E, SHIFT);
        let n = shifted - SHIFT;
        let r = n.mul_add(-0.693_359_4, x);
        let r = n.mul_add(2.121_944_4e-4, r);
        let mut p = 1.987_569_1e-4f32;
        for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
            p = p.mul_add(r, c);
        }
        let p = p.mul_add(r * r, r) + 1.0;
        // the low bits of `shifted` are n in two's complement
        let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
        if small { 0.0 } else { p * power }
    }
}

impl Real for f64 {
    #[cfg(target_arch = "x86_64")]
    type Avx512 = Lanes<f64>;
    #[cfg(target_arch = "x86_64")]
    type Avx2 = Lanes<f64>;
    const LOWEST: Self = f64::MIN;

    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        f64::mul_add(self, a, b)
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        f64::sqrt(self)
    }

    #[inline(always)]
    fn ln(self) -> Self {
        f64::ln(self)
    }

    #[inline(always)]
    fn exp(self) -> Self {
        f64::exp(self)
    }
}

/// Work that is compiled for each width. `run`, and what it calls, must be inlined; V is a vector in registers, N the edge of a
/// square tile of vectors that fits into them.
pub(crate) trait Wide {
    type Value: Real;
    type Output;
    fn run<V: Vector<Self::Value>, const N: usize>(self) -> Self::Output;
}

/// Runs the work with the widest instructions that this processor has.
pub(crate) fn wide<W: Wide>(work: W) -> W::Output {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f")]
        fn avx512<W: Wide>(work: W) -> W::Output {
            work.run::<<W::Value as Real>::Avx512, 4>()
        }
        #[target_feature(enable = "avx2,fma")]
        fn avx2<W: Wide>(work: W) -> W::Output {
            work.run::<<W::Value as Real>::Avx2, 2>()
        }
        if std::arch::is_x86_feature_detected!("avx512f") {
            // SAFETY: the line above saw that this processor has AVX-512
            return unsafe { avx512(work) };
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            // SAFETY: the line above saw that this processor has AVX2 and FMA
            return unsafe { avx2(work) };
        }
    }
    work.run::<Lanes<W::Value>, 2>()
}

/// The values of a row from a place on.
#[inline(always)]
pub(crate) fn vector<T: Real, V: Vector<T>>(row: &[T], at: usize) -> V {
    V::load(row[at..at + LANES].first_chunk().expect("a slice of LANES values"))
}

/// Asks for values that are read soon, some of them in one line of the cache.
#[inline(always)]
pub(crate) fn prefetch<T>(values: &[T]) {
    const LINE_BYTES: usize = 64;
    #[cfg(target_arch = "x86_64")]
    for line in values.chunks(LINE_BYTES / size_of::<T>()) {
        // SAFETY: a hint that reads nothing, and every x86-64 has it
        unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (values, LINE_BYTES);
}

/// What is left of a row, at most a value for each lane, then zeros.
#[inline(always)]
pub(crate) fn last_vector<T: Real, V: Vector<T>>(row: &[T], at: usize) -> V {
    let mut rest = [T::zero(); LANES];
    rest[..row.len() - at].copy_from_slice(&row[at..]);
    V::load(&rest)
}

/// Sum over the lanes.
#[inline(always)]
pub(crate) fn total<T: Real>(sums: &Lanes<T>) -> T {
    let eight: [T; 8] = std::array::from_fn(|l| sums[l] + sums[l + 8]);
    let four: [T; 4] = std::array::from_fn(|l| eight[l] + eight[l + 4]);
    (four[0] + four[2]) + (four[1] + four[3])
}

/// Sum over a row of a function of the value at each place.
#[inline(always)]
pub(crate) fn sum_of<T: Real>(n: usize, f: impl Fn(usize) -> T) -> T {
    let mut sums = [T::zero(); LANES];
    let whole = n - n % LANES;
    for at in (0..whole).step_by(LANES) {
        for (l, sum) in sums.iter_mut().enumerate() {
            *sum += f(at + l);
        }
    }
    for at in whole..n {
        sums[at - whole] += f(at);
    }
    total(&sums)
}

/// Largest value of a row, at least [`Real::LOWEST`].
#[inline(always)]
pub(crate) fn max_of<T: Real>(row: &[T]) -> T {
    let mut largest = [T::LOWEST; LANES];
    let (whole, rest) = row.as_chunks::<LANES>();
    for chunk in whole {
        for l in 0..LANES {
            largest[l] = if chunk[l] > largest[l] { chunk[l] } else { largest[l] };
        }
    }
    let larger = |a: T, &b: &T| if b > a { b } else { a };
    rest.iter().fold(largest.iter().fold(T::LOWEST, larger), larger)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_power_of_e_is_within_two_units_in_the_last_place() {
        for i in -8_700..8_800 {
            let x = i as f32 * 0.01 + 0.003;
            let (got, exact) = (Real::exp(x), f64::from(x).exp());
            let error = (f64::from(got) / exact - 1.0).abs();
            assert!(
                !(-87.0..=88.0).contains(&x) || error < 2.4e-7,
                "exp({x}) = {got}, exactly {exact}"
            );
        }
        assert_eq!([-87.1f32, -1e30, f32::MIN].map(Real::exp), [0.0; 3]);
        assert_eq!(Real::exp(0f32), 1.0);
    }

    #[test]
    fn sums_and_maxima_take_every_value() {
        for n in [0, 1, 15, 16, 33, 100] {
            let row: Vec<f32> = (0..n).map(|i| ((i * 37) % 101) as f32).collect();
            assert_eq!(sum_of(n, |i| row[i]), row.iter().sum::<f32>());
            assert_eq!(max_of(&row), row.iter().copied().fold(f32::MIN, f32::max));
        }
    }
}
