//! A measurement's result: figures with targets, as a table for people, as JSON, and as rows of docs/measurements.md.

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::host::Machine;

/// One measured figure.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    /// The value with its unit, for people.
    pub(crate) value: String,
    /// The target in words; none for a figure that is only stated.
    pub(crate) target: Option<String>,
    /// Whether the target is met; none where there is none, or where this run does not judge it.
    pub(crate) holds: Option<bool>,
}

/// One run of a measurement.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// Which measurement.
    pub(crate) name: &'static str,
    /// The command that repeats it.
    pub(crate) command: String,
    /// Where it was made.
    pub(crate) machine: Machine,
    /// When, as `YYYY-MM-DD`.
    pub(crate) date: String,
    pub(crate) figures: Vec<Figure>,
    /// What the measured program said, whole.
    pub(crate) outcome: serde_json::Value,
}

impl Figure {
    /// A figure without a target.
    pub(crate) fn stated(name: &'static str, value: String) -> Self {
        Self { name, value, target: None, holds: None }
    }

    /// A figure with a target that this run judges.
    pub(crate) fn judged(name: &'static str, value: String, target: impl Into<String>, holds: bool) -> Self {
        Self { name, value, target: Some(target.into()), holds: Some(holds) }
    }

    /// The same with its target kept in sight but not judged: the run is too short for it.
    pub(crate) fn unjudged(self) -> Self {
        Self { holds: None, ..self }
    }

    const fn verdict(&self) -> &'static str {
        match (self.holds, &self.target) {
            (Some(true), _) => "holds",
            (Some(false), _) => "FALLS SHORT",
            (None, Some(_)) => "not judged",
            (None, None) => "stated",
        }
    }

    fn cells(&self) -> [&str; 4] {
        [self.name, &self.value, self.target.as_deref().unwrap_or("-"), self.verdict()]
    }
}

impl Report {
    /// Whether no target falls short.
    pub(crate) fn holds(&self) -> bool {
        self.figures.iter().all(|figure| figure.holds != Some(false))
    }

    /// Figure, value, target, verdict.
    pub(crate) fn table(&self) -> String {
        let heading = ["figure", "value", "target", "verdict"];
        let rows: Vec<[&str; 4]> =
            std::iter::once(heading).chain(self.figures.iter().map(Figure::cells)).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths = [width(0), width(1), width(2)];
        let mut text = format!("{}: {}, {}\n", self.command, self.machine, self.date);
        for [figure, value, target, verdict] in &rows {
            let [first, second, third] = widths;
            text.push_str(&format!("{figure:<first$}  {value:<second$}  {target:<third$}  {verdict}\n"));
        }
        text.trim_end().to_owned()
    }

    /// `document` with this report in the section between its two markers, in place of one of the same command.
    pub(crate) fn written_into(&self, document: &str) -> Result<String> {
        let (begin, end) = (format!("<!-- begin {} -->\n", self.name), format!("<!-- end {} -->", self.name));
        let (head, rest) =
            document.split_once(&begin).with_context(|| format!("there is no line {begin}"))?;
        let (section, tail) = rest.split_once(&end).with_context(|| format!("there is no line {end}"))?;
        let title = format!("### `{}`", self.command);
        let mut parts: Vec<String> = section
            .split("### ")
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(|part| format!("### {part}"))
            .filter(|part| part.lines().next() != Some(&title))
            .collect();
        parts.push(self.section(&title));
        Ok(format!("{head}{begin}\n{}\n\n{end}{tail}", parts.join("\n\n")))
    }

    fn section(&self, title: &str) -> String {
        let mut text = format!(
            "{title}\n\n{}; {}.\n\n| figure | value | target | verdict |\n|---|---|---|---|",
            self.date, self.machine
        );
        for [figure, value, target, verdict] in self.figures.iter().map(Figure::cells) {
            text.push_str(&format!("\n| {figure} | {value} | {target} | {verdict} |"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(command: &str, holds: bool) -> Report {
        Report {
            name: "demo",
            command: command.to_owned(),
            machine: Machine { cpu: "cpu".to_owned(), cores: 2, kernel: "6.1".to_owned(), ram_gib: 24 },
            date: "2026-11-22".to_owned(),
            figures: vec![
                Figure::judged("downtime p50", "0.1 ms".to_owned(), "at most 0.5 ms", holds),
                Figure::stated("wall time", "30 s".to_owned()),
            ],
            outcome: serde_json::Value::Null,
        }
    }

    #[test]
    fn a_target_that_falls_short_decides() {
        assert!(report("a", true).holds());
        assert!(!report("a", false).holds());
        assert!(report("a", false).table().ends_with("stated"));
        assert!(report("a", false).table().contains("FALLS SHORT"));
        assert_eq!(report("a", false).figures[0].clone().unjudged().verdict(), "not judged");
    }

    #[test]
    fn a_section_replaces_the_one_of_the_same_command_alone() {
        let empty = "# M\n<!-- begin demo -->\n<!-- end demo -->\nafter\n";
        let first = report("a", true).written_into(empty).unwrap();
        let both = report("b", true).written_into(&first).unwrap();
        let again = report("b", false).written_into(&both).unwrap();
        assert_eq!(again.matches("### `").count(), 2);
        assert_eq!(again.matches("FALLS SHORT").count(), 1);
        assert!(again.starts_with("# M\n") && again.ends_with("<!-- end demo -->\nafter\n"));
        assert_eq!(report("b", false).written_into(&again).unwrap(), again);
        assert!(report("a", true).written_into("no markers").is_err());
    }
}
