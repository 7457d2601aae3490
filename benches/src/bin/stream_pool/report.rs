//! Tables for the eye, and JSON for the plot.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

/// In Markdown.
pub(crate) struct Table {
    title: String,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(title: &str, head: &[&str]) -> Self {
        Table { title: title.to_owned(), rows: vec![head.iter().map(|cell| (*cell).to_owned()).collect()] }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub(crate) fn print(&self) {
        let width = |column: usize| self.rows.iter().map(|row| row[column].len()).max().unwrap_or_default();
        let widths: Vec<_> = (0..self.rows[0].len()).map(width).collect();
        println!("\n{}\n", self.title);
        for (number, row) in self.rows.iter().enumerate() {
            let cells = row.iter().zip(&widths).enumerate();
            let cells: Vec<_> = cells
                .map(|(column, (cell, width))| match column {
                    0 => format!("{cell:<width$}"),
                    _ => format!("{cell:>width$}"),
                })
                .collect();
            println!("| {} |", cells.join(" | "));
            if number == 0 {
                let lines: Vec<_> = widths.iter().map(|width| "-".repeat(*width)).collect();
                println!("|-{}-|", lines.join("-|-"));
            }
        }
        println!();
    }
}

/// Where `bin/plot_stream_pool.rs` looks for it.
pub(crate) fn save(question: &str, data: &Value) {
    let folder = cenote_benches::target().join("stream_pool");
    let path: PathBuf = folder.join(question).with_extension("json");
    let written = fs::create_dir_all(&folder).and_then(|()| fs::write(&path, data.to_string()));
    match written {
        Ok(()) => println!("raw data: {}", path.display()),
        Err(error) => eprintln!("{}: {error}", path.display()),
    }
}
