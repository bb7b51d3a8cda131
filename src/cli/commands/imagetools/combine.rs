//! One document made of others: what an index lists, and where each of that comes from. Nothing is asked of anybody.

use std::collections::BTreeMap;

use crate::cli::failure::Failure;
use crate::export::{Annotation, AnnotationTarget, selected_annotations};
use crate::oci::attestation::is_about;
use crate::oci::{
    Descriptor, Digest, ImageIndex, ImageManifest, ManifestOrIndex, Platform, Raw, Reference, media_type,
};

/// One of the images that the new one is made of.
pub(super) struct Source {
    /// Where it is.
    pub reference: Reference,
    /// What is there.
    pub document: ManifestOrIndex,
    /// How the new index lists it, where it is no index itself: with its platform, and what was said of it.
    pub descriptor: Descriptor,
}

/// The new document.
#[expect(clippy::large_enum_variant, reason = "there is one at a time")]
pub(super) enum Combined {
    /// A copy of one manifest.
    Manifest(Raw<ImageManifest>, Reference),
    /// An index, and where each that it lists comes from.
    Index(Raw<ImageIndex>, BTreeMap<Digest, Reference>),
}

/// What becomes of a single manifest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Single {
    /// An index that lists it.
    Listed,
    /// A copy.
    Copied,
}

impl Combined {
    /// The document's bytes and type.
    pub fn document(&self) -> (&[u8], &str) {
        match self {
            Self::Manifest(manifest, _) => (
                manifest.bytes(),
                manifest.value().media_type.as_deref().unwrap_or(media_type::MANIFEST),
            ),
            Self::Index(index, _) => (
                index.bytes(),
                index.value().media_type.as_deref().unwrap_or(media_type::INDEX),
            ),
        }
    }
}

/// Puts `sources` together. Of an index each image is taken; what is listed twice is listed once. Where `platforms` are given,
/// images for others are left out, with what is stated about them. A single index that stays as it is keeps its bytes.
pub(super) fn combine(
    mut sources: Vec<Source>,
    annotations: &[Annotation],
    single: Single,
    platforms: &[Platform],
) -> Result<Combined, Failure> {
    let whole = match sources.as_slice() {
        [only] if annotations.is_empty() => match &only.document {
            ManifestOrIndex::Index(index) => Some(index.clone()),
            ManifestOrIndex::Manifest(manifest) if single == Single::Copied => {
                check_platform(&only.descriptor, platforms)?;
                return Ok(Combined::Manifest(manifest.clone(), sources.remove(0).reference));
            }
            ManifestOrIndex::Manifest(_) => None,
        },
        _ => None,
    };
    let origins = sources.iter().flat_map(|source| match &source.document {
        ManifestOrIndex::Index(index) => index.value().manifests.iter().map(|own| (own, source)).collect(),
        ManifestOrIndex::Manifest(_) => vec![(&source.descriptor, source)],
    });
    let (mut listed, mut from) = (Vec::<Descriptor>::new(), BTreeMap::new());
    for (descriptor, source) in origins {
        from.insert(descriptor.digest, source.reference.clone());
        match listed.iter_mut().find(|known| known.digest == descriptor.digest) {
            Some(known) => {
                known.platform = descriptor.platform.clone().or(known.platform.take());
                known.annotations.extend(descriptor.annotations.clone());
            }
            None => listed.push(descriptor.clone()),
        }
    }
    let all = listed.len();
    keep_platforms(&mut listed, platforms)?;
    if let Some(whole) = whole.filter(|_| listed.len() == all) {
        return Ok(Combined::Index(whole, from));
    }
    let mut index = match &sources[0].document {
        // What else it says stays where parts of it are left out.
        ManifestOrIndex::Index(index) if sources.len() == 1 => index.value().clone(),
        _ => ImageIndex::new(Vec::new()),
    };
    index.manifests = listed;
    annotate(&mut index, annotations);
    let bytes = serde_json::to_vec_pretty(&index).and_then(Raw::parse);
    let index = bytes.map_err(|error| Failure::environment(format!("the index cannot be written: {error}")))?;
    Ok(Combined::Index(index, from))
}

fn check_platform(own: &Descriptor, platforms: &[Platform]) -> Result<(), Failure> {
    keep_platforms(&mut vec![own.clone()], platforms)
}

/// Leaves out what is for none of the platforms. What is for none at all stays.
fn keep_platforms(listed: &mut Vec<Descriptor>, platforms: &[Platform]) -> Result<(), Failure> {
    if platforms.is_empty() {
        return Ok(());
    }
    let wanted = |own: &Platform| {
        platforms
            .iter()
            .any(|wanted| own.clone().normalized().satisfies(wanted))
    };
    let is_wanted = |image: &Descriptor| image.platform.as_ref().is_none_or(wanted);
    let images: Vec<Digest> = listed
        .iter()
        .filter(|image| !image.is_attestation() && is_wanted(image))
        .map(|image| image.digest)
        .collect();
    if images.is_empty() {
        let names: Vec<String> = platforms.iter().map(Platform::to_string).collect();
        return Err(Failure::usage(format!(
            "none of the images is for {}",
            names.join(" or ")
        )));
    }
    listed.retain(|own| match own.is_attestation() {
        true => images.iter().any(|image| is_about(own, image)),
        false => images.contains(&own.digest),
    });
    Ok(())
}

/// The type of the index follows from what it lists: Docker's where all of that is Docker's, and nothing needs OCI's.
fn annotate(index: &mut ImageIndex, annotations: &[Annotation]) {
    let is_dockers = |own: &Descriptor| own.media_type.starts_with("application/vnd.docker.");
    let dockers = annotations.is_empty() && index.annotations.is_empty() && index.manifests.iter().all(is_dockers);
    let kind = if dockers {
        media_type::DOCKER_INDEX
    } else {
        media_type::INDEX
    };
    index.media_type = Some(kind.into());
    index
        .annotations
        .extend(selected_annotations(annotations, AnnotationTarget::Index, None));
    for image in index.manifests.iter_mut().filter(|image| !image.is_attestation()) {
        let platform = image.platform.clone().map(Platform::normalized);
        let own = selected_annotations(annotations, AnnotationTarget::ManifestDescriptor, platform.as_ref());
        image.annotations.extend(own);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(number: u8) -> ManifestOrIndex {
        let config = Descriptor::of(media_type::CONFIG, &[number]);
        ManifestOrIndex::Manifest(Raw::new(ImageManifest::new(config, Vec::new())))
    }

    fn listed(number: u8, platform: &str) -> Descriptor {
        Descriptor {
            platform: Some(platform.parse().unwrap()),
            ..Descriptor::of(media_type::MANIFEST, manifest(number).bytes())
        }
    }

    fn image(name: &str, number: u8, platform: &str) -> Source {
        Source {
            reference: name.parse().unwrap(),
            document: manifest(number),
            descriptor: listed(number, platform),
        }
    }

    fn index(name: &str, manifests: Vec<Descriptor>) -> Source {
        let index = Raw::new(ImageIndex::new(manifests));
        Source {
            reference: name.parse().unwrap(),
            descriptor: index.descriptor(media_type::INDEX),
            document: ManifestOrIndex::Index(index),
        }
    }

    fn attestation(of: &Descriptor) -> Descriptor {
        let annotations = [
            ("vnd.docker.reference.type", "attestation-manifest".to_owned()),
            ("vnd.docker.reference.digest", of.digest.to_string()),
        ];
        Descriptor {
            platform: Some("unknown/unknown".parse().unwrap()),
            annotations: annotations.map(|(key, value)| (key.to_owned(), value)).into(),
            ..Descriptor::of(media_type::MANIFEST, of.digest.to_string().as_bytes())
        }
    }

    fn of_index(combined: Combined) -> (ImageIndex, BTreeMap<Digest, Reference>) {
        match combined {
            Combined::Index(index, from) => (index.into_value(), from),
            Combined::Manifest(..) => panic!("no index"),
        }
    }

    fn platforms(texts: &[&str]) -> Vec<Platform> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn images_and_indexes_become_one_index() {
        let (arm, s390x) = (listed(2, "linux/arm64"), listed(3, "linux/s390x"));
        let sources = vec![
            image("a", 1, "linux/amd64"),
            index("b", vec![arm.clone(), s390x]),
            image("c", 2, "linux/arm64"),
        ];
        let (made, from) = of_index(combine(sources, &[], Single::Listed, &[]).unwrap());
        let names: Vec<String> = made
            .manifests
            .iter()
            .map(|own| own.platform.as_ref().unwrap().to_string())
            .collect();
        assert_eq!(names, ["linux/amd64", "linux/arm64", "linux/s390x"]);
        assert_eq!(from[&arm.digest].familiar(), "c:latest");
        assert_eq!(made.media_type.as_deref(), Some(media_type::INDEX));
    }

    #[test]
    fn a_single_index_keeps_its_bytes_and_a_single_image_is_listed_or_copied() {
        let source = || index("a", vec![listed(1, "linux/amd64")]);
        let combined = combine(vec![source()], &[], Single::Listed, &platforms(&["linux/amd64"])).unwrap();
        assert_eq!(combined.document().0, source().document.bytes());
        let one = || vec![image("a", 1, "linux/amd64")];
        let (made, _) = of_index(combine(one(), &[], Single::Listed, &[]).unwrap());
        assert_eq!(made.manifests, [listed(1, "linux/amd64")]);
        let copied = combine(one(), &[], Single::Copied, &[]).unwrap();
        assert_eq!(copied.document(), (manifest(1).bytes(), media_type::MANIFEST));
        assert!(combine(one(), &[], Single::Copied, &platforms(&["linux/arm64"])).is_err());
    }

    #[test]
    fn other_platforms_go_with_what_is_stated_of_them() {
        let (amd, arm) = (listed(1, "linux/amd64"), listed(2, "linux/arm64"));
        let stated = [attestation(&amd), attestation(&arm)];
        let source = || vec![index("a", [vec![amd.clone(), arm.clone()], stated.to_vec()].concat())];
        let (made, _) = of_index(combine(source(), &[], Single::Listed, &platforms(&["linux/arm64"])).unwrap());
        assert_eq!(made.manifests, [arm.clone(), stated[1].clone()]);
        assert!(combine(source(), &[], Single::Listed, &platforms(&["linux/s390x"])).is_err());
    }

    #[test]
    fn annotations_need_ocis_documents() {
        let docker = || {
            let mut source = image("a", 1, "linux/amd64");
            source.descriptor.media_type = media_type::DOCKER_MANIFEST.into();
            vec![source]
        };
        let (made, _) = of_index(combine(docker(), &[], Single::Listed, &[]).unwrap());
        assert_eq!(made.media_type.as_deref(), Some(media_type::DOCKER_INDEX));
        let annotation = |target| Annotation {
            target,
            platform: None,
            key: "k".into(),
            value: "v".into(),
        };
        let both = [
            annotation(AnnotationTarget::Index),
            annotation(AnnotationTarget::ManifestDescriptor),
        ];
        let (made, _) = of_index(combine(docker(), &both, Single::Copied, &[]).unwrap());
        assert_eq!(made.media_type.as_deref(), Some(media_type::INDEX));
        assert_eq!(
            (&made.annotations["k"], &made.manifests[0].annotations["k"]),
            (&"v".into(), &"v".into())
        );
    }
}
