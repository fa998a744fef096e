//! RAM that stays as it is, to compare pages with: a checkpoint, or another machine.

use super::print::{ByPrint, Keys, Print};
use pageswarm_checkpoint::{ChunkHash, chunk_hash, chunk_hashes};
use pageswarm_machine::PAGE_BYTES;
use std::collections::HashMap;

/// The contents of some RAM. Memory: at most 96 bytes for each page of it.
#[derive(Clone, Debug)]
pub struct Reference {
    prints: Vec<Print>,
    contents: HashMap<Print, ChunkHash, ByPrint>,
}

impl Reference {
    /// The contents of `ram`, a whole number of pages.
    #[must_use]
    pub fn of(ram: &[u8]) -> Self {
        let (keys, pages) = (Keys::new(), ram.as_chunks::<PAGE_BYTES>().0);
        let mut reference =
            Self { prints: Vec::with_capacity(pages.len()), contents: HashMap::with_hasher(ByPrint) };
        // In pieces, lest a list of references to all pages be as large as the prints.
        for pages in pages.chunks(1 << 10) {
            let contents: Vec<&[u8]> = pages.iter().map(<[u8; PAGE_BYTES]>::as_slice).collect();
            for (page, hash) in contents.iter().zip(chunk_hashes(&contents)) {
                let print = keys.print(page);
                reference.prints.push(print);
                // Of contents that collide, the first is known; see `Confirmed`.
                reference.contents.entry(print).or_insert(hash);
            }
        }
        reference
    }

    /// Whether the page `number` had the content with this print.
    pub(super) fn had(&self, number: usize, print: Print) -> bool {
        self.prints.get(number) == Some(&print)
    }

    /// Whether some page has this content: a print that is known is confirmed by the content's hash.
    #[inline]
    pub(super) fn has(&self, print: Print, content: &[u8]) -> Confirmed {
        match self.contents.get(&print) {
            None => Confirmed::No,
            Some(hash) if *hash == chunk_hash(content) => Confirmed::Yes,
            Some(_) => Confirmed::Collision,
        }
    }
}

/// What comparing prints, then contents, said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Confirmed {
    Yes,
    No,
    /// The prints are equal, the contents are not.
    Collision,
}
