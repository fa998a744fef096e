//! One coordinate system of a picture.

use super::{Anchor, FAINT, INK, Picture};

/// A field with two axes that begin at 0 unless said otherwise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plot {
    pub(crate) left: f64,
    pub(crate) top: f64,
    pub(crate) width: f64,
    pub(crate) height: f64,
    /// What is at the left and right edge.
    pub(crate) x: (f64, f64),
    /// What is at the upper edge.
    pub(crate) y_max: f64,
}

/// What colours stand for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Legend<'a> {
    pub(crate) at: (f64, f64),
    pub(crate) entries: &'a [(&'a str, &'a str)],
}

/// 1, 2 or 5 times a power of ten, so that at most `steps` of them fill `span`.
fn step(span: f64, steps: f64) -> f64 {
    let least = (span / steps).max(f64::MIN_POSITIVE);
    let power = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|digit| digit * power).find(|step| *step >= least).unwrap_or(power)
}

fn name(value: f64) -> String {
    let (divided, unit) = match value {
        1e9.. => (value / 1e9, " G"),
        1e6.. => (value / 1e6, " M"),
        1e4.. => (value / 1e3, " k"),
        _ => (value, ""),
    };
    let text = format!("{divided:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text}{unit}")
}

impl Plot {
    pub(crate) fn x(&self, value: f64) -> f64 {
        let (from, to) = self.x;
        self.left + (value - from) / (to - from).max(f64::MIN_POSITIVE) * self.width
    }

    pub(crate) fn y(&self, value: f64) -> f64 {
        self.top + self.height - value / self.y_max.max(f64::MIN_POSITIVE) * self.height
    }

    /// Frame, marks and names of the axes.
    pub(crate) fn frame(&self, picture: &mut Picture, title: &str, x_name: &str) {
        let (left, right, bottom) = (self.left, self.left + self.width, self.top + self.height);
        picture.text((left, self.top - 10.0), Anchor::Start, 14.0, title);
        // Counts have no halves.
        let by = step(self.y_max, 5.0).max(1.0);
        let mut value = 0.0;
        while value <= self.y_max * 1.0001 {
            let y = self.y(value);
            picture.line([(left, y), (right, y)], FAINT, 1.0);
            picture.text((left - 6.0, y + 4.0), Anchor::End, 11.0, &name(value));
            value += by;
        }
        self.x_axis(picture, x_name);
        picture.line([(left, self.top), (left, bottom), (right, bottom)], INK, 1.0);
    }

    /// Marks and name of the lower axis, at whole numbers.
    pub(crate) fn x_axis(&self, picture: &mut Picture, x_name: &str) {
        let bottom = self.top + self.height;
        let by = step(self.x.1 - self.x.0, self.width / 55.0).max(1.0);
        let mut value = (self.x.0 / by).ceil() * by;
        while value <= self.x.1 {
            let x = self.x(value);
            picture.line([(x, bottom), (x, bottom + 4.0)], INK, 1.0);
            picture.text((x, bottom + 17.0), Anchor::Middle, 11.0, &name(value));
            value += by;
        }
        picture.text((self.left + self.width / 2.0, bottom + 34.0), Anchor::Middle, 12.0, x_name);
    }

    /// A bar from one value to the next of the lower axis, on top of `below`; gives the new height.
    pub(crate) fn bar(&self, picture: &mut Picture, from: f64, below: f64, value: f64, fill: &str) -> f64 {
        let (left, right) = (self.x(from), self.x(from + 1.0));
        let (top, bottom) = (self.y(below + value), self.y(below));
        // A hairline of space tells bars apart where there is room for one.
        let width = if right - left > 4.0 { right - left - 1.0 } else { right - left };
        picture.rectangle((left, top), (width, bottom - top), fill);
        below + value
    }
}

impl Legend<'_> {
    pub(crate) fn draw(&self, picture: &mut Picture) {
        let (x, mut y) = self.at;
        for (name, colour) in self.entries {
            picture.rectangle((x, y - 9.0), (12.0, 10.0), colour);
            picture.text((x + 18.0, y), Anchor::Start, 12.0, name);
            y += 18.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_at_round_numbers() {
        assert_eq!([9.0, 10.0, 11.0, 0.3].map(|span| step(span, 5.0)), [2.0, 2.0, 5.0, 0.1]);
        assert_eq!(
            [0.0, 0.25, 2500.0, 25_000.0, 1e6, 2.5e9].map(name),
            ["0", "0.25", "2500", "25 k", "1 M", "2.5 G"]
        );
    }
}
