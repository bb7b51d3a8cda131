//! Keys: pairs that are made, private halves that sign, public ones that check.

use std::fmt;
use std::sync::Arc;

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rustls::SignatureScheme;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::{
    PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer, SignatureVerificationAlgorithm,
    SubjectPublicKeyInfoDer,
};
use webpki::RawPublicKeyEntity;
use zeroize::Zeroizing;

use super::envelope::Envelope;
use super::{KeyError, pem};

/// What cosign writes, and what it wrote before.
const ENCRYPTED: [&str; 2] = ["ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY"];
const PKCS8: &str = "PRIVATE KEY";
const SEC1: &str = "EC PRIVATE KEY";
const PKCS1: &str = "RSA PRIVATE KEY";
const PUBLIC: &str = "PUBLIC KEY";
/// What is signed with: over SHA-256, as cosign checks it.
const SCHEMES: [SignatureScheme; 3] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ED25519,
    SignatureScheme::RSA_PKCS1_SHA256,
];

/// What is checked with, by the kind of the key.
const ALGORITHMS: [&dyn SignatureVerificationAlgorithm; 4] = [
    webpki::ring::ECDSA_P256_SHA256,
    webpki::ring::ECDSA_P384_SHA256,
    webpki::ring::ED25519,
    webpki::ring::RSA_PKCS1_2048_8192_SHA256,
];

/// A new pair, in the files' form.
pub struct KeyPair {
    /// The private half, under the password.
    pub private: Zeroizing<String>,
    /// The public half.
    pub public: String,
}

impl KeyPair {
    /// Makes a pair for ECDSA on P-256, as cosign does.
    ///
    /// # Errors
    /// A system without randomness.
    pub fn generate(password: &[u8]) -> Result<Self, KeyError> {
        let random = SystemRandom::new();
        let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random);
        let private = Zeroizing::new(made.map_err(|_| KeyError::Random)?.as_ref().to_vec());
        let public = SigningKey::of(PrivatePkcs8KeyDer::from(private.as_slice()).into())?.public_key()?;
        let sealed = serde_json::to_vec(&Envelope::seal(&private, password)?).map_err(|_| KeyError::Cipher)?;
        Ok(Self {
            private: pem::write(ENCRYPTED[0], &sealed),
            public: public.to_pem(),
        })
    }
}

/// A private key as it lies in a file.
pub enum PrivateKey {
    /// It can be used.
    Plain(SigningKey),
    /// A password opens it.
    Encrypted(Box<Envelope>),
}

impl PrivateKey {
    /// Reads a file: cosign's own form, PKCS#8, SEC 1, or PKCS#1.
    ///
    /// # Errors
    /// A file without a key that can be used.
    pub fn read(text: &[u8]) -> Result<Self, KeyError> {
        if let Some((_, content)) = pem::find(text, &ENCRYPTED) {
            let envelope = serde_json::from_slice(&content).map_err(|_| KeyError::Cipher)?;
            return Ok(PrivateKey::Encrypted(Box::new(envelope)));
        }
        let found = pem::find(text, &[PKCS8, SEC1, PKCS1]);
        let (label, content) = found.ok_or(KeyError::Form("private key"))?;
        let bytes = content.as_slice();
        SigningKey::of(match label {
            SEC1 => PrivateSec1KeyDer::from(bytes).into(),
            PKCS1 => PrivatePkcs1KeyDer::from(bytes).into(),
            _ => PrivatePkcs8KeyDer::from(bytes).into(),
        })
        .map(PrivateKey::Plain)
    }
}

impl Envelope {
    /// The key under the password.
    ///
    /// # Errors
    /// Another password than the key's.
    pub fn key(&self, password: &[u8]) -> Result<SigningKey, KeyError> {
        let content = self.open(password)?;
        SigningKey::of(PrivatePkcs8KeyDer::from(content.as_slice()).into())
    }
}

/// A key that signs.
pub struct SigningKey(Arc<dyn rustls::sign::SigningKey>);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(…)")
    }
}

impl SigningKey {
    fn of(key: PrivateKeyDer<'_>) -> Result<Self, KeyError> {
        let key = any_supported_type(&key).map_err(|_| KeyError::Algorithm)?;
        match key.choose_scheme(&SCHEMES) {
            Some(_) => Ok(Self(key)),
            None => Err(KeyError::Algorithm),
        }
    }

    /// Its public half.
    ///
    /// # Errors
    /// Never, for keys that sign.
    pub fn public_key(&self) -> Result<VerifyingKey, KeyError> {
        let public = self.0.public_key().ok_or(KeyError::Algorithm)?;
        Ok(VerifyingKey(public.into_owned()))
    }

    /// Signs a message.
    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let signer = self.0.choose_scheme(&SCHEMES).ok_or(KeyError::Algorithm)?;
        signer.sign(message).map_err(|_| KeyError::Sign)
    }
}

/// A key that checks signatures.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifyingKey(SubjectPublicKeyInfoDer<'static>);

impl VerifyingKey {
    /// Reads a file: PEM, SubjectPublicKeyInfo (RFC 5280, section 4.1).
    ///
    /// # Errors
    /// A file without a public key that can be used.
    pub fn read(text: &[u8]) -> Result<Self, KeyError> {
        let (_, content) = pem::find(text, &[PUBLIC]).ok_or(KeyError::Form("public key"))?;
        let key = Self(SubjectPublicKeyInfoDer::from(content.to_vec()));
        match RawPublicKeyEntity::try_from(&key.0) {
            Ok(_) => Ok(key),
            Err(_) => Err(KeyError::Algorithm),
        }
    }

    /// As it stands in a file.
    pub fn to_pem(&self) -> String {
        pem::write(PUBLIC, &self.0).to_string()
    }

    /// Whether the private half of this key made `signature` of `message`.
    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        let Ok(key) = RawPublicKeyEntity::try_from(&self.0) else {
            return false;
        };
        let fits = |algorithm: &&dyn SignatureVerificationAlgorithm| {
            key.verify_signature(*algorithm, message, signature).is_ok()
        };
        ALGORITHMS.iter().any(fits)
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD as BASE64;

    use super::super::{Annotations, Expectation, payload};
    use super::*;

    fn opened(pair: &KeyPair) -> SigningKey {
        match PrivateKey::read(pair.private.as_bytes()).unwrap() {
            PrivateKey::Encrypted(envelope) => envelope.key(b"password").unwrap(),
            PrivateKey::Plain(_) => panic!("it is not encrypted"),
        }
    }

    #[test]
    fn a_pair_signs_and_checks() {
        let pair = KeyPair::generate(b"password").unwrap();
        let other = KeyPair::generate(b"password").unwrap();
        let key = opened(&pair);
        let signature = key.sign(b"message").unwrap();
        let public = VerifyingKey::read(pair.public.as_bytes()).unwrap();
        assert_eq!(key.public_key().unwrap(), public);
        assert!(public.verify(b"message", &signature));
        assert!(!public.verify(b"Message", &signature));
        assert!(!public.verify(b"message", &signature[1..]));
        let stranger = VerifyingKey::read(other.public.as_bytes()).unwrap();
        assert!(!stranger.verify(b"message", &signature));
        assert!(!format!("{key:?}").contains('['));
    }

    /// A pair, a document and its signature that cosign 2.5.0 made; the password is `oracle`.
    #[test]
    fn what_cosign_made_is_read() {
        let private = include_bytes!("../../tests/cosign/cosign.key");
        let public = VerifyingKey::read(include_bytes!("../../tests/cosign/cosign.pub")).unwrap();
        let payload = include_bytes!("../../tests/cosign/payload.json");
        let signature = include_str!("../../tests/cosign/signature").trim_end();
        let signature = BASE64.decode(signature).unwrap();
        assert!(public.verify(payload, &signature));
        let Ok(PrivateKey::Encrypted(envelope)) = PrivateKey::read(private) else {
            panic!("it is encrypted");
        };
        assert_eq!(envelope.key(b"oracle").unwrap().public_key().unwrap(), public);
        assert!(matches!(envelope.key(b"Oracle"), Err(KeyError::Password)));
        let digest = "sha256:bd215d73569a9d8f93a60c7ed7b76de27d2677e88f158393dc66003ffeefe464";
        let expected = Expectation {
            keys: &[],
            repository: Some("registry.example/team/app".into()),
            annotations: &Annotations::from([("stage".into(), "release".into())]),
        };
        assert!(payload::read(payload, digest.parse().unwrap(), &expected).is_ok());
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let pair = KeyPair::generate(b"password").unwrap();
        assert!(PrivateKey::read(pair.public.as_bytes()).is_err());
        assert!(VerifyingKey::read(pair.private.as_bytes()).is_err());
        let broken = pair.public.replacen("MFk", "MFl", 1);
        assert!(VerifyingKey::read(broken.as_bytes()).is_err());
        assert!(PrivateKey::read(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").is_err());
    }
}
