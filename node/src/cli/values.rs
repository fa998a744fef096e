//! Values people write on a command line: durations and sizes with units, addresses.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use pageswarm_checkpoint::wire::PLACE_NAME_BYTES_MAX;
use pageswarm_machine::Layout;

/// Reads `500ms`, `2s`, `5m`, `1h` or `30d`.
///
/// # Errors
///
/// What was expected, in words.
pub fn duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let milliseconds = with_unit(text, &units, "a number with ms, s, m, h or d, such as 500ms")?;
    Ok(Duration::from_millis(milliseconds))
}

/// As [`duration`], from one checkpoint to the next.
///
/// # Errors
///
/// What was expected, in words.
pub fn interval(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("from checkpoint to checkpoint there is at least 1ms".to_owned()),
        interval => Ok(interval),
    }
}

/// Reads `107us`, `0.107ms`, `2.5s`, `5m` or `1h`: what was measured is seldom whole.
///
/// # Errors
///
/// What was expected, in words.
pub fn exact_duration(text: &str) -> Result<Duration, String> {
    let error = || "expected a number with us, ms, s, m or h, such as 0.1ms".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().map_err(|_| error())?;
    let units = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let (_, seconds) = units.into_iter().find(|(unit, _)| *unit == &text[digits..]).ok_or_else(error)?;
    Duration::try_from_secs_f64(number * seconds).map_err(|_| "the time is too long".to_owned())
}

/// Reads `4096`, `512KiB`, `256MiB` or `2GiB` as bytes.
///
/// # Errors
///
/// What was expected, in words.
pub fn size(text: &str) -> Result<u64, String> {
    let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40), ("", 1)];
    with_unit(text, &units, "a number of bytes, or with KiB, MiB or GiB, such as 256MiB")
}

/// As [`size`], of RAM that a guest can have.
///
/// # Errors
///
/// What was expected, in words.
pub fn ram_size(text: &str) -> Result<u64, String> {
    let bytes = size(text)?;
    Layout::new(bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}

/// Reads `10..20`, `10..` or `..20`, in decimal or with `0x`: from the first number on, without the last.
///
/// # Errors
///
/// What was expected, in words.
pub fn range(text: &str) -> Result<Range<u64>, String> {
    let error = || "expected a range such as 0x100000..0x101000, 10.. or ..20".to_owned();
    let number = |digits: &str, absent| match (digits, digits.strip_prefix("0x")) {
        ("", _) => Ok(absent),
        (_, Some(digits)) => u64::from_str_radix(digits, 16).map_err(|_| error()),
        (digits, None) => digits.parse().map_err(|_| error()),
    };
    let (start, end) = text.split_once("..").ok_or_else(error)?;
    let range = number(start, 0)?..number(end, u64::MAX)?;
    if range.is_empty() { Err("the range is empty".to_owned()) } else { Ok(range) }
}

/// Reads an address that others can reach, such as `192.0.2.7:7420`.
///
/// # Errors
///
/// What was expected, in words.
pub fn reachable_address(text: &str) -> Result<SocketAddr, String> {
    let found = text.parse().ok().filter(|address: &SocketAddr| {
        // Neither leads anywhere from another machine.
        !address.ip().is_unspecified() && address.port() != 0
    });
    let expected =
        "expected an address that others reach, and a port, such as 192.0.2.7:7420 or [2001:db8::7]:7420";
    found.ok_or_else(|| expected.to_owned())
}

/// The name of a zone, a rack or a host.
///
/// # Errors
///
/// What was expected, in words.
pub fn place_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > PLACE_NAME_BYTES_MAX {
        return Err(format!("expected a name of 1 to {PLACE_NAME_BYTES_MAX} bytes"));
    }
    Ok(text.to_owned())
}

fn with_unit(text: &str, units: &[(&str, u64)], expected: &str) -> Result<u64, String> {
    let error = || format!("expected {expected}");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| error())?;
    let unit = units.iter().find(|(unit, _)| *unit == &text[digits..]).ok_or_else(error)?;
    number.checked_mul(unit.1).ok_or_else(|| "the number is too large".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measured_times_have_parts_of_units() {
        let read = |text| exact_duration(text).map(|time| time.as_nanos());
        assert_eq!(read("0.107ms"), Ok(107_000));
        assert_eq!(read("107us"), Ok(107_000));
        assert_eq!(read("1h"), Ok(3_600_000_000_000));
        for wrong in ["", "5", "ms", "-1s", "1.2.3s", "1e3s", "NaNs", "99999999999999999999999h"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ranges_are_half_open_and_may_lack_an_end() {
        assert_eq!(range("0x10..0x20"), Ok(16..32));
        assert_eq!(range("5.."), Ok(5..u64::MAX));
        assert_eq!(range("..7"), Ok(0..7));
        for wrong in ["5", "7..7", "9..2", "0xg..1", "-1..3", "1..=2", ""] {
            assert!(range(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_and_sizes_need_their_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        assert!(duration("5").is_err());
        assert!(duration("-1s").is_err());
        assert_eq!(interval("1ms"), Ok(Duration::from_millis(1)));
        assert!(["0ms", "0d", "1"].iter().all(|text| interval(text).is_err()));
        assert_eq!(size("256MiB"), Ok(256 << 20));
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(ram_size("64MiB"), Ok(64 << 20));
        assert!(["62MiB", "65MiB", "33GiB", "x"].iter().all(|text| ram_size(text).is_err()));
        assert!(size("1GB").is_err());
        assert!(size("99999999999999GiB").is_err());
    }

    #[test]
    fn an_address_to_reach_is_one_and_has_a_port() {
        assert_eq!(reachable_address("192.0.2.7:7420"), Ok(SocketAddr::from(([192, 0, 2, 7], 7420))));
        assert!(reachable_address("[2001:db8::7]:7420").is_ok());
        for nowhere in ["0.0.0.0:7420", "[::]:7420", "192.0.2.7:0", "192.0.2.7", "node:7420"] {
            assert!(reachable_address(nowhere).is_err(), "{nowhere}");
        }
    }
}
