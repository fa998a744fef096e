//! Redundancy as tables and as a picture.

use super::figures::{Kind, RedundancyOutcome};
use crate::analysis::picture::{COLOURS, Legend, Picture, Plot};
use crate::analysis::{Report, Series, Table};

/// Colours in the order of [`Kind::ALL`].
const KIND_COLOURS: [&str; 6] = [COLOURS[6], COLOURS[0], COLOURS[5], COLOURS[2], COLOURS[3], COLOURS[1]];

impl Report for RedundancyOutcome {
    const TITLE: &'static str = "Redundancy of memory, after each write";
    const HEADS: &'static [&'static str] =
        &["zero", "self", "unchanged", "temporal", "cross", "unique", "became redundant", "writes", "silent"];

    fn row(&self) -> Vec<String> {
        let at_end = self.kinds.iter().map(|kind| kind.pages_at_end.to_string());
        let became = self.kinds.iter().filter(|kind| kind.kind != Kind::Unique).map(|kind| kind.begun);
        let rest = [became.sum(), self.writes, self.silent_writes];
        at_end.chain(rest.iter().map(u64::to_string)).collect()
    }

    fn tables(&self) -> Vec<(&'static str, Table)> {
        vec![
            ("Pages by kind; lifetimes in instructions", self.kinds_table()),
            ("Instructions that made pages redundant", self.origins_table()),
            ("Redundant at the end, latest first", self.latest_table()),
        ]
    }

    fn picture(series: &Series<Self>) -> Picture {
        let mut picture = Picture::new(960.0, 640.0, Self::TITLE, &series.caption());
        let (from, count) = (series.from.0 as f64, series.intervals.len() as f64);
        let pages = Plot {
            left: 70.0,
            top: 90.0,
            width: 720.0,
            height: 220.0,
            x: (from, from + count),
            y_max: series.whole.pages.max(1) as f64,
        };
        pages.frame(&mut picture, "Pages of each kind, mean over an interval", "interval");
        for (place, listed) in series.intervals.iter().enumerate() {
            let mut below = 0.0;
            for (kind, colour) in listed.outcome.kinds.iter().zip(KIND_COLOURS) {
                let mean = kind.pages_mean_permille as f64 / 1000.0;
                below = pages.bar(&mut picture, from + place as f64, below, mean, colour);
            }
        }
        let entries: Vec<(&str, &str)> = Kind::ALL.map(Kind::name).into_iter().zip(KIND_COLOURS).collect();
        Legend { at: (810.0, 110.0), entries: &entries }.draw(&mut picture);
        lifetimes(&mut picture, &series.whole);
        picture
    }
}

/// How many equalities lived how long, beside each other for each kind.
fn lifetimes(picture: &mut Picture, whole: &RedundancyOutcome) {
    let redundant: Vec<_> = whole.kinds.iter().filter(|kind| kind.kind != Kind::Unique).collect();
    let all = || redundant.iter().flat_map(|kind| &kind.lifetimes);
    // Lifetimes below 2^n are n from the left: a whole number, as `below` is a power of two.
    let place = |below: u64| f64::from(u64::BITS - below.leading_zeros()) - 1.0;
    let plot = Plot {
        left: 70.0,
        top: 380.0,
        width: 720.0,
        height: 200.0,
        x: (0.0, all().map(|lifetime| place(lifetime.below) + 1.0).fold(8.0, f64::max)),
        y_max: all().map(|lifetime| lifetime.equalities).max().unwrap_or(1) as f64,
    };
    plot.frame(
        picture,
        "Equalities that began and ended, by lifetime",
        "lifetime below 2 to the power of so many, in instructions",
    );
    let width = 0.9 / redundant.len().max(1) as f64;
    for (number, kind) in redundant.iter().enumerate() {
        for lifetime in &kind.lifetimes {
            let left = place(lifetime.below) + number as f64 * width;
            let (x, top) = (plot.x(left), plot.y(lifetime.equalities as f64));
            let size = (plot.x(left + width) - x, plot.y(0.0) - top);
            picture.rectangle((x, top), size, KIND_COLOURS[kind.kind as usize]);
        }
    }
}

impl RedundancyOutcome {
    fn kinds_table(&self) -> Table {
        let mut table = Table::new([
            "kind",
            "at start",
            "mean",
            "at end",
            "begun",
            "ended",
            "ended from before",
            "mean lifetime",
        ]);
        for kind in &self.kinds {
            table.push([
                kind.kind.name().to_owned(),
                kind.pages_at_start.to_string(),
                format!("{:.1}", kind.pages_mean_permille as f64 / 1000.0),
                kind.pages_at_end.to_string(),
                kind.begun.to_string(),
                kind.ended.to_string(),
                kind.ended_from_before.to_string(),
                if kind.ended == 0 { "-".to_owned() } else { kind.lifetime_mean.to_string() },
            ]);
        }
        table
    }

    fn origins_table(&self) -> Table {
        let mut table = Table::new(["rip", "kind", "begun", "ended", "mean lifetime"]);
        for origin in &self.origins {
            table.push([
                format!("{:#x}", origin.rip),
                origin.kind.name().to_owned(),
                origin.begun.to_string(),
                origin.ended.to_string(),
                if origin.ended == 0 { "-".to_owned() } else { origin.lifetime_mean.to_string() },
            ]);
        }
        table
    }

    fn latest_table(&self) -> Table {
        let mut table = Table::new(["page", "kind", "since instruction", "rip", "by a write to page"]);
        for redundant in &self.latest {
            table.push([
                redundant.page.to_string(),
                redundant.kind.name().to_owned(),
                redundant.origin.instruction.to_string(),
                format!("{:#x}", redundant.origin.rip),
                redundant.origin.page.to_string(),
            ]);
        }
        table
    }
}
