//! Packed weight layouts and SIMD kernels behind one table, each equal to its scalar reference.

