//! The simulated machine of one interval: processor, RAM, devices, and how many of the logged inputs it was given.

use super::stops::Watcher;
use super::undo::UndoRam;
use crate::interval::{ReplayFailure, bytes_of};
use crate::refusal::UnsupportedState;
use crate::simulator::steps::Steps;
use crate::simulator::{Exit, Simulator};
use pageswarm_machine::{CpuState, Devices, EventLog};

/// Everything about a moment of an interval but RAM.
#[derive(Clone, Debug)]
pub(super) struct Stand {
    pub(super) cpu: CpuState,
    pub(super) devices: Devices,
    pub(super) given: usize,
    pub(super) done: Done,
}

/// What was done since the interval's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) work: u64,
    /// Instructions; a repeated one is one.
    pub(super) instructions: u64,
}

impl Stand {
    pub(super) fn start(cpu: CpuState, devices: Devices) -> Self {
        Self { cpu, devices, given: 0, done: Done::default() }
    }

    pub(super) fn work(&self) -> u64 {
        self.done.work
    }
}

#[derive(Debug)]
pub(super) struct Machine {
    pub(super) simulator: Simulator<UndoRam, Watcher>,
    steps: Steps<UndoRam, Watcher>,
    devices: Devices,
    given: usize,
    /// What was done before the simulator was made.
    before: Done,
    /// The simulator's own breakpoint is set.
    has_landmark: bool,
    /// Work before the last single step.
    stepped_from: u64,
}

impl Machine {
    pub(super) fn new(start: Stand, ram: UndoRam) -> Result<Self, UnsupportedState> {
        Ok(Self {
            simulator: Simulator::new(&start.cpu, ram, Watcher::default())?,
            steps: Steps::new(),
            devices: start.devices,
            given: start.given,
            before: start.done,
            has_landmark: false,
            stepped_from: 0,
        })
    }

    pub(super) fn stand(&self) -> Stand {
        let (cpu, devices) = (self.simulator.state(), self.devices.clone());
        Stand { cpu, devices, given: self.given, done: self.done() }
    }

    pub(super) fn done(&self) -> Done {
        let instructions = self.before.instructions + self.simulator.instructions();
        Done { work: self.work(), instructions }
    }

    #[inline(always)]
    pub(super) fn work(&self) -> u64 {
        self.before.work + self.simulator.work()
    }

    pub(super) fn stepped_from(&self) -> u64 {
        self.stepped_from
    }

    pub(super) fn devices(&self) -> &Devices {
        &self.devices
    }

    pub(super) fn given(&self) -> usize {
        self.given
    }

    /// Goes to where `stand` was taken, with RAM as it was then.
    pub(super) fn set(&mut self, stand: Stand) -> Result<(), UnsupportedState> {
        let ram = std::mem::take(self.simulator.memory_mut());
        let watcher = std::mem::take(self.simulator.observer_mut());
        self.simulator = Simulator::new(&stand.cpu, ram, watcher)?;
        self.steps.forget();
        (self.devices, self.given, self.before) = (stand.devices, stand.given, stand.done);
        self.has_landmark = false;
        Ok(())
    }

    /// One instruction with its input or output, one iteration of a repeated one, or the delivery of an exception.
    pub(super) fn step(&mut self, events: &EventLog) -> Result<(), ReplayFailure> {
        self.stepped_from = self.work();
        match self.simulator.step(&mut self.steps)? {
            None => Ok(()),
            Some(exit) => self.attend(exit, events),
        }
    }

    /// Runs until so much work is done and a little more, the last input was given, or RIP is where
    /// [`Self::look_out_for`] said. True at the latter.
    pub(super) fn run(&mut self, work: u64, events: &EventLog) -> Result<bool, ReplayFailure> {
        self.steps.forget();
        loop {
            let exit = self.simulator.run(work.saturating_sub(self.before.work))?;
            match exit {
                Exit::Done => return Ok(false),
                Exit::Breakpoint => return Ok(true),
                exit => self.attend(exit, events)?,
            }
            // From here on the end may come.
            if matches!(exit, Exit::Input { .. }) && self.given == events.events().len() {
                return Ok(false);
            }
        }
    }

    /// Makes [`Self::run`] pause each time before the instruction at `rip`.
    pub(super) fn look_out_for(&mut self, rip: u64) {
        if !self.has_landmark {
            self.simulator.stop_at(rip);
            self.has_landmark = true;
        }
    }

    fn attend(&mut self, exit: Exit, events: &EventLog) -> Result<(), ReplayFailure> {
        match exit {
            Exit::Input { port, size } => self.input(port, size, events),
            Exit::Output { port, size, value } => {
                self.devices.output(port, &value.to_le_bytes()[..size])?;
                Ok(())
            }
            Exit::Done | Exit::Breakpoint => Ok(()),
        }
    }

    fn input(&mut self, port: u16, size: usize, events: &EventLog) -> Result<(), ReplayFailure> {
        let input = self.devices.input(port, size)?;
        let number = self.given as u64;
        let Some(event) = events.events().get(self.given) else {
            return Err(ReplayFailure::BeyondLog { inputs: number });
        };
        if event.port != port || bytes_of(event) != size {
            return Err(ReplayFailure::OtherInput { number, port, size });
        }
        self.devices.answered(input, event.value);
        self.simulator.answer(event.value);
        self.given += 1;
        Ok(())
    }
}
