//! Goal: the interpreter runs the guests right, without any processor to compare with. Method: boot each, give it work,
//! and compare RAM with what the host computes by the same content model, where there is one; the guests check
//! themselves, too, and notice bytes that are made wrong.

#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

use pageswarm_machine::abi::{self, BLOCK_PAGES, WORDS};
use pageswarm_machine::content::{self, Order, Random, Words};
use pageswarm_machine::devices::{Input, Phase};
use pageswarm_machine::guest::{self, BootParameters};
use pageswarm_machine::{CpuState, Devices, Layout, PAGE_BYTES, Workload};
use pageswarm_sim::{CompleteRam, Exit, Simulator, Unobserved};

const RAM_BYTES: u64 = 64 << 20;
const SEED: u64 = 5;

/// The guest from its first instruction to the first input after `inputs` answers.
fn boot(workload: Workload, paces: &[u32]) -> (Simulator<CompleteRam, Unobserved>, Devices) {
    let mut ram = vec![0; usize::try_from(RAM_BYTES).unwrap()];
    let state = guest::load(&mut ram, BootParameters { seed: SEED, workload }).unwrap();
    let mut simulator = Simulator::new(&state, CompleteRam::new(ram), Unobserved).unwrap();
    let mut devices = Devices::default();
    work(&mut simulator, &mut devices, paces);
    (simulator, devices)
}

/// Goes on until the guest asks for more paces than there are.
fn work(simulator: &mut Simulator<CompleteRam, Unobserved>, devices: &mut Devices, paces: &[u32]) {
    let mut paces = paces.iter();
    loop {
        match simulator.run(u64::MAX).unwrap() {
            Exit::Input { port, size } => {
                let input = devices.input(port, size).unwrap();
                let value = match input {
                    Input::Pace => match paces.next() {
                        Some(pace) => *pace,
                        None => return,
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
    for workload in Workload::PACED {
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

/// A whole pass of checks and more, whatever was checked before.
const PASS: [u32; 2] = [0x3fff << 16; 2];

#[test]
fn guests_that_do_jobs_find_them_right() {
    for workload in Workload::JOBS {
        // 40 jobs, told in parts that are no whole ones.
        let paces = [&[100; 6][..], &[40], &PASS].concat();
        let (simulator, devices) = boot(workload, &paces);
        assert_eq!((devices.phase, devices.wrong_page), (Phase::Running, None), "{workload}");
        assert_eq!(devices.operations, 40 * BLOCK_PAGES, "{workload}");
        assert!(devices.passes >= 1, "{workload}: {devices:?}");
        println!("{workload}: {} instructions", simulator.instructions());
    }
}

/// A guest that did a few jobs and asks for more.
struct Ready {
    state: CpuState,
    ram: CompleteRam,
    devices: Devices,
}

impl Ready {
    fn after_jobs(workload: Workload) -> Self {
        let (simulator, devices) = boot(workload, &[3 * u32::try_from(BLOCK_PAGES).unwrap()]);
        let state = simulator.state();
        Self { state, ram: simulator.into_parts().0, devices }
    }

    /// What it says after a change to its RAM when it is told `paces` more.
    fn after_change(&self, change: impl FnOnce(&mut [u8]), paces: &[u32]) -> (Phase, Option<u32>) {
        let (mut ram, mut devices) = (self.ram.clone(), self.devices.clone());
        change(ram.bytes_mut());
        let mut simulator = Simulator::new(&self.state, ram, Unobserved).unwrap();
        work(&mut simulator, &mut devices, &[paces, &[0]].concat());
        (devices.phase, devices.wrong_page.map(|page| page.0))
    }
}

fn place(address: u64) -> usize {
    usize::try_from(address).unwrap()
}

#[test]
fn guests_that_do_jobs_name_the_page_of_a_wrong_byte() {
    let data = Layout::new(RAM_BYTES).unwrap().data_base();
    for workload in Workload::JOBS {
        let ready = Ready::after_jobs(workload);
        for address in [data + 77 * abi::PAGE + 5, RAM_BYTES - 1, abi::IMAGE_BASE + 0x10, abi::GDT_BASE] {
            let said = ready.after_change(|ram| ram[place(address)] ^= 4, &PASS);
            let page = u32::try_from(address / abi::PAGE).unwrap();
            assert_eq!(said, (Phase::Stopped, Some(page)), "{workload}: {address:#x}");
        }
    }
}

#[test]
fn a_job_on_a_wrong_block_is_not_done() {
    let layout = Layout::new(RAM_BYTES).unwrap();
    for workload in Workload::JOBS {
        // The last byte of every block, wherever the next job is.
        let spoil = |ram: &mut [u8]| {
            for page in (BLOCK_PAGES - 1..layout.data_pages()).step_by(place(BLOCK_PAGES)) {
                ram[place(layout.data_base() + page * abi::PAGE) + PAGE_BYTES - 1] ^= 1;
            }
        };
        let ready = Ready::after_jobs(workload);
        let (phase, page) = ready.after_change(spoil, &[u32::try_from(BLOCK_PAGES).unwrap()]);
        let inside =
            page.map(|page| (page - layout.first_data_page().0) % u32::try_from(BLOCK_PAGES).unwrap());
        assert_eq!((phase, inside), (Phase::Stopped, Some(15)), "{workload}");
    }
}

/// The tree guest keeps what it must find again; so it notices what checksums do not.
#[test]
fn a_wrong_tree_is_noticed_though_its_checksums_are_right() {
    let layout = Layout::new(RAM_BYTES).unwrap();
    let ready = Ready::after_jobs(Workload::BTree);
    // Of a block's first page: the count of keys, their fingerprint, words used, the bitmap, the allocator's first cell.
    for word in [1, 2, 4, 8, 64] {
        let forge = |ram: &mut [u8]| {
            for page in (0..layout.data_pages() - BLOCK_PAGES).step_by(place(BLOCK_PAGES)) {
                let start = place(layout.data_base() + page * abi::PAGE);
                ram[start + 8 * word] ^= 0x40;
                let bytes: &[u8; PAGE_BYTES] = ram[start..].first_chunk().unwrap();
                let words: Vec<u64> =
                    bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
                let sum = content::checksum(&words.try_into().unwrap());
                let entry = place(abi::TABLE_BASE + 8 * page);
                ram[entry..entry + 8].copy_from_slice(&sum.to_le_bytes());
            }
        };
        // More jobs than one, because not each of them looks at every bit of the bitmap.
        let (phase, page) = ready.after_change(forge, &[20 * 16]);
        assert_eq!(phase, Phase::Stopped, "word {word}");
        assert!(page.is_some_and(|page| page >= layout.first_data_page().0), "word {word}: {page:?}");
    }
}
