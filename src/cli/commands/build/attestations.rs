//! `--provenance`, `--sbom` and `--attest`: what is to be stated of the image.

use std::path::{Component, Path};
use std::str::FromStr;

use clap::Args;

use super::{Arguments, contexts, revision};
use crate::attest::{Mode, ProvenanceOptions, ProvenanceVersion};
use crate::cli::fields::Fields;
use crate::graph::without_secrets;
use crate::pipeline::{AttestationRequest, ProvenanceRequest, SbomRequest};
use crate::planner::{Generator, ScanOptions};

/// What the file is called that provenance is written to.
const PROVENANCE_FILE: &str = "provenance.json";
/// What the file is called that an SBOM is written to.
const SBOM_FILE: &str = "sbom.spdx.json";

/// What is to be stated of the image, in files or in an index beside it.
#[derive(Debug, Args)]
pub(super) struct AttestationArguments {
    /// State how the image was built (SLSA provenance): `true`, `false`, `min`, `max`, or
    /// `mode=min|max[,version=v1|v0.2][,builder-id=URI][,reproducible=true][,inline-only=true][,filename=NAME]`. The mode is
    /// `max` by default, which tells build arguments and the Dockerfile.
    #[arg(long, value_name = "OPTIONS", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    provenance: Option<Provenance>,
    /// State which packages are in the image (an SPDX document): what package databases, installed packages and lock files
    /// in it say, or what `generator=IMAGE` finds, a scanner in a container; `filename=NAME`, `inline-only=true`.
    #[arg(long, value_name = "OPTIONS", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    sbom: Option<Sbom>,
    /// State something of the image: `type=provenance` or `type=sbom` with the keys of --provenance and --sbom;
    /// `disabled=true` for not to.
    #[arg(long = "attest", value_name = "TYPE")]
    attest: Vec<Attest>,
}

/// `--provenance`; `None` for not to state it.
#[derive(Clone, Debug)]
struct Provenance(Option<ProvenanceRequest>);

/// `--sbom`; `None` for not to state it.
#[derive(Clone, Debug)]
struct Sbom(Option<SbomRequest>);

/// `--attest`.
#[derive(Clone, Debug)]
enum Attest {
    Provenance(Provenance),
    Sbom(Sbom),
}

impl FromStr for Provenance {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "true" | "1" | "" => Self::read(Fields::read("mode=max")?),
            "false" | "0" => Ok(Self(None)),
            "min" | "max" => Self::read(Fields::read(&format!("mode={text}"))?),
            fields => Self::read(Fields::read(fields)?),
        }
    }
}

impl Provenance {
    fn read(mut fields: Fields) -> Result<Self, String> {
        let disabled = fields.take_bool("disabled")?.unwrap_or_default();
        let mode = match fields.take("mode").as_deref() {
            None | Some("max" | "full" | "") => Mode::Max,
            Some("min") => Mode::Min,
            Some(other) => return Err(format!("mode={other}: it is min or max")),
        };
        let version = match fields.take("version").as_deref() {
            None | Some("v1" | "") => ProvenanceVersion::V1,
            Some("v0.2") => ProvenanceVersion::V02,
            Some(other) => return Err(format!("version={other}: it is v1 or v0.2")),
        };
        let options = ProvenanceOptions {
            mode,
            version,
            builder_id: fields.take("builder-id").unwrap_or_default(),
            reproducible: fields.take_bool("reproducible")?.unwrap_or_default(),
        };
        let inline_only = fields.take_bool("inline-only")?.unwrap_or_default();
        let file = file_name(fields.take("filename"), PROVENANCE_FILE)?;
        fields.finish()?;
        let file = (!inline_only).then_some(file);
        Ok(Self((!disabled).then_some(ProvenanceRequest { options, file })))
    }
}

impl FromStr for Sbom {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "true" | "1" | "" => Self::read(Fields::read("disabled=false")?),
            "false" | "0" => Ok(Self(None)),
            fields => Self::read(Fields::read(fields)?),
        }
    }
}

impl Sbom {
    fn read(mut fields: Fields) -> Result<Self, String> {
        let disabled = fields.take_bool("disabled")?.unwrap_or_default();
        let inline_only = fields.take_bool("inline-only")?.unwrap_or_default();
        let file = file_name(fields.take("filename"), SBOM_FILE)?;
        let image = fields.take("generator").filter(|image| !image.is_empty());
        // What a generator is told besides is its own affair.
        let generator = image
            .map(|image| generator(&image, fields.take_prefixed("")))
            .transpose()?;
        fields.finish()?;
        let (file, scan) = ((!inline_only).then_some(file), ScanOptions { generator });
        Ok(Self((!disabled).then_some(SbomRequest { scan, file })))
    }
}

/// The image that looks for packages, and what it is told.
fn generator(image: &str, parameters: Vec<(String, String)>) -> Result<Generator, String> {
    let image = image.parse().map_err(|error| format!("generator={image}: {error}"))?;
    for (name, _) in &parameters {
        let is_variable = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if name.is_empty() || !is_variable {
            return Err(format!("`{name}` is not a name that BUILDKIT_SCAN_ can stand before"));
        }
        if ["DESTINATION", "SOURCE", "SOURCE_EXTRAS"].contains(&name.as_str()) {
            return Err(format!("BUILDKIT_SCAN_{name} is set by the builder; leave {name} out"));
        }
    }
    let parameters = parameters.into_iter().collect();
    Ok(Generator { image, parameters })
}

/// One name, which stays in the directory that it is written to.
fn file_name(name: Option<String>, default: &str) -> Result<String, String> {
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        return Ok(default.to_owned());
    };
    let mut components = Path::new(&name).components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(only)), None) if only.to_str() == Some(name.as_str()) => Ok(name),
        _ => Err(format!("filename={name}: it is the name of a file, not a path")),
    }
}

impl FromStr for Attest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut fields = Fields::read(text)?;
        match fields.need("type", "sbom")?.as_str() {
            "provenance" => Provenance::read(fields).map(Self::Provenance),
            "sbom" => Sbom::read(fields).map(Self::Sbom),
            other => Err(format!("type={other}: it is sbom or provenance")),
        }
    }
}

/// What is to be stated. `dockerfile` is what messages call the Dockerfile.
pub(super) fn request(arguments: &Arguments, dockerfile: &str) -> AttestationRequest {
    let own = &arguments.attestations;
    let mut provenance = own.provenance.clone().and_then(|own| own.0);
    let mut sbom = own.sbom.clone().and_then(|own| own.0);
    for attest in &own.attest {
        match attest {
            Attest::Provenance(Provenance(wanted)) => provenance.clone_from(wanted),
            Attest::Sbom(Sbom(wanted)) => sbom.clone_from(wanted),
        }
    }
    let mut request = AttestationRequest {
        provenance,
        sbom,
        ..AttestationRequest::default()
    };
    if request.provenance.is_none() {
        return request;
    }
    request.dockerfile = shown_path(arguments, dockerfile);
    match contexts::is_directory(arguments) {
        Ok(true) => request.vcs = revision::of(&arguments.context),
        Ok(false) => request.address = address(&arguments.context),
        Err(_) => {}
    }
    request
}

/// The Dockerfile's path within the context, or its name: where it lies on this machine is nobody's affair.
fn shown_path(arguments: &Arguments, dockerfile: &str) -> Option<String> {
    let path = Path::new(dockerfile);
    let within = path
        .strip_prefix(&arguments.context)
        .ok()
        .or(path.file_name().map(Path::new));
    let shown = within?.to_str()?;
    (shown != "-").then(|| shown.to_owned())
}

/// The address of a context that is fetched; none where it comes on standard input.
fn address(context: &Path) -> Option<String> {
    let text = context.to_str().filter(|text| *text != "-")?;
    Some(without_secrets(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provenance(text: &str) -> Option<ProvenanceRequest> {
        text.parse::<Provenance>().unwrap().0
    }

    #[test]
    fn provenance_is_asked_for_as_buildx_has_it() {
        assert!(provenance("false").is_none() && provenance("mode=max,disabled=true").is_none());
        for text in ["true", "max", "mode=max", "version=v1"] {
            assert_eq!(provenance(text).unwrap().options.mode, Mode::Max, "{text}");
        }
        for text in ["min", "mode=min"] {
            assert_eq!(provenance(text).unwrap().options.mode, Mode::Min, "{text}");
        }
        let whole =
            provenance("mode=min,version=v0.2,builder-id=https://a/b,reproducible=true,inline-only=true").unwrap();
        assert_eq!(whole.options.version, ProvenanceVersion::V02);
        assert_eq!(whole.options.builder_id, "https://a/b");
        assert!(whole.options.reproducible && whole.file.is_none());
        assert_eq!(provenance("filename=p.json").unwrap().file.as_deref(), Some("p.json"));
        for text in [
            "mode=some",
            "version=v2",
            "colour=red",
            "filename=../x",
            "filename=a/b",
            "filename=/x",
            "filename=..",
            "reproducible=perhaps",
        ] {
            assert!(text.parse::<Provenance>().is_err(), "{text}");
        }
        assert!("type=provenance,mode=min".parse::<Attest>().is_ok());
        assert!("mode=min".parse::<Attest>().is_err());
        assert!("type=nothing".parse::<Attest>().is_err());
        assert!("true".parse::<Sbom>().unwrap().0.is_some() && "false".parse::<Sbom>().unwrap().0.is_none());
    }

    #[test]
    fn a_generator_is_told_what_nobody_else_knows() {
        let sbom = |text: &str| text.parse::<Sbom>().map(|sbom| sbom.0.unwrap().scan.generator);
        assert_eq!(sbom("true"), Ok(None));
        assert_eq!(sbom("generator="), Ok(None));
        let generator = sbom("generator=some/scanner:1,SELECT_CATALOGERS=all,disabled=false")
            .unwrap()
            .unwrap();
        assert_eq!(generator.image.familiar(), "some/scanner:1");
        let told: Vec<_> = generator.parameters.iter().collect();
        assert_eq!(told, [(&"SELECT_CATALOGERS".to_owned(), &"all".to_owned())]);
        for text in [
            "SELECT_CATALOGERS=all",
            "generator=NO",
            "generator=a,SOURCE=/",
            "generator=a,a b=c",
        ] {
            assert!(sbom(text).is_err(), "{text}");
        }
    }
}
