//! Ways to sort.

/// Stretches shorter than this are sorted by insertion.
const SHORT: usize = 24;

/// Quicksort with the median of three, the longer part last (Hoare 1961).
pub fn quick(mut keys: &mut [u64]) {
    while keys.len() > SHORT {
        let split = partition(keys);
        let (left, right) = keys.split_at_mut(split);
        if left.len() < right.len() {
            quick(left);
            keys = right;
        } else {
            quick(right);
            keys = left;
        }
    }
    insertion(keys);
}

/// Brings keys that are not above a pivot before those that are not below it; where the second part begins.
fn partition(keys: &mut [u64]) -> usize {
    let (middle, last) = (keys.len() / 2, keys.len() - 1);
    let pivot = median(keys[0], keys[middle], keys[last]);
    let (mut left, mut right) = (0, last);
    loop {
        while keys[left] < pivot {
            left += 1;
        }
        while keys[right] > pivot {
            right -= 1;
        }
        if left >= right {
            return left.max(1);
        }
        keys.swap(left, right);
        left += 1;
        right -= 1;
    }
}

fn median(a: u64, b: u64, c: u64) -> u64 {
    a.max(b).min(a.min(b).max(c))
}

pub fn insertion(keys: &mut [u64]) {
    for end in 1..keys.len() {
        let key = keys[end];
        let mut place = end;
        while place > 0 && keys[place - 1] > key {
            keys[place] = keys[place - 1];
            place -= 1;
        }
        keys[place] = key;
    }
}

/// Heapsort (Williams 1964).
pub fn heap(keys: &mut [u64]) {
    for start in (0..keys.len() / 2).rev() {
        sink(keys, start);
    }
    for end in (1..keys.len()).rev() {
        keys.swap(0, end);
        sink(&mut keys[..end], 0);
    }
}

fn sink(keys: &mut [u64], mut place: usize) {
    while 2 * place + 1 < keys.len() {
        let mut child = 2 * place + 1;
        if child + 1 < keys.len() && keys[child + 1] > keys[child] {
            child += 1;
        }
        if keys[place] >= keys[child] {
            return;
        }
        keys.swap(place, child);
        place = child;
    }
}

/// Merge sort from below; `room` has as many words at least.
pub fn merge(keys: &mut [u64], room: &mut [u64]) {
    let room = &mut room[..keys.len()];
    for part in keys.chunks_mut(16) {
        insertion(part);
    }
    let mut width = 16;
    while width < keys.len() {
        for (from, to) in keys.chunks(2 * width).zip(room.chunks_mut(2 * width)) {
            merge_one(from.split_at(width.min(from.len())), to);
        }
        keys.copy_from_slice(room);
        width *= 2;
    }
}

fn merge_one((mut left, mut right): (&[u64], &[u64]), to: &mut [u64]) {
    for place in to {
        *place = match (left, right) {
            ([a, rest @ ..], [b, ..]) if a <= b => {
                left = rest;
                *a
            }
            (_, [b, rest @ ..]) => {
                right = rest;
                *b
            }
            ([a, rest @ ..], []) => {
                left = rest;
                *a
            }
            ([], []) => return,
        };
    }
}

/// Radix sort by bytes, the lowest first; `room` has as many words at least.
pub fn radix(keys: &mut [u64], room: &mut [u64]) {
    let room = &mut room[..keys.len()];
    for byte in 0..8 {
        let digit = |key: u64| (key >> (8 * byte)) as u8 as usize;
        let mut starts = [0_u32; 257];
        for key in keys.iter() {
            starts[digit(*key) + 1] += 1;
        }
        for index in 1..starts.len() {
            starts[index] += starts[index - 1];
        }
        for key in keys.iter() {
            let start = &mut starts[digit(*key)];
            room[*start as usize] = *key;
            *start += 1;
        }
        keys.copy_from_slice(room);
    }
}

/// Shellsort with the distances of Ciura (2001).
pub fn shell(keys: &mut [u64]) {
    for gap in [1750, 701, 301, 132, 57, 23, 10, 4, 1] {
        for end in gap..keys.len() {
            let key = keys[end];
            let mut place = end;
            while place >= gap && keys[place - gap] > key {
                keys[place] = keys[place - gap];
                place -= gap;
            }
            keys[place] = key;
        }
    }
}

/// Sorts by exchanging in place into buckets of the highest byte, and so on below (American flag sort).
pub fn by_bytes(keys: &mut [u32]) {
    flag(keys, 24);
}

fn flag(keys: &mut [u32], shift: u32) {
    if keys.len() < 2 {
        return;
    }
    let digit = |key: u32| (key >> shift) as u8 as usize;
    let mut counts = [0_u16; 256];
    for key in keys.iter() {
        counts[digit(*key)] += 1;
    }
    let (mut next, mut ends) = ([0_u16; 256], [0_u16; 256]);
    let mut sum = 0;
    for bucket in 0..256 {
        next[bucket] = sum;
        sum += counts[bucket];
        ends[bucket] = sum;
    }
    for bucket in 0..256 {
        while next[bucket] < ends[bucket] {
            let place = next[bucket] as usize;
            let home = digit(keys[place]);
            if home == bucket {
                next[bucket] += 1;
            } else {
                keys.swap(place, next[home] as usize);
                next[home] += 1;
            }
        }
    }
    if shift == 0 {
        return;
    }
    let mut start = 0;
    for end in ends {
        flag(&mut keys[start..end as usize], shift - 8);
        start = end as usize;
    }
}
