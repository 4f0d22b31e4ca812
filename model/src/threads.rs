//! The threads of tensor products: settled once, and work that they share.
//!
//! Place: first line of `main` in every process that runs the model. candle 0.11.1 asks for the count at every product, and
//! without the variable each answer reads /proc/cpuinfo, which takes longer than a small product. Its own threads for sums of large
//! tensors spin for a millisecond after each, on cores that products need. Invariant: what the environment says stays.

use std::mem::MaybeUninit;
use std::sync::Mutex;

use candle_core::utils::barrier_pool;
use rayon::prelude::*;

use crate::wide::Real;

/// The variable that candle, gemm and rayon read.
const COUNT: &str = "RAYON_NUM_THREADS";
/// Turns that a thread of candle's spins before it sleeps; 25,000 where nothing says so.
const SPIN: (&str, &str) = ("CANDLE_BARRIER_POOL_SPIN_LIMIT", "1000");

/// Names the count of available cores, and how long idle threads spin, in the environment.
///
/// # Safety
/// No other thread may be running yet.
pub unsafe fn settle() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    for (variable, value) in [(COUNT, cores.to_string().as_str()), SPIN] {
        if std::env::var_os(variable).is_none() {
            // SAFETY: the caller promises that no other thread reads the environment
            unsafe { std::env::set_var(variable, value) };
        }
    }
}

/// Calls `run` with each part and its index, on every core.
///
/// candle's threads take part, which wait awake for a moment after each call: a training step has a thousand of them, and waking a
/// thread takes as long as a small product. On a thread of rayon's, which others may work beside, and where candle has no threads,
/// rayon's do. `run` must neither share work itself nor panic: candle's pool is no use after that.
pub(crate) fn share<T: Send>(parts: Vec<T>, run: impl Fn(usize, T) + Sync + Send) {
    if parts.len() < 2 {
        return parts.into_iter().for_each(|part| run(0, part));
    }
    if rayon::current_thread_index().is_some() || barrier_pool().n_workers() == 0 {
        return parts.into_par_iter().enumerate().for_each(|(i, part)| run(i, part));
    }
    let parts: Vec<Mutex<Option<T>>> = parts.into_iter().map(|part| Mutex::new(Some(part))).collect();
    barrier_pool().execute_chunked(parts.len(), |range| {
        for i in range {
            let part = parts[i].lock().ok().and_then(|mut part| part.take());
            run(i, part.expect("the pool gives every index once"));
        }
    });
}

/// As [`share`], with what comes of the parts, in their order.
pub(crate) fn share_map<T: Send, R: Send>(parts: Vec<T>, run: impl Fn(T) -> R + Sync + Send) -> Vec<R> {
    let mut results: Vec<Option<R>> = Vec::new();
    results.resize_with(parts.len(), || None);
    let pairs = parts.into_iter().zip(&mut results).collect();
    share(pairs, |_, (part, result)| *result = Some(run(part)));
    let results = results.into_iter();
    results.map(|result| result.expect("every part was run")).collect()
}

/// `n` zeros, which every core writes where there are many.
pub(crate) fn zeros<T: Real>(n: usize) -> Vec<T> {
    const PART: usize = 1 << 15;
    if n < 2 * PART {
        return vec![T::zero(); n];
    }
    let mut values = Box::new_uninit_slice(n);
    share(values.chunks_mut(PART).collect(), |_, part: &mut [MaybeUninit<T>]| {
        part.fill(MaybeUninit::new(T::zero()));
    });
    // SAFETY: every part was filled
    unsafe { values.assume_init() }.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_run_once_and_results_keep_their_order() {
        for n in [0, 1, 2, 100] {
            let mut counts = vec![0; n];
            share(counts.iter_mut().collect(), |i, count| *count += i + 1);
            assert_eq!(counts, (1..=n).collect::<Vec<_>>());
            let squares = |n: usize| share_map((0..n).collect(), |i| i * i);
            let expected: Vec<usize> = (0..n).map(|i| i * i).collect();
            assert_eq!((squares(n), rayon::scope(|_| squares(n))), (expected.clone(), expected));
        }
    }

    #[test]
    fn zeros_are_as_many_as_asked_for() {
        for n in [0, 5, (1 << 17) + 3] {
            assert_eq!(zeros::<f32>(n), vec![0.0; n]);
        }
    }
}
