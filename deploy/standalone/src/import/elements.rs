//! Elements of a DICOM data set.
//!
//! Place: under [`super::dicom`]. Invariant: nothing is copied and nothing is allocated by what a length says: a value is a part
//! of the file's bytes or the file is refused; sequences are opened only on request, and nested no deeper than they are in practice.
//! A reader of our own and not a crate: the kept one (dicom-object 0.10) takes as much memory as a damaged length asks for.
//!
//! Source: DICOM PS3.5, 7.1 (elements), 7.5 (sequences), A.1 and A.2 (implicit and explicit VR, little endian).

/// A tag: group and element.
pub type Tag = (u16, u16);

const ITEM: Tag = (0xFFFE, 0xE000);
const ITEM_END: Tag = (0xFFFE, 0xE00D);
const SEQUENCE_END: Tag = (0xFFFE, 0xE0DD);
/// A length that is not told: the value ends with a delimiter.
const UNDEFINED: u32 = u32::MAX;
/// Value representations whose length has four bytes.
const LONG: [&[u8; 2]; 13] = [
    b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV",
];
/// Sequences within sequences.
const DEPTH_MAX: usize = 16;

/// How elements are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Without their value representation.
    Implicit,
    /// With it.
    Explicit,
}

/// One element; a sequence's value is its items.
#[derive(Clone, Copy, Debug)]
pub struct Element<'a> {
    pub tag: Tag,
    value: &'a [u8],
    /// How the items of the value are written.
    encoding: Encoding,
}

/// A data set, or an item of a sequence.
#[derive(Clone, Debug, Default)]
pub struct DataSet<'a> {
    elements: Vec<Element<'a>>,
}

impl<'a> DataSet<'a> {
    /// The elements of some bytes; `None` when one reaches beyond them.
    pub fn of(bytes: &'a [u8], encoding: Encoding) -> Option<Self> {
        let mut reader = Reader { bytes, encoding };
        let mut elements = Vec::new();
        while !reader.bytes.is_empty() {
            elements.push(reader.element(0)?);
        }
        Some(Self { elements })
    }

    /// The elements up to the first of another group, and the bytes from there on.
    pub fn of_group(bytes: &'a [u8], group: u16) -> Option<(Self, &'a [u8])> {
        let mut reader = Reader {
            bytes,
            encoding: Encoding::Explicit,
        };
        let mut elements = Vec::new();
        while reader.bytes.get(..2).is_some_and(|bytes| bytes == group.to_le_bytes()) {
            elements.push(reader.element(0)?);
        }
        Some((Self { elements }, reader.bytes))
    }

    /// The bytes of an element.
    pub fn bytes(&self, tag: Tag) -> Option<&'a [u8]> {
        let found = self.elements.iter().find(|element| element.tag == tag);
        found.map(|element| element.value)
    }

    /// A text, without the blanks that fill it up.
    pub fn text(&self, tag: Tag) -> Option<&'a str> {
        let text = std::str::from_utf8(self.bytes(tag)?).ok()?;
        Some(text.trim_matches([' ', '\0']))
    }

    /// A number that is written as text (VR DS or IS).
    pub fn decimal(&self, tag: Tag) -> Option<f64> {
        self.text(tag)?.parse::<f64>().ok().filter(|number| number.is_finite())
    }

    /// A number of two bytes (VR US) or of four (VR UL).
    pub fn whole(&self, tag: Tag) -> Option<u32> {
        match *self.bytes(tag)? {
            [a, b] => Some(u16::from_le_bytes([a, b]).into()),
            [a, b, c, d] => Some(u32::from_le_bytes([a, b, c, d])),
            _ => None,
        }
    }

    /// The items of a sequence; none when it is not there or does not hold.
    pub fn items(&self, tag: Tag) -> Vec<DataSet<'a>> {
        let found = self.elements.iter().find(|element| element.tag == tag);
        found.and_then(Element::items).unwrap_or_default()
    }
}

impl<'a> Element<'a> {
    fn items(&self) -> Option<Vec<DataSet<'a>>> {
        let mut reader = Reader {
            bytes: self.value,
            encoding: self.encoding,
        };
        let mut items = Vec::new();
        while !reader.bytes.is_empty() {
            items.push(DataSet::of(reader.item(0)?, self.encoding)?);
        }
        Some(items)
    }
}

/// What is left to read.
struct Reader<'a> {
    bytes: &'a [u8],
    encoding: Encoding,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(count)?;
        self.bytes = rest;
        Some(taken)
    }

    fn half(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    fn word(&mut self) -> Option<u32> {
        self.take(4)
            .map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn tag(&mut self) -> Option<Tag> {
        Some((self.half()?, self.half()?))
    }

    fn element(&mut self, depth: usize) -> Option<Element<'a>> {
        let tag = self.tag()?;
        let mut encoding = self.encoding;
        let length = match self.encoding {
            Encoding::Implicit => self.word()?,
            Encoding::Explicit => {
                let representation = self.take(2)?;
                if representation == b"UN" {
                    // a sequence that its writer did not know is written without value representations
                    encoding = Encoding::Implicit;
                }
                if LONG.iter().any(|long| *long == representation) {
                    self.take(2)?;
                    self.word()?
                } else {
                    self.half()?.into()
                }
            }
        };
        let value = if length == UNDEFINED {
            self.undefined(encoding, depth, SEQUENCE_END)?
        } else {
            self.take(length as usize)?
        };
        Some(Element { tag, value, encoding })
    }

    /// One item of a sequence: its elements' bytes.
    fn item(&mut self, depth: usize) -> Option<&'a [u8]> {
        if self.tag()? != ITEM {
            return None;
        }
        match self.word()? {
            UNDEFINED => self.undefined(self.encoding, depth, ITEM_END),
            length => self.take(length as usize),
        }
    }

    /// The bytes up to a delimiter, which is passed over: items before a sequence's end, elements before an item's.
    fn undefined(&mut self, encoding: Encoding, depth: usize, end: Tag) -> Option<&'a [u8]> {
        if depth >= DEPTH_MAX {
            return None;
        }
        let start = self.bytes;
        let mut inner = Reader { bytes: start, encoding };
        loop {
            let before = inner.bytes;
            if inner.tag()? == end {
                inner.word()?;
                self.bytes = inner.bytes;
                return Some(&start[..start.len() - before.len()]);
            }
            inner.bytes = before;
            if end == SEQUENCE_END {
                inner.item(depth + 1)?;
            } else {
                inner.element(depth + 1)?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEQUENCE: Tag = (0x5400, 0x0100);
    const NUMBER: Tag = (0x003A, 0x0005);

    fn tag((group, element): Tag) -> Vec<u8> {
        [group.to_le_bytes(), element.to_le_bytes()].concat()
    }

    /// An explicit element with a short length.
    fn short(of: Tag, representation: &[u8; 2], value: &[u8]) -> Vec<u8> {
        let length = (value.len() as u16).to_le_bytes();
        [tag(of), representation.to_vec(), length.to_vec(), value.to_vec()].concat()
    }

    /// A sequence of one item, each with a length or with a delimiter.
    fn sequence(item: &[u8], defined: bool) -> Vec<u8> {
        let mut bytes = [tag(SEQUENCE), b"SQ\0\0".to_vec()].concat();
        if defined {
            bytes.extend((item.len() as u32 + 8).to_le_bytes());
            bytes.extend(tag(ITEM));
            bytes.extend((item.len() as u32).to_le_bytes());
            bytes.extend(item);
            return bytes;
        }
        bytes.extend(UNDEFINED.to_le_bytes());
        bytes.extend(tag(ITEM));
        bytes.extend(UNDEFINED.to_le_bytes());
        bytes.extend(item);
        for end in [ITEM_END, SEQUENCE_END] {
            bytes.extend(tag(end));
            bytes.extend([0; 4]);
        }
        bytes
    }

    #[test]
    fn sequences_are_read_by_length_and_by_delimiter() {
        let inner = short(NUMBER, b"US", &[12, 0]);
        for defined in [true, false] {
            let nested = sequence(&sequence(&inner, !defined), defined);
            let bytes = [nested, short(NUMBER, b"US", &[7, 0])].concat();
            let set = DataSet::of(&bytes, Encoding::Explicit).unwrap();
            assert_eq!(set.whole(NUMBER), Some(7));
            let items = set.items(SEQUENCE);
            assert_eq!(items[0].items(SEQUENCE)[0].whole(NUMBER), Some(12), "{defined}");
        }
    }

    #[test]
    fn a_length_beyond_the_bytes_and_a_nest_without_end_are_refused() {
        let long = [
            tag(SEQUENCE),
            b"OW\0\0".to_vec(),
            0xFFFF_FFFE_u32.to_le_bytes().to_vec(),
        ]
        .concat();
        assert!(DataSet::of(&long, Encoding::Explicit).is_none());
        let mut deep = Vec::new();
        for _ in 0..100_000 {
            deep.extend([tag(SEQUENCE), b"SQ\0\0".to_vec(), UNDEFINED.to_le_bytes().to_vec()].concat());
            deep.extend([tag(ITEM), UNDEFINED.to_le_bytes().to_vec()].concat());
        }
        assert!(DataSet::of(&deep, Encoding::Explicit).is_none());
    }

    #[test]
    fn implicit_elements_have_no_representation() {
        let bytes = [tag(NUMBER), 2_u32.to_le_bytes().to_vec(), vec![9, 0]].concat();
        assert_eq!(DataSet::of(&bytes, Encoding::Implicit).unwrap().whole(NUMBER), Some(9));
        assert!(DataSet::of(&bytes[..9], Encoding::Implicit).is_none());
    }
}
