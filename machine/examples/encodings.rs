//! What each form of a page costs and takes, on pages of the stated content model that changed once to three times.
//!
//! Built with everything else (`./x build`); run `target/release/examples/encodings`. Processor time of one thread.

use std::time::Duration;

use pageswarm_checkpoint::{Decoder, Effort, Encoder};
use pageswarm_machine::content::{Random, Words, change, fill_base};

const PAGES: usize = 20_000;
/// Changes before the base version, so that it is no fresh image.
const AGE: usize = 5;

fn main() {
    let mut random = Random::new(1, 2);
    let mut pages: Vec<Words> = vec![[0; 512]; PAGES];
    for (page, number) in pages.iter_mut().zip(0..) {
        fill_base(7, number, page);
        for _ in 0..AGE {
            change(&mut random, page);
        }
    }
    let old: Vec<Vec<u8>> = pages.iter().map(bytes).collect();
    for changes in 1..=3 {
        for page in &mut pages {
            change(&mut random, page);
        }
        let new: Vec<Vec<u8>> = pages.iter().map(bytes).collect();
        for effort in [Effort::Fast, Effort::Small] {
            measure(changes, effort, Some(&old), &new);
            measure(changes, effort, None, &new);
        }
    }
}

fn measure(changes: u32, effort: Effort, old: Option<&[Vec<u8>]>, new: &[Vec<u8>]) {
    let base = |at: usize| old.map(|old| old[at].as_slice());
    let mut encoder = Encoder::new(effort);
    let start = thread_cpu();
    let encoded: Vec<_> =
        (0..new.len()).map(|at| encoder.encode(&new[at], base(at).map(|base| ((), base)))).collect();
    let encoding = thread_cpu().saturating_sub(start);
    let (mut decoder, mut page) = (Decoder::new(), Vec::new());
    let start = thread_cpu();
    for (at, chunk) in encoded.iter().enumerate() {
        page.clear();
        decoder.decode(chunk, base(at), &mut page).expect("what was encoded decodes");
        assert_eq!(page, new[at], "page {at}");
    }
    let decoding = thread_cpu().saturating_sub(start);
    let total: usize = encoded.iter().map(|chunk| chunk.bytes.len()).sum();
    println!(
        "{changes} changes, {effort:?}, {}: {} bytes, {} ns to encode, {} ns to decode and compare",
        if old.is_some() { "with base" } else { "no base" },
        total / PAGES,
        encoding.as_nanos() / PAGES as u128,
        decoding.as_nanos() / PAGES as u128
    );
}

fn bytes(page: &Words) -> Vec<u8> {
    page.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Processor time of this thread, zero where the kernel does not tell.
fn thread_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|run| run.parse().ok()).unwrap_or(0))
}
