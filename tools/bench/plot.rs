//! Plots of measurements, as SVG.

use std::path::Path;

use hdrhistogram::Histogram;
use plotters::prelude::*;

use crate::Stop;
use crate::common;

const SIZE: (u32, u32) = (960, 540);
const FONT: (&str, u32) = ("sans-serif", 16);
/// Points of a curve of percentiles.
const POINTS: u32 = 60;

/// A curve: its name, its points.
pub(crate) struct Curve {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// What is drawn: title, what is along and up, and the curves.
pub(crate) struct Plot {
    pub(crate) title: String,
    pub(crate) along: &'static str,
    pub(crate) up: &'static str,
    pub(crate) curves: Vec<Curve>,
}

impl Curve {
    /// A distribution of nanoseconds, in microseconds by 1 / (1 - quantile): 10 is p90, 1000 is p99.9. Ends where one
    /// value is left.
    pub(crate) fn of(name: &str, histogram: &Histogram<u64>) -> Self {
        let longest = (histogram.len().max(10) as f64).log10();
        let points = (0..=POINTS).map(|n| {
            let nines = f64::from(n) / f64::from(POINTS) * longest;
            let quantile = 1.0 - 10f64.powf(-nines);
            (10f64.powf(nines), histogram.value_at_quantile(quantile) as f64 / 1e3)
        });
        Self { name: name.to_owned(), points: points.collect() }
    }
}

/// Makes the directory that plots are written into.
pub(crate) fn folder(path: &Path) -> Result<(), Stop> {
    std::fs::create_dir_all(path).map_err(|error| Stop::file(path, error))
}

impl Plot {
    /// Writes it, both axes logarithmic: figures of very different sizes are compared by their ratio.
    pub(crate) fn write(&self, path: &Path) -> Result<(), Stop> {
        self.draw(path).map_err(|error| common::fault(path, format!("cannot be drawn: {error}")))
    }

    fn draw(&self, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
        let points = || self.curves.iter().flat_map(|curve| &curve.points);
        let along = bounds(points().map(|point| point.0));
        let up = bounds(points().map(|point| point.1));
        let root = SVGBackend::new(path, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(&self.title, ("sans-serif", 20))
            .margin(16)
            .x_label_area_size(48)
            .y_label_area_size(80)
            .build_cartesian_2d((along.0..along.1).log_scale(), (up.0..up.1).log_scale())?;
        chart.configure_mesh().x_desc(self.along).y_desc(self.up).label_style(FONT).draw()?;
        for (at, curve) in self.curves.iter().enumerate() {
            let colour = Palette99::pick(at).to_rgba();
            let points = curve.points.iter().map(|(along, up)| (*along, up.max(f64::MIN_POSITIVE)));
            chart
                .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
                .label(&curve.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK)
            .label_font(FONT)
            .draw()?;
        root.present()?;
        Ok(())
    }
}

/// From the least to the greatest that a logarithmic axis can show, never the same.
fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let shown = values.filter(|value| value.is_finite() && *value > 0.0);
    let (least, most) =
        shown.fold((f64::INFINITY, 0.0_f64), |(least, most), value| (least.min(value), most.max(value)));
    if most == 0.0 { (1.0, 10.0) } else { (least / 1.1, most * 1.1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_ends_where_one_value_is_left_and_never_falls() {
        let mut histogram = crate::outcome::histogram();
        (1..=1000).for_each(|n| histogram.record(n * 1000).unwrap());
        let Curve { points, .. } = Curve::of("n", &histogram);
        assert!(points.windows(2).all(|pair| pair[0].1 <= pair[1].1 && pair[0].0 < pair[1].0));
        let (last, most) = points[points.len() - 1];
        assert!((last - 1000.0).abs() < 1e-6 && (most - 1000.0).abs() < 2.0, "{last} {most}");
    }

    #[test]
    fn a_plot_shows_its_curves_even_where_they_are_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.svg");
        let curve = |name: &str, points| Curve { name: name.to_owned(), points };
        let curves = vec![curve("some", vec![(1.0, 5.0), (10.0, 50.0)]), curve("none", Vec::new())];
        Plot { title: "a < b".to_owned(), along: "x", up: "y", curves }.draw(&path).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        for text in ["<svg", "a &lt; b", "some", "none", "polyline"] {
            assert!(svg.contains(text), "{text}\n{svg}");
        }
        let nothing = Plot { title: String::new(), along: "x", up: "y", curves: Vec::new() };
        assert!(nothing.write(&path).is_ok() && nothing.write(&folder.path().join("no/p.svg")).is_err());
    }
}
