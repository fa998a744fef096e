//! Pictures as SVG: rectangles, lines and words. What is drawn is little, so no library is asked for it.

mod plot;

pub(crate) use plot::{Legend, Plot};

use std::fmt::{self, Write as _};

/// Colours of kinds and curves: Okabe and Ito's, which differ for the colour-blind too.
pub(crate) const COLOURS: [&str; 7] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999"];
/// Axes and words.
pub(crate) const INK: &str = "#000000";
/// Lines that help the eye.
pub(crate) const FAINT: &str = "#dddddd";

/// A picture that is being drawn; its [`Display`](fmt::Display) is SVG.
#[derive(Clone, Debug)]
pub struct Picture {
    width: f64,
    height: f64,
    body: String,
}

/// Which end of a text is where it is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// Its beginning.
    Start,
    /// Its middle.
    Middle,
    /// Its end.
    End,
}

/// A colour between nothing and most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shade {
    rgb: [u8; 3],
}

/// From nothing to most: white, then the inner stops of ColorBrewer's YlOrRd.
const STOPS: [[u8; 3]; 6] =
    [[255, 255, 255], [254, 217, 118], [253, 141, 60], [227, 26, 28], [150, 0, 38], [60, 0, 20]];

impl Shade {
    /// The shade of `count` where `most` is the darkest, on a logarithmic scale; 0 is white.
    #[must_use]
    pub fn of(count: u64, most: u64) -> Self {
        if count == 0 {
            return Self { rgb: STOPS[0] };
        }
        // One is the lightest shade that is no white.
        let share = if most <= 1 { 1.0 } else { (count as f64).ln() / (most as f64).ln() };
        let place = 1.0 + share.clamp(0.0, 1.0) * (STOPS.len() - 2) as f64;
        let upper = STOPS.iter().enumerate().position(|(number, _)| number as f64 >= place);
        let upper = upper.unwrap_or(STOPS.len() - 1).max(1);
        let part = place - (upper - 1) as f64;
        let (from, to) = (STOPS[upper - 1], STOPS[upper]);
        let mut rgb = [0; 3];
        for (channel, (from, to)) in rgb.iter_mut().zip(from.into_iter().zip(to)) {
            let (from, to) = (f64::from(from), f64::from(to));
            *channel = mixed(from + (to - from) * part);
        }
        Self { rgb }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped before")]
fn mixed(value: f64) -> u8 {
    value.clamp(0.0, 255.0).round() as u8
}

impl fmt::Display for Shade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [red, green, blue] = self.rgb;
        write!(f, "#{red:02x}{green:02x}{blue:02x}")
    }
}

impl Picture {
    /// A white picture of a size in pixels, with a title and a line below it.
    #[must_use]
    pub fn new(width: f64, height: f64, title: &str, caption: &str) -> Self {
        let mut picture = Self { width, height, body: String::new() };
        picture.rectangle((0.0, 0.0), (width, height), "#ffffff");
        picture.text((20.0, 28.0), Anchor::Start, 17.0, title);
        picture.text((20.0, 47.0), Anchor::Start, 12.0, caption);
        picture
    }

    /// A filled rectangle from its upper left corner.
    pub fn rectangle(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), fill: impl fmt::Display) {
        self.put(format_args!(
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.2}" height="{height:.2}" fill="{fill}"/>"#
        ));
    }

    /// Words.
    pub fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, size: f64, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escape(text);
        self.put(format_args!(
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" font-size="{size}">{text}</text>"#
        ));
    }

    /// A line through points.
    pub fn line(&mut self, points: impl IntoIterator<Item = (f64, f64)>, stroke: &str, width: f64) {
        let mut path = String::new();
        for (x, y) in points {
            let command = if path.is_empty() { 'M' } else { 'L' };
            write!(path, "{command}{x:.1},{y:.1}").expect("a string takes what is written to it");
        }
        self.put(format_args!(
            r#"<path d="{path}" fill="none" stroke="{stroke}" stroke-width="{width}" stroke-linejoin="round"/>"#
        ));
    }

    fn put(&mut self, element: fmt::Arguments<'_>) {
        writeln!(self.body, "{element}").expect("a string takes what is written to it");
    }
}

impl fmt::Display for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (width, height) = (self.width, self.height);
        writeln!(
            f,
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" shape-rendering="geometricPrecision">"#
        )?;
        f.write_str(&self.body)?;
        writeln!(f, "</svg>")
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shades_go_from_white_to_dark() {
        let shades = [0, 1, 10, 100, 1000].map(|count| Shade::of(count, 1000).to_string());
        assert_eq!(shades, ["#ffffff", "#fed976", "#f46731", "#b00923", "#3c0014"].map(str::to_owned));
    }

    #[test]
    fn words_cannot_leave_their_place() {
        let mut picture = Picture::new(10.0, 10.0, "a", "b");
        picture.text((1.0, 2.0), Anchor::End, 9.0, "<a> & b");
        let svg = picture.to_string();
        assert!(svg.contains(r#"text-anchor="end" font-size="9">&lt;a&gt; &amp; b</text>"#), "{svg}");
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    }
}
