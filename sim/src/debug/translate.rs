//! Guest-virtual addresses as a debugger reads them: through the guest's page tables, which it leaves as they are, and
//! with no regard to whose pages they are.

use super::track::Track;
use crate::paging::is_canonical;
use pageswarm_machine::PAGE_BYTES;

const PRESENT: u64 = 1 << 0;
const LARGE: u64 = 1 << 7;
const FRAME: u64 = 0x000f_ffff_ffff_f000;
const LEVELS: u32 = 4;

/// The guest-physical address of `address`, if it is mapped.
pub(super) fn physical(track: &Track, root: u64, address: u64) -> Option<u64> {
    if !is_canonical(address) {
        return None;
    }
    let mut table = root & FRAME;
    for level in (0..LEVELS).rev() {
        let place = usize::try_from(address >> (12 + 9 * level) & 511).ok()?;
        let entry = u64::from_le_bytes(track.page(table >> 12)?.as_chunks::<8>().0[place]);
        if entry & PRESENT == 0 || entry & LARGE != 0 && level == LEVELS - 1 {
            return None;
        }
        if level == 0 || entry & LARGE != 0 {
            let inside = (1 << (12 + 9 * level)) - 1;
            return Some(entry & FRAME & !inside | address & inside);
        }
        table = entry & FRAME;
    }
    None
}

/// Copies what is mapped at `address`, up to the first byte that is not; says how many bytes that are.
pub(super) fn read(track: &Track, root: u64, address: u64, out: &mut [u8]) -> usize {
    let mut copied = 0;
    while copied < out.len() {
        let Some(place) = address.checked_add(copied as u64) else { break };
        let Some(physical) = physical(track, root, place) else { break };
        let Some(page) = track.page(physical >> 12) else { break };
        let inside = usize::try_from(physical & 0xfff).unwrap_or(0);
        let bytes = (PAGE_BYTES - inside).min(out.len() - copied);
        out[copied..copied + bytes].copy_from_slice(&page[inside..inside + bytes]);
        copied += bytes;
    }
    copied
}
