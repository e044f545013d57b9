//! The allocator of a component. A question allocates a dozen small pieces of text and gives all of them back, and the
//! allocator that comes with the target takes more time for that than most plugins take to think.
//!
//! Pieces of up to [`SMALL`] bytes are kept by size in steps of [`STEP`], in lists that are never searched, joined or
//! split: taking and giving back is one read and one write. Larger ones go to the target's own allocator. Pieces of one
//! size never serve another, so a component keeps the most it ever held of each size; the host's recycling of instances
//! bounds that.
//!
//! A component that brings its own `#[global_allocator]` turns the feature `allocator` off.
#![allow(unsafe_code, reason = "an allocator deals in raw memory; within a component's sandbox")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr::null_mut;

const STEP: usize = 16;
const SMALL: usize = 1024;
const CLASSES: usize = SMALL / STEP;
/// What is taken from the target's allocator at once.
const CHUNK: usize = 16 * 1024;

#[global_allocator]
static ALLOCATOR: Small = Small(UnsafeCell::new(Lists { free: [null_mut(); CLASSES], next: null_mut(), left: 0 }));

struct Small(UnsafeCell<Lists>);

struct Lists {
    /// The first free piece of each size; each holds the address of the next.
    free: [*mut u8; CLASSES],
    /// The rest of the present chunk.
    next: *mut u8,
    left: usize,
}

// SAFETY: a component has one thread, and nothing in here calls back.
unsafe impl Sync for Small {}

/// The list for this layout, if it has one.
#[inline(always)]
fn class(layout: Layout) -> Option<usize> {
    let class = layout.size().wrapping_sub(1) / STEP;
    (class < CLASSES && layout.align() <= STEP).then_some(class)
}

#[cold]
#[inline(never)]
unsafe fn fresh(lists: &mut Lists, class: usize) -> *mut u8 {
    let size = (class + 1) * STEP;
    if lists.left < size {
        // SAFETY: the layout is valid and not empty.
        let chunk = unsafe { System.alloc(Layout::from_size_align_unchecked(CHUNK, STEP)) };
        if chunk.is_null() {
            return chunk;
        }
        (lists.next, lists.left) = (chunk, CHUNK);
    }
    let piece = lists.next;
    // SAFETY: at least `size` bytes of the chunk are left.
    lists.next = unsafe { piece.add(size) };
    lists.left -= size;
    piece
}

// SAFETY: a piece is in a list or in use, never both; pieces have the size and alignment of their class, which is at
// least what the layout asks for, and the class follows from the layout alone.
unsafe impl GlobalAlloc for Small {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(class) = class(layout) else {
            // SAFETY: as promised by our caller.
            return unsafe { System.alloc(layout) };
        };
        // SAFETY: one thread, and no reference outlives this call; a free piece holds the next one's address.
        unsafe {
            let lists = &mut *self.0.get();
            let Some(first) = lists.free.get_mut(class) else { return null_mut() };
            let piece = *first;
            if piece.is_null() {
                return fresh(lists, class);
            }
            *first = piece.cast::<*mut u8>().read();
            piece
        }
    }

    #[inline]
    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        let Some(class) = class(layout) else {
            // SAFETY: as promised by our caller.
            return unsafe { System.dealloc(piece, layout) };
        };
        // SAFETY: as above; the piece is at least a pointer long, aligned, and nobody's any more.
        unsafe {
            if let Some(first) = (*self.0.get()).free.get_mut(class) {
                piece.cast::<*mut u8>().write(*first);
                *first = piece;
            }
        }
    }

    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: our caller promises that `size` is not 0 and does not overflow with this alignment.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (class(layout), class(new)) {
            (Some(old), Some(new)) if old == new => piece,
            // SAFETY: it came from there.
            (None, None) => unsafe { System.realloc(piece, layout, size) },
            // SAFETY: two pieces that do not overlap, of at least that many bytes.
            _ => unsafe {
                let room = self.alloc(new);
                if !room.is_null() {
                    room.copy_from_nonoverlapping(piece, layout.size().min(size));
                    self.dealloc(piece, layout);
                }
                room
            },
        }
    }
}
