//! What was gained lately and not all followers have been told, once for all of them.

use std::collections::VecDeque;
use std::time::Duration;

use crate::births::BirthSet;
use crate::time::Time;

/// Gains within this time are one entry, as long as nobody was told of it.
const TOGETHER: Duration = Duration::from_millis(5);

/// Gains in the order of time; a follower knows up to which number it has been told.
#[derive(Debug, Default)]
pub(crate) struct Gains {
    /// The number of the first entry that is kept.
    first: u64,
    entries: VecDeque<(Time, BirthSet)>,
    /// Someone was told of the last entry: it must not grow.
    is_sealed: bool,
}

impl Gains {
    /// These were gained.
    pub(crate) fn note(&mut self, births: &BirthSet, now: Time) {
        if let Some((since, last)) = self.entries.back_mut()
            && !self.is_sealed
            && now.since(*since) < TOGETHER
        {
            last.add(births);
            return;
        }
        self.entries.push_back((now, births.clone()));
        self.is_sealed = false;
    }

    /// These are not held any more: nobody is told of them.
    pub(crate) fn forget(&mut self, births: &BirthSet) {
        for (_, entry) in &mut self.entries {
            entry.subtract(births);
        }
    }

    /// The number of the next entry, for someone who was told everything: what is gained from now on is a new entry.
    pub(crate) fn seal(&mut self) -> u64 {
        self.is_sealed = true;
        self.first + self.entries.len() as u64
    }

    /// Since when someone who was told up to a number has not been told everything.
    pub(crate) fn untold_since(&self, told: u64) -> Option<Time> {
        self.entries.get(self.place(told)).map(|(since, _)| *since)
    }

    /// What someone who was told up to a number has not been told.
    pub(crate) fn untold(&self, told: u64) -> BirthSet {
        let mut untold = BirthSet::new();
        for (_, entry) in self.entries.range(self.place(told)..) {
            untold.add(entry);
        }
        untold
    }

    /// Everyone has been told up to a number.
    pub(crate) fn drop_before(&mut self, told: u64) {
        self.entries.drain(..self.place(told));
        self.first = self.first.max(told);
    }

    /// An estimate of the memory that it takes, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.entries.iter().map(|entry| size_of_val(entry) + entry.1.memory_bytes()).sum()
    }

    fn place(&self, told: u64) -> usize {
        usize::try_from(told.saturating_sub(self.first))
            .map_or(self.entries.len(), |at| at.min(self.entries.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pageswarm_checkpoint::Birth;

    #[test]
    fn everyone_is_told_everything_once() {
        let births = |first, last| BirthSet::range(Birth(first), Birth(last));
        let mut gains = Gains::default();
        let early = gains.seal();
        gains.note(&births(0, 3), Time::from_millis(10));
        gains.note(&births(4, 5), Time::from_millis(11));
        assert_eq!(gains.untold(early), births(0, 5));
        assert_eq!(gains.untold_since(early), Some(Time::from_millis(10)));
        let later = gains.seal();
        gains.note(&births(6, 6), Time::from_millis(12));
        assert_eq!(gains.untold(later), births(6, 6), "what was told does not grow");
        assert_eq!(gains.untold_since(later), Some(Time::from_millis(12)));
        gains.forget(&births(2, 2));
        assert!(!gains.untold(early).contains(Birth(2)));
        gains.drop_before(later);
        assert_eq!(gains.untold(later), births(6, 6));
        let end = gains.seal();
        assert!(gains.untold(end).is_empty() && gains.untold_since(end).is_none());
    }
}
