//! Tables in the paper's layout, as Markdown.
//!
//! Place: the human half of every task. Invariant: a value that was not measured is a dash, never a zero.

/// A titled table of numbers.
pub struct Table {
    /// Heading.
    pub title: String,
    /// Name of the first column, then of the others.
    pub columns: Vec<String>,
    /// First cell and values of each row.
    pub rows: Vec<(String, Vec<Option<f64>>)>,
    /// Sentences under the table.
    pub notes: Vec<String>,
}

impl Table {
    /// An empty table.
    pub fn new(title: &str, columns: &[&str]) -> Self {
        Self {
            title: title.to_owned(),
            columns: columns.iter().map(|&name| name.to_owned()).collect(),
            rows: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Heading, table and notes.
    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let mut rule = vec!["---".to_owned()];
        rule.resize(self.columns.len(), "---:".to_owned());
        let mut text = format!("## {}\n\n{}{}", self.title, line(&self.columns), line(&rule));
        for (name, values) in &self.rows {
            let mut cells = vec![name.replace('|', "\\|")];
            cells.extend(
                values
                    .iter()
                    .map(|value| value.map_or("-".to_owned(), |v| format!("{v:.3}"))),
            );
            text += &line(&cells);
        }
        for note in &self.notes {
            text += &format!("\n{note}\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_a_dash_and_a_bar_in_a_name_is_no_column() {
        let mut table = Table::new("Quality", &["Model", "BLEU-4", "BERTScore F1"]);
        table.rows.push(("small <|user|>".to_owned(), vec![Some(0.25), None]));
        table.notes.push("n = 2.".to_owned());
        let lines = [
            "## Quality",
            "",
            "| Model | BLEU-4 | BERTScore F1 |",
            "| --- | ---: | ---: |",
            "| small <\\|user\\|> | 0.250 | - |",
        ];
        assert_eq!(table.markdown(), lines.join("\n") + "\n\nn = 2.\n");
    }
}
