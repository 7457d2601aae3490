//! Draws what the bench `get_put` has measured last, for the README.
//!
//! `cargo bench -p cenote-benches --bench get_put && cargo run --release -p cenote-benches --bin plot`
//!
//! Reads criterion's estimates under `target/criterion`, and writes `benches/get_put.svg`. The date is that of the estimates, the
//! machine this one.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use cenote_benches::{date, machine, target};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

const WIDTH: u32 = 900;
const ROW: i32 = 44;
const TOP: i32 = 78;
const LEFT: i32 = 210;
const RIGHT: i32 = 70;
/// ns; the axis is logarithmic.
const SCALE: (f64, f64) = (1.0, 1000.0);
const COLOURS: [RGBColor; 2] = [RGBColor(0x1f, 0x77, 0xb4), RGBColor(0xff, 0x7f, 0x0e)];
const GREY: RGBColor = RGBColor(0x66, 0x66, 0x66);

struct Row {
    name: String,
    /// ns, with one thread and with two.
    times: [f64; 2],
}

fn directories(of: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let entries = fs::read_dir(of)
        .map_err(|error| format!("{}: {error}: run the bench `get_put` first", of.display()))?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?;
    Ok(paths.into_iter().filter(|path| path.join("new/estimates.json").exists()).collect())
}

fn read(path: &Path) -> Result<serde_json::Value, Box<dyn Error>> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// The median, in ns.
fn median(directory: &Path) -> Result<f64, Box<dyn Error>> {
    let estimates = read(&directory.join("new/estimates.json"))?;
    estimates["median"]["point_estimate"].as_f64().ok_or_else(|| "an estimate without a median".into())
}

fn rows(criterion: &Path) -> Result<(Vec<Row>, SystemTime), Box<dyn Error>> {
    let mut rows = Vec::new();
    let mut newest = SystemTime::UNIX_EPOCH;
    for alone in directories(&criterion.join("get_put, threads_ 1"))? {
        let folder = alone.file_name().ok_or("a path without a name")?;
        let both = criterion.join("get_put, threads_ 2").join(folder);
        let name = read(&alone.join("new/benchmark.json"))?["function_id"].as_str().unwrap_or("?").to_owned();
        newest = newest.max(fs::metadata(alone.join("new/estimates.json"))?.modified()?);
        rows.push(Row { name, times: [median(&alone)?, median(&both)?] });
    }
    rows.sort_by(|a, b| a.times[1].total_cmp(&b.times[1]));
    Ok((rows, newest))
}

fn draw(rows: &[Row], title: &str, to: &Path) -> Result<(), Box<dyn Error>> {
    let height = TOP + ROW * rows.len() as i32 + 40;
    let area = SVGBackend::new(to, (WIDTH, height as u32)).into_drawing_area();
    area.fill(&WHITE)?;
    let x = |ns: f64| {
        let share = (ns / SCALE.0).ln() / (SCALE.1 / SCALE.0).ln();
        LEFT + (share.clamp(0.0, 1.0) * f64::from(WIDTH as i32 - LEFT - RIGHT)) as i32
    };
    let text = |size: i32, colour: &RGBColor, side: HPos| {
        ("sans-serif", size).into_font().color(colour).pos(Pos::new(side, VPos::Center))
    };
    let heading = "One get and put of a Box<[u8; 64]>, nanoseconds (logarithmic, less is better)";
    area.draw_text(heading, &text(17, &BLACK, HPos::Left), (12, 20))?;
    area.draw_text(title, &text(12, &GREY, HPos::Left), (12, 42))?;
    for (index, what) in ["one thread", "each of two threads"].into_iter().enumerate() {
        let left = LEFT + 170 * index as i32;
        area.draw(&Rectangle::new([(left, 58), (left + 12, 70)], COLOURS[index].filled()))?;
        area.draw_text(what, &text(12, &BLACK, HPos::Left), (left + 18, 64))?;
    }
    let bottom = TOP + ROW * rows.len() as i32;
    for tick in [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0] {
        area.draw(&PathElement::new(vec![(x(tick), TOP), (x(tick), bottom)], GREY.mix(0.25)))?;
        area.draw_text(&tick.to_string(), &text(11, &GREY, HPos::Center), (x(tick), bottom + 14))?;
    }
    for (index, row) in rows.iter().enumerate() {
        let top = TOP + ROW * index as i32 + 5;
        let name = if row.name == "cenote" { "cenote SyncPool" } else { &row.name };
        area.draw_text(name, &text(13, &BLACK, HPos::Right), (LEFT - 10, top + 16))?;
        for (thread, time) in row.times.into_iter().enumerate() {
            let top = top + 17 * thread as i32;
            area.draw(&Rectangle::new([(LEFT, top), (x(time), top + 15)], COLOURS[thread].filled()))?;
            let figure = if time < 10.0 { format!("{time:.1}") } else { format!("{time:.0}") };
            area.draw_text(&figure, &text(11, &BLACK, HPos::Left), (x(time) + 5, top + 8))?;
        }
    }
    area.present()?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (rows, when) = rows(&target().join("criterion"))?;
    let to = here.join("get_put.svg");
    draw(&rows, &format!("{}; {}", date(when), machine()), &to)?;
    println!("{} rows: benches/get_put.svg", rows.len());
    for row in rows {
        println!("| `{}` | {:.1} | {:.1} |", row.name, row.times[0], row.times[1]);
    }
    Ok(())
}
