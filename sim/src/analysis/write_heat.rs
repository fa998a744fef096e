//! How often each page is written.
//!
//! An outcome has the writes of groups of pages, at most 4096 groups, and the pages that are written most. Time is told
//! apart by intervals: within one, only what does not depend on its borders is counted. Memory: 8 bytes for each page
//! of RAM, and 32 KiB for each interval that is listed.

use crate::analysis::picture::{Anchor, INK, Picture, Plot, Shade};
use crate::analysis::place::Place;
use crate::analysis::stretch::{MergeError, Start, Stretch};
use crate::analysis::{Analysis, Report, Series, Table};
use crate::limits::{HEAT_GROUPS, ROWS_SHOWN};
use crate::observe::{Access, AccessKind, Observer};
use pageswarm_machine::PAGE_BYTES;
use serde::Serialize;

/// The analysis.
#[derive(Clone, Copy, Debug, Default)]
pub struct WriteHeat;

/// The writes of one stretch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteHeatPart {
    stretch: Stretch,
    writes: Vec<u64>,
}

/// A page and its writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HotPage {
    /// The page's number.
    pub page: u32,
    /// Accesses that wrote to it.
    pub writes: u64,
}

/// Where writes went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WriteHeatOutcome {
    /// Pages of RAM.
    pub pages: u64,
    /// Pages that were written.
    pub pages_written: u64,
    /// Writes.
    pub writes: u64,
    /// Pages in each group but perhaps the last: a power of two.
    pub group_pages: u64,
    /// Writes to each group, in the order of addresses.
    pub groups: Vec<u64>,
    /// The pages that were written most, most first; at most 24.
    pub hottest: Vec<HotPage>,
    /// The least number of pages that together got half of the writes.
    pub half_pages: u64,
}

impl Analysis for WriteHeat {
    type Observer = WriteHeatPart;
    type Part = WriteHeatPart;
    type Outcome = WriteHeatOutcome;

    fn begin(&self, start: &Start<'_>) -> WriteHeatPart {
        WriteHeatPart { stretch: Stretch::one(start.index, 0), writes: vec![0; start.pages()] }
    }

    fn end(&self, mut observer: WriteHeatPart, instructions: u64) -> WriteHeatPart {
        observer.stretch.instructions = instructions;
        observer
    }

    fn merge(&self, mut earlier: WriteHeatPart, later: WriteHeatPart) -> Result<WriteHeatPart, MergeError> {
        let stretch = earlier.stretch.followed_by(later.stretch)?;
        if earlier.writes.len() != later.writes.len() {
            return Err(MergeError::OtherRam { at: later.stretch.from });
        }
        earlier.stretch = stretch;
        for (writes, more) in earlier.writes.iter_mut().zip(later.writes) {
            *writes += more;
        }
        Ok(earlier)
    }

    fn finish(&self, part: &WriteHeatPart) -> WriteHeatOutcome {
        let group_pages = part.writes.len().div_ceil(HEAT_GROUPS).next_power_of_two();
        let mut hottest: Vec<HotPage> = (0..)
            .zip(&part.writes)
            .filter(|(_, writes)| **writes != 0)
            .map(|(page, &writes)| HotPage { page, writes })
            .collect();
        hottest.sort_unstable_by_key(|hot| (std::cmp::Reverse(hot.writes), hot.page));
        let writes = part.writes.iter().sum();
        let (pages_written, mut half_pages, mut sum) = (hottest.len() as u64, 0, 0);
        for hot in &hottest {
            if 2 * sum >= writes {
                break;
            }
            (half_pages, sum) = (half_pages + 1, sum + hot.writes);
        }
        hottest.truncate(ROWS_SHOWN);
        WriteHeatOutcome {
            pages: part.writes.len() as u64,
            pages_written,
            writes,
            group_pages: group_pages as u64,
            groups: part.writes.chunks(group_pages).map(|group| group.iter().sum()).collect(),
            hottest,
            half_pages,
        }
    }
}

impl Observer for WriteHeatPart {
    #[inline]
    fn access(&mut self, access: Access) {
        if access.kind == AccessKind::Write
            && let Some(place) = Place::of(&access, self.writes.len())
        {
            self.writes[place.page] += 1;
        }
    }
}

impl Report for WriteHeatOutcome {
    const TITLE: &'static str = "Writes by page";
    const HEADS: &'static [&'static str] = &["writes", "pages written", "half of the writes", "hottest page"];

    fn row(&self) -> Vec<String> {
        let hottest = self.hottest.first().map_or_else(|| "-".to_owned(), |hot| hot.page.to_string());
        let half = format!("{} pages", self.half_pages);
        vec![self.writes.to_string(), self.pages_written.to_string(), half, hottest]
    }

    fn tables(&self) -> Vec<(&'static str, Table)> {
        let mut table = Table::new(["page", "address", "writes", "share"]);
        for hot in &self.hottest {
            table.push([
                hot.page.to_string(),
                format!("{:#x}", u64::from(hot.page) * PAGE_BYTES as u64),
                hot.writes.to_string(),
                format!("{:.2} %", hot.writes as f64 * 100.0 / self.writes.max(1) as f64),
            ]);
        }
        vec![("The pages written most", table)]
    }

    fn picture(series: &Series<Self>) -> Picture {
        let mut picture = Picture::new(1000.0, 640.0, Self::TITLE, &series.caption());
        map_of_ram(&mut picture, &series.whole);
        by_interval(&mut picture, series);
        picture
    }
}

/// One square for each group: addresses grow to the right, then downwards.
fn map_of_ram(picture: &mut Picture, whole: &WriteHeatOutcome) {
    const COLUMNS: usize = 64;
    const SIDE: f64 = 6.5;
    let (left, top) = (70.0, 100.0);
    let title = format!("RAM, {} pages a square, 64 squares a row", whole.group_pages);
    picture.text((left, top - 12.0), Anchor::Start, 14.0, &title);
    let most = whole.groups.iter().copied().max().unwrap_or(0);
    let row_bytes = COLUMNS as u64 * whole.group_pages * PAGE_BYTES as u64;
    for (row, groups) in whole.groups.chunks(COLUMNS).enumerate() {
        let y = top + row as f64 * SIDE;
        if row.is_multiple_of(8) {
            let address = format!("{} MiB", (row as u64 * row_bytes) >> 20);
            picture.text((left - 6.0, y + 9.0), Anchor::End, 11.0, &address);
        }
        for (column, writes) in groups.iter().enumerate() {
            let place = (left + column as f64 * SIDE, y);
            let fill = if *writes == 0 { "#f2f2f2".to_owned() } else { Shade::of(*writes, most).to_string() };
            picture.rectangle(place, (SIDE - 0.5, SIDE - 0.5), fill);
        }
    }
    scale(picture, (left, top + 64.0 * SIDE + 54.0), most, "writes to a square");
}

/// A column for each interval, addresses growing upwards.
fn by_interval(picture: &mut Picture, series: &Series<WriteHeatOutcome>) {
    const BANDS: usize = 128;
    let (from, count) = (series.from.0 as f64, series.intervals.len());
    let plot = Plot {
        left: 600.0,
        top: 100.0,
        width: 360.0,
        height: 416.0,
        x: (from, from + count as f64),
        y_max: series.whole.pages as f64 * PAGE_BYTES as f64 / f64::from(1 << 20),
    };
    let joined = series.whole.groups.len().div_ceil(BANDS).max(1);
    let bands = |outcome: &WriteHeatOutcome| -> Vec<u64> {
        outcome.groups.chunks(joined).map(|groups| groups.iter().sum()).collect()
    };
    let columns: Vec<Vec<u64>> = series.intervals.iter().map(|listed| bands(&listed.outcome)).collect();
    let most = columns.iter().flatten().copied().max().unwrap_or(0);
    plot.frame(picture, "MiB of RAM, by interval", "interval");
    let (width, height) =
        (plot.width / count.max(1) as f64, plot.height / columns.first().map_or(1, Vec::len) as f64);
    for (column, bands) in columns.iter().enumerate() {
        for (band, writes) in bands.iter().enumerate().filter(|(_, writes)| **writes != 0) {
            let x = plot.left + column as f64 * width;
            let y = plot.top + plot.height - (band + 1) as f64 * height;
            // A little overlap, lest the background shine through between neighbours.
            picture.rectangle((x, y), (width + 0.1, height + 0.1), Shade::of(*writes, most));
        }
    }
    scale(picture, (plot.left, 570.0), most, "writes to a band in an interval");
}

fn scale(picture: &mut Picture, (x, y): (f64, f64), most: u64, name: &str) {
    const STEPS: u32 = 60;
    let y = y + 16.0;
    for step in 0..STEPS {
        let share = f64::from(step) / f64::from(STEPS - 1);
        // The scale is of logarithms, as the shades are.
        let (count, of) = (most.max(2) as f64, most.max(2));
        let count = count.powf(share);
        picture.rectangle((x + f64::from(step) * 4.0, y), (4.1, 12.0), Shade::of(whole(count), of));
    }
    picture.line([(x, y), (x + 240.0, y), (x + 240.0, y + 12.0), (x, y + 12.0), (x, y)], INK, 0.5);
    picture.text((x, y + 27.0), Anchor::Start, 11.0, "1");
    picture.text((x + 240.0, y + 27.0), Anchor::End, 11.0, &most.to_string());
    picture.text((x, y - 5.0), Anchor::Start, 11.0, name);
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a root of a count")]
fn whole(count: f64) -> u64 {
    count.round() as u64
}
