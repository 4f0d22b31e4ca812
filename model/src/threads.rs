//! The threads of tensor products, settled once.
//!
//! Place: first line of `main` in every process that runs the model. candle 0.11.1 asks for the count at every product, and
//! without the variable each answer reads /proc/cpuinfo, which takes longer than a small product. Its own threads for sums of large
//! tensors spin for a millisecond after each, on cores that products need. Invariant: what the environment says stays.

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
