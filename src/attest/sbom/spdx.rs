//! An inventory as an SPDX document.
//!
//! SPDX 2.3, JSON. The same inventory, subject and moment give the same bytes: the namespace that must be a document's
//! own is made of its content.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::files::{OwnedFile, verification_code};
use super::package::Package;
use super::{Inventory, license};
use crate::oci::{Digest, Timestamp};

/// SPDX's word for what nobody says.
const NOTHING: &str = "NOASSERTION";
const DOCUMENT: &str = "SPDXRef-DOCUMENT";
const IMAGE: &str = "SPDXRef-Image";
/// SPDX 2.3, 6.5: where documents without a home of their own are said to be.
const NAMESPACE: &str = "https://spdx.org/spdxdocs/builder";

/// What an inventory is of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subject {
    /// The image's name, or its platform.
    pub name: String,
    /// Its names as package URLs.
    pub purls: Vec<String>,
    /// The moment that the document tells.
    pub created: Timestamp,
}

/// The document.
pub fn document(inventory: &Inventory, subject: &Subject) -> Vec<u8> {
    let mut licenses = BTreeMap::new();
    let mut relationships = vec![relation(DOCUMENT, "DESCRIBES", IMAGE)];
    let mut packages = vec![image(subject)];
    for (place, package) in inventory.packages.iter().enumerate() {
        let own = inventory
            .files
            .by_package
            .get(place)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let files: Vec<&OwnedFile> = own.iter().map(|file| &inventory.files.files[*file]).collect();
        let id = package_id(package);
        relationships.push(relation(IMAGE, "CONTAINS", &id));
        relationships.extend(own.iter().map(|file| relation(&id, "CONTAINS", &file_id(*file))));
        packages.push(described(package, &id, &files, &mut licenses));
    }
    let files: Vec<Value> = inventory
        .files
        .files
        .iter()
        .enumerate()
        .map(|(place, file)| listed(place, file))
        .collect();
    let mut document = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": DOCUMENT,
        "name": subject.name,
        "creationInfo": {
            "created": subject.created,
            "creators": [tool()],
        },
        "packages": packages,
        "relationships": relationships,
    });
    if !files.is_empty() {
        document["files"] = Value::Array(files);
    }
    if !licenses.is_empty() {
        let extracted = licenses
            .into_iter()
            .map(|(id, text)| json!({ "licenseId": id, "extractedText": text, "name": NOTHING }));
        document["hasExtractedLicensingInfos"] = extracted.collect();
    }
    if !inventory.warnings.is_empty() {
        document["comment"] = json!(inventory.warnings.join("\n"));
    }
    let content = Digest::of(document.to_string().as_bytes());
    document["documentNamespace"] = json!(format!("{NAMESPACE}-{}", content.hex()));
    document.to_string().into_bytes()
}

/// Who makes documents, in SPDX's form.
pub(super) fn tool() -> String {
    format!("Tool: builder-{}", env!("CARGO_PKG_VERSION"))
}

fn relation(from: &str, kind: &str, to: &str) -> Value {
    json!({ "spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to })
}

/// What all packages are in.
fn image(subject: &Subject) -> Value {
    let mut image = json!({
        "SPDXID": IMAGE,
        "name": subject.name,
        "downloadLocation": NOTHING,
        "filesAnalyzed": false,
        "licenseConcluded": NOTHING,
        "licenseDeclared": NOTHING,
        "copyrightText": NOTHING,
        "primaryPackagePurpose": "CONTAINER",
    });
    if !subject.purls.is_empty() {
        image["externalRefs"] = subject.purls.iter().map(|purl| reference(purl)).collect();
    }
    image
}

fn reference(purl: &str) -> Value {
    json!({ "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl })
}

/// The same package has the same identifier in any document.
fn package_id(package: &Package) -> String {
    let digest = Digest::of(package.purl.as_bytes()).hex();
    let name = package
        .name
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' });
    let name: String = name.take(48).collect();
    format!("SPDXRef-Package-{}-{name}-{}", package.kind.purl_type(), &digest[..16])
}

fn file_id(place: usize) -> String {
    format!("SPDXRef-File-{place}")
}

fn described(package: &Package, id: &str, files: &[&OwnedFile], licenses: &mut BTreeMap<String, String>) -> Value {
    let places: Vec<String> = package.places.iter().map(|place| place.to_string()).collect();
    let mut described = json!({
        "SPDXID": id,
        "name": package.name,
        "downloadLocation": NOTHING,
        "filesAnalyzed": !files.is_empty(),
        "licenseConcluded": NOTHING,
        "licenseDeclared": declared(package, licenses),
        "copyrightText": NOTHING,
        "sourceInfo": format!("{}: {}", package.kind.source(), places.join(", ")),
        "externalRefs": [reference(&package.purl)],
    });
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            described[key] = value;
        }
    };
    set(
        "versionInfo",
        (!package.version.is_empty()).then(|| json!(package.version)),
    );
    set(
        "supplier",
        package.supplier.as_deref().map(|supplier| json!(actor(supplier))),
    );
    set(
        "homepage",
        package
            .homepage
            .as_deref()
            .filter(|page| is_address(page))
            .map(|page| json!(page)),
    );
    set("comment", package.layer.map(|layer| json!(format!("layerID: {layer}"))));
    if !files.is_empty() {
        let code = verification_code(files.iter().map(|file| file.sha1.as_str()));
        set(
            "packageVerificationCode",
            Some(json!({ "packageVerificationCodeValue": code })),
        );
    }
    if !package.checksums.is_empty() {
        let checksums = package.checksums.iter();
        let checksums = checksums.map(|(algorithm, value)| json!({ "algorithm": algorithm, "checksumValue": value }));
        set("checksums", Some(checksums.collect()));
    }
    described
}

fn listed(place: usize, file: &OwnedFile) -> Value {
    let mut listed = json!({
        "SPDXID": file_id(place),
        "fileName": format!(".{}", file.path),
        "checksums": [{ "algorithm": "SHA1", "checksumValue": file.sha1 }],
        "licenseConcluded": NOTHING,
        "copyrightText": NOTHING,
    });
    if let Some(layer) = file.layer {
        listed["comment"] = json!(format!("layerID: {layer}"));
    }
    listed
}

/// The licence that a package says it has. What SPDX does not know is kept as it was written.
fn declared(package: &Package, licenses: &mut BTreeMap<String, String>) -> String {
    match package.license.as_deref() {
        None => NOTHING.to_owned(),
        Some(text) if license::is_expression(text) => text.to_owned(),
        Some(text) => {
            let id = license::reference(text);
            licenses.insert(id.clone(), text.to_owned());
            id
        }
    }
}

/// `Person: Name (address)` for who has an address, and an organization otherwise. SPDX 2.3, 7.5.
fn actor(text: &str) -> String {
    let clean = |text: &str| {
        text.replace(['(', ')'], " ")
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    match text
        .split_once('<')
        .and_then(|(name, rest)| Some((name, rest.split_once('>')?.0)))
    {
        Some((name, address)) if !clean(name).is_empty() && address.contains('@') => {
            format!("Person: {} ({})", clean(name), clean(address))
        }
        _ => format!("Organization: {}", clean(text)),
    }
}

/// Whether a text is an address that SPDX takes.
fn is_address(text: &str) -> bool {
    let web = text.starts_with("https://") || text.starts_with("http://");
    web && url::Url::parse(text).is_ok_and(|url| url.host_str().is_some_and(|host| host.contains('.')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_have_addresses() {
        assert_eq!(actor("A B <a@b.c>"), "Person: A B (a@b.c)");
        assert_eq!(actor("Debian (team)"), "Organization: Debian team");
        assert_eq!(actor("<a@b>"), "Organization: <a@b>");
    }
}
