//! Goal: hashing pages reads nothing behind them. Method: pages whose last byte is the last of a mapping, with memory
//! behind it that kills whoever reads it; this test is here because it needs mappings of its own.

use pageswarm_checkpoint::{PAGE_BYTES, chunk_hash, chunk_hashes};

/// A page filled with `byte`, directly in front of a page that nobody may touch. It is never unmapped.
fn page_at_the_end(byte: u8) -> &'static [u8] {
    // SAFETY: a new private mapping of two pages, at an address of the kernel's choice, disturbs nothing.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            2 * PAGE_BYTES,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    assert_ne!(start, libc::MAP_FAILED);
    let start = start.cast::<u8>();
    // SAFETY: the second of the two pages lies within the mapping.
    let behind = unsafe { start.add(PAGE_BYTES) };
    // SAFETY: nothing refers to the second page.
    let taken = unsafe { libc::mprotect(behind.cast(), PAGE_BYTES, libc::PROT_NONE) };
    assert_eq!(taken, 0);
    // SAFETY: the first page is mapped, writable, and known to nobody else.
    unsafe { start.write_bytes(byte, PAGE_BYTES) };
    // SAFETY: it is initialised, stays mapped to the end of the process, and is not written any more.
    unsafe { std::slice::from_raw_parts(start, PAGE_BYTES) }
}

#[test]
fn any_number_of_pages_is_hashed_without_a_look_behind_them() {
    for count in 1..=40 {
        let pages: Vec<&[u8]> = (1..=count).map(page_at_the_end).collect();
        let expected: Vec<_> = pages.iter().map(|page| chunk_hash(page)).collect();
        assert_eq!(chunk_hashes(&pages), expected, "{count} pages");
    }
}
