//! Goal: the interpreter runs the workload guest right, without any processor to compare with. Method: boot the guest,
//! give it work, and compare RAM with what the host computes by the same content model; the guest checks itself, too.

#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

use pageswarm_machine::abi::WORDS;
use pageswarm_machine::content::{self, Order, Random, Words};
use pageswarm_machine::devices::{Input, Phase};
use pageswarm_machine::guest::{self, BootParameters};
use pageswarm_machine::{Devices, Layout, PAGE_BYTES, Workload};
use pageswarm_sim::{CompleteRam, Exit, Simulator, Unobserved};

const RAM_BYTES: u64 = 64 << 20;
const SEED: u64 = 5;

/// The guest from its first instruction to the first input after `inputs` answers.
fn boot(workload: Workload, paces: &[u32]) -> (Simulator<CompleteRam, Unobserved>, Devices) {
    let mut ram = vec![0; usize::try_from(RAM_BYTES).unwrap()];
    let state = guest::load(&mut ram, BootParameters { seed: SEED, workload }).unwrap();
    let mut simulator = Simulator::new(&state, CompleteRam::new(ram), Unobserved).unwrap();
    let mut devices = Devices::default();
    let mut paces = paces.iter();
    loop {
        match simulator.run(u64::MAX).unwrap() {
            Exit::Input { port, size } => {
                let input = devices.input(port, size).unwrap();
                let value = match input {
                    Input::Pace => match paces.next() {
                        Some(pace) => *pace,
                        None => return (simulator, devices),
                    },
                    Input::ClockLow => 77,
                    Input::ClockHigh => 0,
                };
                devices.answered(input, value);
                simulator.answer(value);
            }
            Exit::Output { port, size, value } => {
                devices.output(port, &value.to_le_bytes()[..size]).unwrap();
            }
            other => panic!("{other:?}"),
        }
    }
}

/// The data pages after `changes` changes.
fn expected(workload: Workload, changes: u64) -> Vec<Words> {
    let layout = Layout::new(RAM_BYTES).unwrap();
    let mut pages = vec![[0; WORDS]; usize::try_from(layout.data_pages()).unwrap()];
    for (number, words) in (0..).zip(&mut pages) {
        content::fill_base(SEED, number, words);
    }
    let run_pages = workload.run_pages();
    let mut order = Order::new(SEED, layout.data_pages() / run_pages);
    let mut random = Random::new(SEED, 6);
    let (mut run, mut left) = (0, 0);
    for _ in 0..changes {
        if left == 0 {
            (run, left) = (order.draw(), run_pages);
        }
        left -= 1;
        let page = usize::try_from(run * run_pages + left).unwrap();
        content::change(&mut random, &mut pages[page]);
    }
    pages
}

#[test]
fn the_guest_does_what_the_content_model_says() {
    for workload in Workload::ALL {
        // 300 pages dirtied, 20 checked; then a whole pass of checks, which the guest answers for.
        let pass = 0x3fff << 16;
        let (simulator, devices) = boot(workload, &[300 | 20 << 16, pass, pass]);
        assert_eq!(devices.phase, Phase::Running);
        assert_eq!((devices.operations, devices.wrong_page), (300, None));
        assert!(devices.passes >= 1, "{devices:?}");
        let base = usize::try_from(Layout::new(RAM_BYTES).unwrap().data_base()).unwrap();
        let data = &simulator.memory().bytes()[base..];
        for (number, (words, found)) in
            expected(workload, 300).iter().zip(data.chunks(PAGE_BYTES)).enumerate()
        {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            assert!(bytes == found, "{workload}: data page {number}");
        }
        assert!(simulator.instructions() > 1_000_000);
        println!("{workload}: {} instructions", simulator.instructions());
    }
}
