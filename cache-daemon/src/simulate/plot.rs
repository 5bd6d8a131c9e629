//! Curves over the size of the cache, as SVG.

use std::fmt::Write;

const LEFT: f64 = 60.0;
const TOP: f64 = 20.0;
const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 360.0;
/// Beside the plot, for the names.
const LEGEND: f64 = 130.0;
/// Dark enough on white, and apart for the colour-blind (Okabe, Ito).
const COLOURS: [&str; 8] =
    ["#d55e00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#999999"];

/// A named curve: points of (cache as a share of the data set, byte hit ratio), both 0 to 1.
pub struct Curve {
    /// Shown in the legend.
    pub name: String,
    /// From left to right.
    pub points: Vec<(f64, f64)>,
}

/// The curves; the first is drawn last, on top.
pub fn curves(curves: &[Curve]) -> String {
    let x = |share: f64| LEFT + share.clamp(0.0, 1.0) * WIDTH;
    let y = |ratio: f64| TOP + (1.0 - ratio.clamp(0.0, 1.0)) * HEIGHT;
    let mut svg = frame();
    for (number, curve) in curves.iter().enumerate().rev() {
        let colour = COLOURS[number % COLOURS.len()];
        let points: Vec<_> =
            curve.points.iter().map(|&(share, ratio)| format!("{:.1},{:.1}", x(share), y(ratio))).collect();
        let points = points.join(" ");
        // The same number of pixels on and off, a step further for each curve: curves that coincide all show.
        let dash = if number == 0 { "none".to_owned() } else { format!("{} 3", 3 + 2 * number) };
        draw(
            &mut svg,
            format_args!(
                "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" stroke-dasharray=\"{dash}\"/>"
            ),
        );
        let (at, middle) = (LEFT + WIDTH + 14.0, TOP + 12.0 + number as f64 * 20.0);
        draw(
            &mut svg,
            format_args!(
                "<path d=\"M{at:.0} {middle:.0}h24\" stroke=\"{colour}\" stroke-width=\"2\" stroke-dasharray=\"{dash}\"/>"
            ),
        );
        let (at, text, name) = (at + 30.0, middle + 4.0, &curve.name);
        draw(&mut svg, format_args!("<text x=\"{at:.0}\" y=\"{text:.0}\">{name}</text>"));
    }
    svg.push_str("</svg>\n");
    svg
}

/// Paper, grid, and what the axes say.
fn frame() -> String {
    let (width, height) = (LEFT + WIDTH + LEGEND, TOP + HEIGHT + 50.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    for tenth in 0..=10 {
        let share = f64::from(tenth) / 10.0;
        let (across, down) = (LEFT + share * WIDTH, TOP + (1.0 - share) * HEIGHT);
        draw(
            &mut svg,
            format_args!(
                "<path d=\"M{across:.0} {TOP:.0}v{HEIGHT:.0}M{LEFT:.0} {down:.0}h{WIDTH:.0}\" stroke=\"#ddd\"/>"
            ),
        );
        if tenth % 2 == 0 {
            let (percent, below, beside) = (tenth * 10, TOP + HEIGHT + 16.0, LEFT - 8.0);
            draw(
                &mut svg,
                format_args!(
                    "<text x=\"{across:.0}\" y=\"{below:.0}\" text-anchor=\"middle\">{percent} %</text>"
                ),
            );
            let down = down + 4.0;
            draw(
                &mut svg,
                format_args!(
                    "<text x=\"{beside:.0}\" y=\"{down:.0}\" text-anchor=\"end\">{percent} %</text>"
                ),
            );
        }
    }
    let (middle, below) = (LEFT + WIDTH / 2.0, TOP + HEIGHT + 38.0);
    draw(
        &mut svg,
        format_args!(
            "<text x=\"{middle:.0}\" y=\"{below:.0}\" text-anchor=\"middle\">cache, of the data set</text>"
        ),
    );
    let middle = TOP + HEIGHT / 2.0;
    draw(
        &mut svg,
        format_args!(
            "<text transform=\"translate(14 {middle:.0}) rotate(-90)\" text-anchor=\"middle\">bytes found in the cache</text>"
        ),
    );
    svg
}

fn draw(svg: &mut String, element: std::fmt::Arguments<'_>) {
    writeln!(svg, "{element}").expect("a String takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_curve_is_drawn_and_named() {
        let curve =
            |name: &str| Curve { name: name.into(), points: vec![(0.0, 0.0), (0.5, 0.25), (1.0, 1.0)] };
        let svg = curves(&[curve("epoch"), curve("lru")]);
        assert!(svg.contains("60.0,380.0 300.0,290.0 540.0,20.0"), "{svg}");
        assert!(svg.contains(">epoch<") && svg.contains(">lru<") && svg.ends_with("</svg>\n"));
    }
}
