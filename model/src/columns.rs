//! How much text each row of a batch has behind it.
//!
//! Place: kept by `cache`, read by `mask`, `rotary` and `embedding`. Invariant: column j of a row is its token j, and columns from
//! its length on are seen by nobody, so a row gets what it would get alone.

/// Tokens that each row has when a forward begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    /// One entry where all rows are alike; never empty.
    of_row: Vec<usize>,
}

impl Past {
    /// Every row has `tokens`.
    pub fn alike(tokens: usize) -> Self {
        Self { of_row: vec![tokens] }
    }

    /// Row i has `of_row[i]`.
    pub fn of_rows(of_row: Vec<usize>) -> Self {
        match of_row.first() {
            Some(&first) if of_row.iter().any(|&tokens| tokens != first) => Self { of_row },
            first => Self::alike(first.copied().unwrap_or(0)),
        }
    }

    /// Rows that differ: 1 where all are alike.
    pub fn rows(&self) -> usize {
        self.of_row.len()
    }

    /// Tokens of the rows that differ, or those of all.
    pub fn of_row(&self) -> &[usize] {
        &self.of_row
    }

    /// Tokens of the longest row.
    pub fn longest(&self) -> usize {
        self.of_row.iter().copied().max().unwrap_or(0)
    }

    /// What it is after `t` more tokens in every row.
    pub fn after(&self, t: usize) -> Self {
        let of_row = self.of_row.iter().map(|tokens| tokens + t).collect();
        Self { of_row }
    }

    /// Positions of the next `t` tokens, row after row.
    pub fn positions(&self, t: usize) -> Vec<usize> {
        let rows = self.of_row.iter();
        rows.flat_map(|&tokens| tokens..tokens + t).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_goes_on_from_its_own_length() {
        let past = Past::of_rows(vec![4, 1]);
        assert_eq!((past.rows(), past.longest()), (2, 4));
        assert_eq!(past.positions(2), [4, 5, 1, 2]);
        assert_eq!(past.after(3), Past::of_rows(vec![7, 4]));
    }

    #[test]
    fn rows_that_are_alike_are_one() {
        assert_eq!(Past::of_rows(vec![7, 7]), Past::alike(7));
        assert_eq!(Past::of_rows(Vec::new()), Past::alike(0));
        assert_eq!(Past::alike(7).positions(2), [7, 8]);
    }
}
