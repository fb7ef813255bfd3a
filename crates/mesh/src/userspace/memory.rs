//! What the allocator keeps for the tunnel.
//!
//! Every packet that leaves lies in memory of its own for a moment. glibc gives memory at the end of its heap back to the
//! kernel as soon as 128 KiB of it are free, and a burst of packets is far more: measured, half of the tunnel's time went
//! into giving back pages and fetching the same number again. So it keeps as much as the longest queue of packets can
//! hold. Naming one limit makes glibc stop to adapt the other, so that one is named, too, as it would adapt.

use std::sync::Once;

/// Room for a full queue of packets.
const KEPT_BYTES: libc::c_int = 8 * 1024 * 1024;
/// Larger ones are mapped and unmapped each time.
const MAPPED_FROM_BYTES: libc::c_int = 4 * 1024 * 1024;

/// For the whole process, once.
pub fn keep_some() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        #[cfg(target_env = "gnu")]
        for (what, bytes) in [(libc::M_TRIM_THRESHOLD, KEPT_BYTES), (libc::M_MMAP_THRESHOLD, MAPPED_FROM_BYTES)] {
            // SAFETY: it takes two numbers and changes when memory is given back, not what is allocated.
            #[allow(unsafe_code)]
            let taken = unsafe { libc::mallopt(what, bytes) };
            if taken == 0 {
                tracing::debug!(what, "the allocator did not take a limit; the tunnel is slower for it");
            }
        }
    });
}
