//! The twelve standard leads: order, names and codes.
//!
//! Place: everywhere a lead is named; packets and recordings are mapped by name through [`Lead::parse`].
//! Invariant: a lead is found by its name or code, never by its position in a packet.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One of the twelve standard electrocardiogram leads, in the standard order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Lead {
    /// Lead I: left arm against right arm.
    I,
    /// Lead II: left leg against right arm.
    II,
    /// Lead III: left leg against left arm.
    III,
    /// Augmented right arm.
    #[serde(rename = "aVR")]
    AVR,
    /// Augmented left arm.
    #[serde(rename = "aVL")]
    AVL,
    /// Augmented left leg.
    #[serde(rename = "aVF")]
    AVF,
    /// Precordial 1.
    V1,
    /// Precordial 2.
    V2,
    /// Precordial 3.
    V3,
    /// Precordial 4.
    V4,
    /// Precordial 5.
    V5,
    /// Precordial 6.
    V6,
}

/// A lead name or code that is none of the twelve.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown lead name {name:?}")]
pub struct LeadError {
    /// The name as it came, cut to 64 characters.
    pub name: String,
}

impl Lead {
    /// The twelve leads in the standard order, which is also the order of every 12-lead array here.
    pub const ALL: [Lead; 12] = [
        Lead::I,
        Lead::II,
        Lead::III,
        Lead::AVR,
        Lead::AVL,
        Lead::AVF,
        Lead::V1,
        Lead::V2,
        Lead::V3,
        Lead::V4,
        Lead::V5,
        Lead::V6,
    ];

    /// Position in [`Lead::ALL`], 0..12.
    pub fn index(self) -> usize {
        self as usize
    }

    /// The usual name: "I", "aVR", "V1".
    pub fn name(self) -> &'static str {
        [
            "I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6",
        ][self.index()]
    }

    /// ISO/IEEE 11073-10101 (MDC) code of the lead.
    pub fn mdc_code(self) -> u32 {
        [
            131_329, 131_330, 131_389, 131_390, 131_391, 131_392, 131_331, 131_332, 131_333, 131_334, 131_335, 131_336,
        ][self.index()]
    }

    /// Reads a lead's name in any case ("aVR", "AVR", "ECG AVR", "MLII", "MDC_ECG_LEAD_II") or its MDC code ("131330").
    ///
    /// # Errors
    /// [`LeadError`] when it names none of the twelve.
    pub fn parse(name: &str) -> Result<Lead, LeadError> {
        let unknown = || LeadError {
            name: name.chars().take(64).collect(),
        };
        let upper = name.trim().to_ascii_uppercase();
        if let Ok(code) = upper.parse::<u32>() {
            return Lead::ALL
                .into_iter()
                .find(|lead| lead.mdc_code() == code)
                .ok_or_else(unknown);
        }
        let mut rest = upper.as_str();
        for prefix in [
            "MDC_ECG_LEAD_",
            "MDC_ECG_",
            "ECG_LEAD_",
            "ECG LEAD ",
            "ECG_",
            "ECG ",
            "LEAD_",
            "LEAD ",
        ] {
            if let Some(stripped) = rest.strip_prefix(prefix) {
                rest = stripped.trim();
                break;
            }
        }
        // "modified lead" names of Holter recordings (MIT-BIH: MLI, MLII, MLIII)
        let rest = rest
            .strip_prefix('M')
            .filter(|tail| tail.starts_with('L'))
            .map_or(rest, |tail| &tail[1..]);
        Lead::ALL
            .into_iter()
            .find(|lead| lead.name().eq_ignore_ascii_case(rest))
            .ok_or_else(unknown)
    }
}

impl fmt::Display for Lead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_lead_is_read() {
        for (text, lead) in [
            ("I", Lead::I),
            ("i", Lead::I),
            (" aVR ", Lead::AVR),
            ("AVR", Lead::AVR),
            ("ECG AVR", Lead::AVR),
            ("ecg_v3", Lead::V3),
            ("MLII", Lead::II),
            ("mliii", Lead::III),
            ("MDC_ECG_LEAD_II", Lead::II),
            ("MDC_ECG_LEAD_aVF", Lead::AVF),
            ("Lead V6", Lead::V6),
            ("131330", Lead::II),
            ("131392", Lead::AVF),
        ] {
            assert_eq!(Lead::parse(text), Ok(lead), "{text}");
        }
    }

    #[test]
    fn names_of_no_lead_are_refused() {
        for text in [
            "",
            "V7",
            "M",
            "ML",
            "ECG",
            "131328",
            "99999999999999999999",
            "Пульс",
            "resp",
        ] {
            assert!(Lead::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_and_codes_read_back_to_their_lead() {
        for (position, lead) in Lead::ALL.into_iter().enumerate() {
            assert_eq!(lead.index(), position);
            assert_eq!(Lead::parse(lead.name()), Ok(lead));
            assert_eq!(Lead::parse(&lead.mdc_code().to_string()), Ok(lead));
        }
    }
}
