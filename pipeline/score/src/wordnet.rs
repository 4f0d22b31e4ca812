//! Synonyms from a WordNet 3.0 directory, looked up as NLTK's `synsets` does, morphy included.
//!
//! Place: the synonym stage of METEOR. Invariant: read once at start; after that a lookup is pure.
//! Source: nltk/corpus/reader/wordnet.py (`synsets`, `_morphy`); file formats: WordNet's wndb(5WN).

use crate::meteor::Synonyms;
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

type Substitutions = &'static [(&'static str, &'static str)];

const NOUN: Substitutions = &[
    ("s", ""),
    ("ses", "s"),
    ("ves", "f"),
    ("xes", "x"),
    ("zes", "z"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("men", "man"),
    ("ies", "y"),
];
const VERB: Substitutions = &[
    ("s", ""),
    ("ies", "y"),
    ("es", "e"),
    ("es", ""),
    ("ed", "e"),
    ("ed", ""),
    ("ing", "e"),
    ("ing", ""),
];
const ADJECTIVE: Substitutions = &[("er", ""), ("est", ""), ("er", "e"), ("est", "e")];
const PARTS: [(&str, Substitutions); 4] = [("noun", NOUN), ("verb", VERB), ("adj", ADJECTIVE), ("adv", &[])];

/// Why a WordNet directory could not be read.
#[derive(Debug, thiserror::Error)]
pub enum WordNetError {
    /// A file is missing or unreadable.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line of an index file is not in WordNet's format.
    #[error("{path}, line {line}: not a WordNet index line")]
    Index {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
    },
}

/// One part of speech.
struct Part {
    substitutions: Substitutions,
    /// The index file.
    index: String,
    /// Where its lines are, by lemma.
    lines: Vec<Range<usize>>,
    exceptions: HashMap<String, Vec<String>>,
    data: Vec<u8>,
}

/// An open WordNet database.
pub struct WordNet {
    parts: Vec<Part>,
}

fn read(path: &Path) -> Result<Vec<u8>, WordNetError> {
    std::fs::read(path).map_err(|source| WordNetError::Read {
        path: path.to_owned(),
        source,
    })
}

/// The lemma of an index line.
fn lemma(line: &str) -> &str {
    line.split(' ').next().unwrap_or_default()
}

/// Sense places of an index line: lemma, part, senses, pointer kinds, (kinds), senses, tagged, (places).
fn places(line: &str) -> Option<Vec<usize>> {
    let mut fields = line.split_ascii_whitespace();
    let senses: usize = fields.nth(2)?.parse().ok()?;
    let pointers: usize = fields.next()?.parse().ok()?;
    let places: Vec<usize> = fields
        .skip(pointers.checked_add(2)?)
        .map(|f| f.parse().ok())
        .collect::<Option<Vec<usize>>>()?;
    (places.len() == senses).then_some(places)
}

impl Part {
    fn open(folder: &Path, name: &str, substitutions: Substitutions) -> Result<Self, WordNetError> {
        let path = folder.join(format!("index.{name}"));
        let index = String::from_utf8_lossy(&read(&path)?).into_owned();
        let mut lines = Vec::new();
        let mut start = 0;
        for (number, line) in index.split_inclusive('\n').enumerate() {
            let text = line.trim_end();
            if !text.is_empty() && !text.starts_with(' ') {
                let path = path.clone();
                places(text).ok_or(WordNetError::Index { path, line: number + 1 })?;
                lines.push(start..start + text.len());
            }
            start += line.len();
        }
        if lines.is_empty() {
            return Err(WordNetError::Index { path, line: 1 });
        }
        lines.sort_by_key(|line| lemma(&index[line.clone()]));
        let mut exceptions = HashMap::new();
        let bytes = read(&folder.join(format!("{name}.exc")))?;
        for line in String::from_utf8_lossy(&bytes).lines() {
            let mut words = line.split_ascii_whitespace().map(str::to_owned);
            if let Some(form) = words.next() {
                exceptions.insert(form, words.collect());
            }
        }
        let data = read(&folder.join(format!("data.{name}")))?;
        Ok(Self {
            substitutions,
            index,
            lines,
            exceptions,
            data,
        })
    }

    /// The index line of a lemma.
    fn line(&self, form: &str) -> Option<&str> {
        let at = self
            .lines
            .binary_search_by_key(&form, |line| lemma(&self.index[line.clone()]));
        at.ok().map(|at| &self.index[self.lines[at].clone()])
    }

    /// The form and its base forms, as far as the index has them, each once.
    fn morphy(&self, form: &str) -> Vec<String> {
        let mut forms = vec![form.to_owned()];
        match self.exceptions.get(form) {
            Some(bases) => forms.extend(bases.iter().cloned()),
            None => {
                for (old, new) in self.substitutions {
                    forms.extend(form.strip_suffix(old).map(|base| format!("{base}{new}")));
                }
            }
        }
        let mut known: Vec<String> = Vec::new();
        for form in forms {
            if self.line(&form).is_some() && !known.contains(&form) {
                known.push(form);
            }
        }
        known
    }

    /// Adds the lemma names without an underscore of the sense at a place in the data file.
    fn lemmas(&self, place: usize, names: &mut BTreeSet<String>) -> Option<()> {
        let rest = self.data.get(place..)?;
        let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        let line = String::from_utf8_lossy(&rest[..end]);
        let mut fields = line.split_ascii_whitespace();
        let count = usize::from_str_radix(fields.nth(3)?, 16).ok()?;
        for _ in 0..count {
            let name = plain(fields.next()?);
            fields.next()?;
            if !name.contains('_') {
                names.insert(name.to_owned());
            }
        }
        Some(())
    }
}

/// A lemma without its syntactic marker, as in `galore(ip)`.
fn plain(name: &str) -> &str {
    if !name.ends_with(')') {
        return name;
    }
    name.rfind('(').map_or(name, |start| &name[..start])
}

impl WordNet {
    /// Reads the index, exception and data files of a directory (the parts noun, verb, adj, adv).
    ///
    /// # Errors
    /// A file that is missing, an index line that is not in WordNet's format.
    pub fn open(folder: &Path) -> Result<Self, WordNetError> {
        let parts = PARTS
            .iter()
            .map(|(name, substitutions)| Part::open(folder, name, substitutions));
        Ok(Self {
            parts: parts.collect::<Result<Vec<Part>, WordNetError>>()?,
        })
    }
}

impl Synonyms for WordNet {
    fn synonyms(&self, word: &str) -> BTreeSet<String> {
        let lower = word.to_lowercase();
        let mut names = BTreeSet::new();
        for part in &self.parts {
            for form in part.morphy(&lower) {
                for place in part.line(&form).and_then(places).into_iter().flatten() {
                    // a place outside the data file has no lemmas to add
                    let _ = part.lemmas(place, &mut names);
                }
            }
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_markers() {
        let line = "abnormal a 3 4 ! & ^ = 3 1 00008997 01593816 02001461  ";
        assert_eq!(
            (lemma(line), places(line)),
            ("abnormal", Some(vec![8997, 1593816, 2001461]))
        );
        assert_eq!(places("abnormal a 3 0 3 1 00008997"), None);
        assert_eq!(places("abnormal a x"), None);
        assert_eq!(plain("galore(ip)"), "galore");
        assert_eq!(plain("block"), "block");
    }

    #[test]
    fn morphy_keeps_only_known_forms() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write(
            "index.noun",
            "  1 licence\nwaves n 1 0 1 0 00000000  \nwave n 1 0 1 0 00000000  \n",
        );
        write("noun.exc", "oxen ox\n");
        write("data.noun", "00000000 11 n 02 wave 0 moving_ridge 0 000 | gloss\n");
        let part = Part::open(folder.path(), "noun", NOUN).unwrap();
        assert_eq!(part.morphy("waves"), ["waves", "wave"]);
        assert!(part.morphy("oxen").is_empty());
        let net = WordNet { parts: vec![part] };
        assert_eq!(net.synonyms("Waves"), BTreeSet::from(["wave".to_owned()]));
        write("index.noun", "wave n 1 0 1 0 00000000\nbroken n 2 0 1\n");
        let error = Part::open(folder.path(), "noun", NOUN).err().unwrap();
        assert!(
            error
                .to_string()
                .ends_with("index.noun, line 2: not a WordNet index line"),
            "{error}"
        );
        write("index.noun", "");
        assert!(matches!(
            Part::open(folder.path(), "noun", NOUN),
            Err(WordNetError::Index { .. })
        ));
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        assert!(matches!(
            WordNet::open(Path::new("/nowhere")),
            Err(WordNetError::Read { .. })
        ));
    }
}
