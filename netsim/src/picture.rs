//! Propagation curves of several runs as one picture (SVG): how bytes spread, and when nodes are complete.

use std::fmt::Write as _;

use crate::progress::Point;

/// Curves that have a colour: Okabe and Ito's, which differ for the colour-blind too.
const COLOURS: [&str; 4] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"];

const HEAD: &str = r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 440" font-family="sans-serif" font-size="13">
<rect width="960" height="440" fill="#ffffff"/>
"##;

/// One run, by the name that its legend has.
#[derive(Clone, Debug)]
pub struct Curve {
    /// In the legend.
    pub label: String,
    /// By time.
    pub points: Vec<Point>,
}

/// Not what [`Report::curve`](crate::Report::curve) writes.
#[derive(Debug, thiserror::Error)]
pub enum ReadCurveError {
    /// A line without three numbers.
    #[error("line {0} is not three numbers")]
    Line(usize),
    /// No line at all.
    #[error("there are no points")]
    Empty,
}

impl Curve {
    /// Reads what [`Report::curve`](crate::Report::curve) wrote.
    ///
    /// # Errors
    /// A line that it would not have written, or none.
    pub fn read(label: &str, text: &str) -> Result<Self, ReadCurveError> {
        let mut points = Vec::new();
        for (line, number) in text.lines().zip(1..).skip(1) {
            let mut values = line.split(',').map(str::parse::<u64>);
            let mut value = || values.next().and_then(Result::ok).ok_or(ReadCurveError::Line(number));
            let (at_permille, got_permille, complete_permille) = (value()?, value()?, value()?);
            points.push(Point { at_permille, got_permille, complete_permille });
        }
        if points.is_empty() {
            return Err(ReadCurveError::Empty);
        }
        Ok(Self { label: label.to_owned(), points })
    }
}

/// One half of the picture.
struct Panel {
    title: &'static str,
    left: f64,
    /// Times at the left and at the right edge, and between two marks, in thousandths of the bound.
    from: u64,
    to: u64,
    step: u64,
}

const TOP: f64 = 60.0;
const WIDTH: f64 = 390.0;
const HEIGHT: f64 = 300.0;

impl Panel {
    fn x(&self, at: u64) -> f64 {
        let share = (at.clamp(self.from, self.to) - self.from) as f64 / (self.to - self.from) as f64;
        self.left + share * WIDTH
    }

    fn y(share_permille: u64) -> f64 {
        TOP + HEIGHT * (1000 - share_permille.min(1000)) as f64 / 1000.0
    }

    /// Frame, marks and names of the axes.
    fn frame(&self, svg: &mut String) {
        let (left, right, bottom) = (self.left, self.left + WIDTH, TOP + HEIGHT);
        put(svg, format_args!(r##"<text x="{left}" y="44" font-size="15">{}</text>"##, self.title));
        for share in (0..=1000).step_by(200) {
            let (y, percent) = (Self::y(share), share / 10);
            put(svg, format_args!(r##"<path d="M{left},{y}H{right}" stroke="#dddddd"/>"##));
            let (x, y) = (left - 8.0, y + 4.0);
            put(svg, format_args!(r##"<text x="{x}" y="{y}" text-anchor="end">{percent} %</text>"##));
        }
        for at in (self.from..=self.to).step_by(usize::try_from(self.step).unwrap_or(1)) {
            let (x, y, whole, part) = (self.x(at), bottom + 18.0, at / 1000, at % 1000 / 10);
            put(svg, format_args!(r##"<path d="M{x},{bottom}v5" stroke="#000000"/>"##));
            put(
                svg,
                format_args!(r##"<text x="{x}" y="{y}" text-anchor="middle">{whole}.{part:02}</text>"##),
            );
        }
        let (x, y) = (left + WIDTH / 2.0, bottom + 40.0);
        put(
            svg,
            format_args!(r##"<text x="{x}" y="{y}" text-anchor="middle">time since joining / bound</text>"##),
        );
        let path = format!("M{left},{TOP}V{bottom}H{right}");
        put(svg, format_args!(r##"<path d="{path}" fill="none" stroke="#000000"/>"##));
    }

    /// A line through points of time and share; those outside of the panel are left out.
    fn line(&self, svg: &mut String, points: impl Iterator<Item = (u64, u64)>, style: &str) {
        let mut path = String::new();
        for (at, share) in points.filter(|(at, _)| (self.from..=self.to).contains(at)) {
            let command = if path.is_empty() { 'M' } else { 'L' };
            path.push_str(&format!("{command}{:.1},{:.1}", self.x(at), Self::y(share)));
        }
        put(svg, format_args!(r##"<path d="{path}" fill="none" stroke-linejoin="round" {style}/>"##));
    }
}

/// Draws the curves beside the fluid bound.
#[must_use]
pub fn picture(curves: &[Curve]) -> String {
    let mut svg = HEAD.to_owned();
    let bytes = Panel {
        title: "Bytes that nodes have, of those they lacked",
        left: 70.0,
        from: 0,
        to: 1300,
        step: 200,
    };
    let nodes = Panel { title: "Nodes that are complete", left: 540.0, from: 900, to: 1300, step: 100 };
    bytes.frame(&mut svg);
    nodes.frame(&mut svg);
    let grey = r##"stroke="#777777" stroke-width="2" stroke-dasharray="6 4""##;
    bytes.line(&mut svg, [(0, 0), (1000, 1000), (1300, 1000)].into_iter(), grey);
    nodes.line(&mut svg, [(900, 0), (1000, 0), (1000, 1000), (1300, 1000)].into_iter(), grey);
    for (curve, colour) in curves.iter().zip(COLOURS) {
        let style = format!(r##"stroke="{colour}" stroke-width="2""##);
        let start = || std::iter::once((0, 0));
        let got = curve.points.iter().map(|point| (point.at_permille, point.got_permille));
        bytes.line(&mut svg, start().chain(got), &style);
        let complete = curve.points.iter().map(|point| (point.at_permille, point.complete_permille));
        nodes.line(&mut svg, start().chain(complete), &style);
    }
    let names = curves.iter().zip(COLOURS).map(|(curve, colour)| (curve.label.as_str(), colour, ""));
    let bound = ("fluid bound: no schedule is faster", "#777777", r##"stroke-dasharray="6 4""##);
    for ((label, colour, dashes), place) in names.chain([bound]).zip(0..) {
        let y = TOP + HEIGHT - 20.0 - 22.0 * f64::from(3 - place.min(3));
        let x = 190.0;
        put(
            &mut svg,
            format_args!(r##"<path d="M{x},{y}h30" stroke="{colour}" stroke-width="2" {dashes}/>"##),
        );
        let (x, y) = (x + 40.0, y + 4.0);
        put(&mut svg, format_args!(r##"<text x="{x}" y="{y}">{}</text>"##, escape(label)));
    }
    svg.push_str("</svg>\n");
    svg
}

fn put(svg: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(svg, "{line}").expect("a string takes what is written to it");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_curve_is_read_and_drawn() {
        let curve = Curve::read("a < b", "time,got,complete\n20,250,0\n1000,1000,1000\n").unwrap();
        assert_eq!(curve.points[0], Point { at_permille: 20, got_permille: 250, complete_permille: 0 });
        let svg = picture(&[curve]);
        assert!(svg.contains("a &lt; b") && svg.contains("M70.0,360.0L76.0,285.0"), "{svg}");
        assert!(matches!(Curve::read("", "time,got,complete\n1,2\n"), Err(ReadCurveError::Line(2))));
        assert!(matches!(Curve::read("", ""), Err(ReadCurveError::Empty)));
    }
}
