//! The annotations that the user asks for: which document gets which.

use crate::oci::Platform;
use crate::store::Annotations;

/// A document, or the descriptor that leads to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AnnotationTarget {
    /// The manifest.
    Manifest,
    /// The manifest's descriptor: in an index, or, for an image that stands alone, in a layout's own.
    ManifestDescriptor,
    /// The index.
    Index,
    /// The index's descriptor, in a layout's own index.
    IndexDescriptor,
}

/// One `--annotation`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Annotation {
    /// Where it goes.
    pub target: AnnotationTarget,
    /// The platform whose document gets it; `None` for all.
    pub platform: Option<Platform>,
    /// Its name.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// What the documents of kind `target` get, or that for `platform`. Those that name the platform come before those that
/// name none.
pub fn selected_annotations(list: &[Annotation], target: AnnotationTarget, platform: Option<&Platform>) -> Annotations {
    let pairs = |named: bool| {
        let fits = move |annotation: &&Annotation| {
            let own = annotation.platform.as_ref();
            annotation.target == target && own.is_some() == named && (!named || own == platform)
        };
        let pair = |annotation: &Annotation| (annotation.key.clone(), annotation.value.clone());
        list.iter().filter(fits).map(pair)
    };
    pairs(false).chain(pairs(true)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_for_a_platform_come_first() {
        let annotation = |target, platform: Option<&str>, value: &str| Annotation {
            target,
            platform: platform.map(|platform| platform.parse().unwrap()),
            key: "k".into(),
            value: value.into(),
        };
        let list = [
            annotation(AnnotationTarget::Manifest, Some("linux/arm64"), "arm"),
            annotation(AnnotationTarget::Manifest, None, "all"),
            annotation(AnnotationTarget::Index, None, "index"),
        ];
        let of =
            |target, platform: &str| selected_annotations(&list, target, Some(&platform.parse().unwrap()))["k"].clone();
        assert_eq!(of(AnnotationTarget::Manifest, "linux/arm64/v8"), "arm");
        assert_eq!(of(AnnotationTarget::Manifest, "linux/amd64"), "all");
        assert_eq!(selected_annotations(&list, AnnotationTarget::Index, None)["k"], "index");
        assert!(selected_annotations(&list, AnnotationTarget::IndexDescriptor, None).is_empty());
    }
}
