//! A plot of a benchmark's ratios: a bar a case, a line from the least to the greatest, as SVG.

use std::fmt::Write;

use crate::row::Row;

const ROW_HEIGHT: f64 = 26.0;
const LABEL_WIDTH: f64 = 230.0;
const PLOT_WIDTH: f64 = 420.0;

/// The plot; none without a row that has a ratio.
pub fn ratios(rows: &[Row]) -> Option<String> {
    let bars: Vec<_> = rows
        .iter()
        .filter_map(|row| {
            Some((format!("{} {}", row.title(), row.metric), row.ratio?, row.ratio_min?, row.ratio_max?))
        })
        .collect();
    if bars.is_empty() {
        return None;
    }
    // Up to the reference at least, and so that the longest line fits.
    let most = bars.iter().map(|bar| bar.3).fold(1.0, f64::max) * 1.05;
    let at = |ratio: f64| LABEL_WIDTH + ratio / most * PLOT_WIDTH;
    let (width, height) = (LABEL_WIDTH + PLOT_WIDTH + 60.0, (bars.len() as f64 + 1.0) * ROW_HEIGHT);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    for (number, (label, ratio, min, max)) in bars.iter().enumerate() {
        let top = number as f64 * ROW_HEIGHT + 5.0;
        let middle = top + 8.0;
        let text = middle + 4.0;
        draw(
            &mut svg,
            format_args!(
                "<text x=\"{:.0}\" y=\"{text:.0}\" text-anchor=\"end\">{label}</text>",
                LABEL_WIDTH - 8.0
            ),
        );
        let (start, end) = (at(0.0), at(*ratio));
        let bar = end - start;
        draw(
            &mut svg,
            format_args!(
                "<rect x=\"{start:.1}\" y=\"{top:.0}\" width=\"{bar:.1}\" height=\"16\" fill=\"#4878a8\"/>"
            ),
        );
        let (from, to) = (at(*min), at(*max));
        draw(
            &mut svg,
            format_args!("<path d=\"M{from:.1} {middle:.0}H{to:.1}\" stroke=\"#222\" stroke-width=\"2\"/>"),
        );
        draw(
            &mut svg,
            format_args!("<text x=\"{:.1}\" y=\"{text:.0}\">{ratio:.2}</text>", to.max(end) + 6.0),
        );
    }
    let (one, bottom) = (at(1.0), bars.len() as f64 * ROW_HEIGHT);
    draw(
        &mut svg,
        format_args!("<path d=\"M{one:.1} 0V{bottom:.0}\" stroke=\"#b03030\" stroke-dasharray=\"4 3\"/>"),
    );
    draw(
        &mut svg,
        format_args!(
            "<text x=\"{one:.1}\" y=\"{:.0}\" text-anchor=\"middle\" fill=\"#b03030\">the reference</text>",
            bottom + 16.0
        ),
    );
    svg.push_str("</svg>\n");
    Some(svg)
}

fn draw(svg: &mut String, element: std::fmt::Arguments<'_>) {
    writeln!(svg, "{element}").expect("a String takes everything");
}
