//! `--platform` and `--annotation`: what is built for whom, and what its documents say.

use std::collections::BTreeMap;

use super::Arguments;
use crate::cli::failure::Failure;
use crate::cli::session::default_platform;
use crate::export::{Annotation, AnnotationTarget};
use crate::oci::Platform;
use crate::pipeline::Shape;

/// The build argument that decides whether an index is made.
const MULTI_PLATFORM: &str = "BUILDKIT_MULTI_PLATFORM";

/// What is built for; none where nobody said anything.
pub(super) fn platforms(arguments: &Arguments) -> Result<Vec<Platform>, Failure> {
    if arguments.platforms.is_empty() {
        return Ok(default_platform()?.into_iter().collect());
    }
    let mut platforms: Vec<Platform> = Vec::new();
    for platform in &arguments.platforms {
        if !platforms.contains(platform) {
            platforms.push(platform.clone());
        }
    }
    Ok(platforms)
}

/// Whether the result is an index: where there are several platforms, or the build argument says so.
pub(super) fn shape(platforms: &[Platform], build_args: &BTreeMap<String, String>) -> Result<Shape, Failure> {
    let several = platforms.len() > 1;
    match build_args.get(MULTI_PLATFORM).map(String::as_str) {
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(Shape::Index),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") if several => {
            let message = format!(
                "{MULTI_PLATFORM} forbids several platforms, and --platform names {}",
                platforms.len()
            );
            Err(Failure::usage(message))
        }
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(Shape::Image),
        None | Some("") if several => Ok(Shape::Index),
        None | Some("") => Ok(Shape::Image),
        Some(other) => Err(Failure::usage(format!(
            "{MULTI_PLATFORM} is `{other}`, which is neither true nor false"
        ))),
    }
}

/// What `--annotation` asks for.
pub(super) fn annotations(values: &[String], platforms: &[Platform], shape: Shape) -> Result<Vec<Annotation>, Failure> {
    let mut annotations = Vec::new();
    for text in values {
        annotations.extend(parse_annotation(text)?);
    }
    check_annotations("--annotation", &annotations, platforms, shape)?;
    Ok(annotations)
}

/// What one `--annotation` asks for, once for each document that it names.
pub(in crate::cli::commands) fn parse_annotation(text: &str) -> Result<Vec<Annotation>, Failure> {
    parse(text).map_err(|reason| {
        Failure::usage(format!("--annotation {text}: {reason}"))
            .hint("write key=value, index:key=value or manifest[linux/arm64]:key=value")
    })
}

/// Refuses annotations of documents that the build does not make; `flag` asks for them.
pub(super) fn check_annotations(
    flag: &str,
    annotations: &[Annotation],
    platforms: &[Platform],
    shape: Shape,
) -> Result<(), Failure> {
    for annotation in annotations {
        let of_index = matches!(
            annotation.target,
            AnnotationTarget::Index | AnnotationTarget::IndexDescriptor
        );
        if of_index && shape == Shape::Image {
            let message = format!(
                "{flag}: `{}` is for an index, and an image for one platform has none",
                annotation.key
            );
            return Err(Failure::usage(message)
                .hint("build for several platforms, or force an index with --build-arg BUILDKIT_MULTI_PLATFORM=1"));
        }
        if let Some(platform) = &annotation.platform {
            let host = [Platform::host()];
            let built = if platforms.is_empty() { &host[..] } else { platforms };
            if !built.contains(platform) {
                let message = format!("{flag}: `{}` is for {platform}, which is not built", annotation.key);
                return Err(Failure::usage(message));
            }
        }
    }
    Ok(())
}

/// `[type[platform],…:]key=value`.
fn parse(text: &str) -> Result<Vec<Annotation>, String> {
    let (name, value) = text.split_once('=').ok_or("it has no value")?;
    let (types, key) = name.split_once(':').unwrap_or(("manifest", name));
    if key.is_empty() {
        return Err("it has no key".into());
    }
    let of_type = |text: &str| {
        let (kind, platform) = match text.split_once('[') {
            Some((kind, rest)) => (
                kind,
                Some(rest.strip_suffix(']').ok_or_else(|| format!("`{text}` lacks `]`"))?),
            ),
            None => (text, None),
        };
        let target = match kind {
            "manifest" => AnnotationTarget::Manifest,
            "manifest-descriptor" => AnnotationTarget::ManifestDescriptor,
            "index" => AnnotationTarget::Index,
            "index-descriptor" => AnnotationTarget::IndexDescriptor,
            other => {
                let known = "manifest, manifest-descriptor, index and index-descriptor";
                return Err(format!("`{other}` is not one of {known}"));
            }
        };
        if platform.is_some() && matches!(target, AnnotationTarget::Index | AnnotationTarget::IndexDescriptor) {
            return Err(format!("`{kind}` is for all platforms"));
        }
        let platform = platform.map(|platform| platform.parse::<Platform>());
        Ok(Annotation {
            target,
            platform: platform.transpose().map_err(|error| error.to_string())?,
            key: key.to_owned(),
            value: value.to_owned(),
        })
    };
    types.split(',').map(of_type).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_name_their_documents() {
        let described = |text: &str| -> Vec<String> {
            let one = |annotation: &Annotation| {
                let platform = annotation.platform.as_ref().map_or("all".into(), Platform::to_string);
                format!(
                    "{:?} {platform} {}={}",
                    annotation.target, annotation.key, annotation.value
                )
            };
            parse(text).unwrap().iter().map(one).collect()
        };
        assert_eq!(described("a.b=c=d"), ["Manifest all a.b=c=d"]);
        assert_eq!(described("index:a="), ["Index all a="]);
        assert_eq!(
            described("manifest[linux/arm64/v8],manifest-descriptor:a=b:c"),
            ["Manifest linux/arm64 a=b:c", "ManifestDescriptor all a=b:c"]
        );
        for text in [
            "a",
            "=b",
            "nosuch:a=b",
            "index[linux/amd64]:a=b",
            "manifest[linux/amd64:a=b",
            "manifest[x y]:a=b",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn several_platforms_make_an_index() {
        let platforms: Vec<Platform> = ["linux/amd64", "linux/arm64"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        let args = |value: &str| BTreeMap::from([(MULTI_PLATFORM.to_owned(), value.to_owned())]);
        assert_eq!(shape(&platforms, &BTreeMap::new()).unwrap(), Shape::Index);
        assert_eq!(shape(&platforms[..1], &BTreeMap::new()).unwrap(), Shape::Image);
        assert_eq!(shape(&[], &args("1")).unwrap(), Shape::Index);
        assert_eq!(shape(&[], &args("false")).unwrap(), Shape::Image);
        assert!(shape(&platforms, &args("0")).is_err());
        assert!(shape(&[], &args("maybe")).is_err());
    }
}
