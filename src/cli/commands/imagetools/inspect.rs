//! `builder imagetools inspect`: what a registry has under a name. Layers are not fetched.

use clap::Args;
use serde_json::{Map, Value, json};

use super::{client, config, document};
use crate::cli::commands::sbom::by_kind;
use crate::cli::failure::Failure;
use crate::cli::interrupt::cancel_on_signals;
use crate::cli::output;
use crate::cli::progress::printable;
use crate::cli::registries::{CredentialArguments, RegistryArguments};
use crate::cli::template;
use crate::oci::attestation::{PROVENANCE, SPDX};
use crate::oci::{Descriptor, ImageManifest, ManifestOrIndex, Platform, Reference};
use crate::pull;
use crate::registry::Client;

/// Show what a registry has under a name.
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    /// Print fields instead: `{{json .Manifest}}`, `{{.Manifest.Digest}}`, `{{json .Image}}`, `{{json .SBOM}}`,
    /// `{{json .Provenance}}`; the last three are by platform where there are several.
    #[arg(long, value_name = "TEMPLATE", conflicts_with = "raw")]
    format: Option<String>,
    /// Exactly the bytes that the registry has.
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    registries: RegistryArguments,
    #[command(flatten)]
    credentials: CredentialArguments,
    /// The image.
    name: Reference,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let cancel = cancel_on_signals()?;
    let look = Look {
        client: client(
            &arguments.registries,
            &arguments.credentials,
            &[&arguments.name],
            &cancel,
        )?,
        name: &arguments.name,
    };
    let (document, descriptor) = document(&look.client, &arguments.name)?;
    if arguments.raw {
        return output::bytes(document.bytes());
    }
    match arguments.format.as_deref().map(str::trim) {
        None | Some("{{.Manifest}}") => output::text(look.summary(&document, &descriptor)),
        Some(format) => template::print(format, &look.fields(&document, &descriptor, format)?),
    }
}

struct Look<'a> {
    client: Client,
    name: &'a Reference,
}

/// A line of names and values, in columns.
fn lines(margin: &str, rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let line = |(name, value): &(&str, String)| {
        let value = printable(value.as_bytes(), false);
        format!("{margin}{:<width$} {value}\n", format!("{name}:"), width = width + 1)
    };
    rows.iter().map(line).collect()
}

impl Look<'_> {
    /// As buildx shows it.
    fn summary(&self, document: &ManifestOrIndex, descriptor: &Descriptor) -> String {
        let mut text = lines(
            "",
            &[
                ("Name", self.name.to_string()),
                ("MediaType", descriptor.media_type.clone()),
                ("Digest", descriptor.digest.to_string()),
            ],
        );
        if let ManifestOrIndex::Index(index) = document {
            text.push_str("\nManifests:\n");
            let listed: Vec<String> = index.value().manifests.iter().map(|own| self.listed(own)).collect();
            text.push_str(&listed.join("\n"));
        }
        text
    }

    fn listed(&self, own: &Descriptor) -> String {
        let mut rows = vec![
            ("Name", self.name.pinned(own.digest).to_string()),
            ("MediaType", own.media_type.clone()),
        ];
        if let Some(platform) = &own.platform {
            rows.push(("Platform", platform.to_string()));
            rows.extend(platform.os_version().map(|version| ("OSVersion", version.to_owned())));
        }
        let mut text = lines("  ", &rows);
        if !own.annotations.is_empty() {
            let annotations: Vec<(&str, String)> = own
                .annotations
                .iter()
                .map(|(key, value)| (key.as_str(), value.clone()))
                .collect();
            text.push_str("  Annotations:\n");
            text.push_str(&lines("    ", &annotations));
        }
        text
    }

    /// What templates can name. What no template asks for is not fetched.
    fn fields(&self, document: &ManifestOrIndex, descriptor: &Descriptor, format: &str) -> Result<Value, Failure> {
        let images = self.images(document, descriptor)?;
        let several = matches!(document, ManifestOrIndex::Index(_)) && images.len() > 1;
        let by_platform = |values: Map<String, Value>| match several {
            true => Value::Object(values),
            false => values.into_iter().next().map_or(Value::Null, |(_, value)| value),
        };
        let mut fields = json!({ "name": self.name.to_string(), "manifest": manifest(document, descriptor) });
        let named = |field: &str| format.to_ascii_lowercase().contains(field);
        let configurations = images
            .iter()
            .map(|image| Ok((image.platform.to_string(), self.configuration(image)?)));
        fields["image"] = by_platform(configurations.collect::<Result<_, Failure>>()?);
        for (field, name, kind) in [("sbom", "SPDX", SPDX), ("provenance", "SLSA", PROVENANCE)] {
            if named(&format!(".{field}")) {
                let stated = images.iter().map(|image| {
                    let statements = pull::statements(&self.client, self.name, &image.platform)?;
                    Ok((image.platform.to_string(), by_kind(&statements, name, kind)))
                });
                fields[field] = by_platform(stated.collect::<Result<_, Failure>>()?);
            }
        }
        Ok(fields)
    }

    /// The images, each with what it is for.
    fn images(&self, document: &ManifestOrIndex, descriptor: &Descriptor) -> Result<Vec<Image>, Failure> {
        let listed: Vec<&Descriptor> = match document {
            ManifestOrIndex::Index(index) => index.value().images().collect(),
            ManifestOrIndex::Manifest(_) => vec![descriptor],
        };
        let mut images = Vec::with_capacity(listed.len());
        for own in listed {
            let reference = self.name.with_digest(own.digest);
            let manifest = match document {
                ManifestOrIndex::Manifest(manifest) => manifest.value().clone(),
                ManifestOrIndex::Index(_) => match super::document(&self.client, &reference)?.0 {
                    ManifestOrIndex::Manifest(manifest) => manifest.into_value(),
                    ManifestOrIndex::Index(_) => continue,
                },
            };
            let mut image = Image {
                reference,
                manifest,
                platform: Platform::host(),
            };
            image.platform = match &own.platform {
                Some(platform) => platform.clone().normalized(),
                None => serde_json::from_value::<Platform>(self.configuration(&image)?)
                    .map_or_else(|_| Platform::host(), |platform| platform.bare().normalized()),
            };
            images.push(image);
        }
        Ok(images)
    }

    fn configuration(&self, image: &Image) -> Result<Value, Failure> {
        let bytes = config(&self.client, &image.reference, &image.manifest.config)?;
        serde_json::from_slice(&bytes).map_err(|error| {
            Failure::environment(format!(
                "the configuration of {} is malformed: {error}",
                image.reference
            ))
        })
    }
}

/// An image in the registry.
struct Image {
    reference: Reference,
    manifest: ImageManifest,
    platform: Platform,
}

/// The descriptor, and of an index what that says.
fn manifest(document: &ManifestOrIndex, descriptor: &Descriptor) -> Value {
    let mut value = json!({ "mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size });
    if let ManifestOrIndex::Index(index) = document {
        let index = index.value();
        value["schemaVersion"] = index.schema_version.into();
        value["manifests"] = json!(index.manifests);
        if !index.annotations.is_empty() {
            value["annotations"] = json!(index.annotations);
        }
    }
    value
}
