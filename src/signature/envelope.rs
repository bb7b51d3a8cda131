//! A private key under a password, as cosign keeps it: a JSON document with scrypt's parameters and NaCl's secretbox.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use crypto_secretbox::aead::{Aead, KeyInit};
use crypto_secretbox::{Key, Nonce, XSalsa20Poly1305};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::KeyError;

const SCRYPT: &str = "scrypt";
const SECRETBOX: &str = "nacl/secretbox";
/// What cosign writes: N is 2 to this power.
const LOG_N: u8 = 16;
/// N of what is read: no key that anybody made asks for more than 256 MiB.
const LARGEST_LOG_N: u32 = 18;
const R: u32 = 8;
const P: u32 = 1;
const SALT: usize = 32;
const NONCE: usize = 24;
/// Bytes of a salt that is read.
const LONGEST_SALT: usize = 1 << 10;

/// A private key that a password opens.
#[derive(Clone, Serialize, Deserialize)]
pub struct Envelope {
    kdf: Derivation,
    cipher: Cipher,
    ciphertext: String,
}

#[derive(Clone, Serialize, Deserialize)]
struct Derivation {
    name: String,
    params: Parameters,
    salt: String,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Parameters {
    #[serde(rename = "N")]
    n: u64,
    r: u32,
    p: u32,
}

#[derive(Clone, Serialize, Deserialize)]
struct Cipher {
    name: String,
    nonce: String,
}

impl Envelope {
    /// Puts `content` under `password`.
    pub(super) fn seal(content: &[u8], password: &[u8]) -> Result<Self, KeyError> {
        let random = SystemRandom::new();
        let (mut salt, mut nonce) = ([0; SALT], [0; NONCE]);
        random.fill(&mut salt).map_err(|_| KeyError::Random)?;
        random.fill(&mut nonce).map_err(|_| KeyError::Random)?;
        let params = Parameters {
            n: 1 << LOG_N,
            r: R,
            p: P,
        };
        let cipher = cipher(password, &salt, params)?;
        let sealed = cipher.encrypt(Nonce::from_slice(&nonce), content);
        Ok(Self {
            kdf: Derivation {
                name: SCRYPT.into(),
                params,
                salt: BASE64.encode(salt),
            },
            cipher: Cipher {
                name: SECRETBOX.into(),
                nonce: BASE64.encode(nonce),
            },
            ciphertext: BASE64.encode(sealed.map_err(|_| KeyError::Cipher)?),
        })
    }

    /// What is under the password.
    pub(super) fn open(&self, password: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let decoded = |text: &str| BASE64.decode(text).map_err(|_| KeyError::Cipher);
        let (salt, nonce, sealed) = (
            decoded(&self.kdf.salt)?,
            decoded(&self.cipher.nonce)?,
            decoded(&self.ciphertext)?,
        );
        let known = self.kdf.name == SCRYPT && self.cipher.name == SECRETBOX;
        if !known || nonce.len() != NONCE || salt.len() > LONGEST_SALT {
            return Err(KeyError::Cipher);
        }
        let cipher = cipher(password, &salt, self.kdf.params)?;
        let opened = cipher.decrypt(Nonce::from_slice(&nonce), sealed.as_slice());
        opened.map(Zeroizing::new).map_err(|_| KeyError::Password)
    }
}

fn cipher(password: &[u8], salt: &[u8], params: Parameters) -> Result<XSalsa20Poly1305, KeyError> {
    let Parameters { n, r, p } = params;
    if !n.is_power_of_two() || !(2..=LARGEST_LOG_N).contains(&n.trailing_zeros()) || r != R || p != P {
        return Err(KeyError::Cipher);
    }
    let log_n = u8::try_from(n.trailing_zeros()).map_err(|_| KeyError::Cipher)?;
    let params = scrypt::Params::new(log_n, r, p).map_err(|_| KeyError::Cipher)?;
    let mut key = Zeroizing::new([0; 32]);
    scrypt::scrypt(password, salt, &params, &mut *key).map_err(|_| KeyError::Cipher)?;
    Ok(XSalsa20Poly1305::new(Key::from_slice(&*key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_opens_what_it_closed_and_nothing_else_does() {
        let sealed = Envelope::seal(b"content", b"secret").unwrap();
        let document = serde_json::to_string(&sealed).unwrap();
        let read: Envelope = serde_json::from_str(&document).unwrap();
        assert_eq!(*read.open(b"secret").unwrap(), b"content");
        assert!(matches!(read.open(b"Secret"), Err(KeyError::Password)));
        let mut changed = read.clone();
        changed.kdf.params.n = 1 << 40;
        assert!(
            matches!(changed.open(b"secret"), Err(KeyError::Cipher)),
            "before any work is done"
        );
        changed.kdf.params = Parameters {
            n: 1 << 14,
            r: 1 << 20,
            p: P,
        };
        assert!(matches!(changed.open(b"secret"), Err(KeyError::Cipher)));
    }
}
