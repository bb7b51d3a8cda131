//! `builder sign`, `builder verify`, `builder generate-key-pair`: signatures of images in cosign's formats.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::failure::{Failure, Fault, with_causes};
use crate::cli::interrupt::cancel_on_signals;
use crate::cli::session::Session;
use crate::cli::{output, password, sources};
use crate::oci::{Digest, ManifestOrIndex, Reference};
use crate::registry::Client;
use crate::signature::{
    Annotations, Expectation, KeyPair, PrivateKey, SignatureError, Signed, SigningKey, VerifyingKey, sign, verify,
};

/// Sign images in their registries.
///
/// The signature is kept beside the image, as cosign keeps it, under a tag that is made of the image's digest. What is
/// signed is a digest: that behind `@`, or what the name leads to now. An image that carries the same signature already
/// stays as it is.
#[derive(Debug, Args)]
pub(in crate::cli) struct SignArguments {
    /// The private key: cosign's, or PKCS#8, SEC 1 or PKCS#1 in PEM. The password is $COSIGN_PASSWORD, or asked for.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// What the signature is to say besides, `name=value`; several are allowed.
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = pair)]
    annotations: Vec<(String, String)>,
    /// Sign each image of an index, too.
    #[arg(short, long)]
    recursive: bool,
    /// Nothing is asked.
    #[arg(short, long, hide = true)]
    yes: bool,
    /// The images, best with their digests.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<Reference>,
}

/// Check that images are signed.
///
/// Prints what the good signatures say, as JSON, and ends with 1 where there is none. Nothing is fetched but signatures.
#[derive(Debug, Args)]
pub(in crate::cli) struct VerifyArguments {
    /// The public key; of several any will do.
    #[arg(long = "key", value_name = "FILE", required = true)]
    keys: Vec<PathBuf>,
    /// What the signature must say besides, `name=value`; several are allowed.
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = pair)]
    annotations: Vec<(String, String)>,
    /// The repository that the signature names, where the image was copied together with it from there.
    #[arg(long, value_name = "NAME")]
    repository: Option<Reference>,
    /// The images.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<Reference>,
}

/// Make a pair of keys for signing images: PREFIX.key under a password, and PREFIX.pub.
///
/// The password is $COSIGN_PASSWORD, or asked for. Files that are there are not replaced.
#[derive(Debug, Args)]
pub(in crate::cli) struct KeyPairArguments {
    /// How the files begin.
    #[arg(long, value_name = "PREFIX", default_value = "cosign")]
    output_key_prefix: PathBuf,
}

/// `name=value`.
fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected name=value".to_owned()),
    }
}

pub(super) fn run_sign(arguments: &SignArguments) -> Result<(), Failure> {
    let key = signing_key(&arguments.key)?;
    let client = Session::client_alone(&cancel_on_signals()?)?;
    let annotations: Annotations = arguments.annotations.iter().cloned().collect();
    for reference in &arguments.images {
        for digest in subjects(&client, reference, arguments.recursive)? {
            let signed = sign(&client, reference, digest, &key, &annotations)?;
            let name = format!("{}@{digest}", reference.name());
            match signed {
                Signed::Added => output::remark(format_args!("signed {name}")),
                Signed::AlreadyThere => output::remark(format_args!("{name} has this signature already")),
            }
            output::line(name)?;
        }
    }
    Ok(())
}

/// What is signed of an image: its digest, and perhaps those of all images that it is made of.
fn subjects(client: &Client, reference: &Reference, recursive: bool) -> Result<Vec<Digest>, Failure> {
    let (document, descriptor) = client.manifest(reference).map_err(SignatureError::from)?;
    let parts = match document {
        ManifestOrIndex::Index(index) if recursive => index.into_value().manifests,
        ManifestOrIndex::Index(_) | ManifestOrIndex::Manifest(_) => Vec::new(),
    };
    let parts = parts.into_iter().map(|part| part.digest);
    Ok(std::iter::once(descriptor.digest).chain(parts).collect())
}

fn signing_key(path: &Path) -> Result<SigningKey, Failure> {
    let failed = |error| Failure::usage(format!("the private key {}: {}", path.display(), with_causes(&error)));
    let text = zeroize::Zeroizing::new(sources::read(path, sources::LARGEST_KEY)?);
    match PrivateKey::read(&text).map_err(failed)? {
        PrivateKey::Plain(key) => Ok(key),
        PrivateKey::Encrypted(envelope) => envelope.key(&password::of_key()?).map_err(failed),
    }
}

pub(super) fn run_verify(arguments: &VerifyArguments) -> Result<(), Failure> {
    let keys: Vec<VerifyingKey> = (arguments.keys.iter())
        .map(|path| sources::verifying_key(path))
        .collect::<Result<_, _>>()?;
    let client = Session::client_alone(&cancel_on_signals()?)?;
    let annotations: Annotations = arguments.annotations.iter().cloned().collect();
    for reference in &arguments.images {
        let digest = match reference.digest() {
            Some(digest) => digest,
            None => client.manifest(reference).map_err(SignatureError::from)?.1.digest,
        };
        let repository = arguments.repository.as_ref().unwrap_or(reference).name();
        let expected = Expectation {
            keys: &keys,
            repository: Some(repository),
            annotations: &annotations,
        };
        let claims = verify(&client, reference, digest, &expected)?;
        output::remark(format_args!(
            "{}@{digest} is signed: {} with a key that was given, for this digest",
            reference.name(),
            crate::cli::report::counted(claims.len(), "good signature"),
        ));
        let text = serde_json::to_string(&claims).map_err(|error| Failure::environment(error.to_string()))?;
        output::line(text)?;
    }
    Ok(())
}

pub(super) fn run_generate(arguments: &KeyPairArguments) -> Result<(), Failure> {
    let with = |ending: &str| PathBuf::from(format!("{}.{ending}", arguments.output_key_prefix.display()));
    let (private, public) = (with("key"), with("pub"));
    for path in [&private, &public] {
        if path.exists() {
            return Err(Failure::usage(format!("{} is there already", path.display()))
                .hint("move it away, or name others with --output-key-prefix"));
        }
    }
    let password = password::of_new_key()?;
    let pair = KeyPair::generate(&password).map_err(|error| Failure::of(Fault::Environment, &error))?;
    write(&private, 0o600, pair.private.as_bytes())?;
    write(&public, 0o644, pair.public.as_bytes())?;
    output::remark(format_args!(
        "the private key is {}, the public one {}",
        private.display(),
        public.display()
    ));
    Ok(())
}

fn write(path: &Path, mode: u32, content: &[u8]) -> Result<(), Failure> {
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path);
    file.and_then(|mut file| file.write_all(content))
        .map_err(|error| Failure::environment(format!("cannot write {}: {error}", path.display())))
}

impl From<SignatureError> for Failure {
    fn from(error: SignatureError) -> Self {
        let fault = match &error {
            SignatureError::NotSigned { .. } | SignatureError::NoGood { .. } => Fault::Build,
            SignatureError::Registry(error) if error.is_not_found() => Fault::Build,
            _ => Fault::Environment,
        };
        Failure::of(fault, &error).hinted(error.hint())
    }
}
