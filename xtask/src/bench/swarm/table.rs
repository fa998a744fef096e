//! All systems of a comparison side by side, for people.

use super::measure::Run;

const HEADING: [&str; 10] = [
    "system",
    "time s",
    "/ bound",
    "mean s",
    "egress / content",
    "received / needed",
    "CPU s/GB",
    "idle %",
    "drops",
    "",
];

/// One row for each run. Bytes are those on the links, with all headers; the first column stands left, others right.
pub(super) fn table(runs: &[Run]) -> String {
    let rows: Vec<Vec<String>> =
        std::iter::once(HEADING.map(str::to_owned).to_vec()).chain(runs.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEADING.len()).map(width).collect();
    let lines = rows.iter().map(|row| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn row(run: &Run) -> Vec<String> {
    vec![
        run.system.name().to_owned(),
        format!("{:.2}", run.makespan_s),
        format!("{:.2}", run.over_bound()),
        format!("{:.2}", run.mean_s),
        format!("{:.3}", run.egress()),
        format!("{:.3}", run.received()),
        format!("{:.1}", run.cpu_s_per_gb()),
        format!("{:.0}", run.metered.idle_percent),
        run.metered.drops.to_string(),
        if run.metered.is_valid() { "" } else { "void: the machine had nothing left" }.to_owned(),
    ]
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::measure::Metered;
    use super::super::systems::{Chunks, Kind};
    use super::*;

    /// A run at so many times the bound.
    pub(in super::super) fn run(system: Kind, over_bound: f64) -> Run {
        let metered = Metered {
            publisher_up_bytes: 1_050,
            received_bytes: 8_400,
            drops: 3,
            cpu_s: 0.5,
            idle_percent: 40.0,
            relayed: None,
        };
        Run {
            system,
            version: "1.0".to_owned(),
            makespan_s: 2.0 * over_bound,
            mean_s: 1.5,
            bound_s: 2.0,
            content_bytes: 1_000,
            copies_bytes: 8_000,
            metered,
            chunks: system.is_product().then(Chunks::default),
        }
    }

    #[test]
    fn rows_say_what_was_measured() {
        let text = table(&[run(Kind::Pageswarm, 1.0), run(Kind::Aria2, 1.5)]);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["pageswarm", "2.00", "1.00", "1.50", "1.050", "1.050", "62500.0", "40", "3"]);
        assert_eq!(lines[2][..3], ["aria2", "3.00", "1.50"]);
    }

    #[test]
    fn a_machine_without_rest_makes_a_run_void() {
        let mut busy = run(Kind::Pageswarm, 1.0);
        busy.metered.idle_percent = 19.9;
        assert!(table(&[busy]).contains("void"));
    }
}
