//! Where a node is, as whoever runs it says.

use super::take_text_of;
use crate::codec::{FormatError, Put, Take};

/// The longest name of a zone, a rack or a host, in bytes.
pub const PLACE_NAME_BYTES_MAX: usize = 64;

/// Where a node is. Equal names are equal places: a rack is one of its zone, a host one of its rack. What is not known
/// has no name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Between zones, links are long.
    pub zone: Option<String>,
    /// Out of a rack, links are shared.
    pub rack: Option<String>,
    /// On a host, there is no link.
    pub host: Option<String>,
}

impl Place {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        for name in [&self.zone, &self.rack, &self.host] {
            out.put_bytes(name.as_deref().unwrap_or_default().as_bytes());
        }
    }

    pub(super) fn take(take: &mut Take<'_>) -> Result<Self, FormatError> {
        let mut name = || {
            let text = take_text_of(take, PLACE_NAME_BYTES_MAX)?;
            Ok(Some(text).filter(|text| !text.is_empty()))
        };
        Ok(Self { zone: name()?, rack: name()?, host: name()? })
    }
}
