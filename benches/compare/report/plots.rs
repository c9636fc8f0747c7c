//! The plots of the report.

use std::{error::Error, fs, path::Path};

use plotters::prelude::*;

use crate::{
    measure::{growth::Stage, outage::Outage},
    outcome::Outcome,
    results::Results,
    row::Row,
    statistics::Percentiles,
    work::{Spread, Work},
};

const SIZE: (u32, u32) = (900, 480);

type Drawn = Result<(), Box<dyn Error>>;
/// The name and the points of a line.
type Line = (&'static str, Vec<(f64, f64)>);

pub fn draw(results: &Results, folder: &Path) -> Outcome<()> {
    fs::create_dir_all(folder).map_err(|error| error.to_string())?;
    let done = appends(results, &folder.join("appends.svg"))
        .and_then(|()| latency(results, &folder.join("latency.svg")))
        .and_then(|()| loads(results, &folder.join("loads.svg")))
        .and_then(|()| growth(results, &folder.join("growth.svg")))
        .and_then(|()| outage(results, &folder.join("outage.svg")));
    done.map_err(|error| error.to_string())
}

fn colour(index: usize) -> RGBColor {
    const COLOURS: [RGBColor; 10] = [
        RGBColor(0x1b, 0x6c, 0xa8),
        RGBColor(0x6a, 0xb0, 0xde),
        RGBColor(0x0b, 0x3c, 0x5d),
        RGBColor(0xb0, 0x3a, 0x2e),
        RGBColor(0xe7, 0x8f, 0x81),
        RGBColor(0x7d, 0x3c, 0x98),
        RGBColor(0xc3, 0x9b, 0xd3),
        RGBColor(0xd6, 0x8a, 0x10),
        RGBColor(0x1e, 0x84, 0x49),
        RGBColor(0x70, 0x7b, 0x7c),
    ];
    COLOURS[index % COLOURS.len()]
}

fn index(row: Row) -> usize {
    Row::ALL.iter().position(|other| *other == row).unwrap_or_default()
}

/// The titles of a plot and its axes.
struct Axes<'a> {
    title: &'a str,
    x: &'a str,
    y: &'a str,
    /// The labels at 0, 1, 2 … on the x axis.
    ticks: Vec<String>,
}

/// Draws lines over labelled points, with a logarithmic y axis.
fn lines(path: &Path, axes: &Axes, all: &[(usize, Line)]) -> Drawn {
    let values = || all.iter().flat_map(|(_, (_, points))| points.iter().map(|point| point.1));
    let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max));
    if !low.is_finite() {
        return blank(path, axes.title);
    }
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let last = axes.ticks.len() as f64 - 1.0;
    // Leaves space for the legend beside the lines.
    let room = 0.1 + last * 0.5;
    let mut chart = ChartBuilder::on(&root)
        .caption(axes.title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(80)
        .build_cartesian_2d(-0.1..last + room, (low * 0.7..high * 1.5).log_scale())?;
    let tick = |x: &f64| {
        if x.fract().abs() < 1e-6 && *x > -1e-6 {
            axes.ticks.get(*x as usize).cloned().unwrap_or_default()
        } else {
            String::new()
        }
    };
    chart
        .configure_mesh()
        .x_labels(axes.ticks.len() * 3)
        .x_label_formatter(&tick)
        .x_desc(axes.x)
        .y_desc(axes.y)
        .y_label_formatter(&|y| plain(*y))
        .light_line_style(WHITE)
        .draw()?;
    for (number, (name, points)) in all {
        let style = colour(*number).stroke_width(2);
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style).point_size(3))?
            .label(name.replace('`', ""))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::MiddleRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.2))
        .draw()?;
    root.present()?;
    Ok(())
}

fn plain(number: f64) -> String {
    if number >= 1.0 { super::text::grouped(number.round() as u64) } else { format!("{number}") }
}

fn blank(path: &Path, title: &str) -> Drawn {
    let root = SVGBackend::new(path, (SIZE.0, 60)).into_drawing_area();
    root.fill(&WHITE)?;
    root.titled(&format!("{title}: not measured"), ("sans-serif", 20))?;
    root.present()?;
    Ok(())
}

fn appends(results: &Results, path: &Path) -> Drawn {
    const CALLERS: [usize; 4] = [1, 8, 64, 256];
    let mut all = Vec::new();
    for row in Row::ALL {
        let spread = if row.offers(Work { spread: Spread::Conditional, callers: 1, events: 1 }) {
            Spread::Conditional
        } else {
            Spread::Unconditional
        };
        let rate = |callers| Some(results.appended(row, Work { spread, callers, events: 1 })?.rate());
        let points =
            CALLERS.into_iter().enumerate().filter_map(|(at, callers)| Some((at as f64, rate(callers)?)));
        let points: Vec<_> = points.collect();
        if !points.is_empty() {
            all.push((index(row), (row.title(), points)));
        }
    }
    let axes = Axes {
        title: "Conditional appends (plain Set: unconditional), one event per call",
        x: "callers",
        y: "events per second",
        ticks: CALLERS.map(|callers| callers.to_string()).to_vec(),
    };
    lines(path, &axes, &all)
}

fn latency(results: &Results, path: &Path) -> Drawn {
    let points = |found: &Percentiles| {
        let values = [found.p50, found.p90, found.p99, found.p999, found.max];
        values.into_iter().enumerate().map(|(at, value)| (at as f64, value)).collect()
    };
    let line = |row: Row, found| (index(row), (row.title(), points(found)));
    let all: Vec<_> = results.latencies.iter().map(|found| line(found.row, &found.latency)).collect();
    let axes = Axes {
        title: "Latency of paced appends, from the time at which each was due",
        x: "",
        y: "milliseconds",
        ticks: ["p50", "p90", "p99", "p99.9", "max"].map(str::to_owned).to_vec(),
    };
    lines(path, &axes, &all)
}

/// Draws bars for one and for eight callers.
fn loads(results: &Results, path: &Path) -> Drawn {
    let wanted: Vec<_> =
        results.loads.iter().filter(|load| load.events == 1000 && !load.from_snapshot).collect();
    let high = wanted.iter().map(|load| load.events_per_second).fold(0.0, f64::max);
    let title = "Events per second, loads of 1 000 events: one caller (light), eight callers (dark)";
    if high == 0.0 {
        return blank(path, title);
    }
    let mut rows: Vec<Row> = wanted.iter().map(|load| load.row).collect();
    rows.dedup();
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(80)
        .build_cartesian_2d(0.0..rows.len() as f64, 0.0..high * 1.1)?;
    let tick = |x: &f64| {
        if (x.fract() - 0.5).abs() < 1e-6 {
            rows.get(*x as usize).map_or(String::new(), |row| row.title().replace('`', ""))
        } else {
            String::new()
        }
    };
    let mesh_points = rows.len() * 2 + 1;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(mesh_points)
        .x_label_formatter(&tick)
        .y_label_formatter(&|y| plain(*y))
        .light_line_style(WHITE)
        .draw()?;
    for load in wanted {
        let left = rows.iter().position(|row| *row == load.row).unwrap_or_default() as f64;
        let (start, shade) = if load.callers == 1 { (0.15, 0.5) } else { (0.5, 1.0) };
        let corners = [(left + start, 0.0), (left + start + 0.35, load.events_per_second)];
        chart.draw_series([Rectangle::new(corners, colour(index(load.row)).mix(shade).filled())])?;
    }
    root.present()?;
    Ok(())
}

fn growth(results: &Results, path: &Path) -> Drawn {
    let line = |of: fn(&Stage) -> f64| {
        results.growth.iter().enumerate().map(|(at, stage)| (at as f64, of(stage))).collect::<Vec<_>>()
    };
    let all = if results.growth.is_empty() {
        Vec::new()
    } else {
        vec![
            (0, ("appends/s, 64 callers", line(|stage| stage.appends_per_second))),
            (7, ("loads of 1 000 events, events/s", line(|stage| 1e6 / stage.load.p50))),
            (8, ("fill with 100 events per call, events/s", line(|stage| stage.fill_events_per_second))),
        ]
    };
    let axes = Axes {
        title: "Growth of the store",
        x: "events stored",
        y: "per second",
        ticks: results.growth.iter().map(|stage| super::text::grouped(stage.events)).collect(),
    };
    lines(path, &axes, &all)
}

/// Draws the append rates in slices of 250 ms. ImmuDB is killed at 0.
fn outage(results: &Results, path: &Path) -> Drawn {
    const TITLE: &str = "Appends per second, 64 callers; ImmuDB is killed at 0 s";
    let Some(outage) = results.outages.first() else { return blank(path, TITLE) };
    let points = timeline(outage);
    let high = points.iter().map(|point| point.1).fold(0.0, f64::max);
    let (from, to) =
        (points.first().map_or(0.0, |point| point.0), points.last().map_or(1.0, |point| point.0));
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(TITLE, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(80)
        .build_cartesian_2d(from..to, 0.0..high * 1.1)?;
    chart
        .configure_mesh()
        .x_desc("seconds")
        .y_label_formatter(&|y| plain(*y))
        .light_line_style(WHITE)
        .draw()?;
    chart.draw_series(LineSeries::new(points, colour(0).stroke_width(2)).point_size(3))?;
    chart.draw_series(LineSeries::new([(0.0, 0.0), (0.0, high)], colour(3)))?;
    root.present()?;
    Ok(())
}

fn timeline(outage: &Outage) -> Vec<(f64, f64)> {
    let before = outage.slices_before.len() as f64;
    let all = outage.slices_before.iter().chain(&outage.slices_in_outage).enumerate();
    all.map(|(at, rate)| ((at as f64 - before + 0.5) / 4.0, *rate)).collect()
}
