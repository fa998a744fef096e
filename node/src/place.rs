//! Names of places as the numbers that the engine compares.

use pageswarm_checkpoint::wire::Place;
use pageswarm_swarm::{Label, Labels};

/// Where a node is, in numbers: equal names have equal ones.
#[must_use]
pub fn labels(place: &Place) -> Labels {
    let number = |name: &Option<String>| name.as_deref().and_then(label);
    Labels { zone: number(&place.zone), rack: number(&place.rack), host: number(&place.host) }
}

fn label(name: &str) -> Option<Label> {
    let hash = blake3::hash(name.as_bytes());
    let (number, _) = hash.as_bytes().split_first_chunk()?;
    Some(Label(u64::from_le_bytes(*number)))
}

/// A place for people: zone, rack and host, with a dash for what is not known; nothing if nothing is.
#[must_use]
pub fn text(place: &Place) -> String {
    if *place == Place::default() {
        return String::new();
    }
    [&place.zone, &place.rack, &place.host].map(|name| name.as_deref().unwrap_or("-")).join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(zone: &str, rack: &str) -> Place {
        Place { zone: Some(zone.to_owned()), rack: Some(rack.to_owned()), host: None }
    }

    #[test]
    fn equal_names_are_equal_places_and_no_name_is_none() {
        assert_eq!(labels(&place("a", "r1")), labels(&place("a", "r1")));
        assert_ne!(labels(&place("a", "r1")), labels(&place("a", "r2")));
        assert_eq!(labels(&Place::default()), Labels::default());
    }

    #[test]
    fn what_is_not_known_is_a_dash() {
        assert_eq!(text(&place("a", "r1")), "a/r1/-");
        assert_eq!(text(&Place::default()), "");
    }
}
