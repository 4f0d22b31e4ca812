//! What recordings may be sliced by.
//!
//! Place: filled by the data sets' readers, used by the ruler and the nightly gate. Invariant: coarse values only, which tell
//! groups of people and not a person; a recording has no stratum where nothing is known.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Context;

/// An axis ("sex", "age", "device", "class") and a value; a recording may have several classes.
pub type Stratum = (String, String);

/// PTB-XL's columns that slice.
pub struct Person<'a> {
    /// 0 male, 1 female.
    pub sex: Option<u8>,
    /// Years; 300 where PTB-XL hides an age above 89.
    pub age: Option<f32>,
    pub device: &'a str,
}

/// Strata of one recording; `classes` are the diagnostic classes of SCP codes.
pub fn of_person(person: &Person<'_>, scp: &BTreeSet<String>, classes: &BTreeMap<String, String>) -> Vec<Stratum> {
    let mut strata = Vec::new();
    let mut put = |axis: &str, value: &str| strata.push((axis.to_owned(), value.to_owned()));
    match person.sex {
        Some(0) => put("sex", "male"),
        Some(1) => put("sex", "female"),
        _ => {}
    }
    if let Some(age) = person.age {
        put("age", age_band(age));
    }
    let device = person.device.split_whitespace().collect::<Vec<_>>().join(" ");
    if !device.is_empty() {
        put("device", &device);
    }
    let named: BTreeSet<&String> = scp.iter().filter_map(|code| classes.get(code)).collect();
    named.into_iter().for_each(|class| put("class", class));
    strata
}

/// Places of the recordings of each stratum.
pub fn members<'a>(strata: impl Iterator<Item = &'a Vec<Stratum>>) -> BTreeMap<Stratum, Vec<usize>> {
    let mut members: BTreeMap<Stratum, Vec<usize>> = BTreeMap::new();
    for (at, strata) in strata.enumerate() {
        for stratum in strata {
            members.entry(stratum.clone()).or_default().push(at);
        }
    }
    members
}

fn age_band(age: f32) -> &'static str {
    match age {
        ..40.0 => "under 40",
        ..60.0 => "40 to 59",
        ..80.0 => "60 to 79",
        _ => "80 and over",
    }
}

/// Diagnostic class (NORM, MI, STTC, CD, HYP) of each SCP code; none of a data set without the table.
///
/// # Errors
/// A table that cannot be read or lacks the column.
pub fn classes(path: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    if !path.is_file() {
        return Ok(BTreeMap::new());
    }
    let mut reader = csv::Reader::from_path(path).with_context(|| format!("open {}", path.display()))?;
    let class = reader.headers()?.iter().position(|name| name == "diagnostic_class");
    let class = class.with_context(|| format!("{} has no column diagnostic_class", path.display()))?;
    let mut classes = BTreeMap::new();
    for row in reader.records() {
        let row = row.with_context(|| format!("read {}", path.display()))?;
        let (code, class) = (&row[0], row.get(class).unwrap_or_default());
        if !class.is_empty() {
            classes.insert(code.to_owned(), class.to_owned());
        }
    }
    Ok(classes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_fall_into_the_band_that_their_name_says() {
        let bands = [18.0, 39.9, 40.0, 60.0, 79.0, 80.0, 300.0].map(age_band);
        let [young, middle, old, oldest] = ["under 40", "40 to 59", "60 to 79", "80 and over"];
        assert_eq!(bands, [young, young, middle, old, old, oldest, oldest]);
    }

    #[test]
    fn what_is_unknown_has_no_stratum_and_a_class_comes_once() {
        let person = |sex, device| Person { sex, age: None, device };
        let classes = [("IMI", "MI"), ("AMI", "MI"), ("LVH", "HYP")];
        let classes = classes.map(|(code, class)| (code.to_owned(), class.to_owned())).into();
        let scp = ["IMI", "AMI", "SR"].map(str::to_owned).into();
        let strata = of_person(&person(Some(1), "CS-12   E "), &scp, &classes);
        let pair = |axis: &str, value: &str| (axis.to_owned(), value.to_owned());
        assert_eq!(
            strata,
            [pair("sex", "female"), pair("device", "CS-12 E"), pair("class", "MI")]
        );
        assert!(of_person(&person(Some(2), " "), &BTreeSet::new(), &classes).is_empty());
    }
}
