//! Cost against size, drawn as SVG by hand: a few lines, two axes, no library.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::measure::median;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 90.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;

/// What was measured of one thing at several sizes. Sizes are drawn by their logarithm, costs from 0.
#[derive(Debug, Default)]
pub struct Plot {
    /// Each size with all that was measured at it. The key is the size's bits: sizes are whole numbers.
    points: BTreeMap<u64, Vec<f64>>,
}

impl Plot {
    pub fn add(&mut self, size: f64, cost: f64) {
        self.points.entry(size as u64).or_default().push(cost);
    }

    /// The drawing: the median at each size, and a bar from the lowest to the highest.
    pub fn svg(&self, title: &str, sizes_are: &str) -> String {
        let scale = Scale::of(self.points.iter().map(|(size, costs)| (*size as f64, costs.as_slice())));
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"13\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
             <text x=\"{LEFT}\" y=\"24\" font-size=\"15\">{title}</text>\n"
        );
        scale.axes(&mut svg, sizes_are);
        let mut line = String::new();
        for (size, costs) in &self.points {
            let x = scale.x(*size as f64);
            let (middle, low, high) = (median(costs), lowest(costs), highest(costs));
            write!(line, "{x:.1},{:.1} ", scale.y(middle)).expect("to a string");
            writeln!(
                svg,
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"#9bb\" stroke-width=\"4\"/>\
                 <circle cx=\"{x:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"#066\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" dx=\"0\" dy=\"-8\">{}</text>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                scale.y(low),
                scale.y(high),
                scale.y(middle),
                scale.y(high),
                short(middle),
                HEIGHT - BOTTOM + 18.0,
                short(*size as f64),
            )
            .expect("to a string");
        }
        let points = line.trim_end();
        writeln!(
            svg,
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"#066\" stroke-width=\"2\"/>\n</svg>"
        )
        .expect("to a string");
        svg
    }
}

/// From sizes and costs to places in the drawing.
struct Scale {
    log_first: f64,
    log_last: f64,
    cost_max: f64,
}

impl Scale {
    fn of<'c>(points: impl Iterator<Item = (f64, &'c [f64])>) -> Self {
        let mut scale = Self { log_first: f64::INFINITY, log_last: f64::NEG_INFINITY, cost_max: 0.0 };
        for (size, costs) in points {
            scale.log_first = scale.log_first.min(size.ln());
            scale.log_last = scale.log_last.max(size.ln());
            scale.cost_max = scale.cost_max.max(highest(costs));
        }
        scale.cost_max *= 1.15;
        scale
    }

    fn x(&self, size: f64) -> f64 {
        let width = WIDTH - LEFT - RIGHT - 60.0;
        let part = (size.ln() - self.log_first) / (self.log_last - self.log_first).max(f64::MIN_POSITIVE);
        LEFT + 30.0 + part * width
    }

    fn y(&self, cost: f64) -> f64 {
        HEIGHT - BOTTOM - cost / self.cost_max * (HEIGHT - TOP - BOTTOM)
    }

    fn axes(&self, svg: &mut String, sizes_are: &str) {
        for part in [0.0, 0.25, 0.5, 0.75, 1.0] {
            let (cost, right) = (self.cost_max * part, WIDTH - RIGHT);
            let y = self.y(cost);
            writeln!(
                svg,
                "<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 8.0,
                y + 4.0,
                short(cost)
            )
            .expect("to a string");
        }
        let (middle, bottom) = ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 10.0);
        writeln!(svg, "<text x=\"{middle}\" y=\"{bottom}\" text-anchor=\"middle\">{sizes_are}</text>")
            .expect("to a string");
    }
}

fn lowest(costs: &[f64]) -> f64 {
    costs.iter().copied().fold(f64::INFINITY, f64::min)
}

fn highest(costs: &[f64]) -> f64 {
    costs.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

/// A number in a few characters: `12.3k`, `10M`.
fn short(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{:.3}M", value / 1e6).replace(".000", ""),
        value if value >= 1e4 => format!("{:.1}k", value / 1e3).replace(".0k", "k"),
        value if value >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        value => format!("{value:.1}"),
    }
}
