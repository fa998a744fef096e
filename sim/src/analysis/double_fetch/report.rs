//! Double fetches as a table and as a picture.

use super::{DoubleFetchOutcome, Finding};
use crate::analysis::picture::{Anchor, COLOURS, Legend, Picture, Shade};
use crate::analysis::{Report, Series, Table};
use crate::limits::ROWS_SHOWN;

impl Report for DoubleFetchOutcome {
    const TITLE: &'static str = "Double fetches";
    const HEADS: &'static [&'static str] =
        &["calls", "fetches", "outside calls", "pairs", "fetched twice", "written between", "changed"];

    fn row(&self) -> Vec<String> {
        let sum = |figure: fn(&Finding) -> u64| self.findings.iter().map(figure).sum::<u64>();
        let twice = sum(|finding| finding.times) + self.other_times;
        let counts =
            [self.calls, self.fetches, self.fetches_outside_calls, self.findings.len() as u64, twice];
        let rest = [sum(|finding| finding.written_between), sum(|finding| finding.changed)];
        counts.iter().chain(&rest).map(u64::to_string).collect()
    }

    fn tables(&self) -> Vec<(&'static str, Table)> {
        let heads =
            ["first rip", "second rip", "times", "written between", "changed", "addresses", "first seen"];
        let mut table = Table::new(heads);
        for finding in self.findings.iter().take(ROWS_SHOWN) {
            table.push([
                format!("{:#x}", finding.first_rip),
                format!("{:#x}", finding.second_rip),
                finding.times.to_string(),
                finding.written_between.to_string(),
                finding.changed.to_string(),
                format!("{:#x}-{:#x}", finding.lowest_address, finding.highest_address),
                finding.first_seen.to_string(),
            ]);
        }
        let mut limits = Table::new(["forgotten", ""]);
        limits.push(["bytes".to_owned(), self.forgotten_bytes.to_string()]);
        limits.push(["calls".to_owned(), self.forgotten_calls.to_string()]);
        let cut = if self.is_cut { "perhaps" } else { "none" };
        limits.push(["calls across borders".to_owned(), cut.to_owned()]);
        vec![("Pairs of instructions; the worst first", table), ("What was not looked at", limits)]
    }

    /// A row for each of the worst pairs, a square for each interval, and a bar for all.
    fn picture(series: &Series<Self>) -> Picture {
        let shown: Vec<&Finding> = series.whole.findings.iter().take(ROWS_SHOWN).collect();
        let bottom = 120.0 + 20.0 * shown.len() as f64;
        let mut picture = Picture::new(960.0, bottom + 64.0, Self::TITLE, &series.caption());
        let (left, bars) = (210.0, 640.0);
        picture.text((left, 84.0), Anchor::Start, 14.0, "second fetches, by interval");
        picture.text((bars, 84.0), Anchor::Start, 14.0, "all");
        let most_of = |of: fn(&Finding) -> u64, findings: &mut dyn Iterator<Item = &Finding>| {
            findings.map(of).max().unwrap_or(0)
        };
        let in_intervals = || series.intervals.iter().flat_map(|listed| &listed.outcome.findings);
        let most = most_of(|finding| finding.times, &mut in_intervals());
        let most_at_all = most_of(|finding| finding.times, &mut shown.iter().copied()).max(1) as f64;
        let width = 400.0 / series.intervals.len().max(1) as f64;
        for (row, finding) in shown.iter().enumerate() {
            let y = 98.0 + 20.0 * row as f64;
            let name = format!("{:#x}, {:#x}", finding.first_rip, finding.second_rip);
            picture.text((left - 8.0, y + 12.0), Anchor::End, 12.0, &name);
            picture.rectangle((left, y), (400.0, 16.0), "#f2f2f2");
            for (column, listed) in series.intervals.iter().enumerate() {
                let same = |other: &&Finding| is_same_pair(other, finding);
                if let Some(here) = listed.outcome.findings.iter().find(same) {
                    let x = left + column as f64 * width;
                    picture.rectangle((x, y), (width, 16.0), Shade::of(here.times, most));
                }
            }
            let untouched = finding.times.saturating_sub(finding.written_between.max(finding.changed));
            let written = finding.times - finding.changed.min(finding.times) - untouched;
            let mut x = bars;
            for (count, colour) in
                [(finding.changed, COLOURS[1]), (written, COLOURS[4]), (untouched, COLOURS[6])]
            {
                let width = count as f64 / most_at_all * 200.0;
                picture.rectangle((x, y), (width, 16.0), colour);
                x += width;
            }
            picture.text((x + 6.0, y + 12.0), Anchor::Start, 12.0, &finding.times.to_string());
        }
        let entries =
            [("another value", COLOURS[1]), ("written in between", COLOURS[4]), ("not written", COLOURS[6])];
        Legend { at: (bars, bottom + 4.0), entries: &entries }.draw(&mut picture);
        picture.text((left, bottom + 4.0), Anchor::Start, 12.0, &interval_names(series));
        picture
    }
}

fn interval_names(series: &Series<DoubleFetchOutcome>) -> String {
    format!("interval {} to {}; darker is more often", series.from.0, series.to.0.saturating_sub(1))
}

const fn is_same_pair(one: &Finding, other: &Finding) -> bool {
    one.first_rip == other.first_rip && one.second_rip == other.second_rip
}
