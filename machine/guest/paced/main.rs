//! The paced guest: fills RAM after the content model and dirties pages at the rate it is told, in runs of a set length.

#![no_std]
#![no_main]

use runtime::abi::Parameter;
use runtime::content::{self, Order, Random};
use runtime::{Guest, Ram, WrongPage, parameter, serve};

#[unsafe(no_mangle)]
#[unsafe(link_section = ".text.start")]
extern "C" fn _start() -> ! {
    serve(&mut Paced::new())
}

struct Paced {
    seed: u64,
    run_pages: u64,
    order: Order,
    random: Random,
    run: u64,
    left_in_run: u64,
}

impl Paced {
    fn new() -> Self {
        let seed = parameter(Parameter::Seed);
        let run_pages = parameter(Parameter::RunPages);
        let runs = parameter(Parameter::DataPages) / run_pages;
        Self {
            seed,
            run_pages,
            order: Order::new(seed, runs),
            random: Random::new(seed, 6),
            run: 0,
            left_in_run: 0,
        }
    }
}

impl Guest for Paced {
    fn fill(&mut self, ram: &mut Ram) {
        for page in 0..ram.data_pages() {
            if content::base_kind(self.seed, page) == content::BaseKind::Zero {
                continue; // RAM starts zero, and so does its table entry.
            }
            content::fill_base(self.seed, page, ram.words(page));
            ram.seal(page);
        }
    }

    /// A unit is one page.
    fn work(&mut self, ram: &mut Ram, units: u32) -> Result<u32, WrongPage> {
        for _ in 0..units {
            if self.left_in_run == 0 {
                self.run = self.order.draw();
                self.left_in_run = self.run_pages;
            }
            self.left_in_run -= 1;
            ram.change(self.run * self.run_pages + self.left_in_run, &mut self.random);
        }
        Ok(units)
    }
}
