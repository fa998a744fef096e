//! A hash table of counted keys: open addressing, and removal that closes the gap.

/// Slots of a key and its count; none is held where the count is zero.
const SLOTS: usize = 2048;

type Hash = fn(u64) -> u64;

/// The functions that a table may use.
pub const HASHES: [Hash; 4] = [multiply, avalanche, bytes, siphash];

pub struct Table<'a> {
    slots: &'a mut [[u64; 2]],
    hash: Hash,
    held: usize,
}

impl<'a> Table<'a> {
    /// An empty table in `room`, which has two words for each slot at least.
    pub fn new(room: &'a mut [u64], hash: Hash) -> Self {
        let slots = &mut room.as_chunks_mut().0[..SLOTS];
        slots.fill([0; 2]);
        Self { slots, hash, held: 0 }
    }

    /// Distinct keys.
    pub fn held(&self) -> usize {
        self.held
    }

    pub fn add(&mut self, key: u64) {
        let place = self.place(key);
        let [held, count] = &mut self.slots[place];
        self.held += usize::from(*count == 0);
        *held = key;
        *count += 1;
    }

    pub fn count(&self, key: u64) -> u64 {
        self.slots[self.place(key)][1]
    }

    /// Removes a key; those behind it that would not be found any more move up (Knuth 6.4, algorithm R).
    pub fn remove(&mut self, key: u64) {
        let mut gap = self.place(key);
        if self.slots[gap][1] == 0 {
            return;
        }
        self.held -= 1;
        let mut place = gap;
        loop {
            self.slots[gap] = [0; 2];
            loop {
                place = (place + 1) % SLOTS;
                let [key, count] = self.slots[place];
                if count == 0 {
                    return;
                }
                let from_home = place.wrapping_sub(self.home(key)) % SLOTS;
                if from_home >= place.wrapping_sub(gap) % SLOTS {
                    break;
                }
            }
            self.slots[gap] = self.slots[place];
            gap = place;
        }
    }

    fn home(&self, key: u64) -> usize {
        (self.hash)(key) as usize % SLOTS
    }

    /// Where the key is, or where it would be put.
    fn place(&self, key: u64) -> usize {
        let mut place = self.home(key);
        while self.slots[place][1] != 0 && self.slots[place][0] != key {
            place = (place + 1) % SLOTS;
        }
        place
    }
}

/// The upper bits of a product (Dietzfelbinger et al. 1997).
fn multiply(key: u64) -> u64 {
    key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40
}

/// The finalizer of MurmurHash3 (Appleby).
fn avalanche(key: u64) -> u64 {
    let key = (key ^ key >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let key = (key ^ key >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    key ^ key >> 33
}

/// FNV-1a over the key's bytes.
fn bytes(key: u64) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    key.to_be_bytes().iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// SipHash-1-3 of the key under a fixed secret (Aumasson and Bernstein 2012).
fn siphash(key: u64) -> u64 {
    let mut v = [
        0x736f_6d65_7073_6575 ^ 0x0706_0504_0302_0100,
        0x646f_7261_6e64_6f6d ^ 0x0f0e_0d0c_0b0a_0908,
        0x6c79_6765_6e65_7261 ^ 0x0706_0504_0302_0100,
        0x7465_6462_7974_6573 ^ 0x0f0e_0d0c_0b0a_0908_u64,
    ];
    for word in [key, 8 << 56] {
        v[3] ^= word;
        round(&mut v);
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    for _ in 0..3 {
        round(&mut v);
    }
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[2] = v[2].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[1]);
    v[0] = v[0].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].rotate_left(32);
}
