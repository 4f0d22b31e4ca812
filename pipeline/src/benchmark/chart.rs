//! Line charts as SVG.
//!
//! Place: the plots of the benchmark. Invariant: a pure function of the series; every point of a series is drawn inside the
//! axes.

use std::fmt::Write;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
/// Left, right, top and bottom margins.
const MARGINS: [f64; 4] = [64.0, 190.0, 40.0, 56.0];
const TICKS: usize = 5;
/// Colours that differ for colour-blind readers too (Okabe and Ito).
const COLOURS: [&str; 7] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000",
];

/// A chart of y over x.
pub struct Chart {
    /// Heading.
    pub title: String,
    /// Name of the x axis.
    pub x: String,
    /// Name of the y axis.
    pub y: String,
    /// Names of the places on the x axis, left to right.
    pub places: Vec<String>,
    /// Name and one value for each place.
    pub series: Vec<(String, Vec<f64>)>,
}

impl Chart {
    /// The chart as an SVG document.
    pub fn svg(&self) -> String {
        let values = || self.series.iter().flat_map(|(_, values)| values.iter().copied());
        let top = values().fold(0.0, f64::max).max(1e-9) * 1.05;
        let [left, right, above, below] = MARGINS;
        let (wide, high) = (WIDTH - left - right, HEIGHT - above - below);
        let x = |place: usize| left + wide * (place as f64 + 0.5) / self.places.len().max(1) as f64;
        let y = |value: f64| above + high * (1.0 - value.max(0.0) / top);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
        );
        let mut put = |element: String| {
            svg.push_str(&element);
            svg.push('\n');
        };
        put(text(left, 22.0, "start", &format!("{} ({})", self.title, self.y)));
        put(text(left + wide / 2.0, HEIGHT - 14.0, "middle", &self.x));
        for tick in 0..=TICKS {
            let value = top * tick as f64 / TICKS as f64;
            let (from, to, at) = (left, left + wide, y(value));
            put(format!("<path d=\"M{from:.1} {at:.1}H{to:.1}\" stroke=\"#ddd\"/>"));
            put(text(left - 8.0, at + 4.0, "end", &format!("{value:.2}")));
        }
        for (place, name) in self.places.iter().enumerate() {
            put(text(x(place), above + high + 18.0, "middle", name));
        }
        for (number, (name, values)) in self.series.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let mut path = String::new();
            for (place, &value) in values.iter().enumerate() {
                let command = if place == 0 { 'M' } else { 'L' };
                let _ = write!(path, "{command}{:.1} {:.1}", x(place), y(value));
                put(format!(
                    "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>",
                    x(place),
                    y(value)
                ));
            }
            put(format!(
                "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>"
            ));
            let legend = above + 16.0 * number as f64;
            let beside = left + wide + 12.0;
            put(format!(
                "<rect x=\"{beside:.1}\" y=\"{:.1}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>",
                legend - 9.0
            ));
            put(text(beside + 16.0, legend, "start", name));
        }
        svg + "</svg>\n"
    }
}

fn text(x: f64, y: f64, anchor: &str, text: &str) -> String {
    let plain = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{plain}</text>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_is_drawn_and_names_are_escaped() {
        let chart = Chart {
            title: "Noise <em>".to_owned(),
            x: "SNR, dB".to_owned(),
            y: "ROUGE-L".to_owned(),
            places: ["24", "0", "-6"].map(str::to_owned).to_vec(),
            series: vec![
                ("white".to_owned(), vec![0.5, 0.4, 0.0]),
                ("em".to_owned(), vec![0.5, 0.3, 0.1]),
            ],
        };
        let svg = chart.svg();
        assert_eq!(svg.matches("<circle").count(), 6);
        assert!(svg.contains("Noise &lt;em&gt; (ROUGE-L)") && svg.ends_with("</svg>\n"));
        let heights = svg
            .split("cy=\"")
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap().parse::<f64>().unwrap());
        let [_, _, above, below] = MARGINS;
        assert!(heights.into_iter().all(|y| (above..=HEIGHT - below).contains(&y)));
    }
}
