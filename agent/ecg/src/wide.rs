//! Hot loops for wide registers, chosen at run time.
//!
//! Place: under `dsp` and the segments' codec. Invariant: a function gives the same bits however wide it is compiled: no fused
//! multiply-add, no reordered sums.

/// Defines functions that the compiler vectorises twice, for the baseline instruction set and for AVX2, and that choose at run
/// time. Closures and functions inside are compiled with them.
macro_rules! wide {
    ($($(#[$attribute:meta])* $visible:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block)+) => {$(
        $(#[$attribute])*
        $visible fn $name($($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            fn portable($($argument: $type),*) $(-> $result)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn avx2($($argument: $type),*) $(-> $result)? {
                    portable($($argument),*)
                }
                if std::arch::is_x86_feature_detected!("avx2") {
                    // SAFETY: the line above saw that this processor has AVX2
                    return unsafe { avx2($($argument),*) };
                }
            }
            portable($($argument),*)
        }
    )+};
}
pub(crate) use wide;
