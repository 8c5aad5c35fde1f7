//! What the process gives back of the memory that it no longer uses.
//!
//! Payloads of a few MiB come and go with what hosts send. Left alone, glibc learns from the first
//! of them that is freed to keep such sizes for itself, in every thread's heap, where anything
//! small above them pins them: a burst of large requests would stay resident for good.
//! Not here: the blocks for reads that are kept on purpose (`buffer`).

/// A larger piece of memory is the kernel's again when it is freed. Above every payload of usual
/// tools and of the data connection, both at most 1 MiB, so that those cost no page faults.
const KEPT_PIECE_BYTES_MAX: i32 = 2 << 20;
/// Free bytes that one heap keeps at its end, at most.
const KEPT_HEAP_BYTES_MAX: i32 = 4 << 20;

/// Bounds what the allocator keeps, for the whole process. Before its threads are started.
#[cfg(target_env = "gnu")]
pub fn bound_what_is_kept() {
    for (option, bytes) in [
        (libc::M_MMAP_THRESHOLD, KEPT_PIECE_BYTES_MAX),
        (libc::M_TRIM_THRESHOLD, KEPT_HEAP_BYTES_MAX),
    ] {
        // SAFETY: takes two numbers and locks what it changes; callable at any time.
        let taken = unsafe { libc::mallopt(option, bytes) };
        assert_eq!(taken, 1, "glibc takes thresholds of a few MiB");
    }
}

/// Other allocators do not learn sizes.
#[cfg(not(target_env = "gnu"))]
pub const fn bound_what_is_kept() {}
