//! Limb leads from one another: any two of the six give the other four.
//!
//! Place: `window` and `wfdb` fill leads that a device or recording does not carry, 8 leads to 12.
//! Invariant: linear and per sample, so filters before or after give the same; a measured lead is never touched; the
//! six precordial leads cannot be derived and are left alone.
//! Source: Einthoven's III = II - I and Goldberger's aVR = -(I + II)/2, aVL = I - II/2, aVF = II - I/2.

use crate::LEADS;
use crate::lead::Lead;
use crate::segment::LeadOrigin;

/// Each limb lead as (a, b) in `a * I + b * II`.
const OF_I_AND_II: [(f32, f32); 6] = [
    (1.0, 0.0),
    (0.0, 1.0),
    (-1.0, 1.0),
    (-0.5, -0.5),
    (1.0, -0.5),
    (-0.5, 1.0),
];

/// What [`derive()`] filled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The two leads that the others follow from.
    pub sources: [usize; 2],
    pub leads: Vec<usize>,
}

/// The two leads that the derived ones follow from: the first two limb leads that are there and not derived themselves.
pub fn sources(origin: &[LeadOrigin; LEADS]) -> Option<[usize; 2]> {
    let own = |lead: &usize| !matches!(origin[*lead], LeadOrigin::Missing | LeadOrigin::Derived);
    let mut own = (0..=Lead::AVF.index()).filter(own);
    Some([own.next()?, own.next()?])
}

/// Fills every [`LeadOrigin::Missing`] limb lead of 12 x N samples from the first two limb leads that are there.
///
/// The filled leads become [`LeadOrigin::Derived`], or [`LeadOrigin::Reconstructed`] when a source is. With fewer than two
/// limb leads nothing changes.
pub fn derive(samples: &mut [Vec<f32>], origin: &mut [LeadOrigin; LEADS]) -> Option<Made> {
    let present: Vec<usize> = (0..=Lead::AVF.index())
        .filter(|&lead| origin[lead] != LeadOrigin::Missing)
        .collect();
    let [first, second, ..] = present[..] else { return None };
    let made = if [first, second]
        .iter()
        .any(|&lead| origin[lead] == LeadOrigin::Reconstructed)
    {
        LeadOrigin::Reconstructed
    } else {
        LeadOrigin::Derived
    };
    let ((a, b), (c, d)) = (OF_I_AND_II[first], OF_I_AND_II[second]);
    // no two limb leads are parallel, so the determinant is never 0
    let determinant = a * d - b * c;
    let leads: Vec<usize> = (0..=Lead::AVF.index())
        .filter(|&lead| origin[lead] == LeadOrigin::Missing)
        .collect();
    for &lead in &leads {
        let (p, q) = OF_I_AND_II[lead];
        let (of_first, of_second) = ((p * d - q * c) / determinant, (q * a - p * b) / determinant);
        samples[lead] = samples[first]
            .iter()
            .zip(&samples[second])
            .map(|(x, y)| of_first * x + of_second * y)
            .collect();
        origin[lead] = made;
    }
    Some(Made {
        sources: [first, second],
        leads,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_two_limb_leads_give_the_other_four() {
        let (i, ii) = (vec![100.0f32, -40.0, 0.0], vec![60.0f32, 500.0, -7.0]);
        let all: Vec<Vec<f32>> = OF_I_AND_II
            .iter()
            .map(|(a, b)| i.iter().zip(&ii).map(|(x, y)| a * x + b * y).collect())
            .collect();
        for first in 0..6 {
            for second in first + 1..6 {
                let mut samples = vec![vec![f32::NAN; 3]; LEADS];
                let mut origin = [LeadOrigin::Missing; LEADS];
                for lead in [first, second] {
                    samples[lead].clone_from(&all[lead]);
                    origin[lead] = LeadOrigin::Measured;
                }
                let made = derive(&mut samples, &mut origin).unwrap();
                assert_eq!((made.sources, made.leads.len()), ([first, second], 4));
                assert_eq!(sources(&origin), Some([first, second]));
                for lead in 0..6 {
                    for (got, want) in samples[lead].iter().zip(&all[lead]) {
                        assert!((got - want).abs() < 1e-3, "{first} {second} {lead}: {got} {want}");
                    }
                }
                assert_eq!(origin.iter().filter(|&&lead| lead == LeadOrigin::Derived).count(), 4);
                assert_eq!(origin[6], LeadOrigin::Missing);
            }
        }
    }

    #[test]
    fn one_limb_lead_derives_nothing() {
        let mut samples = vec![vec![1.0f32]; LEADS];
        let mut origin = [LeadOrigin::Missing; LEADS];
        origin[1] = LeadOrigin::Measured;
        assert_eq!((derive(&mut samples, &mut origin), sources(&origin)), (None, None));
        assert_eq!(origin.iter().filter(|&&lead| lead == LeadOrigin::Missing).count(), 11);
    }
}
