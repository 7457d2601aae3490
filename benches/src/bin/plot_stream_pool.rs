//! Draws what `stream_pool sweep steps` has measured last, for the README.
//!
//! `cargo run --release -p cenote-benches --bin stream_pool -- sweep steps && cargo run --release -p cenote-benches --bin
//! plot_stream_pool`
//!
//! Reads `target/stream_pool`, and writes `benches/stream_pool.svg`. The date is that of the figures, the machine this one.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use cenote_benches::{date, machine, target};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde_json::Value;

type Result<T> = std::result::Result<T, Box<dyn Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

const OURS: RGBColor = RGBColor(0x1f, 0x77, 0xb4);
const THEIRS: RGBColor = RGBColor(0xff, 0x7f, 0x0e);
const GREY: RGBColor = RGBColor(0x66, 0x66, 0x66);
const LEFT: i32 = 62;

fn read(question: &str) -> Result<(Value, SystemTime)> {
    let path = target().join("stream_pool").join(question).with_extension("json");
    let missing = |error| format!("{}: {error}: run `stream_pool sweep steps` first", path.display());
    let text = fs::read(&path).map_err(missing)?;
    Ok((serde_json::from_slice(&text)?, fs::metadata(&path)?.modified()?))
}

fn text(size: i32, colour: &RGBColor, side: HPos) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(colour).pos(Pos::new(side, VPos::Center))
}

/// Each pair of numbers.
fn points(of: &Value) -> Vec<(f64, f64)> {
    let number = |value: &Value| value.as_f64().unwrap_or_default();
    of.as_array().into_iter().flatten().map(|pair| (number(&pair[0]), number(&pair[1]))).collect()
}

/// A heading, and a key to the colours below it.
fn head(area: &Area<'_>, heading: &str, key: &[(&str, RGBColor)]) -> Result<()> {
    area.draw_text(heading, &text(15, &BLACK, HPos::Left), (12, 14))?;
    let mut left = LEFT;
    for (what, colour) in key {
        area.draw(&Rectangle::new([(left, 30), (left + 12, 42)], colour.filled()))?;
        area.draw_text(what, &text(12, &BLACK, HPos::Left), (left + 18, 36))?;
        left += 40 + 7 * what.len() as i32;
    }
    Ok(())
}

fn chart<'a, 'b>(area: &'a Area<'b>, x: f64, y: f64) -> Result<Chart<'a, 'b>> {
    Ok(ChartBuilder::on(area)
        .margin_top(54)
        .margin_right(20)
        .x_label_area_size(26)
        .y_label_area_size(LEFT)
        .build_cartesian_2d(0.0..x, 0.0..y)?)
}

/// A bar for each number of channels, and our line across.
fn sweep(area: &Area<'_>, rows: &Value) -> Result<()> {
    let rows: Vec<_> = rows.as_array().into_iter().flatten().collect();
    let rate = |row: &Value| row["rate"].as_f64().unwrap_or_default();
    let fixed: Vec<_> = rows.iter().filter(|row| row["channels"].is_u64()).collect();
    let ours = rows.iter().find(|row| row["channels"].is_null()).ok_or("a sweep without us")?;
    let top = rows.iter().map(|row| rate(row)).fold(0.0, f64::max) * 1.15;
    let name = format!("StreamPool, untuned: {} connections", ours["connections"]);
    let key = [("so many tonic Channels", THEIRS), (&*name, OURS)];
    head(area, "Calls a second: 1,000 callers, a handler of 10 ms, 100 streams a connection", &key)?;
    let mut chart = chart(area, fixed.len() as f64, top)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(0)
        .y_labels(5)
        .y_label_formatter(&|y| format!("{y:.0}"))
        .light_line_style(TRANSPARENT)
        .label_style(text(11, &GREY, HPos::Right))
        .draw()?;
    for (index, row) in fixed.iter().enumerate() {
        let (middle, rate) = (index as f64 + 0.5, rate(row));
        let bar = Rectangle::new([(middle - 0.3, 0.0), (middle + 0.3, rate)], THEIRS.filled());
        chart.draw_series([bar])?;
        let (x, y) = chart.backend_coord(&(middle, rate));
        let (_, bottom) = chart.backend_coord(&(middle, 0.0));
        let base = area.get_base_pixel();
        area.draw_text(&format!("{rate:.0}"), &text(11, &BLACK, HPos::Center), (x - base.0, y - base.1 - 9))?;
        area.draw_text(
            &row["channels"].to_string(),
            &text(12, &BLACK, HPos::Center),
            (x - base.0, bottom - base.1 + 12),
        )?;
    }
    let line = [(0.0, rate(ours)), (fixed.len() as f64, rate(ours))];
    chart.draw_series([PathElement::new(line.to_vec(), OURS.stroke_width(2))])?;
    let (x, y) = chart.backend_coord(&(0.0, rate(ours)));
    let base = area.get_base_pixel();
    let label = format!("{:.0}", rate(ours));
    area.draw_text(&label, &text(11, &OURS, HPos::Left), (x - base.0 + 6, y - base.1 - 9))?;
    Ok(())
}

/// Ours and theirs over time.
fn lines(
    area: &Area<'_>,
    heading: &str,
    key: &[(&str, RGBColor)],
    all: &[(Vec<(f64, f64)>, RGBColor)],
    last: bool,
) -> Result<()> {
    head(area, heading, key)?;
    let points = || all.iter().flat_map(|(points, _)| points);
    let top = points().map(|(_, y)| *y).fold(0.0, f64::max) * 1.1;
    let end = points().map(|(x, _)| *x).fold(0.0, f64::max);
    let mut chart = chart(area, (end / 1000.0).ceil(), top)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(16)
        .y_labels(5)
        .x_label_formatter(&|x| if last { format!("{x:.0} s") } else { format!("{x:.0}") })
        .y_label_formatter(&|y| format!("{y:.0}"))
        .label_style(("sans-serif", 11).into_font().color(&GREY))
        .draw()?;
    for (points, colour) in all {
        let seconds: Vec<_> = points.iter().map(|(x, y)| (x / 1000.0, *y)).collect();
        chart.draw_series([PathElement::new(seconds, colour.stroke_width(2))])?;
    }
    Ok(())
}

fn main() -> Result<()> {
    let (swept, when) = read("sweep")?;
    let (steps, _) = read("steps")?;
    let to = Path::new(env!("CARGO_MANIFEST_DIR")).join("stream_pool.svg");
    let all = SVGBackend::new(&to, (900, 860)).into_drawing_area();
    all.fill(&WHITE)?;
    all.draw_text(&format!("{}; {}", date(when), machine()), &text(12, &GREY, HPos::Left), (12, 14))?;
    let (_, charts) = all.split_vertically(30);
    let (above, rest) = charts.split_vertically(310);
    let (middle, below) = rest.split_vertically(260);
    sweep(&above, &swept)?;
    let names = ["StreamPool", "10 tonic Channels"];
    let series = |what: &str| -> Vec<_> {
        names.into_iter().zip([OURS, THEIRS]).rev().map(|(name, c)| (points(&steps[name][what]), c)).collect()
    };
    let key = [("StreamPool, ttl 1 s", OURS), ("10 tonic Channels, connected before", THEIRS)];
    let heading = "p99 of each quarter of a second in ms, with 10 callers, then 1,000, then 10";
    lines(&middle, heading, &key, &series("p99"), false)?;
    lines(&below, "Connections meanwhile", &key, &series("connections"), true)?;
    all.present()?;
    println!("benches/stream_pool.svg");
    Ok(())
}
