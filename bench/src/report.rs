//! What was measured, as Markdown and by name.

use std::{collections::BTreeMap, fmt};

/// By name, one of each round.
pub(crate) type Figures = BTreeMap<String, Vec<f64>>;

/// Prints while it grows.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) markdown: String,
    pub(crate) figures: Figures,
}

/// The lines above the rows.
const HEAD: usize = 2;

/// A table in Markdown. All columns but the first are aligned right.
pub(crate) struct Table {
    lines: Vec<String>,
}

impl Report {
    pub(crate) fn write(&mut self, paragraph: &str) {
        println!("{paragraph}");
        self.markdown += paragraph;
        self.markdown.push('\n');
    }

    /// Its last line, for those who wait for the whole.
    pub(crate) fn progress(&self, table: &Table) {
        eprintln!("{}", table.lines.last().map_or("", String::as_str));
    }

    /// Nothing of a table without rows.
    pub(crate) fn table(&mut self, table: &Table) {
        if table.lines.len() > HEAD {
            self.write(&table.to_string());
        }
    }

    pub(crate) fn record(&mut self, name: String, rounds: Vec<f64>) {
        self.figures.insert(name, rounds);
    }
}

/// 1000000 as 1,000,000.
pub(crate) fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

impl Table {
    pub(crate) fn new(columns: &[&str]) -> Self {
        let mut table = Self { lines: Vec::new() };
        table.row(columns.iter().map(|column| (*column).to_owned()).collect());
        let right = " ---: |".repeat(columns.len() - 1);
        table.lines.push(format!("| --- |{right}"));
        table
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.lines.push(format!("| {} |", cells.join(" | ")));
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.lines {
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        assert_eq!(
            [7, 1_000, 123_456_789].map(grouped),
            ["7", "1,000", "123,456,789"]
        );
    }
}
