//! Checksums, each computed in two ways.

const POLYNOMIAL: u32 = 0xedb8_8320;
const TABLE: [u32; 256] = table();
const ADLER: u32 = 65_521;

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        table[index] = step(index as u32);
        index += 1;
    }
    table
}

const fn step(mut value: u32) -> u32 {
    let mut bit = 0;
    while bit < 8 {
        value = if value & 1 != 0 { value >> 1 ^ POLYNOMIAL } else { value >> 1 };
        bit += 1;
    }
    value
}

fn crc_by_table(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize] ^ crc >> 8)
}

fn crc_by_bits(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| step(crc & 0xff ^ u32::from(*byte)) ^ crc >> 8)
}

/// Adler-32 with a division for each byte.
fn adler_slow(bytes: &[u8]) -> u32 {
    let (mut a, mut b) = (1_u32, 0_u32);
    for byte in bytes {
        a = (a + u32::from(*byte)) % ADLER;
        b = (b + a) % ADLER;
    }
    b << 16 | a
}

/// Adler-32 with one for as many bytes as 32 bits have room for.
fn adler_fast(bytes: &[u8]) -> u32 {
    let (mut a, mut b) = (1_u32, 0_u32);
    for part in bytes.chunks(5552) {
        for byte in part {
            a += u32::from(*byte);
            b += a;
        }
        a %= ADLER;
        b %= ADLER;
    }
    b << 16 | a
}

/// Fletcher's checksum over words of 32 bits.
pub fn fletcher(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let (mut a, mut b) = (rest.iter().map(|byte| u64::from(*byte)).sum::<u64>(), 0_u64);
    for word in words {
        a = (a + u64::from(u32::from_le_bytes(*word))) % 0xffff_ffff;
        b = (b + a) % 0xffff_ffff;
    }
    b << 32 | a
}

/// The sum of all bytes, by a loop that a compiler turns into vector instructions.
fn plain(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte)).sum()
}

pub fn agree(bytes: &[u8]) -> bool {
    let part = &bytes[bytes.len() / 4..bytes.len() / 2];
    let adler = adler_fast(bytes);
    crc_by_table(part) == crc_by_bits(part)
        && adler == adler_slow(bytes)
        && (1 + plain(bytes)) % u64::from(ADLER) == u64::from(adler & 0xffff)
}
