//! What is said of a finished build: on the screen, in `--iidfile`, in `--metadata-file`.

use serde_json::{Map, Value, json};

use super::Arguments;
use crate::cli::commands::output::{Delivered, text_to_file};
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::oci::Reference;
use crate::pipeline::{Built, Shape};

/// `build` is by what `history` knows the build.
pub(super) fn tell(
    arguments: &Arguments,
    built: &Built,
    delivered: Option<&Delivered>,
    build: Option<&str>,
) -> Result<(), Failure> {
    if let Some(path) = &arguments.iidfile {
        text_to_file(path, &built.id.to_string())?;
    }
    if let Some(path) = &arguments.metadata_file {
        let metadata = Value::Object(metadata(arguments, built, delivered, build));
        text_to_file(path, &format!("{metadata:#}\n"))?;
    }
    if arguments.quiet {
        output::line(built.id)?;
        return Ok(());
    }
    let names: Vec<String> = arguments.tags.iter().map(Reference::familiar).collect();
    let named = match names.as_slice() {
        [] => String::new(),
        names => format!(" as {}", names.join(", ")),
    };
    let platforms = match built.shape {
        Shape::Image => String::new(),
        Shape::Index => {
            let platforms: Vec<String> = built.images.iter().map(|image| image.platform.to_string()).collect();
            format!(" for {}", platforms.join(", "))
        }
    };
    output::remark(format_args!("built {}{platforms}{named}", built.id.short()));
    Ok(())
}

/// In the words of buildx. What was not compressed has no manifest yet, and so no digest of one.
fn metadata(
    arguments: &Arguments,
    built: &Built,
    delivered: Option<&Delivered>,
    build: Option<&str>,
) -> Map<String, Value> {
    let mut metadata = Map::new();
    if let (Shape::Image, [only]) = (built.shape, built.images.as_slice()) {
        // As eStargz it has another where it went.
        let config = delivered.and_then(|delivered| delivered.config);
        let config = config.unwrap_or(only.image.config_digest);
        metadata.insert("containerimage.config.digest".into(), json!(config));
    }
    if let Some(Delivered { descriptor, .. }) = delivered {
        metadata.insert("containerimage.descriptor".into(), json!(descriptor));
        metadata.insert("containerimage.digest".into(), json!(descriptor.digest));
    }
    let names: Vec<String> = super::names(arguments).iter().map(Reference::to_string).collect();
    if !names.is_empty() {
        metadata.insert("image.name".into(), json!(names.join(",")));
    }
    if let Some(build) = build {
        metadata.insert("buildx.build.ref".into(), json!(format!("default/default/{build}")));
    }
    metadata
}
