//! What an archive or layout holds: its images, and what is known under which name.

use serde::Deserialize;

use super::bundle::{Bundle, refused};
use crate::export::error::{ExportError, Result};
use crate::export::{CONTAINERD_NAME, REF_NAME};
use crate::oci::attestation::{self, MOST_STATEMENT_MANIFESTS};
use crate::oci::{
    Descriptor, Digest, ImageIndex, ImageManifest, ManifestOrIndex, Platform, Raw, Reference, Unusable, media_type,
};
use crate::store::Annotations;

/// The most images of one archive that are read.
pub(super) const MOST_IMAGES: usize = 1000;
/// What is said of a part whose descriptor lies.
pub(super) const OTHER_SIZE: &str = "has another size than its descriptor says";
/// An index may list indexes, as `docker save` writes them; not these again.
pub(super) const DEEPEST_INDEX: usize = 2;

/// An image whose parts are known and not verified yet.
pub(super) struct Found {
    pub(super) config: Part,
    /// Lowest first.
    pub(super) layers: Vec<Part>,
    pub(super) manifest: Option<Descriptor>,
    /// Manifests of what is stated about it, and the blobs that each names.
    pub(super) statements: Vec<(Descriptor, Vec<Digest>)>,
    /// The index that lists it and these, and nothing else.
    pub(super) index: Option<Descriptor>,
}

/// A blob of an image.
#[derive(Clone, Copy)]
pub(super) struct Part {
    pub(super) digest: Digest,
    /// How many bytes it has, where a descriptor says so.
    pub(super) size: Option<u64>,
}

impl From<&Descriptor> for Part {
    fn from(descriptor: &Descriptor) -> Self {
        Self {
            digest: descriptor.digest,
            size: Some(descriptor.size),
        }
    }
}

/// All that is found.
#[derive(Default)]
pub(super) struct Content {
    /// Each image once.
    pub(super) images: Vec<Found>,
    /// What there is a name for, or could be.
    pub(super) entries: Vec<Entry>,
}

/// An image, or an index.
pub(super) struct Entry {
    pub(super) names: Vec<Reference>,
    /// Its images; several, or one that an index lists.
    pub(super) listed: Vec<Listed>,
    /// The index; `None` for an image that stands alone.
    pub(super) index: Option<FoundIndex>,
}

/// An image as an index lists it.
pub(super) struct Listed {
    /// Its place among all images.
    pub(super) image: usize,
    pub(super) platform: Option<Platform>,
    pub(super) annotations: Annotations,
}

/// An index.
#[derive(Default)]
pub(super) struct FoundIndex {
    pub(super) annotations: Annotations,
    /// Its document, where all that it lists is there.
    pub(super) document: Option<Descriptor>,
}

/// Reads the documents that lead to images. Of several platforms all are taken, or the one for `platform`.
pub(super) fn find(bundle: &mut Bundle<'_>, platform: Option<&Platform>) -> Result<Content> {
    match bundle.document("index.json")? {
        Some(index) => find_in_index(bundle, platform, index),
        None => match bundle.document("manifest.json")? {
            Some(manifest) if manifest.trim_ascii_start().starts_with(b"{") => {
                find_in_flat_directory(bundle, platform, manifest)
            }
            Some(manifest) => find_in_docker_manifest(bundle, &manifest),
            None => Err(ExportError::NoImageArchive),
        },
    }
}

fn find_in_index(bundle: &mut Bundle<'_>, platform: Option<&Platform>, index: Vec<u8>) -> Result<Content> {
    let digest = Digest::of(&index);
    let parsed = ManifestOrIndex::parse(index, Some(media_type::INDEX));
    let ManifestOrIndex::Index(index) = parsed.map_err(|source| ExportError::Manifest { digest, source })? else {
        return Err(refused(b"index.json", "is no index"));
    };
    if index.value().manifests.len() > MOST_IMAGES {
        return Err(refused(b"index.json", "lists too many images"));
    }
    let mut content = Content::default();
    let mut seen: Vec<Digest> = Vec::new();
    let mut passed_over = None;
    for descriptor in index.value().images().filter(|listed| may_be_image(listed)) {
        let names = names_of(descriptor)?;
        if let Some(place) = seen.iter().position(|known| *known == descriptor.digest) {
            content.entries[place].names.extend(names);
            continue;
        }
        let (listed, index) = match read(bundle, descriptor)? {
            (ManifestOrIndex::Manifest(manifest), own) => {
                if let Some(reason) = artifact(&own, &manifest)? {
                    passed_over = Some(reason);
                    continue;
                }
                (vec![content.add(own, manifest, descriptor)?], None)
            }
            (ManifestOrIndex::Index(index), own) => {
                let mut listed = Vec::new();
                let whole = content.follow(bundle, platform, &index, 1, &mut listed)?;
                if listed.is_empty() {
                    let subject = descriptor.digest.to_string();
                    return Err(refused(subject.as_bytes(), "has no image for this platform"));
                }
                let index = FoundIndex {
                    annotations: index.value().annotations.clone(),
                    document: whole.then_some(own),
                };
                // An archive of one platform of several is an image, and so is one with what is stated about it.
                let mut alone = listed.len() == 1 && (platform.is_some() || index.document.is_none());
                if let ([only], Some(document)) = (listed.as_slice(), &index.document) {
                    let image = &mut content.images[only.image];
                    if !image.statements.is_empty() {
                        image.index = Some(document.clone());
                        alone = true;
                    }
                }
                (listed, (!alone).then_some(index))
            }
        };
        seen.push(descriptor.digest);
        content.entries.push(Entry { names, listed, index });
    }
    match content.entries.is_empty() {
        true => Err(passed_over.unwrap_or_else(|| refused(b"index.json", "lists no image"))),
        false => Ok(content),
    }
}

/// Whether something of the listed type could be an image. Image specification, "Image Index": what is unknown is passed
/// over.
fn may_be_image(listed: &Descriptor) -> bool {
    let known = [
        "application/vnd.oci.image.",
        "application/vnd.docker.distribution.manifest.",
    ];
    known.iter().any(|kind| listed.media_type.starts_with(kind))
}

/// Why a manifest is of something else than an image: a signature, say, which layouts hold besides images.
///
/// # Errors
/// An image that cannot be used.
fn artifact(own: &Descriptor, manifest: &Raw<ImageManifest>) -> Result<Option<ExportError>> {
    let digest = own.digest;
    match manifest.value().check_usable() {
        Ok(()) => Ok(None),
        Err(source @ Unusable::ForeignLayer(_)) => Err(ExportError::Unusable { digest, source }),
        Err(source) => Ok(Some(ExportError::Unusable { digest, source })),
    }
}

impl Content {
    /// Takes the image of a manifest in.
    fn add(&mut self, own: Descriptor, manifest: Raw<ImageManifest>, listed: &Descriptor) -> Result<Listed> {
        let is_same = |known: &Found| known.manifest.as_ref().is_some_and(|known| known.digest == own.digest);
        let image = match self.images.iter().position(is_same) {
            Some(place) => place,
            None if self.images.len() == MOST_IMAGES => return Err(refused(b"index.json", "lists too many images")),
            None => {
                let manifest = manifest.into_value();
                self.images.push(Found {
                    config: Part::from(&manifest.config),
                    layers: manifest.layers.iter().map(Part::from).collect(),
                    manifest: Some(own),
                    statements: Vec::new(),
                    index: None,
                });
                self.images.len() - 1
            }
        };
        Ok(Listed {
            image,
            platform: listed.platform.clone().map(|platform| platform.bare().normalized()),
            annotations: listed.annotations.clone(),
        })
    }

    /// Takes the images of an index in, those that are there: whoever saves one platform keeps the index of all.
    /// Whether that is all that it lists.
    fn follow(
        &mut self,
        bundle: &mut Bundle<'_>,
        platform: Option<&Platform>,
        index: &Raw<ImageIndex>,
        depth: usize,
        listed: &mut Vec<Listed>,
    ) -> Result<bool> {
        let index = index.value();
        let chosen: Vec<&Descriptor> = match platform {
            Some(platform) => index.select(platform).into_iter().collect(),
            None => index.images().filter(|image| bundle.has(&image.digest)).collect(),
        };
        let (mut whole, mut taken) = (true, chosen.len());
        for descriptor in &chosen {
            match read(bundle, descriptor)? {
                (ManifestOrIndex::Manifest(manifest), own) => match artifact(&own, &manifest)? {
                    Some(_) => whole = false,
                    None => {
                        let found = self.add(own, manifest, descriptor)?;
                        let statements = statements(bundle, index, &descriptor.digest)?;
                        taken += statements.len();
                        self.images[found.image].statements = statements;
                        listed.push(found);
                    }
                },
                (ManifestOrIndex::Index(_), _) if depth == DEEPEST_INDEX => {
                    let subject = descriptor.digest.to_string();
                    return Err(refused(subject.as_bytes(), "is an index in an index in an index"));
                }
                (ManifestOrIndex::Index(inner), _) => {
                    self.follow(bundle, platform, &inner, depth + 1, listed)?;
                    whole = false;
                }
            }
        }
        Ok(whole && taken == index.manifests.len())
    }
}

/// The manifests of what is stated about `image`, those that are there with all that they name.
fn statements(bundle: &mut Bundle<'_>, index: &ImageIndex, image: &Digest) -> Result<Vec<(Descriptor, Vec<Digest>)>> {
    let about = |listed: &&Descriptor| attestation::is_about(listed, image) && bundle.has(&listed.digest);
    let listed: Vec<&Descriptor> = index.manifests.iter().filter(about).collect();
    let mut found = Vec::new();
    for listed in listed.into_iter().take(MOST_STATEMENT_MANIFESTS) {
        let (ManifestOrIndex::Manifest(manifest), _) = read(bundle, listed)? else {
            continue;
        };
        let parts = attestation::parts(manifest.value()).unwrap_or_default();
        if parts.is_empty() || !parts.iter().all(|part| bundle.has(&part.digest)) {
            continue;
        }
        for part in &parts {
            if bundle.blob(&part.digest)?.size() != part.size {
                return Err(refused(part.digest.to_string().as_bytes(), OTHER_SIZE));
            }
        }
        found.push((listed.clone(), parts.into_iter().map(|part| part.digest).collect()));
    }
    Ok(found)
}

/// The document that a descriptor names, and a descriptor that says no more than what it is.
fn read(bundle: &mut Bundle<'_>, descriptor: &Descriptor) -> Result<(ManifestOrIndex, Descriptor)> {
    let digest = descriptor.digest;
    let document = ManifestOrIndex::parse(bundle.read(&digest)?, Some(&descriptor.media_type));
    let document = document.map_err(|source| ExportError::Manifest { digest, source })?;
    let kind = match &document {
        ManifestOrIndex::Manifest(manifest) => manifest.value().media_type.clone(),
        ManifestOrIndex::Index(index) => index.value().media_type.clone(),
    };
    let kind = kind.unwrap_or_else(|| descriptor.media_type.clone());
    let size = document.bytes().len() as u64;
    if size != descriptor.size {
        return Err(refused(digest.to_string().as_bytes(), OTHER_SIZE));
    }
    Ok((document, Descriptor::new(&kind, digest, size)))
}

/// The names that a layout's annotations give. A tag alone names nothing.
fn names_of(descriptor: &Descriptor) -> Result<Vec<Reference>> {
    let whole = descriptor.annotations.get(CONTAINERD_NAME);
    let reference = descriptor
        .annotations
        .get(REF_NAME)
        .filter(|name| name.contains(['/', ':']));
    let Some(name) = whole.or(reference) else {
        return Ok(Vec::new());
    };
    Ok(vec![name.parse().map_err(ExportError::Name)?])
}

/// What skopeo calls `dir`: `manifest.json` is the manifest itself, or an index.
fn find_in_flat_directory(bundle: &mut Bundle<'_>, platform: Option<&Platform>, bytes: Vec<u8>) -> Result<Content> {
    let digest = Digest::of(&bytes);
    let size = bytes.len() as u64;
    let document = ManifestOrIndex::parse(bytes, None);
    let document = document.map_err(|source| ExportError::Manifest { digest, source })?;
    let mut content = Content::default();
    let (listed, index) = match document {
        ManifestOrIndex::Manifest(manifest) => {
            let kind = manifest.value().media_type.clone();
            let kind = kind.unwrap_or_else(|| media_type::MANIFEST.to_owned());
            bundle.keep_document(manifest.bytes())?;
            let own = Descriptor::new(&kind, digest, size);
            if let Some(reason) = artifact(&own, &manifest)? {
                return Err(reason);
            }
            (vec![content.add(own.clone(), manifest, &own)?], None)
        }
        ManifestOrIndex::Index(index) => {
            let mut listed = Vec::new();
            content.follow(bundle, platform, &index, 1, &mut listed)?;
            let annotations = index.value().annotations.clone();
            let index = FoundIndex {
                annotations,
                ..FoundIndex::default()
            };
            (listed, (platform.is_none()).then_some(index))
        }
    };
    if listed.is_empty() {
        return Err(refused(b"manifest.json", "has no image for this platform"));
    }
    let names = Vec::new();
    content.entries.push(Entry { names, listed, index });
    Ok(content)
}

/// One image in `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

fn find_in_docker_manifest(bundle: &Bundle<'_>, manifest: &[u8]) -> Result<Content> {
    let images: Vec<DockerImage> = serde_json::from_slice(manifest).map_err(|source| ExportError::Document {
        document: "manifest.json".into(),
        source,
    })?;
    if images.len() > MOST_IMAGES {
        return Err(refused(b"manifest.json", "lists too many images"));
    }
    if images.is_empty() {
        return Err(refused(b"manifest.json", "lists no image"));
    }
    let file = |name: &String| {
        let digest = bundle.digest_of(name);
        let digest = digest.ok_or_else(|| refused(name.as_bytes(), "is referred to and is not there"))?;
        Ok(Part { digest, size: None })
    };
    let mut content = Content::default();
    for image in images {
        let names = image.repo_tags.unwrap_or_default();
        let names: std::result::Result<_, _> = names.iter().map(|name| name.parse()).collect();
        let layers = image.layers.unwrap_or_default();
        content.images.push(Found {
            config: file(&image.config)?,
            layers: layers.iter().map(file).collect::<Result<_>>()?,
            manifest: None,
            statements: Vec::new(),
            index: None,
        });
        content.entries.push(Entry {
            names: names.map_err(ExportError::Name)?,
            listed: vec![Listed {
                image: content.images.len() - 1,
                platform: None,
                annotations: Annotations::new(),
            }],
            index: None,
        });
    }
    Ok(content)
}
