//! Goal: the stated content model is what pages really hold. Method: generate many pages on the host with the same
//! code that the guest runs, and count and compress them.

use pageswarm_machine::abi::WORDS;
use pageswarm_machine::content::{self, BaseKind, Order, Random, Words};
use std::collections::BTreeSet;

const SEED: u64 = 42;

fn bytes(words: &Words) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn compressed(words: &Words) -> usize {
    let mut out = Vec::with_capacity(2 * 4096);
    zstd_safe::compress(&mut out, &bytes(words), 3).expect("room for any page")
}

#[test]
fn base_pages_have_the_stated_shares_and_entropy() {
    let (mut zero, mut duplicate, mut random, mut heap) = (0_u64, 0_u64, 0_u64, 0_u64);
    let (mut heap_bytes, mut pool) = (0, BTreeSet::new());
    let pages = 20_000;
    for page in 0..pages {
        let mut words = [0; WORDS];
        content::fill_base(SEED, page, &mut words);
        match content::base_kind(SEED, page) {
            BaseKind::Zero => zero += u64::from(words == [0; WORDS]),
            BaseKind::Duplicate(_) => {
                duplicate += 1;
                pool.insert(bytes(&words));
            }
            BaseKind::Incompressible => random += u64::from(compressed(&words) >= 4096),
            BaseKind::Heap => {
                heap += 1;
                heap_bytes += compressed(&words);
            }
        }
    }
    let percent = |count: u64| count as f64 * 100.0 / pages as f64;
    assert!((percent(zero) - 20.0).abs() < 2.0, "{zero}");
    assert!((percent(duplicate) - 10.0).abs() < 2.0, "{duplicate}");
    assert!((percent(random) - 20.0).abs() < 2.0, "{random}");
    assert_eq!(pool.len(), 64);
    let ratio = heap as f64 * 4096.0 / heap_bytes as f64;
    println!("heap-like pages: zstd -3 shrinks them {ratio:.2} times");
    assert!((3.0..=4.0).contains(&ratio), "{ratio}");
}

#[test]
fn changes_touch_the_stated_numbers_of_words_and_tell_the_checksum_what_they_did() {
    let mut random = Random::new(SEED, 1);
    let mut by_count = std::collections::BTreeMap::<usize, u32>::new();
    for page in 0..4000 {
        let mut words = [0; WORDS];
        content::fill_base(SEED, page, &mut words);
        let before = words;
        let grown = content::change(&mut random, &mut words);
        let expected = content::checksum(&before).wrapping_add(grown);
        assert_eq!(content::checksum(&words), expected);
        *by_count.entry(before.iter().zip(&words).filter(|(a, b)| a != b).count()).or_default() += 1;
    }
    assert_eq!(by_count.keys().copied().collect::<Vec<_>>(), [9, 34, 238, 512]);
    for (count, share) in [(9, 40.0), (34, 30.0), (238, 20.0), (512, 10.0)] {
        assert!((f64::from(by_count[&count]) / 40.0 - share).abs() < 3.0, "{by_count:?}");
    }
}

#[test]
fn any_single_wrong_word_changes_the_checksum() {
    let mut random = Random::new(SEED, 2);
    let mut words: Words = std::array::from_fn(|_| random.draw());
    let right = content::checksum(&words);
    for index in 0..WORDS {
        for wrong in [1, 1 << 63, random.draw() | 1] {
            words[index] ^= wrong;
            assert_ne!(content::checksum(&words), right);
            words[index] ^= wrong;
        }
    }
}

#[test]
fn every_run_is_dirtied_once_before_any_twice() {
    for runs in [1, 2, 7, 64, 1000, 61_313] {
        let mut order = Order::new(SEED, runs);
        for _cycle in 0..3 {
            let seen: BTreeSet<u64> = (0..runs).map(|_| order.draw()).collect();
            assert_eq!(seen.len() as u64, runs);
        }
    }
}
