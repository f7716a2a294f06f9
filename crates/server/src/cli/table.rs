use std::io::{IsTerminal, Result, StdoutLock, Write, stdout};

use serde::Serialize;

/// Rows that people read, or programs.
pub(super) struct Table<const N: usize> {
    headings: [&'static str; N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// The last column is as wide as it is.
    pub(super) fn new(headings: [&'static str; N]) -> Self {
        Self {
            headings,
            rows: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, row: [String; N]) {
        self.rows.push(row.map(|cell| one_line(&cell)));
    }

    /// On a terminal under its headings, in bold unless `NO_COLOR` is set; `cut` and `grep` get the rows
    /// alone.
    pub(super) fn print(self) -> Result<()> {
        let is_terminal = stdout().is_terminal();
        self.write(anstream::stdout().lock(), is_terminal)
    }

    fn write(self, mut out: impl Write, has_headings: bool) -> Result<()> {
        let headings = self.headings.map(str::to_owned);
        let shown = has_headings && !self.rows.is_empty();
        let rows = shown.then_some(headings).into_iter().chain(self.rows);
        let rows: Vec<_> = rows.collect();
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or_default()
        };
        let mut widths: [usize; N] = std::array::from_fn(width);
        widths[N - 1] = 0;
        for (number, row) in rows.iter().enumerate() {
            let cells = row.iter().zip(widths);
            let cells: Vec<_> = cells
                .map(|(cell, width)| format!("{cell:width$}"))
                .collect();
            let line = cells.join("  ");
            match number == 0 && shown {
                true => writeln!(out, "\x1b[1m{}\x1b[0m", line.trim_end())?,
                false => writeln!(out, "{}", line.trim_end())?,
            }
        }
        Ok(())
    }
}

/// A row as a line of JSON.
pub(super) fn print_json(out: &mut StdoutLock<'_>, row: &impl Serialize) -> Result<()> {
    serde_json::to_writer(&mut *out, row)?;
    writeln!(out)
}

/// What would break the table, or speak to the terminal.
fn one_line(text: &str) -> String {
    let shown = |character: char| {
        if character.is_control() {
            ' '
        } else {
            character
        }
    };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(has_headings: bool, rows: &[[&str; 3]]) -> String {
        let mut table = Table::new(["ID", "ROLE", "CONTENT"]);
        for row in rows {
            table.add(row.map(str::to_owned));
        }
        let mut out = Vec::new();
        let plain = anstream::StripStream::new(&mut out);
        table.write(plain, has_headings).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn columns_are_as_wide_as_their_cells_and_a_row_is_one_line() {
        let rows = [["1", "user", "a\nb\u{1b}[31mc"], ["22", "assistant", ""]];
        let expected = "\
ID  ROLE       CONTENT
1   user       a b [31mc
22  assistant
";
        assert_eq!(printed(true, &rows), expected);
        let (_, rows_alone) = expected.split_once('\n').unwrap();
        assert_eq!(printed(false, &rows), rows_alone);
        assert_eq!(printed(true, &[]), "");
    }
}
