//! What is spread: noise that no encoding makes smaller, the same for the same seed.

use std::fs::File;
use std::io::{BufReader, Read, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};

const BLOCK_BYTES: usize = 1 << 20;

/// Endless noise (Vigna, splitmix64).
#[derive(Clone, Debug)]
pub(super) struct Noise(u64);

impl Noise {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) const fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn fill(&mut self, bytes: &mut [u8]) {
        for word in bytes.chunks_mut(8) {
            let noise = self.number().to_le_bytes();
            word.copy_from_slice(&noise[..word.len()]);
        }
    }
}

/// Writes `bytes` of noise to a new file.
pub(super) fn write(path: &Path, bytes: u64, noise: &mut Noise) -> Result<()> {
    let mut file = File::create(path).with_context(|| path.display().to_string())?;
    let mut block = vec![0; BLOCK_BYTES];
    let mut left = bytes;
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(BLOCK_BYTES).min(BLOCK_BYTES);
        noise.fill(&mut block[..length]);
        file.write_all(&block[..length]).with_context(|| path.display().to_string())?;
        left -= length as u64;
    }
    // What the kernel still has to write would be written while something is measured.
    file.sync_all().with_context(|| path.display().to_string())
}

/// Whether two files have the same bytes.
pub(super) fn equal(first: &Path, second: &Path) -> Result<bool> {
    let open = |path: &Path| -> Result<(u64, BufReader<File>)> {
        let file = File::open(path).with_context(|| path.display().to_string())?;
        let bytes = file.metadata().with_context(|| path.display().to_string())?.len();
        Ok((bytes, BufReader::new(file)))
    };
    let ((first_bytes, mut first), (second_bytes, mut second)) = (open(first)?, open(second)?);
    if first_bytes != second_bytes {
        return Ok(false);
    }
    let (mut one, mut other) = (vec![0; BLOCK_BYTES], vec![0; BLOCK_BYTES]);
    let mut left = first_bytes;
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(BLOCK_BYTES).min(BLOCK_BYTES);
        first.read_exact(&mut one[..length])?;
        second.read_exact(&mut other[..length])?;
        if one[..length] != other[..length] {
            return Ok(false);
        }
        left -= length as u64;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_that_of_its_seed() {
        // The first numbers of the published generator for seed 1234567.
        let mut noise = Noise::new(1_234_567);
        assert_eq!(noise.number(), 6_457_827_717_110_365_317);
        assert_eq!(noise.number(), 3_203_168_211_198_807_973);
        let (mut one, mut other) = ([0; 21], [0; 21]);
        Noise::new(7).fill(&mut one);
        Noise::new(7).fill(&mut other);
        assert_eq!(one, other);
    }
}
