//! The log of one interval's non-deterministic inputs: every port read, in order, with its value.
//!
//! Byte form: version, number of events, then for each event a head and the value, all varints. The head is 0 when
//! port and size are those of the event before, else `port * 4 + log2(size) + 1`.

use crate::bytes::{BytesError, Reader, put_varint};

const VERSION: u8 = 1;
/// Most events in one interval; whoever records ends the interval before it has more.
pub const EVENTS_MAX: usize = 1 << 20;

/// One port read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The port.
    pub port: u16,
    /// Access size.
    pub size: EventSize,
    /// What the guest was given; at most `size` bytes long.
    pub value: u32,
}

/// Access size of a port read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EventSize {
    /// 8 bits.
    Byte = 0,
    /// 16 bits.
    Word = 1,
    /// 32 bits.
    Long = 2,
}

/// The log has [`EVENTS_MAX`] events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("event log of the interval is full at {EVENTS_MAX} events")]
pub struct EventLogFull;

/// The inputs of one interval.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventLog {
    events: Vec<Event>,
}

impl EventSize {
    const fn from_number(number: u64) -> Option<Self> {
        match number {
            0 => Some(Self::Byte),
            1 => Some(Self::Word),
            2 => Some(Self::Long),
            _ => None,
        }
    }

    const fn value_max(self) -> u32 {
        match self {
            Self::Byte => 0xff,
            Self::Word => 0xffff,
            Self::Long => u32::MAX,
        }
    }
}

impl EventLog {
    /// An empty log with room for `events` events.
    #[must_use]
    pub fn with_capacity(events: usize) -> Self {
        Self { events: Vec::with_capacity(events.min(EVENTS_MAX)) }
    }

    /// Appends an event.
    ///
    /// # Errors
    /// When the log is full.
    pub fn push(&mut self, event: Event) -> Result<(), EventLogFull> {
        if self.is_full() {
            return Err(EventLogFull);
        }
        self.events.push(event);
        Ok(())
    }

    /// True when no event fits any more.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.events.len() >= EVENTS_MAX
    }

    /// The events in order.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Forgets all events and keeps the memory.
    pub fn clear(&mut self) {
        self.events.clear();
    }

    /// The byte form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        put_varint(&mut out, self.events.len() as u64);
        let mut before = None;
        for event in &self.events {
            let place = (event.port, event.size);
            let head = u64::from(event.port) * 4 + event.size as u64 + 1;
            put_varint(&mut out, if before == Some(place) { 0 } else { head });
            put_varint(&mut out, u64::from(event.value));
            before = Some(place);
        }
        out
    }

    /// Reads the byte form.
    ///
    /// # Errors
    /// Unless `encode` of the result would give exactly these bytes; also when it claims more than [`EVENTS_MAX`].
    pub fn decode(bytes: &[u8]) -> Result<Self, BytesError> {
        let mut reader = Reader::new(bytes);
        let found = reader.u8()?;
        if found != VERSION {
            return Err(BytesError::Version { found });
        }
        let count = usize::try_from(reader.varint()?).unwrap_or(usize::MAX);
        // Every event takes at least two bytes.
        if count > EVENTS_MAX || count > reader.left() / 2 {
            return Err(reader.impossible());
        }
        let mut log = Self::with_capacity(count);
        for _ in 0..count {
            let before = log.events.last().copied();
            log.events.push(decode_event(&mut reader, before)?);
        }
        reader.finish()?;
        Ok(log)
    }
}

fn decode_event(reader: &mut Reader<'_>, before: Option<Event>) -> Result<Event, BytesError> {
    let head = reader.varint()?;
    let place = match head.checked_sub(1) {
        None => before.map(|event| (event.port, event.size)),
        Some(head) => u16::try_from(head / 4).ok().zip(EventSize::from_number(head % 4)),
    };
    let (port, size) = place.ok_or(reader.impossible())?;
    if head != 0 && before.is_some_and(|event| (event.port, event.size) == (port, size)) {
        return Err(reader.impossible());
    }
    let value = u32::try_from(reader.varint()?).map_err(|_| reader.impossible())?;
    if value > size.value_max() {
        return Err(reader.impossible());
    }
    Ok(Event { port, size, value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_event() -> impl Strategy<Value = Event> {
        let size = prop::sample::select(vec![EventSize::Byte, EventSize::Word, EventSize::Long]);
        (0_u16..4, size, any::<u32>()).prop_map(|(port, size, value)| Event {
            port,
            size,
            value: value & size.value_max(),
        })
    }

    proptest! {
        #[test]
        fn logs_read_back(events in prop::collection::vec(any_event(), 0..200)) {
            let log = EventLog { events };
            prop_assert_eq!(EventLog::decode(&log.encode()), Ok(log));
        }

        #[test]
        fn any_bytes_decode_or_fail_without_loss(mut bytes in prop::collection::vec(0_u8..12, 2..60)) {
            bytes[0] = VERSION;
            if let Ok(log) = EventLog::decode(&bytes) {
                prop_assert_eq!(log.encode(), bytes);
            }
        }
    }

    #[test]
    fn a_claimed_length_is_checked_before_memory_is_taken() {
        let mut bytes = vec![VERSION];
        put_varint(&mut bytes, u64::MAX);
        assert!(EventLog::decode(&bytes).is_err());
        let mut bytes = vec![VERSION];
        put_varint(&mut bytes, 1000);
        bytes.extend([0; 100]);
        assert!(EventLog::decode(&bytes).is_err());
    }
}
