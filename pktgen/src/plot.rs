//! A latency percentile plot as SVG: the axis of percentiles is stretched towards 100 %, as HDR
//! plots are, so that the tail is as wide as the body.

use std::fmt::Write;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 50.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 60.0;
const LEGEND: f64 = 520.0;
/// Told apart also by people who see fewer colours.
const COLOURS: [&str; 3] = ["#0072b2", "#e69f00", "#999999"];

/// A named line of (quantile from 0 to 1, nanoseconds).
pub struct Curve<'a> {
    pub name: &'a str,
    pub points: Vec<(f64, u64)>,
}

/// The two axes: nines of the quantile, and powers of ten of nanoseconds.
struct Scale {
    nines: f64,
    low: f64,
    high: f64,
}

impl Scale {
    fn of(curves: &[Curve<'_>]) -> Scale {
        let points = || curves.iter().flat_map(|curve| &curve.points);
        let logs = || points().map(|(_, ns)| log10(*ns));
        let nines = points().map(|(quantile, _)| nines(*quantile)).fold(2.0, f64::max);
        let nines = (nines - 1e-6).ceil();
        let (low, high) =
            (logs().fold(f64::MAX, f64::min).floor(), logs().fold(0.0, f64::max).ceil());
        // Without points any axis will do.
        let low = low.min(high - 1.0);
        Scale { nines, low, high }
    }

    fn x(&self, quantile: f64) -> f64 {
        LEFT + nines(quantile) / self.nines * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, log_ns: f64) -> f64 {
        let part = (log_ns - self.low) / (self.high - self.low);
        HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)
    }
}

/// Draws the curves.
pub fn svg(title: &str, curves: &[Curve<'_>]) -> String {
    let scale = Scale::of(curves);
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = draw(&mut out, title, curves, &scale);
    out
}

fn draw(out: &mut String, title: &str, curves: &[Curve<'_>], scale: &Scale) -> std::fmt::Result {
    let size = format!(r#"viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}""#);
    let font = r#"font-family="sans-serif" font-size="13""#;
    writeln!(out, r#"<svg xmlns="http://www.w3.org/2000/svg" {size} {font}>"#)?;
    writeln!(out, r#"<rect width="100%" height="100%" fill="white"/>"#)?;
    text(out, (WIDTH / 2.0, 26.0), "middle", title)?;
    draw_axes(out, scale)?;
    for (number, curve) in curves.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let points = curve.points.iter();
        let points: Vec<_> = points
            .map(|(quantile, ns)| format!("{:.1},{:.1}", scale.x(*quantile), scale.y(log10(*ns))))
            .collect();
        let points = points.join(" ");
        writeln!(
            out,
            r#"<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>"#
        )?;
        // Curves rise from the lower left to the upper right, so this corner is free.
        let y = HEIGHT - BOTTOM - 14.0 - 20.0 * (curves.len() - 1 - number) as f64;
        writeln!(
            out,
            r#"<rect x="{}" y="{}" width="24" height="4" fill="{colour}"/>"#,
            LEGEND,
            y - 6.0
        )?;
        text(out, (LEGEND + 32.0, y), "start", curve.name)?;
    }
    writeln!(out, "</svg>")
}

fn draw_axes(out: &mut String, scale: &Scale) -> std::fmt::Result {
    let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    for nines in 0..=scale.nines as i32 {
        let quantile = 1.0 - 10f64.powi(-nines);
        let x = scale.x(quantile);
        line(out, (x, TOP), (x, bottom))?;
        let decimals = (nines - 2).max(0) as usize;
        text(out, (x, bottom + 20.0), "middle", &format!("{:.decimals$} %", quantile * 100.0))?;
    }
    for power in scale.low as i32..=scale.high as i32 {
        let y = scale.y(power.into());
        line(out, (LEFT, y), (right, y))?;
        text(out, (LEFT - 8.0, y + 4.0), "end", &duration(power))?;
    }
    let middle = (LEFT + right) / 2.0;
    text(out, (middle, HEIGHT - 14.0), "middle", "part of all packets that are at least as fast")
}

fn line(out: &mut String, from: (f64, f64), to: (f64, f64)) -> std::fmt::Result {
    let ((x1, y1), (x2, y2)) = (from, to);
    writeln!(
        out,
        r##"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="#dddddd"/>"##
    )
}

fn text(out: &mut String, at: (f64, f64), anchor: &str, text: &str) -> std::fmt::Result {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    writeln!(out, r#"<text x="{:.1}" y="{:.1}" text-anchor="{anchor}">{text}</text>"#, at.0, at.1)
}

/// 0.9 is one nine, 0.99 two.
fn nines(quantile: f64) -> f64 {
    -(1.0 - quantile).max(1e-12).log10()
}

fn log10(ns: u64) -> f64 {
    (ns.max(1) as f64).log10()
}

/// 10 to the power of `power` nanoseconds.
fn duration(power: i32) -> String {
    let units = ["ns", "us", "ms", "s"];
    let unit = (power / 3).clamp(0, 3);
    format!("{} {}", 10f64.powi(power - 3 * unit), units[unit as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_reach_all_points_and_names_are_escaped() {
        let points = vec![(0.0, 900), (0.5, 12_000), (0.9999, 3_000_000)];
        let picture = svg("a < b & c", &[Curve { name: "latency", points }]);
        for label in ["a &lt; b &amp; c", "99.99 %", "100 ns", "10 ms", "latency"] {
            assert!(picture.contains(&format!(">{label}</text>")), "{label}: {picture}");
        }
        let line = picture.lines().find(|line| line.contains("<polyline")).unwrap();
        let points = line.split('"').nth(1).unwrap();
        assert_eq!(points.split(' ').count(), 3);
        assert!(points.starts_with(&format!("{LEFT:.1},")));
        assert!(picture.ends_with("</svg>\n"));
    }

    #[test]
    fn nothing_to_draw_is_still_a_picture() {
        let picture = svg("empty", &[Curve { name: "latency", points: vec![] }]);
        assert!(!picture.contains("NaN") && !picture.contains("inf"), "{picture}");
    }
}
