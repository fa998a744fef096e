//! What a lease table goes by: terms, and which intervals are simulated twice.

use std::time::Duration;

use pageswarm_checkpoint::{CheckpointIndex, LineageId};

use super::judgement::Checked;

/// A share in parts of a million.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u32);

/// The text is not a share.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a share from 0% to 100%, such as 5% or 0.5%")]
pub struct ParseShareError;

/// What a lease table goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How long a lease holds after each renewal.
    pub term: Duration,
    /// Share of the intervals that are simulated twice, by different workers.
    pub sample: Share,
    /// Which ones; no worker may know it.
    pub seed: [u8; 32],
    /// Whose intervals.
    pub lineage: LineageId,
}

impl Share {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// All.
    pub const ALL: Self = Self(1_000_000);

    /// So many parts of a million, all if there are more.
    #[must_use]
    pub const fn per_million(parts: u32) -> Self {
        if parts > Self::ALL.0 { Self::ALL } else { Self(parts) }
    }

    /// Parts of a million.
    #[must_use]
    pub const fn millionths(self) -> u32 {
        self.0
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}%", f64::from(self.0) / 1e4)
    }
}

impl std::str::FromStr for Share {
    type Err = ParseShareError;

    fn from_str(text: &str) -> Result<Self, ParseShareError> {
        let text = text.strip_suffix('%').ok_or(ParseShareError)?;
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(fraction) || fraction.len() > 4 {
            return Err(ParseShareError);
        }
        let whole: u32 = whole.parse().map_err(|_| ParseShareError)?;
        let fraction: u32 = format!("{fraction:0<4}").parse().map_err(|_| ParseShareError)?;
        let parts = whole.checked_mul(10_000).and_then(|parts| parts.checked_add(fraction));
        let parts = parts.filter(|parts| *parts <= Self::ALL.0).ok_or(ParseShareError)?;
        Ok(Self(parts))
    }
}

impl Policy {
    /// Whether an interval is in the sample. The same for every table with this seed, so that a table that is made
    /// again from results wants what the one before wanted.
    #[must_use]
    pub fn checked(&self, interval: CheckpointIndex) -> Checked {
        let mut hasher = blake3::Hasher::new_keyed(&self.seed);
        hasher.update(self.lineage.as_bytes()).update(&interval.0.to_le_bytes());
        let mut drawn = [0; 8];
        hasher.finalize_xof().fill(&mut drawn);
        // 64 bits modulo a million: no part is more likely by more than one in 10^13.
        if u64::from_le_bytes(drawn) % u64::from(Share::ALL.0) < u64::from(self.sample.0) {
            Checked::Twice
        } else {
            Checked::Once
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_the_stated_share() {
        for share in ["0%", "5%", "50%", "100%"] {
            let sample: Share = share.parse().unwrap();
            assert_eq!(sample.to_string(), share);
            let policy =
                Policy { term: Duration::from_secs(1), sample, seed: [3; 32], lineage: LineageId([1; 32]) };
            let twice = (0..20_000).filter(|k| policy.checked(CheckpointIndex(*k)) == Checked::Twice).count();
            let expected = 20_000.0 * f64::from(sample.millionths()) / 1e6;
            assert!((twice as f64 - expected).abs() <= 300.0, "{share}: {twice} of 20,000");
        }
        assert!(["5", "101%", "-1%", "x%", ""].iter().all(|text| text.parse::<Share>().is_err()));
    }
}
