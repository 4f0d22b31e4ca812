//! Where the cached columns of a batch lie in the texts of its rows.
//!
//! Place: kept by `cache`, read by `mask`, `rotary` and `embedding`. Invariant: padding is never seen and takes no position, so
//! a row of a ragged batch gets what it would get alone.

/// Padding between prompts of different lengths and what follows them in one batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pads {
    /// Column after the longest prompt.
    end: usize,
    /// Padding of each row, right before `end`; empty where no row has any.
    of_row: Vec<usize>,
}

impl Pads {
    /// Rows whose last `of_row` columns before `end` are padding.
    pub fn new(end: usize, of_row: Vec<usize>) -> Self {
        if of_row.iter().all(|&pads| pads == 0) {
            return Self::default();
        }
        Self { end, of_row }
    }

    /// Rows that differ: 1 where all are alike.
    pub fn rows(&self) -> usize {
        self.of_row.len().max(1)
    }

    pub fn is_empty(&self) -> bool {
        self.of_row.is_empty()
    }

    /// Text position of a column; None where it is padding.
    pub fn position(&self, row: usize, column: usize) -> Option<usize> {
        match self.of_row.get(row) {
            None => Some(column),
            Some(&pads) if column >= self.end => Some(column - pads),
            Some(&pads) => (column + pads < self.end).then_some(column),
        }
    }

    /// Positions of columns `from .. from + t`, row after row; none of them may be padding.
    pub fn positions(&self, from: usize, t: usize) -> Vec<usize> {
        let rows = 0..self.rows();
        rows.flat_map(|row| (from..from + t).map(move |column| (row, column)))
            .map(|(row, column)| self.position(row, column).unwrap_or(column))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_has_no_position_and_takes_none() {
        let pads = Pads::new(4, vec![0, 3]);
        let of = |row| (0..6).map(|column| pads.position(row, column)).collect::<Vec<_>>();
        assert_eq!(of(0), (0..6).map(Some).collect::<Vec<_>>());
        assert_eq!(of(1), [Some(0), None, None, None, Some(1), Some(2)]);
        assert_eq!(pads.positions(4, 2), [4, 5, 1, 2]);
        assert_eq!(
            (Pads::new(4, vec![0, 0]).rows(), Pads::default().positions(7, 2)),
            (1, vec![7, 8])
        );
    }
}
