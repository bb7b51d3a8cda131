//! `builder inspect`.

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::sbom::{by_kind, statements_about};
use crate::cli::failure::Failure;
use crate::cli::interrupt::cancel_on_signals;
use crate::cli::output;
use crate::cli::session::{GlobalOptions, Session};
use crate::cli::template;
use crate::oci::attestation::{PROVENANCE, SPDX};
use crate::oci::{ContainerConfig, Platform, Reference};
use crate::store::{Member, StoredImage};

/// Fields that have what is stated of an image.
const STATED: [&str; 2] = [".SBOM", ".Provenance"];

/// Show what is known of images, as JSON.
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    /// Print fields instead: `{{.Config.Env}}`, `{{json .Config}}`; what is stated of the image: `{{json .SBOM}}`,
    /// `{{json .Provenance}}`, of an image that is not here too.
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// What the names are: nothing but images is described here.
    #[arg(long = "type", value_name = "TYPE", hide = true)]
    kind: Option<Kind>,
    /// Describe the image for this platform, where there are several; by default this machine's.
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
    /// The images: names, ids, or beginnings of ids.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// What `docker inspect --type` tells apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Kind {
    /// The same as without.
    Image,
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<(), Failure> {
    let session = Session::open(global)?;
    let described: Vec<Value> = arguments
        .images
        .iter()
        .map(|text| describe_all(&session, text, arguments))
        .collect::<Result<_, Failure>>()?;
    match &arguments.format {
        Some(format) => {
            for value in &described {
                output::line(template::fill(format, value)?)?;
            }
        }
        None => output::line(format_args!("{:#}", Value::Array(described)))?,
    }
    Ok(())
}

/// The image, and what is stated of it where that is asked for: then it may be one that only its registry has.
fn describe_all(session: &Session, text: &str, arguments: &Arguments) -> Result<Value, Failure> {
    let format = arguments.format.as_deref().unwrap_or_default();
    let platform = arguments.platform.as_ref();
    if !STATED.iter().any(|field| format.contains(field)) {
        return describe(session, text, platform);
    }
    let mut value = match session.store.find_image(text)? {
        Some(_) => describe(session, text, platform)?,
        None => json!({ "Name": text }),
    };
    let statements = statements_about(session, text, platform, &cancel_on_signals()?)?;
    value["SBOM"] = by_kind(&statements, "SPDX", SPDX);
    value["Provenance"] = by_kind(&statements, "SLSA", PROVENANCE);
    Ok(value)
}

/// All fields that docker has, those without a value, too: scripts ask for them.
fn every_field(config: &ContainerConfig) -> Value {
    let mut value = json!({
        "User": "", "Env": [], "Cmd": null, "Entrypoint": null, "WorkingDir": "", "Labels": null, "Volumes": null,
        "ExposedPorts": null, "OnBuild": null,
    });
    let own = json!(config);
    for (name, field) in own.as_object().into_iter().flatten() {
        value[name] = field.clone();
    }
    value
}

/// An image in the words of `docker inspect`. Of several platforms the chosen one is described, and all are listed.
fn describe(session: &Session, text: &str, platform: Option<&Platform>) -> Result<Value, Failure> {
    let whole = session.image(text)?;
    let (id, image, listed) = match (&whole, platform) {
        (StoredImage::Index(index), None) => {
            let chosen = index.select(&Platform::host()).or(index.members.first());
            let gone = || Failure::environment(format!("the images of `{text}` are gone"));
            let chosen = chosen.ok_or_else(gone)?;
            let image = session.store.image(&chosen.image)?.ok_or_else(gone)?;
            (index.id, image, Some(index))
        }
        _ => {
            let StoredImage::Image(image) = session.part(text, platform)? else {
                unreachable!("a platform chooses one image")
            };
            (image.id, image, None)
        }
    };
    let names = session.store.names_of(&whole.id())?;
    let config = session.store.image_config(&image.config)?.into_value();
    let digest = match listed {
        Some(index) => index.manifest.as_ref(),
        None => image.manifest.as_ref(),
    };
    let digests: Vec<String> = match digest {
        Some(manifest) => names
            .iter()
            .map(|name| format!("{}@{}", name.familiar_name(), manifest.digest))
            .collect(),
        None => Vec::new(),
    };
    let mut value = json!({
        "Id": id,
        "RepoTags": names.iter().map(Reference::familiar).collect::<Vec<_>>(),
        "RepoDigests": digests,
        "Created": config.created,
        "Author": config.author.clone().unwrap_or_default(),
        "Architecture": config.platform.architecture,
        "Variant": config.platform.variant,
        "Os": config.platform.os,
        "Size": whole.size(),
        "Config": every_field(&config.config),
        "RootFS": { "Type": "layers", "Layers": config.rootfs.diff_ids },
        "History": config.history,
        "Annotations": listed.map_or(&image.annotations, |index| &index.annotations),
    });
    if let Some(index) = listed {
        let member = |member: &Member| json!({ "Platform": member.platform, "Id": member.image, "Annotations": member.annotations });
        value["Manifests"] = index.members.iter().map(member).collect();
    }
    Ok(value)
}
