//! All pages of RAM, and which of them are equal: true after each write.

use super::print::{ByPrint, Keys, Print};
use pageswarm_machine::PAGE_BYTES;
use std::collections::HashMap;

const NONE: u32 = u32::MAX;

/// Pages with one content, as a list through [`Page::next`] and [`Page::previous`].
#[derive(Clone, Copy, Debug)]
struct Class {
    first: u32,
    pages: u32,
}

#[derive(Clone, Copy, Debug)]
struct Page {
    print: Print,
    next: u32,
    previous: u32,
    /// Its print is that of another content: it is in no class.
    is_apart: bool,
}

/// The pages. Memory: RAM and about 100 bytes for each page.
#[derive(Debug)]
pub(super) struct Pages {
    ram: Vec<u8>,
    keys: Keys,
    pages: Vec<Page>,
    classes: HashMap<Print, Class, ByPrint>,
}

/// What a write did to the page's neighbours in content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// It wrote what was there.
    Same,
    /// The content changed; these other pages may have become alone, and have stopped being so.
    Changed { left: Option<u32>, joined: Option<u32>, has_collided: bool },
}

impl Pages {
    pub(super) fn new(ram: &[u8]) -> Self {
        let keys = Keys::new();
        let contents = ram.as_chunks::<PAGE_BYTES>().0;
        let page = |content: &[u8; PAGE_BYTES]| Page {
            print: keys.print(content),
            next: NONE,
            previous: NONE,
            is_apart: false,
        };
        let pages = contents.iter().map(page).collect();
        let classes = HashMap::with_capacity_and_hasher(contents.len(), ByPrint);
        let mut all = Self { ram: ram.to_vec(), keys, pages, classes };
        for number in 0..all.pages.len() {
            all.join(number);
        }
        all
    }

    pub(super) fn len(&self) -> usize {
        self.pages.len()
    }

    pub(super) fn print(&self, page: usize) -> Print {
        self.pages[page].print
    }

    /// A print of all of RAM.
    pub(super) fn print_of_all(&self) -> Print {
        let prints: Vec<Print> = self.pages.iter().map(|page| page.print).collect();
        Keys::of_all(&prints)
    }

    pub(super) fn content(&self, page: usize) -> &[u8] {
        &self.ram[page * PAGE_BYTES..(page + 1) * PAGE_BYTES]
    }

    /// Whether all bytes of the page are 0.
    #[inline]
    pub(super) fn is_zero(&self, page: usize) -> bool {
        self.pages[page].print == 0 && self.content(page).iter().all(|byte| *byte == 0)
    }

    /// Whether another page has the same content.
    #[inline]
    pub(super) fn has_twin(&self, page: usize) -> bool {
        let Page { print, is_apart, .. } = self.pages[page];
        !is_apart && self.classes.get(&print).is_some_and(|class| class.pages > 1)
    }

    /// Makes the page's bytes from `offset` on what was written, at most 16 and all of them in the page.
    #[inline]
    pub(super) fn write(&mut self, page: usize, offset: usize, bytes: &[u8]) -> Written {
        let start = page * PAGE_BYTES;
        let place = start + offset;
        if self.ram[place..place + bytes.len()] == *bytes {
            return Written::Same;
        }
        let words = offset / 8..=(offset + bytes.len() - 1) / 8;
        let before = [0, 1, 2].map(|number| self.word(page, offset / 8 + number));
        self.ram[place..place + bytes.len()].copy_from_slice(bytes);
        let mut print = self.pages[page].print;
        for (word, before) in words.zip(before) {
            print = print.wrapping_add(self.keys.growth(word, before, self.word(page, word)));
        }
        let left = self.leave(page);
        self.pages[page].print = print;
        let joined = self.join(page);
        Written::Changed { left, joined, has_collided: self.pages[page].is_apart }
    }

    /// A word of a page; 0 behind its end.
    fn word(&self, page: usize, word: usize) -> u64 {
        let page = &self.ram[page * PAGE_BYTES..(page + 1) * PAGE_BYTES];
        page.get(8 * word..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    /// Gives the page that is alone now, if one is.
    fn leave(&mut self, number: usize) -> Option<u32> {
        let Page { print, next, previous, is_apart } = self.pages[number];
        if is_apart {
            self.pages[number].is_apart = false;
            return None;
        }
        let class = self.classes.get_mut(&print)?;
        if class.pages == 1 {
            self.classes.remove(&print);
            return None;
        }
        class.pages -= 1;
        if previous == NONE {
            class.first = next;
        }
        let alone = (class.pages == 1).then_some(class.first);
        if previous != NONE {
            self.pages[previous as usize].next = next;
        }
        if next != NONE {
            self.pages[next as usize].previous = previous;
        }
        alone
    }

    /// Gives the page that was alone before, if one was.
    fn join(&mut self, number: usize) -> Option<u32> {
        let page = u32::try_from(number).unwrap_or(NONE);
        let print = self.pages[number].print;
        let Some(class) = self.classes.get_mut(&print) else {
            self.classes.insert(print, Class { first: page, pages: 1 });
            (self.pages[number].next, self.pages[number].previous) = (NONE, NONE);
            return None;
        };
        let first = class.first as usize * PAGE_BYTES;
        let start = number * PAGE_BYTES;
        if self.ram[first..first + PAGE_BYTES] != self.ram[start..start + PAGE_BYTES] {
            self.pages[number].is_apart = true;
            return None;
        }
        let twin = (class.pages == 1).then_some(class.first);
        (self.pages[number].next, self.pages[number].previous) = (class.first, NONE);
        self.pages[class.first as usize].previous = page;
        (class.first, class.pages) = (page, class.pages + 1);
        twin
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pageswarm_machine::content::Random;

    /// The slow obvious way: compare every page with every other.
    fn has_twin(ram: &[u8], page: usize) -> bool {
        let pages = ram.as_chunks::<PAGE_BYTES>().0;
        (0..pages.len()).any(|other| other != page && pages[other] == pages[page])
    }

    #[test]
    fn twins_are_those_that_comparing_all_pages_finds() {
        let mut ram = vec![0; 12 * PAGE_BYTES];
        ram[5 * PAGE_BYTES] = 1;
        let mut pages = Pages::new(&ram);
        let mut random = Random::new(9, 9);
        for step in 0..4000 {
            // Few places and values, so that pages are often equal; some writes go over two and three words.
            let (page, draw) = (usize::try_from(random.draw() % 12).unwrap(), random.draw());
            let size = [1, 8, 16][usize::try_from(draw % 3).unwrap()];
            let offset = [0, 7, 4080][usize::try_from(draw / 3 % 3).unwrap()];
            let bytes = [u8::try_from(draw / 9 % 2).unwrap(); 16];
            let before: Vec<bool> = (0..12).map(|page| has_twin(&ram, page)).collect();
            let place = page * PAGE_BYTES + offset;
            let same = ram[place..place + size] == bytes[..size];
            ram[place..place + size].copy_from_slice(&bytes[..size]);
            let written = pages.write(page, offset, &bytes[..size]);
            assert_eq!(written == Written::Same, same, "{step}");
            let after: Vec<bool> = (0..12).map(|page| has_twin(&ram, page)).collect();
            let told: Vec<bool> = (0..12).map(|page| pages.has_twin(page)).collect();
            assert_eq!(told, after, "{step}");
            let changed = (0..12_u32).filter(|other| before[*other as usize] != after[*other as usize]);
            if let Written::Changed { left, joined, .. } = written {
                let others = [left, joined];
                assert!(
                    changed
                        .into_iter()
                        .all(|other| { other as usize == page || others.contains(&Some(other)) })
                );
            }
            assert_eq!(pages.is_zero(page), ram[page * PAGE_BYTES..][..PAGE_BYTES] == [0; PAGE_BYTES]);
        }
        assert_eq!(Pages::new(&ram).print_of_all(), pages.print_of_all());
    }
}
