//! `builder inspect`.

use clap::Args;
use serde_json::{Value, json};

use crate::cli::failure::Failure;
use crate::cli::session::{GlobalOptions, Session};
use crate::cli::template;
use crate::oci::Reference;

/// Show what is known of images, as JSON.
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    /// Print fields instead: `{{.Config.Env}}`, `{{json .Config}}`.
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// The images: names, ids, or beginnings of ids.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<(), Failure> {
    let session = Session::open(global)?;
    let described: Vec<Value> = arguments
        .images
        .iter()
        .map(|text| describe(&session, text))
        .collect::<Result<_, Failure>>()?;
    match &arguments.format {
        Some(format) => {
            for value in &described {
                println!("{}", template::fill(format, value)?);
            }
        }
        None => println!("{:#}", Value::Array(described)),
    }
    Ok(())
}

/// An image in the words of `docker inspect`.
fn describe(session: &Session, text: &str) -> Result<Value, Failure> {
    let image = session.image(text)?;
    let names = session.store.names_of(&image.id)?;
    let config = session.store.image_config(&image.id)?.into_value();
    let digests: Vec<String> = match &image.manifest {
        Some(manifest) => names
            .iter()
            .map(|name| format!("{}@{}", name.familiar_name(), manifest.digest))
            .collect(),
        None => Vec::new(),
    };
    Ok(json!({
        "Id": image.id,
        "RepoTags": names.iter().map(Reference::familiar).collect::<Vec<_>>(),
        "RepoDigests": digests,
        "Created": config.created,
        "Author": config.author.clone().unwrap_or_default(),
        "Architecture": config.platform.architecture,
        "Variant": config.platform.variant,
        "Os": config.platform.os,
        "Size": image.size,
        "Config": config.config,
        "RootFS": { "Type": "layers", "Layers": config.rootfs.diff_ids },
        "History": config.history,
    }))
}
