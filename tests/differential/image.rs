//! An image as `scripts/differential` records it: the configuration with its history, and a line for each file of the
//! flattened layers that is not the base image's.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use flate2::read::GzDecoder;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tar::{Archive, EntryType};

/// What every case stands on.
pub struct Base {
    diff_ids: Vec<Value>,
    files: BTreeMap<String, String>,
    /// Size and digest of the only file that two machines' base images differ in.
    program: String,
}

impl Base {
    /// The image in an OCI archive.
    pub fn of(archive: &Path) -> Self {
        let image = Image::read(archive);
        let files = lines(&flatten(&image));
        let program = files["bin/busybox"]
            .split(' ')
            .skip(3)
            .take(2)
            .collect::<Vec<_>>()
            .join(" ");
        Self {
            diff_ids: image.diff_ids().to_vec(),
            files: files
                .into_iter()
                .map(|(path, line)| (path, line.replace(&program, BUSYBOX)))
                .collect(),
            program,
        }
    }
}

/// Times are compared where a case has set them: after the base image's, before there was a case.
const OLD: Range<u64> = 2..1_577_836_800;

const BUSYBOX: &str = "<busybox>";

struct Image {
    blobs: BTreeMap<String, Vec<u8>>,
    manifest: Value,
    config: Value,
}

impl Image {
    fn read(path: &Path) -> Self {
        let mut blobs = BTreeMap::new();
        for entry in Archive::new(File::open(path).unwrap()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_str().unwrap().to_owned();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            blobs.insert(name, content);
        }
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap().replace(':', "/");
            serde_json::from_slice::<Value>(&blobs[&format!("blobs/{digest}")]).unwrap()
        };
        let index: Value = serde_json::from_slice(&blobs["index.json"]).unwrap();
        let mut manifest = blob(&index["manifests"][0]);
        while let Some(first) = manifest.get("manifests") {
            manifest = blob(&first[0]);
        }
        let config = blob(&manifest["config"]);
        Self {
            blobs,
            manifest,
            config,
        }
    }

    fn diff_ids(&self) -> &[Value] {
        self.config["rootfs"]["diff_ids"].as_array().map_or(&[], Vec::as_slice)
    }

    fn layers(&self) -> impl Iterator<Item = Vec<u8>> {
        let layers = self.manifest["layers"].as_array().map_or(&[][..], Vec::as_slice);
        layers.iter().map(|layer| {
            let digest = layer["digest"].as_str().unwrap().replace(':', "/");
            let mut content = Vec::new();
            GzDecoder::new(&self.blobs[&format!("blobs/{digest}")][..])
                .read_to_end(&mut content)
                .unwrap();
            content
        })
    }
}

/// Names of one file share it.
type Files = BTreeMap<String, Rc<String>>;

fn is_below(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

/// All layers on each other.
fn flatten(image: &Image) -> Files {
    let mut files = Files::new();
    for layer in image.layers() {
        let (mut fresh, mut hidden) = (Files::new(), Vec::new());
        for entry in Archive::new(&layer[..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = normal(&entry.path_bytes());
            let (directory, name) = path.rsplit_once('/').unwrap_or(("", &path));
            if name == ".wh..wh..opq" {
                files.retain(|path, _| !is_below(path, directory));
            } else if let Some(name) = name.strip_prefix(".wh.") {
                hidden.push([directory, name].join("/").trim_start_matches('/').to_owned());
            } else if entry.header().entry_type() == EntryType::Link {
                let target = normal(&entry.link_name_bytes().unwrap());
                let file = fresh.get(&target).unwrap_or_else(|| &files[&target]).clone();
                fresh.insert(path, file);
            } else if !path.is_empty() {
                let line = line(&mut entry);
                fresh.insert(path, Rc::new(line));
            }
        }
        files.retain(|path, _| !hidden.iter().any(|gone| path == gone || is_below(path, gone)));
        for (path, file) in fresh {
            if !file.starts_with("dir ") {
                files.retain(|other, _| !is_below(other, &path));
            }
            files.insert(path, file);
        }
    }
    files
}

fn normal(path: &[u8]) -> String {
    let path = std::str::from_utf8(path).unwrap();
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    parts.join("/")
}

fn line<R: Read>(entry: &mut tar::Entry<'_, R>) -> String {
    let header = entry.header().clone();
    let (uid, gid, mode) = (
        header.uid().unwrap(),
        header.gid().unwrap(),
        header.mode().unwrap() & 0o7777,
    );
    let kind = match header.entry_type() {
        EntryType::Directory => "dir",
        EntryType::Symlink => "link",
        EntryType::Char => "chr",
        EntryType::Block => "blk",
        EntryType::Fifo => "fifo",
        EntryType::Regular | EntryType::Continuous => "file",
        other => panic!("{other:?} in a layer"),
    };
    let mut line = match kind {
        "link" => format!(
            "link {uid}:{gid} -> {}",
            String::from_utf8_lossy(&entry.link_name_bytes().unwrap())
        ),
        _ => format!("{kind} {mode:03o} {uid}:{gid}"),
    };
    let mut time = header.mtime().unwrap();
    let mut attributes = BTreeMap::new();
    for extension in entry.pax_extensions().unwrap().into_iter().flatten() {
        let extension = extension.unwrap();
        match extension.key().unwrap().strip_prefix("SCHILY.xattr.") {
            Some(name) => drop(attributes.insert(name.to_owned(), hex(extension.value_bytes()))),
            None if extension.key() == Ok("mtime") => {
                let seconds = extension.value().unwrap().split('.').next().unwrap();
                time = seconds.parse().unwrap();
            }
            None => {}
        }
    }
    match kind {
        "file" => {
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            write!(line, " {} {}", content.len(), &hex(&Sha256::digest(&content))[..16]).unwrap();
        }
        "chr" | "blk" => {
            let number = |number: std::io::Result<Option<u32>>| number.unwrap().unwrap();
            write!(
                line,
                " {},{}",
                number(header.device_major()),
                number(header.device_minor())
            )
            .unwrap();
        }
        _ => {}
    }
    if OLD.contains(&time) {
        write!(line, " @{time}").unwrap();
    }
    for (name, value) in attributes {
        write!(line, " {name}={value}").unwrap();
    }
    line
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Of several names of one file, all but the first say which that is.
fn lines(files: &Files) -> BTreeMap<String, String> {
    let mut first: BTreeMap<*const String, &str> = BTreeMap::new();
    let mut shown = BTreeMap::new();
    for (path, file) in files {
        let name = *first.entry(Rc::as_ptr(file)).or_insert(path);
        let line = match name == path {
            true => file.to_string(),
            false => format!("{file} = {name}"),
        };
        shown.insert(path.clone(), line);
    }
    shown
}

/// What is compared.
pub fn record(archive: &PathBuf, base: &Base, dated: bool) -> Value {
    let image = Image::read(archive);
    std::fs::remove_file(archive).unwrap();
    let config = &image.config;
    let mut told = Map::new();
    let settings = config["config"].as_object().into_iter().flatten();
    let settings: Map<String, Value> = settings
        .filter(|(_, value)| !is_empty(value))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    told.insert("config".into(), settings.into());
    for key in ["architecture", "os", "variant", "author"] {
        if let Some(value) = config.get(key).filter(|value| !is_empty(value)) {
            told.insert(key.into(), value.clone());
        }
    }
    if dated {
        told.insert("created".into(), config["created"].clone());
    }
    let history = config["history"].as_array().into_iter().flatten();
    told.insert("history".into(), history.map(|entry| event(entry, dated)).collect());
    told.insert("layers".into(), json!(image.diff_ids().len()));
    let stands_on_it = image.diff_ids().starts_with(&base.diff_ids);
    if stands_on_it {
        told.insert("base".into(), json!("busybox"));
    }
    let files = lines(&flatten(&image));
    let mut own = Map::new();
    for (path, line) in &files {
        let line = line.replace(&base.program, BUSYBOX);
        if !(stands_on_it && base.files.get(path) == Some(&line)) {
            own.insert(path.clone(), json!(line));
        }
    }
    if stands_on_it {
        let gone = base.files.keys().filter(|path| !files.contains_key(*path));
        own.extend(gone.map(|path| (path.clone(), json!("gone"))));
    }
    told.insert("files".into(), own.into());
    told.into()
}

fn event(entry: &Value, dated: bool) -> Value {
    let text = |key: &str| entry[key].as_str().filter(|text| !text.is_empty());
    let mut parts = Vec::new();
    parts.extend(text("created").filter(|_| dated).map(str::to_owned));
    parts.extend((entry["empty_layer"] == true).then(|| "(empty)".to_owned()));
    parts.extend(text("comment").map(|comment| format!("[{comment}]")));
    parts.extend(text("author").map(|author| format!("<{author}>")));
    parts.extend(text("created_by").map(str::to_owned));
    json!(parts.join(" "))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}
