//! Tables.

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};

/// One question's table.
#[derive(Debug)]
pub struct Sheet(Table);

impl Sheet {
    /// Prints the question as the title.
    pub fn new(name: &str, question: &str, head: impl IntoIterator<Item = String>) -> Self {
        println!("{name}: {question}\n");
        let mut table = Table::new();
        table.load_style(UTF8_BORDERS_ONLY).set_header(head);
        Sheet(table)
    }

    /// One more row; its first cell is the name.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.0.add_row(cells);
    }

    /// Prints the table.
    pub fn print(mut self) {
        self.0.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
        println!("{}\n", self.0);
    }
}

/// A time.
pub fn ns(figure: f64) -> String {
    format!("{figure:.*}", if figure < 100.0 { 2 } else { 0 })
}

/// A ratio.
pub fn ratio(figure: f64) -> String {
    format!("{figure:.2}")
}

/// The cells of a figure that may have a target that it must not exceed: figure, target, verdict.
pub(super) fn judge(figure: Option<f64>, target: Option<f64>, show: impl Fn(f64) -> String) -> [String; 3] {
    let verdict = match (figure, target) {
        (Some(figure), Some(target)) if figure <= target => "ok",
        (Some(_), Some(_)) => "missed",
        _ => "",
    };
    let cell = |figure: Option<f64>| figure.map_or_else(|| "-".to_owned(), &show);
    [cell(figure), cell(target), verdict.to_owned()]
}

/// The heads of those cells.
pub(super) fn judge_heads(figure: impl Into<String>) -> [String; 3] {
    [figure.into(), "target".to_owned(), String::new()]
}
