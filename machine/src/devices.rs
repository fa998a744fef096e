//! The guest's port devices as deterministic state: what they hold follows from the guest's outs and its logged ins.

use crate::abi;
use crate::bytes::{BytesError, Reader};
use pageswarm_checkpoint::PageNumber;

const VERSION: u8 = 1;
/// Bytes of every encoded [`Devices`].
pub const DEVICES_BYTES: usize = 1 + 8 * 4 + 4 * 2 + 1 + 4 + 8 * 2;
/// FNV-1a, 64 bits.
const CONSOLE_BASIS: u64 = 0xcbf2_9ce4_8422_2325;

/// The guest used a port in a way that no device understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// An in from a port without an input of that size.
    #[error("guest reads {size} bytes from port {port:#x}, which has no such input")]
    Input {
        /// The port.
        port: u16,
        /// Access size in bytes.
        size: usize,
    },
    /// An out to a port without an output of that size.
    #[error("guest writes {size} bytes to port {port:#x}, which has no such output")]
    Output {
        /// The port.
        port: u16,
        /// Access size in bytes.
        size: usize,
    },
    /// An out of a value that the port does not have.
    #[error("guest writes {value:#x} to port {port:#x}, which has no such value")]
    Value {
        /// The port.
        port: u16,
        /// The value.
        value: u32,
    },
}

/// What an in asks the outside world for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// How many pages to dirty (low 16 bits) and to self-check (high 16 bits).
    Pace,
    /// The clock's low 32 bits, in nanoseconds.
    ClockLow,
    /// The clock's high 32 bits.
    ClockHigh,
}

/// What the outside world learns from an out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// State inside the devices only.
    Quiet,
    /// A byte for the console.
    Console(u8),
    /// One of the reported figures changed; see [`Devices`].
    Reported,
}

/// What the guest says it is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// It has not said anything yet.
    #[default]
    Start,
    /// Writing the base image.
    Filling,
    /// Running the workload.
    Running,
    /// Stopped after finding a wrong byte.
    Stopped,
}

/// The state of all port devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Devices {
    /// Bytes written to the console.
    pub console_bytes: u64,
    /// FNV-1a over all bytes written to the console.
    pub console_hash: u64,
    /// Inputs read so far.
    pub inputs: u64,
    /// Pages dirtied, as last reported.
    pub operations: u64,
    /// Self-check passes completed, as last reported.
    pub passes: u32,
    /// What the guest is doing.
    pub phase: Phase,
    /// The page in which the guest found a wrong byte.
    pub wrong_page: Option<PageNumber>,
    /// The clock as last read, low half from the last low read, high half from the last high read; nanoseconds.
    pub clock_ns: u64,
    /// Pages that the guest was told to dirty so far.
    pub pages_told: u64,
    operations_low: u32,
}

impl Default for Devices {
    fn default() -> Self {
        Self {
            console_bytes: 0,
            console_hash: CONSOLE_BASIS,
            inputs: 0,
            operations: 0,
            passes: 0,
            phase: Phase::Start,
            wrong_page: None,
            clock_ns: 0,
            pages_told: 0,
            operations_low: 0,
        }
    }
}

impl Devices {
    /// What an in of `size` bytes from `port` asks for.
    ///
    /// # Errors
    /// When no device has that input.
    pub fn input(&self, port: u16, size: usize) -> Result<Input, PortError> {
        match (port, size) {
            (abi::PORT_PACE, 4) => Ok(Input::Pace),
            (abi::PORT_CLOCK_LOW, 4) => Ok(Input::ClockLow),
            (abi::PORT_CLOCK_HIGH, 4) => Ok(Input::ClockHigh),
            _ => Err(PortError::Input { port, size }),
        }
    }

    /// Takes note of the value that an in was answered with.
    pub fn answered(&mut self, input: Input, value: u32) {
        self.inputs = self.inputs.wrapping_add(1);
        let value = u64::from(value);
        match input {
            Input::Pace => self.pages_told = self.pages_told.wrapping_add(value & 0xffff),
            Input::ClockLow => self.clock_ns = (self.clock_ns & !0xffff_ffff) | value,
            Input::ClockHigh => self.clock_ns = (self.clock_ns & 0xffff_ffff) | value << 32,
        }
    }

    /// Takes an out of `bytes` (1, 2 or 4) to `port`.
    ///
    /// # Errors
    /// When no device takes that.
    pub fn output(&mut self, port: u16, bytes: &[u8]) -> Result<Effect, PortError> {
        if let (abi::PORT_CONSOLE, &[byte]) = (port, bytes) {
            self.console_bytes = self.console_bytes.wrapping_add(1);
            self.console_hash = (self.console_hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            return Ok(Effect::Console(byte));
        }
        let refused = PortError::Output { port, size: bytes.len() };
        let value = u32::from_le_bytes(bytes.try_into().map_err(|_| refused)?);
        match port {
            abi::PORT_OPERATIONS_LOW => {
                self.operations_low = value;
                return Ok(Effect::Quiet);
            }
            abi::PORT_OPERATIONS_HIGH => {
                self.operations = u64::from(value) << 32 | u64::from(self.operations_low);
            }
            abi::PORT_PASSES => self.passes = value,
            // No RAM has a page of that number, and the byte form has it for none.
            abi::PORT_WRONG_PAGE => {
                self.wrong_page = Some(value).filter(|&page| page != u32::MAX).map(PageNumber);
            }
            abi::PORT_PHASE => {
                self.phase = Phase::from_number(value).ok_or(PortError::Value { port, value })?;
            }
            _ => return Err(refused),
        }
        Ok(Effect::Reported)
    }

    /// The one byte form, [`DEVICES_BYTES`] long.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(DEVICES_BYTES);
        out.push(VERSION);
        for value in [self.console_bytes, self.console_hash, self.inputs, self.operations] {
            out.extend(value.to_le_bytes());
        }
        out.extend(self.passes.to_le_bytes());
        out.extend(self.operations_low.to_le_bytes());
        out.push(self.phase.number());
        out.extend(self.wrong_page.map_or(u32::MAX, |page| page.0).to_le_bytes());
        out.extend(self.clock_ns.to_le_bytes());
        out.extend(self.pages_told.to_le_bytes());
        out
    }

    /// Reads the byte form.
    ///
    /// # Errors
    /// Unless `encode` of the result would give exactly these bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, BytesError> {
        let mut reader = Reader::new(bytes);
        let found = reader.u8()?;
        if found != VERSION {
            return Err(BytesError::Version { found });
        }
        let [console_bytes, console_hash, inputs, operations] =
            [reader.u64()?, reader.u64()?, reader.u64()?, reader.u64()?];
        let (passes, operations_low) = (reader.u32()?, reader.u32()?);
        let phase = reader.u8()?;
        let phase = Phase::from_number(u32::from(phase)).ok_or(reader.impossible())?;
        let wrong_page = Some(reader.u32()?).filter(|&page| page != u32::MAX).map(PageNumber);
        let (clock_ns, pages_told) = (reader.u64()?, reader.u64()?);
        reader.finish()?;
        Ok(Self {
            console_bytes,
            console_hash,
            inputs,
            operations,
            passes,
            phase,
            wrong_page,
            clock_ns,
            pages_told,
            operations_low,
        })
    }
}

impl Phase {
    const fn number(self) -> u8 {
        match self {
            Self::Start => 0,
            Self::Filling => 1,
            Self::Running => 2,
            Self::Stopped => 3,
        }
    }

    const fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Start),
            abi::PHASE_FILLING => Some(Self::Filling),
            abi::PHASE_RUNNING => Some(Self::Running),
            abi::PHASE_STOPPED => Some(Self::Stopped),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_operation_counter_takes_effect_with_its_high_half() {
        let mut devices = Devices::default();
        assert_eq!(devices.output(abi::PORT_OPERATIONS_LOW, &[5, 0, 0, 0]), Ok(Effect::Quiet));
        assert_eq!(devices.operations, 0);
        assert_eq!(devices.output(abi::PORT_OPERATIONS_HIGH, &[1, 0, 0, 0]), Ok(Effect::Reported));
        assert_eq!(devices.operations, (1 << 32) + 5);
    }

    #[test]
    fn unknown_ports_sizes_and_values_are_refused() {
        let mut devices = Devices::default();
        assert!(devices.input(abi::PORT_PACE, 1).is_err());
        assert!(devices.input(0x60, 4).is_err());
        assert!(devices.output(abi::PORT_CONSOLE, &[1, 2]).is_err());
        assert!(devices.output(abi::PORT_PHASE, &[9, 0, 0, 0]).is_err());
        assert!(devices.output(0x60, &[0; 4]).is_err());
        assert_eq!(devices, Devices::default());
    }

    proptest! {
        #[test]
        fn every_reachable_state_reads_back(
            outs in prop::collection::vec((prop::sample::select(vec![
                abi::PORT_PASSES, abi::PORT_OPERATIONS_LOW, abi::PORT_OPERATIONS_HIGH,
                abi::PORT_WRONG_PAGE, abi::PORT_PHASE, abi::PORT_CONSOLE,
            ]), prop_oneof![any::<u32>(), Just(u32::MAX)]), 0..40),
            clock in any::<u32>(),
        ) {
            let mut devices = Devices::default();
            for (port, value) in outs {
                let bytes = value.to_le_bytes();
                let _refused_or_not = devices.output(port, if port == abi::PORT_CONSOLE { &bytes[..1] } else { &bytes });
            }
            devices.answered(Input::ClockLow, clock);
            devices.answered(Input::Pace, clock);
            let bytes = devices.encode();
            prop_assert_eq!(bytes.len(), DEVICES_BYTES);
            let back = Devices::decode(&bytes).unwrap();
            prop_assert_eq!(back.encode(), bytes);
            prop_assert_eq!(back, devices);
        }

        #[test]
        fn any_bytes_decode_or_fail_without_loss(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(devices) = Devices::decode(&bytes) {
                prop_assert_eq!(devices.encode(), bytes);
            }
        }
    }
}
