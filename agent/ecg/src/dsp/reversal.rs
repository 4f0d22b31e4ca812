//! Swapped electrodes, told by the morphology of the dominant beat.
//!
//! Place: after `measure`, whose median beat it reads. Invariant: a swap is suspected, never corrected; a window in which one of
//! the eight independent leads is not readable or not measured is not judged.
//! Method: the beat becomes a pattern, the mean level of each independent lead in five phases (P, three thirds of QRS, ST-T),
//! scaled to unit QRS power. Patterns of correctly placed electrodes are modelled as one t distribution (its heavy tails keep
//! odd beats from looking swapped), fitted on PTB-XL folds 1 to 8. A swap is a linear map of the leads, so undoing it gives
//! another pattern; where that one is so much likelier than the pattern as it came that recordings hardly ever reach it, the
//! swap is suspected. What LA/LL leaves behind looks like another normal axis, which that model can hardly tell: for it a
//! quadratic score was fitted to tell patterns from swapped ones.
//! Source of the maps: Einthoven's and Goldberger's equations; what a swap does, Kligfield et al. 2007, part I.

use std::sync::LazyLock;

/// Phases of a beat.
pub const PHASES: usize = 5;
/// The eight independent leads, as indices of the standard order: I, II, V1 to V6.
pub const LEADS: [usize; 8] = [0, 1, 6, 7, 8, 9, 10, 11];
/// Numbers in a pattern: phase by phase, the independent leads within.
pub const LENGTH: usize = PHASES * LEADS.len();
/// Pattern of one beat.
pub type Pattern = [f32; LENGTH];

/// Degrees of freedom of the t distribution.
const FREEDOM: f64 = 10.0;

/// Largest number of a pattern that the score of LA/LL sees, in units of the patterns' spread: odd beats say no more.
const CLIP: f64 = 3.0;

/// Mean pattern and the inverse of a root of its covariance (whitening), one row a line; written by tests/peers/reversal.py.
const MODEL: &str = include_str!("reversal.csv");
/// Spread, weights, and weights of products (upper triangle), one row a line; written by the same script, which scales the score so
/// that the gate's limit means the same share of recordings for it.
const LA_LL: &str = include_str!("reversal_la_ll.csv");

/// A swap of two electrodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swap {
    /// Right arm and left arm.
    RaLa,
    /// Right arm and left leg.
    RaLl,
    /// Left arm and left leg.
    LaLl,
    /// Two precordial electrodes, 1 to 6.
    V(u8, u8),
}

impl Swap {
    /// Every swap that is looked for.
    pub fn all() -> impl Iterator<Item = Swap> {
        let precordial = (1..6u8).flat_map(|a| (a + 1..=6).map(move |b| Swap::V(a, b)));
        [Swap::RaLa, Swap::RaLl, Swap::LaLl].into_iter().chain(precordial)
    }

    /// What the swap makes of the eight independent leads; twice gives them back.
    pub fn apply(self, leads: &mut [f32]) {
        let (i, ii) = (leads[0], leads[1]);
        match self {
            Swap::RaLa => (leads[0], leads[1]) = (-i, ii - i),
            Swap::RaLl => (leads[0], leads[1]) = (i - ii, -ii),
            Swap::LaLl => (leads[0], leads[1]) = (ii, i),
            Swap::V(a, b) => leads.swap(1 + usize::from(a), 1 + usize::from(b)),
        }
    }
}

/// The likeliest swap, and twice the logarithm of how much likelier the pattern is with it undone; for LA/LL a score on that scale.
pub fn evidence(pattern: &Pattern) -> (Swap, f64) {
    let own = MODEL_READ.surprise(pattern);
    let undone = |swap: Swap| {
        let mut undone = *pattern;
        undone.chunks_exact_mut(LEADS.len()).for_each(|leads| swap.apply(leads));
        let evidence = match swap {
            Swap::LaLl => LA_LL_READ.score(&undone) - LA_LL_READ.score(pattern),
            _ => own - MODEL_READ.surprise(&undone),
        };
        (swap, evidence)
    };
    Swap::all()
        .map(undone)
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .expect("there are swaps")
}

struct Model {
    mean: Vec<f64>,
    whitening: Vec<Vec<f64>>,
}

static MODEL_READ: LazyLock<Model> = LazyLock::new(|| {
    let mut rows = rows(MODEL);
    Model {
        mean: rows.next().expect("the table has a mean"),
        whitening: rows.collect(),
    }
});

struct Score {
    spread: Vec<f64>,
    weights: Vec<f64>,
    products: Vec<Vec<f64>>,
}

static LA_LL_READ: LazyLock<Score> = LazyLock::new(|| {
    let mut rows = rows(LA_LL);
    Score {
        spread: rows.next().expect("the table has a spread"),
        weights: rows.next().expect("the table has weights"),
        products: rows.collect(),
    }
});

/// Rows of a table, comments left out.
fn rows(table: &'static str) -> impl Iterator<Item = Vec<f64>> {
    let number = |text: &str| text.parse::<f64>().expect("the table holds numbers");
    let lines = table.lines().filter(|line| !line.starts_with('#'));
    lines.map(move |line| line.split(',').map(number).collect())
}

impl Score {
    fn score(&self, pattern: &Pattern) -> f64 {
        let own = pattern.iter().zip(&self.spread);
        let own: Vec<f64> = own
            .map(|(v, spread)| (f64::from(*v) / spread).clamp(-CLIP, CLIP))
            .collect();
        let dot = |row: &[f64]| row.iter().zip(&own).map(|(w, v)| w * v).sum::<f64>();
        let products = self.products.iter().zip(&own);
        dot(&self.weights) + products.map(|(row, v)| v * dot(row)).sum::<f64>()
    }
}

impl Model {
    /// Twice the negative log-likelihood of a pattern, without its constant.
    fn surprise(&self, pattern: &Pattern) -> f64 {
        (FREEDOM + LENGTH as f64) * (self.distance(pattern) / FREEDOM).ln_1p()
    }

    /// Squared Mahalanobis distance of a pattern from the mean.
    fn distance(&self, pattern: &Pattern) -> f64 {
        let off: Vec<f64> = pattern
            .iter()
            .zip(&self.mean)
            .map(|(v, mean)| f64::from(*v) - mean)
            .collect();
        let component = |row: &Vec<f64>| row.iter().zip(&off).map(|(w, v)| w * v).sum::<f64>();
        self.whitening.iter().map(|row| component(row).powi(2)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_swap_undoes_itself_and_keeps_einthovens_triangle() {
        for swap in Swap::all() {
            let leads: [f32; 8] = std::array::from_fn(|l| (l * l) as f32 - 9.0);
            let mut twice = leads;
            swap.apply(&mut twice);
            assert_ne!(twice, leads, "{swap:?}");
            swap.apply(&mut twice);
            assert_eq!(twice, leads, "{swap:?}");
        }
        assert_eq!(Swap::all().count(), 18);
        // potentials of RA, LA, LL: I = LA - RA, II = LL - RA
        let limb = |ra: f32, la: f32, ll: f32| [la - ra, ll - ra];
        for (swap, swapped) in [
            (Swap::RaLa, limb(5.0, 1.0, 12.0)),
            (Swap::RaLl, limb(12.0, 5.0, 1.0)),
            (Swap::LaLl, limb(1.0, 12.0, 5.0)),
        ] {
            let [i, ii] = limb(1.0, 5.0, 12.0);
            let mut leads = [i, ii, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
            swap.apply(&mut leads);
            assert_eq!(leads[..2], swapped, "{swap:?}");
        }
    }

    #[test]
    fn the_model_is_whole() {
        assert_eq!(MODEL_READ.mean.len(), LENGTH);
        assert_eq!(MODEL_READ.whitening.len(), LENGTH);
        assert!(MODEL_READ.whitening.iter().all(|row| row.len() == LENGTH));
        assert_eq!([LA_LL_READ.spread.len(), LA_LL_READ.weights.len()], [LENGTH; 2]);
        assert_eq!(LA_LL_READ.products.len(), LENGTH);
        assert!(LA_LL_READ.products.iter().all(|row| row.len() == LENGTH));
    }
}
