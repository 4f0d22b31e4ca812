//! The thread count of tensor products, settled once.
//!
//! Place: first line of `main` in every process that runs the model. candle 0.11.1 asks for the count at every product, and
//! without the variable each answer reads /proc/cpuinfo, which takes longer than a small product. Invariant: a count that the
//! environment names stays.

/// The variable that candle, gemm and rayon read.
const VARIABLE: &str = "RAYON_NUM_THREADS";

/// Names the count of available cores in the environment, where no count is named.
///
/// # Safety
/// No other thread may be running yet.
pub unsafe fn settle() {
    if std::env::var_os(VARIABLE).is_none() {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // SAFETY: the caller promises that no other thread reads the environment
        unsafe { std::env::set_var(VARIABLE, cores.to_string()) };
    }
}
