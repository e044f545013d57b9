//! The allocator of the process, and the room's one unsafe line.
//!
//! A thread keeps what was freed for its own next use, and gives it back to the kernel while it allocates and frees: one that
//! has nothing to do any more keeps it for good. That is fine until memory is short, and then it is what the shortage is made of.

#![allow(unsafe_code, reason = "the allocator's call is a foreign function; it takes no pointer and may be made at any time")]

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Gives the kernel back what this thread has freed, and what nobody has. Milliseconds, where there is much of it.
pub(crate) fn give_back() {
    // SAFETY: it touches the allocator's own lists of this thread, and those of nobody else without their locks.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
