//! The system's allocator, which counts the allocations of each thread: how a bench knows that a loop makes none.
//!
//! In: whatever the program allocates. Out: a number for the thread that asks. It must never do anything but count and
//! pass on: one thread-local word, no lock, no atomic.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// How often this thread has asked for memory so far, growing what it had included.
pub fn count() -> u64 {
    COUNT.with(Cell::get)
}

fn note() {
    // A thread that ends may free and allocate after its words are gone.
    let _ = COUNT.try_with(|count| count.set(count.get() + 1));
}

/// The allocator.
#[derive(Debug)]
struct Counting;

// WHY: nothing else sees every allocation. SAFETY: every call goes to the system's allocator as it came.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note();
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        unsafe { System.realloc(place, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_this_thread_asks_for() {
        let before = count();
        let mut list: Vec<u64> = Vec::with_capacity(4);
        list.extend([1, 2, 3, 4]);
        assert_eq!(count() - before, 1);
        list.push(5);
        assert_eq!(count() - before, 2);
        let elsewhere = std::thread::spawn(|| (vec![1_u8; 100], count()).1).join();
        assert!(elsewhere.is_ok_and(|count| count >= 1));
    }
}
