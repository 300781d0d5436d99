//! A rollout as two charts (SVG): how far each site is from its bound, and how many devices are done when.

use super::outcome::{FleetOutcome, SiteOutcome};

const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 480.0;
const MARGIN: f64 = 60.0;

/// One direction of a chart.
#[derive(Clone, Copy)]
struct Axis {
    from: f64,
    to: f64,
    is_logarithmic: bool,
}

impl Axis {
    /// Where a value stands, from 0 to 1.
    fn part(self, value: f64) -> f64 {
        let scale = |value: f64| if self.is_logarithmic { value.max(1e-9).ln() } else { value };
        let (from, to) = (scale(self.from), scale(self.to));
        if to > from { ((scale(value) - from) / (to - from)).clamp(0.0, 1.0) } else { 0.5 }
    }

    /// Values that are written beside it.
    fn marks(self) -> Vec<f64> {
        if self.is_logarithmic {
            let decades = (-3..8).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(power)));
            return decades.filter(|mark| (self.from..=self.to).contains(mark)).collect();
        }
        (0..=5u8).map(|step| self.from + (self.to - self.from) * f64::from(step) / 5.0).collect()
    }
}

/// A chart that is being drawn.
struct Chart {
    x: Axis,
    y: Axis,
    body: String,
}

impl Chart {
    fn new(title: &str, (x, x_name): (Axis, &str), (y, y_name): (Axis, &str)) -> Chart {
        let mut chart = Chart { x, y, body: String::new() };
        chart.text(WIDTH / 2.0, 24.0, "middle", title);
        chart.text(WIDTH / 2.0, HEIGHT - 12.0, "middle", x_name);
        chart.text(12.0, MARGIN - 16.0, "start", y_name);
        for mark in x.marks() {
            let at = chart.place(mark, y.from);
            chart.line(at, chart.place(mark, y.to), "#ddd");
            chart.text(at.0, at.1 + 18.0, "middle", &short(mark));
        }
        for mark in y.marks() {
            let at = chart.place(x.from, mark);
            chart.line(at, chart.place(x.to, mark), "#ddd");
            chart.text(at.0 - 6.0, at.1 + 4.0, "end", &short(mark));
        }
        chart
    }

    fn place(&self, x: f64, y: f64) -> (f64, f64) {
        let across = MARGIN + self.x.part(x) * (WIDTH - 2.0 * MARGIN);
        (across, HEIGHT - MARGIN - self.y.part(y) * (HEIGHT - 2.0 * MARGIN))
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str) {
        self.body += &format!(
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\"/>\n",
            from.0, from.1, to.0, to.1
        );
    }

    fn point(&mut self, x: f64, y: f64, colour: &str) {
        let (x, y) = self.place(x, y);
        self.body += &format!(
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\" fill=\"{colour}\" fill-opacity=\"0.6\"/>\n"
        );
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, text: &str) {
        self.body += &format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>\n");
    }

    fn legend(&mut self, entries: &[(&str, &str)]) {
        for (row, (colour, text)) in (0u8..).zip(entries) {
            let y = MARGIN + 16.0 + f64::from(row) * 18.0;
            self.body += &format!(
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"{colour}\"/>\n",
                MARGIN + 16.0,
                y - 4.0
            );
            self.text(MARGIN + 26.0, y, "start", text);
        }
    }

    fn finish(self) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n{}</svg>\n",
            self.body
        )
    }
}

/// A number without digits that say nothing.
fn short(value: f64) -> String {
    if value >= 10.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

/// The distance of every site to its bound, by the rate of its link.
pub fn distances(sites: &[SiteOutcome]) -> String {
    let rates = sites.iter().map(|site| site.megabits_per_second);
    let x = Axis {
        from: rates.clone().fold(f64::MAX, f64::min),
        to: rates.fold(0.0, f64::max),
        is_logarithmic: true,
    };
    let worst = sites.iter().flat_map(|site| [site.distance[3], site.wan_distance]).fold(1.2, f64::max);
    let y = Axis { from: 1.0, to: worst, is_logarithmic: false };
    let title = "Distance of each site to its bound";
    let mut chart = Chart::new(title, (x, "link, Mbit/s"), (y, "time / bound"));
    for site in sites {
        chart.point(site.megabits_per_second, site.distance[3], "#c22");
        chart.point(site.megabits_per_second, site.wan_distance, "#26c");
    }
    chart.legend(&[("#c22", "all devices have everything"), ("#26c", "the site has every piece")]);
    chart.finish()
}

/// How many devices of the fleet are done when.
pub fn progress(fleet: &FleetOutcome) -> String {
    let x = Axis { from: 0.0, to: fleet.seconds[3].max(1.0), is_logarithmic: false };
    let y = Axis { from: 0.0, to: 100.0, is_logarithmic: false };
    let mut chart =
        Chart::new("Devices of the fleet that are done", (x, "seconds since the approval"), (y, "%"));
    let mut before = chart.place(0.0, 0.0);
    for (percent, seconds) in fleet.curve.iter().enumerate() {
        let at = chart.place(*seconds, percent as f64);
        chart.line(before, at, "#26c");
        before = at;
    }
    chart.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_stand_within_the_axis() {
        let axis = Axis { from: 2.0, to: 100.0, is_logarithmic: true };
        assert_eq!(axis.marks(), [2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
        assert!((axis.part(2.0), axis.part(100.0)) == (0.0, 1.0));
        let fleet = FleetOutcome { seconds: [1.0; 4], curve: vec![0.0, 0.5, 1.0], ..FleetOutcome::default() };
        let svg = progress(&fleet);
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"), "{svg}");
    }
}
