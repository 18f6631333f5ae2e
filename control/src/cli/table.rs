//! Aligned columns for people.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

/// A table with a heading and no lines.
pub(super) struct Columns {
    table: Table,
}

impl Columns {
    /// Titles; those that start with `>` are numbers, on the right.
    pub(super) fn new(titles: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(titles.iter().map(|it| it.trim_start_matches('>').to_uppercase()));
        for (column, title) in table.column_iter_mut().zip(titles) {
            column.set_padding((0, 2));
            if title.starts_with('>') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        Self { table }
    }

    pub(super) fn add(&mut self, cells: impl IntoIterator<Item = String>) {
        self.table.add_row(cells.into_iter());
    }

    /// Prints it, or `empty` where there are no rows.
    pub(super) fn print(&self, empty: &str) {
        match self.is_empty() {
            true => println!("{empty}"),
            false => self.lines().for_each(|line| println!("{line}")),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.table.row_iter().next().is_none()
    }

    /// The heading and the rows.
    pub(super) fn lines(&self) -> impl Iterator<Item = String> {
        self.table.lines().map(|line| line.trim_end().to_owned())
    }
}
