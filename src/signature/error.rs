//! Why something cannot be signed or is not signed.

use std::fmt;

use crate::oci::Digest;
use crate::registry::RegistryError;

/// Why a key cannot be used. Nothing of it is told.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It is in no form that is known.
    #[error("it holds no {0}")]
    Form(&'static str),
    /// It is encrypted in a way that is not known, or asks for more work than any key needs.
    #[error("it is encrypted in a way that is not known")]
    Cipher,
    /// The password is wrong, or the file was changed.
    #[error("the password is wrong, or the file is damaged")]
    Password,
    /// It is for an algorithm that is not supported.
    #[error("it is no key for ECDSA on P-256, Ed25519 or RSA")]
    Algorithm,
    /// The system has no randomness.
    #[error("no key can be made: the system gives no random numbers")]
    Random,
    /// It cannot be used for signing.
    #[error("nothing can be signed with it")]
    Sign,
}

/// What is wrong with a signature: the later, the closer it was.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Reason {
    /// It is no key's that was given.
    Key,
    /// What is signed is not understood.
    Payload,
    /// It is of another image.
    Image(String),
    /// It is of an image of another repository.
    Repository(String),
    /// It does not say what it must.
    Annotation(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Key => f.write_str("none was made with the private half of a key that was given"),
            Reason::Payload => f.write_str("what is signed is no statement about an image"),
            Reason::Image(digest) => write!(f, "the signature is of {digest}"),
            Reason::Repository(name) => write!(f, "the signature is of an image of `{name}`"),
            Reason::Annotation(name) => write!(f, "the signature has not the annotation `{name}` that is asked for"),
        }
    }
}

/// Why an image cannot be signed, or is not signed as it must be.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// The registry refused, lied or is not there.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The key cannot be used.
    #[error("the private key cannot be used")]
    Key(#[from] KeyError),
    /// Nobody signed it.
    #[error("{image} is not signed")]
    NotSigned {
        /// The image, by its digest.
        image: String,
    },
    /// Somebody signed it, and not as is asked for.
    #[error("{image} is not signed as it must be: {reason}")]
    NoGood {
        /// The image, by its digest.
        image: String,
        /// What is wrong with the best of its signatures.
        reason: Reason,
    },
    /// Where signatures should lie is something else.
    #[error("{place} holds no signatures: {what}")]
    Stored {
        /// The tag.
        place: String,
        /// What is wrong.
        what: &'static str,
    },
    /// A payload that is larger than any.
    #[error("the signed statement {digest} has {size} bytes, and at most {limit} are read")]
    Large {
        /// Which.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
        /// Bytes at most.
        limit: u64,
    },
}

impl SignatureError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            SignatureError::Registry(error) => error.hint(),
            SignatureError::NotSigned { .. } => Some("`builder sign --key FILE IMAGE` signs it"),
            SignatureError::NoGood {
                reason: Reason::Repository(_),
                ..
            } => Some("an image that was copied with its signature is of --repository NAME, where that is trusted"),
            _ => None,
        }
    }
}
