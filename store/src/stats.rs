//! Counts: the totals that the index carries along, and what a store tells about itself.

use crate::index::Location;

/// What a store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Chunks held.
    pub chunks: u64,
    /// Their bytes when decoded.
    pub chunk_bytes_decoded: u64,
    /// Their bytes in packs, with record headers.
    pub chunk_bytes_stored: u64,
    /// Metadata objects held.
    pub objects: u64,
    /// Their bytes in packs, with record headers.
    pub object_bytes_stored: u64,
    /// Pack files.
    pub packs: u64,
    /// Bytes of all packs, those of chunks that turned bad included.
    pub pack_bytes: u64,
    /// Bytes of the index's table files.
    pub index_bytes: u64,
    /// Chunks offered since the store was opened that it held already.
    pub duplicates: u64,
    /// Patches stored without their base since the store was opened: it was too deep, or not held.
    pub reencoded: u64,
    /// Chunks found bad since the store was opened.
    pub bad_chunks: u64,
    /// Bytes that all packs may have together.
    pub quota_bytes: Option<u64>,
}

/// Counts that live in the index, so that opening a store needs no walk through it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) chunks: u64,
    pub(crate) chunk_bytes_decoded: u64,
    pub(crate) chunk_bytes_stored: u64,
    pub(crate) objects: u64,
    pub(crate) object_bytes_stored: u64,
}

const BYTES: usize = 40;

impl Totals {
    pub(crate) fn encode(&self) -> Vec<u8> {
        self.fields().iter().flat_map(|field| field.to_le_bytes()).collect()
    }

    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let value: &[u8; BYTES] = value.try_into().ok()?;
        let field = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| value[at * 8 + i]));
        Some(Self {
            chunks: field(0),
            chunk_bytes_decoded: field(1),
            chunk_bytes_stored: field(2),
            objects: field(3),
            object_bytes_stored: field(4),
        })
    }

    pub(crate) fn add_chunk(&mut self, location: &Location) {
        self.chunks += 1;
        self.chunk_bytes_decoded += u64::from(location.decoded_len);
        self.chunk_bytes_stored += location.record_bytes();
    }

    // Totals are read from disk: what does not add up must not stop a store.
    pub(crate) fn remove_chunk(&mut self, location: &Location) {
        self.chunks = self.chunks.saturating_sub(1);
        self.chunk_bytes_decoded = self.chunk_bytes_decoded.saturating_sub(u64::from(location.decoded_len));
        self.chunk_bytes_stored = self.chunk_bytes_stored.saturating_sub(location.record_bytes());
    }

    pub(crate) fn add_object(&mut self, location: &Location) {
        self.objects += 1;
        self.object_bytes_stored += location.record_bytes();
    }

    pub(crate) fn remove_object(&mut self, location: &Location) {
        self.objects = self.objects.saturating_sub(1);
        self.object_bytes_stored = self.object_bytes_stored.saturating_sub(location.record_bytes());
    }

    fn fields(&self) -> [u64; 5] {
        [
            self.chunks,
            self.chunk_bytes_decoded,
            self.chunk_bytes_stored,
            self.objects,
            self.object_bytes_stored,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_read_back() {
        let totals = Totals {
            chunks: 1,
            chunk_bytes_decoded: 2,
            chunk_bytes_stored: 3,
            objects: 4,
            object_bytes_stored: 5,
        };
        assert_eq!(Totals::decode(&totals.encode()), Some(totals));
        assert_eq!(Totals::decode(b"short"), None);
    }
}
