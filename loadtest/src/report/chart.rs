//! Line charts as inline SVG, without a library or script. Independent of records.

use std::fmt::Write as _;

use super::escape::escaped;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 34.0;

/// Values whose ratio exceeds this get a logarithmic axis.
const LOG_SCALE_MIN_RATIO: f64 = 50.0;
/// Number of colours in the stylesheet of the page.
const COLOURS: usize = 6;

/// Horizontal axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Axis {
    /// Seconds since the start.
    Seconds,
    /// Percentiles; each additional nine has the same width.
    Percentiles,
}

/// A line.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) name: String,
    /// Lines of the same run have the same colour …
    pub(super) colour: usize,
    /// … and differ in their dash pattern: 0 is solid.
    pub(super) dash: usize,
    pub(super) points: Vec<(f64, f64)>,
}

/// A chart with its legend.
#[derive(Clone, Debug)]
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) unit: &'static str,
    pub(super) axis: Axis,
    pub(super) lines: Vec<Line>,
}

impl Chart {
    /// Renders HTML; empty if there is nothing to draw.
    pub(super) fn html(&self) -> String {
        let points =
            || self.lines.iter().flat_map(|line| line.points.iter().map(|point| self.project(*point)));
        let Some(horizontal) = AxisRange::of(points().map(|point| point.0), self.axis == Axis::Seconds)
        else {
            return String::new();
        };
        let Some(vertical) = AxisRange::of_values(points().map(|point| point.1)) else {
            return String::new();
        };
        let mut html = format!(
            "<figure>\n<figcaption>{}, {}</figcaption>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n",
            escaped(&self.title),
            self.unit,
            escaped(&self.title)
        );
        self.draw_grid(&horizontal, &vertical, &mut html);
        for line in &self.lines {
            self.draw_line(line, &horizontal, &vertical, &mut html);
        }
        html += "</svg>\n<ul class=\"legend\">";
        for line in self.lines.iter().filter(|line| !line.points.is_empty()) {
            let (colour, dash, name) = (line.colour % COLOURS, line.dash, escaped(&line.name));
            // Writing to a string cannot fail.
            let _ = write!(
                html,
                "<li><svg class=\"key\" viewBox=\"0 0 24 8\" aria-hidden=\"true\"><path class=\"c{colour} d{dash}\" d=\"M0 4H24\"/></svg>{name}</li>"
            );
        }
        html + "</ul>\n</figure>\n"
    }

    /// Maps a point to unscaled axis coordinates.
    fn project(&self, (x, y): (f64, f64)) -> (f64, f64) {
        match self.axis {
            Axis::Seconds => (x, y),
            Axis::Percentiles => (nines(x), y),
        }
    }

    fn draw_grid(&self, horizontal: &AxisRange, vertical: &AxisRange, html: &mut String) {
        for (value, label) in vertical.ticks() {
            let y = vertical.scale(value, HEIGHT - BOTTOM, TOP);
            let _ = writeln!(
                html,
                "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{}\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                y + 4.0
            );
        }
        let ticks = match self.axis {
            Axis::Seconds => {
                horizontal.ticks().into_iter().map(|(at, label)| (at, format!("{label} s"))).collect()
            }
            Axis::Percentiles => percentile_ticks(horizontal.high),
        };
        for (value, label) in ticks {
            let x = horizontal.scale(value, LEFT, WIDTH - RIGHT);
            let _ = writeln!(
                html,
                "<path class=\"grid\" d=\"M{x:.1} {TOP}V{}\"/><text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
                HEIGHT - BOTTOM,
                HEIGHT - BOTTOM + 18.0
            );
        }
    }

    fn draw_line(&self, line: &Line, horizontal: &AxisRange, vertical: &AxisRange, html: &mut String) {
        let points = line.points.iter().map(|point| self.project(*point));
        let points = points.filter(|(_, y)| vertical.shows(*y));
        let mut path = String::new();
        for (x, y) in points {
            let (x, y) = (horizontal.scale(x, LEFT, WIDTH - RIGHT), vertical.scale(y, HEIGHT - BOTTOM, TOP));
            let _ = write!(path, "{}{x:.1} {y:.1}", if path.is_empty() { "M" } else { "L" });
        }
        if !path.is_empty() {
            let (colour, dash) = (line.colour % COLOURS, line.dash);
            let _ = writeln!(
                html,
                "<path class=\"line c{colour} d{dash}\" d=\"{path}\"><title>{}</title></path>",
                escaped(&line.name)
            );
        }
    }
}

/// Number of nines of a percentile: 0 for 0, 1 for 90, 2 for 99. Limited to 7 for 100.
fn nines(percentile: f64) -> f64 {
    -(1.0 - percentile / 100.0).max(1e-7).log10()
}

fn percentile_ticks(high: f64) -> Vec<(f64, String)> {
    let all = [
        ("0 %", 0.0),
        ("50", 50.0),
        ("90", 90.0),
        ("99", 99.0),
        ("99.9", 99.9),
        ("99.99", 99.99),
        ("99.999", 99.999),
    ];
    let ticks = all.into_iter().map(|(label, percentile)| (nines(percentile), label.to_owned()));
    ticks.filter(|(at, _)| *at <= high).collect()
}

/// Range of an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
struct AxisRange {
    low: f64,
    high: f64,
    logarithmic: bool,
}

impl AxisRange {
    /// From the minimum, or 0, to the maximum.
    fn of(values: impl Iterator<Item = f64>, from_zero: bool) -> Option<Self> {
        let (low, high) = extent(values)?;
        let low = if from_zero { 0.0 } else { low };
        Some(Self { low, high: if high > low { high } else { low + 1.0 }, logarithmic: false })
    }

    /// From 0 to the maximum; logarithmic if the values span more than [`LOG_SCALE_MIN_RATIO`].
    fn of_values(values: impl Iterator<Item = f64> + Clone) -> Option<Self> {
        let (_, high) = extent(values.clone())?;
        let positive = extent(values.filter(|value| *value > 0.0));
        match positive {
            Some((low, high)) if high / low > LOG_SCALE_MIN_RATIO => {
                Some(Self { low: 10f64.powf(low.log10().floor()), high, logarithmic: true })
            }
            _ => {
                Some(Self { low: 0.0, high: if high > 0.0 { high * 1.05 } else { 1.0 }, logarithmic: false })
            }
        }
    }

    fn shows(&self, value: f64) -> bool {
        value.is_finite() && (!self.logarithmic || value > 0.0)
    }

    /// Maps a value to picture coordinates.
    fn scale(&self, value: f64, from: f64, to: f64) -> f64 {
        let part = if self.logarithmic {
            (value.max(self.low) / self.low).log10() / (self.high / self.low).log10()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        from + part.clamp(0.0, 1.0) * (to - from)
    }

    /// Round values along the axis, with labels.
    fn ticks(&self) -> Vec<(f64, String)> {
        if self.logarithmic {
            let first = self.low.log10().round() as i32;
            let last = self.high.log10().floor() as i32;
            return (first..=last)
                .map(|power| 10f64.powi(power))
                .map(|value| (value, label(value)))
                .collect();
        }
        let step = round_step((self.high - self.low) / 5.0);
        let first = (self.low / step).ceil() as i64;
        let last = (self.high / step).floor() as i64;
        (first..=last).map(|count| count as f64 * step).map(|value| (value, label(value))).collect()
    }
}

fn extent(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.filter(|value| value.is_finite()).fold(None, |range, value| {
        let (low, high) = range.unwrap_or((value, value));
        Some((f64::min(low, value), f64::max(high, value)))
    })
}

/// Next value of 1, 2, 5, 10, 20, 50, …
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.max(f64::MIN_POSITIVE).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    steps.into_iter().find(|round| *round >= step * 0.999).unwrap_or(step)
}

/// Short label of a number, with a suffix for thousands and millions.
fn label(value: f64) -> String {
    let (scaled, suffix) = match value.abs() {
        large if large >= 1e6 => (value / 1e6, " M"),
        large if large >= 1e4 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    // Without trailing zeros.
    let text = format!("{scaled:.3}");
    format!("{}{suffix}", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axis_ticks_are_round() {
        let labels = |high| {
            let range = AxisRange { low: 0.0, high, logarithmic: false };
            range.ticks().into_iter().map(|(_, label)| label).collect::<Vec<_>>()
        };
        assert_eq!(labels(10.0), ["0", "2", "4", "6", "8", "10"]);
        assert_eq!(labels(0.7), ["0", "0.2", "0.4", "0.6"]);
        assert_eq!(labels(260_000.0), ["0", "100 k", "200 k"]);
        let far = AxisRange::of_values([0.0, 0.3, 400.0].into_iter()).unwrap();
        let far: Vec<_> = far.ticks().into_iter().map(|(_, label)| label).collect();
        assert_eq!(far, ["0.1", "1", "10", "100"]);
    }

    #[test]
    fn values_are_scaled_to_coordinates() {
        let range = AxisRange { low: 0.0, high: 10.0, logarithmic: false };
        assert!((range.scale(5.0, 100.0, 0.0) - 50.0).abs() < 1e-9);
        let range = AxisRange { low: 1.0, high: 100.0, logarithmic: true };
        assert!((range.scale(10.0, 0.0, 100.0) - 50.0).abs() < 1e-9);
        assert!((nines(99.9) - 3.0).abs() < 1e-6 && nines(0.0) == 0.0 && nines(100.0) == 7.0);
    }

    #[test]
    fn empty_chart_draws_nothing() {
        let line = Line { name: "a".to_owned(), colour: 0, dash: 0, points: Vec::new() };
        let chart = Chart { title: "t".to_owned(), unit: "ms", axis: Axis::Seconds, lines: vec![line] };
        assert_eq!(chart.html(), "");
        let line =
            Line { name: "<a>".to_owned(), colour: 7, dash: 1, points: vec![(0.0, f64::NAN), (1.0, 2.0)] };
        let html = Chart { lines: vec![line], ..chart }.html();
        assert!(html.contains("&lt;a&gt;") && html.contains("c1 d1") && !html.contains("NaN"), "{html}");
    }
}
