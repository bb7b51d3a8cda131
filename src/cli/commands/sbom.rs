//! `builder sbom`, and what commands know of statements about images.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::output::to_file;
use crate::attest::sbom::{self, Subject};
use crate::cancel::Cancel;
use crate::cli::failure::{Failure, Fault};
use crate::cli::format::table;
use crate::cli::interrupt::cancel_on_signals;
use crate::cli::output;
use crate::cli::progress::{Style, printable, renderer};
use crate::cli::session::{GlobalOptions, Session};
use crate::export::ExportError;
use crate::oci::attestation::SPDX;
use crate::oci::{Platform, Reference, Timestamp};
use crate::pipeline;
use crate::progress::Event;
use crate::pull::{self, Statement};
use crate::store::StoredImage;

/// Show which packages are in an image: the SBOM that is stated of it, or one that is made now.
///
/// An image that is not here is asked of its registry for the SBOM that it has; it is not pulled.
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    /// How to print it.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,
    /// The file to write to; by default standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The platform, where the image has several; by default this machine's.
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
    /// Look at the image's files, whatever is stated of it.
    #[arg(long)]
    scan: bool,
    /// The image: a name, an id, or the beginning of an id.
    image: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Format {
    /// Names, versions and kinds.
    Table,
    /// The SPDX document.
    SpdxJson,
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<(), Failure> {
    let session = Session::open(global)?;
    let cancel = cancel_on_signals()?;
    let _in_use = session.store.in_use()?;
    let document = match stated(&session, arguments, &cancel)? {
        Some(document) => document,
        None => made(&session, arguments, &cancel)?,
    };
    let text = match arguments.format {
        Format::SpdxJson => format!("{document:#}\n"),
        Format::Table => packages(&document),
    };
    match &arguments.output {
        Some(path) => to_file(path, |out| out.write_all(text.as_bytes()).map_err(ExportError::Write)),
        None => output::line(text.trim_end()),
    }
}

/// The SBOM that somebody stated.
fn stated(session: &Session, arguments: &Arguments, cancel: &Cancel) -> Result<Option<Value>, Failure> {
    if arguments.scan {
        return Ok(None);
    }
    let statements = statements_about(session, &arguments.image, arguments.platform.as_ref(), cancel)?;
    let found = statements.into_iter().find(|statement| statement.kind == SPDX);
    Ok(found.map(|statement| statement.predicate))
}

/// One that is made now.
fn made(session: &Session, arguments: &Arguments, cancel: &Cancel) -> Result<Value, Failure> {
    let text = &arguments.image;
    let Some(stored) = session.store.find_image(text)? else {
        let message = format!("no SBOM is stated of `{text}`");
        return Err(Failure::usage(message).hint("pull the image: then its files can be looked at"));
    };
    let platform = arguments.platform.clone().unwrap_or_else(Platform::host);
    let record = session.image_for(text, &platform)?;
    let progress = renderer(Style::Quiet);
    let puller = session.puller(cancel);
    let names = session.store.names_of(&stored.id())?;
    let reference = match names.first() {
        Some(name) => name.clone(),
        None => format!("sha256:{}", record.id.hex())
            .parse()
            .unwrap_or_else(|_| nameless()),
    };
    let found = puller.resolve_stored(&reference, StoredImage::Image(record), &platform)?;
    let gone = || Failure::environment(format!("the configuration of `{text}` is gone")).hint("pull or build it anew");
    let image = found.ok_or_else(gone)?;
    let snapshot = puller.ensure_image_layers(&session.snapshotter, &image, &*progress, cancel)?;
    let config = image.config.value();
    let inventory = pipeline::inventory(&session.store, &session.snapshotter, snapshot, &config.rootfs.diff_ids)
        .map_err(|error| Failure::of(Fault::Environment, &error))?;
    for warning in &inventory.warnings {
        let message = format!("the SBOM is not whole: {warning}");
        progress.report(Event::Warning { message });
    }
    let subject = Subject {
        name: names.first().map_or_else(|| text.clone(), Reference::familiar),
        purls: names
            .iter()
            .map(|name| crate::attest::image_purl(name, image.platform()))
            .collect(),
        created: config.created.clone().unwrap_or_else(|| Timestamp::from_unix(0)),
    };
    let document = serde_json::from_slice(&sbom::document(&inventory, &subject));
    document.map_err(|error| Failure::environment(format!("the SBOM cannot be read: {error}")))
}

/// What an image without a name is called where a name must be.
fn nameless() -> Reference {
    "nameless".parse().expect("a name")
}

/// A line for each package but the image itself.
fn packages(document: &Value) -> String {
    let listed = document["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut rows: Vec<Vec<String>> = listed.iter().filter_map(row).collect();
    rows.sort();
    table(&["NAME", "VERSION", "TYPE"], &rows)
}

fn row(package: &Value) -> Option<Vec<String>> {
    let shown = |text: &str| printable(text.as_bytes(), false);
    let references = package["externalRefs"].as_array()?;
    let purls = references
        .iter()
        .filter(|reference| reference["referenceType"] == "purl");
    let mut kinds = purls.filter_map(|purl| {
        purl["referenceLocator"]
            .as_str()?
            .strip_prefix("pkg:")?
            .split('/')
            .next()
    });
    let kind = kinds.next().filter(|kind| *kind != "docker" && *kind != "oci")?;
    Some(vec![
        shown(package["name"].as_str()?),
        shown(package["versionInfo"].as_str().unwrap_or_default()),
        shown(kind),
    ])
}

/// What is stated of the image that `text` names: of the store's, or, where the store has none, of the registry's.
pub(super) fn statements_about(
    session: &Session,
    text: &str,
    platform: Option<&Platform>,
    cancel: &Cancel,
) -> Result<Vec<Statement>, Failure> {
    let wanted = platform.cloned().unwrap_or_else(Platform::host);
    if session.store.find_image(text)?.is_some() {
        let image = session.image_for(text, &wanted)?;
        return Ok(pull::stored_statements(&session.store, &image)?);
    }
    let reference: Reference = text.parse().map_err(|error| Failure::usage(format!("{error}")))?;
    Ok(pull::statements(&session.client(cancel), &reference, &wanted)?)
}

/// The statements of one kind as buildx shows them: `{"SPDX": document}`, `{"SLSA": document}`; nothing without any. Where
/// there are several, the others are `AdditionalSPDXs`.
pub(super) fn by_kind(statements: &[Statement], name: &str, kind: &str) -> Value {
    let mut found = statements.iter().filter(|statement| statement.kind.starts_with(kind));
    let Some(first) = found.next() else {
        return Value::Null;
    };
    let mut shown = json!({ name: first.predicate });
    let others: Vec<&Value> = found.map(|statement| &statement.predicate).collect();
    if !others.is_empty() {
        shown[format!("Additional{name}s")] = json!(others);
    }
    shown
}
