//! Keys: what a step's result depends on, as 32 bytes.
//!
//! A key is the hash of its [`Preimage`]'s encoding, in which every part has a fixed length or is preceded by its
//! length: two preimages with one encoding are equal. `docs/caching.md` lists what enters.

use std::fmt;

/// The meaning of keys. Bump it when the encoding below changes, when the form of an operation's definition changes
/// (`graph::Op`: field order and `serde(skip)` marks), or when an operation with an unchanged definition comes to
/// another result. Records of other versions are never found; [`Store::collect`](crate::store::Store::collect) does
/// not know them from others.
pub const KEY_VERSION: u32 = 2;

/// The longest definition that a preimage is read back with, in bytes: a heredoc has at most a Dockerfile's length.
const LONGEST_DEFINITION: usize = 64 << 20;

/// What a step's result is known by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CacheKey(pub [u8; 32]);

impl CacheKey {
    /// Reads what `Display` writes: 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        blake3::Hash::from_hex(text).ok().map(|hash| Self(hash.into()))
    }
}

impl fmt::Display for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What stands for one input of an operation in its key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum InputIdentity {
    /// The input's own key: known before anything ran.
    Key(CacheKey),
    /// A digest of what the operation can see of the input: a rebuilt but equal input gives the same.
    Content([u8; 32]),
}

/// One input, and which part of it the operation uses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct InputKey {
    /// What stands for it.
    pub identity: InputIdentity,
    /// A digest of how a part of it is selected, where that does not stand in the operation's definition.
    pub selector: Option<[u8; 32]>,
}

impl InputKey {
    /// The whole result that has this key.
    pub fn key(key: CacheKey) -> Self {
        Self {
            identity: InputIdentity::Key(key),
            selector: None,
        }
    }

    /// Content that has this digest.
    pub fn content(digest: [u8; 32]) -> Self {
        Self {
            identity: InputIdentity::Content(digest),
            selector: None,
        }
    }

    /// The part of it that this selector names.
    pub fn selected_by(self, selector: [u8; 32]) -> Self {
        Self {
            selector: Some(selector),
            ..self
        }
    }
}

/// What a key is computed from. It is kept beside the result, so that a miss can be explained.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Preimage {
    /// The operation's definition.
    pub definition: Vec<u8>,
    /// Its inputs, in the order in which the definition names them.
    pub inputs: Vec<InputKey>,
}

/// Why bytes are no preimage.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PreimageError {
    /// They end early, or go on after the end.
    #[error("the preimage of a cache key has a wrong length")]
    Length,
    /// Written by a program with other keys.
    #[error("the preimage of a cache key has version {0}, not {KEY_VERSION}")]
    Version(u32),
    /// A tag that says nothing.
    #[error("the preimage of a cache key holds the unknown tag {0}")]
    Tag(u8),
}

/// The key of an operation and its inputs.
pub fn definition_key(op_definition: &[u8], inputs: &[InputKey]) -> CacheKey {
    CacheKey(blake3::hash(&encode(op_definition, inputs)).into())
}

impl Preimage {
    /// The key that it is the preimage of.
    pub fn key(&self) -> CacheKey {
        definition_key(&self.definition, &self.inputs)
    }

    /// The bytes that the key is the hash of. All numbers are little-endian:
    /// version u32 · length u64 · definition · count u64 · for each input: tag u8 (0 key, 1 content) · 32 bytes ·
    /// tag u8 (0 no selector, 1 selector) · 32 bytes where there is one.
    pub fn encode(&self) -> Vec<u8> {
        encode(&self.definition, &self.inputs)
    }

    /// The reverse of [`Preimage::encode`].
    ///
    /// # Errors
    /// See [`PreimageError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, PreimageError> {
        let mut rest = Reader(bytes);
        let version = u32::from_le_bytes(rest.array()?);
        if version != KEY_VERSION {
            return Err(PreimageError::Version(version));
        }
        let length = rest.length()?;
        let definition = rest.take(length.min(LONGEST_DEFINITION + 1))?.to_vec();
        let count = rest.length()?;
        let inputs = (0..count).map(|_| rest.input()).collect::<Result<_, _>>()?;
        match rest.0 {
            [] if definition.len() <= LONGEST_DEFINITION => Ok(Self { definition, inputs }),
            _ => Err(PreimageError::Length),
        }
    }
}

fn encode(definition: &[u8], inputs: &[InputKey]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(20 + definition.len() + 66 * inputs.len());
    bytes.extend(KEY_VERSION.to_le_bytes());
    bytes.extend((definition.len() as u64).to_le_bytes());
    bytes.extend(definition);
    bytes.extend((inputs.len() as u64).to_le_bytes());
    for input in inputs {
        let (tag, identity) = match input.identity {
            InputIdentity::Key(key) => (0, key.0),
            InputIdentity::Content(digest) => (1, digest),
        };
        bytes.push(tag);
        bytes.extend(identity);
        bytes.push(u8::from(input.selector.is_some()));
        bytes.extend(input.selector.iter().flatten());
    }
    bytes
}

/// What is left of an encoding.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], PreimageError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(PreimageError::Length)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PreimageError> {
        self.take(N)?.try_into().map_err(|_| PreimageError::Length)
    }

    fn length(&mut self) -> Result<usize, PreimageError> {
        usize::try_from(u64::from_le_bytes(self.array()?)).map_err(|_| PreimageError::Length)
    }

    fn tag(&mut self) -> Result<u8, PreimageError> {
        match self.array::<1>()? {
            [tag @ (0 | 1)] => Ok(tag),
            [tag] => Err(PreimageError::Tag(tag)),
        }
    }

    fn input(&mut self) -> Result<InputKey, PreimageError> {
        let identity = match self.tag()? {
            0 => InputIdentity::Key(CacheKey(self.array()?)),
            _ => InputIdentity::Content(self.array()?),
        };
        let selector = match self.tag()? {
            0 => None,
            _ => Some(self.array()?),
        };
        Ok(InputKey { identity, selector })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn input() -> impl Strategy<Value = InputKey> {
        // Few values, so that equal parts meet often.
        let digest = prop_oneof![Just([0u8; 32]), Just([1; 32]), any::<[u8; 32]>()];
        let identity = prop_oneof![
            digest.clone().prop_map(|key| InputIdentity::Key(CacheKey(key))),
            digest.clone().prop_map(InputIdentity::Content),
        ];
        (identity, proptest::option::of(digest)).prop_map(|(identity, selector)| InputKey { identity, selector })
    }

    fn preimage() -> impl Strategy<Value = Preimage> {
        let definition = proptest::collection::vec(0u8..3, 0..70);
        (definition, proptest::collection::vec(input(), 0..4))
            .prop_map(|(definition, inputs)| Preimage { definition, inputs })
    }

    proptest! {
        #[test]
        fn keys_are_equal_exactly_when_all_parts_are(first in preimage(), second in preimage()) {
            prop_assert_eq!(first == second, first.key() == second.key());
            prop_assert_eq!(first.clone().key(), first.key());
        }

        #[test]
        fn one_changed_part_changes_the_key(before in preimage(), place in any::<prop::sample::Index>(), other in input()) {
            let mut changed = Vec::new();
            if !before.definition.is_empty() {
                let mut after = before.clone();
                let place = place.index(after.definition.len());
                after.definition[place] ^= 0x80;
                changed.push(after);
            }
            if !before.inputs.is_empty() {
                let place = place.index(before.inputs.len());
                let mut after = before.clone();
                after.inputs[place] = other;
                changed.push(after);
                let mut after = before.clone();
                after.inputs.remove(place);
                changed.push(after);
                let mut after = before.clone();
                after.inputs.swap(0, place);
                changed.push(after);
            }
            for after in changed {
                prop_assert_eq!(after == before, after.key() == before.key());
            }
        }

        #[test]
        fn bytes_do_not_move_between_the_parts(definition in proptest::collection::vec(any::<u8>(), 0..200), cut in any::<prop::sample::Index>()) {
            // A definition that ends in what looks like an input is not the definition with that input.
            let whole = Preimage { definition: definition.clone(), inputs: vec![] };
            let mut longer = definition;
            longer.extend(&InputKey::key(CacheKey([7; 32])).selected_by([7; 32]).selector.unwrap());
            let cut = cut.index(longer.len());
            let parts = [
                Preimage { definition: longer[..cut].to_vec(), inputs: vec![InputKey::content([7; 32])] },
                Preimage { definition: longer.clone(), inputs: vec![] },
            ];
            for part in parts {
                prop_assert_ne!(whole.key(), part.key());
            }
        }

        #[test]
        fn a_preimage_is_read_as_it_was_written(written in preimage()) {
            prop_assert_eq!(Preimage::decode(&written.encode()), Ok(written));
        }

        #[test]
        fn hostile_bytes_are_read_as_nothing_or_as_what_they_encode(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(read) = Preimage::decode(&bytes) {
                prop_assert_eq!(read.encode(), bytes);
            }
        }
    }

    #[test]
    fn truncated_and_longer_encodings_are_refused() {
        let whole = Preimage {
            definition: b"op".to_vec(),
            inputs: vec![InputKey::content([1; 32]).selected_by([2; 32])],
        }
        .encode();
        for length in 0..whole.len() {
            assert!(Preimage::decode(&whole[..length]).is_err(), "{length}");
        }
        let longer = [whole.as_slice(), b"x"].concat();
        assert_eq!(Preimage::decode(&longer), Err(PreimageError::Length));
        let mut huge = whole;
        huge[4..12].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(Preimage::decode(&huge), Err(PreimageError::Length));
    }

    #[test]
    fn the_key_of_a_version_does_not_change() {
        // When this fails, results are found under wrong keys or not at all: bump KEY_VERSION.
        let inputs = [
            InputKey::key(CacheKey([1; 32])),
            InputKey::content([2; 32]).selected_by([3; 32]),
        ];
        assert_eq!(
            definition_key(b"definition", &inputs).to_string(),
            "59ff87c0992851e2af185d3921cd9a57a564d2112809da3f2339c9bf959d5369"
        );
    }
}
