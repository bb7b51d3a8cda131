//! Any bytes as preimages of keys, and as the record of a remote cache: no two preimages have one key, hostile bytes are
//! refused or read as what they encode.

use builder::cache::remote::RemoteRecord;
use builder::cache::{CacheKey, InputIdentity, InputKey, Preimage, differences, role, summary};

/// A preimage made of `bytes`: the first says how many inputs there are and of which kinds, the last 2 × 32 for each are
/// their digests and selectors, and what is left is the definition.
fn preimage(bytes: &[u8]) -> Preimage {
    let (kinds, mut rest) = bytes.split_first().map_or((0, bytes), |(first, rest)| (*first, rest));
    let mut inputs = Vec::new();
    for bit in 0..kinds & 3 {
        let Some((before, digests)) = rest.split_last_chunk::<64>() else {
            break;
        };
        rest = before;
        let (mut identity, mut selector) = ([0; 32], [0; 32]);
        identity.copy_from_slice(&digests[..32]);
        selector.copy_from_slice(&digests[32..]);
        let identity = match kinds >> (2 + bit) & 1 {
            0 => InputIdentity::Key(CacheKey(identity)),
            _ => InputIdentity::Content(identity),
        };
        let selector = (kinds >> (5 + bit) & 1 == 1).then_some(selector);
        inputs.push(InputKey { identity, selector });
    }
    Preimage {
        definition: rest.to_vec(),
        inputs,
    }
}

pub fn check(data: &[u8]) {
    if let Ok(read) = Preimage::decode(data) {
        assert_eq!(read.encode(), data);
    }
    let place = data.first().map_or(0, |byte| usize::from(*byte)).min(data.len());
    let (one, other) = (preimage(&data[place..]), preimage(&data[..place]));
    assert_eq!(one == other, one.key() == other.key());
    assert_eq!(one == other, one.encode() == other.encode());
    assert_eq!(Preimage::decode(&one.encode()).as_ref(), Ok(&one));
    if let Some(found) = differences(&one, &other) {
        // Two texts may say the same thing: a definition is only ever written by one serialiser.
        assert!(one != other || found.is_empty());
    }
    let _ = (
        summary(&one),
        role(&one, 0),
        RemoteRecord::decode(data, CacheKey([0; 32])),
    );
}
