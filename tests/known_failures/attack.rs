//! What attackers bring along: something of the host's to lose, images and archives made by hand, searches for what leaked.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use builder::oci::Digest;
use serde_json::{Value, json};

use crate::support::{Outcome, Project};

/// Writes the Dockerfile and builds it as `app`.
pub fn build(project: &Project, dockerfile: &str, arguments: &str) -> Outcome {
    project.write("Dockerfile", dockerfile);
    project.build(&format!("{arguments} -t app ."))
}

/// A directory of the host's outside store and project: a file with a word that nobody may read, and nothing may change.
pub struct Victim {
    pub directory: PathBuf,
    pub word: String,
}

impl Victim {
    pub fn of(project: &Project) -> Self {
        let directory = project.home().join("victim");
        let word = format!("of-the-host-{}", std::process::id());
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("y"), &word).unwrap();
        fs::create_dir(directory.join("d")).unwrap();
        // Whoever runs the program could read and write all of it.
        for path in ["", "y", "d"] {
            chown(directory.join(path), Some(project.uid()), Some(project.uid())).unwrap();
        }
        Self { directory, word }
    }

    pub fn path(&self) -> &str {
        self.directory.to_str().unwrap()
    }

    #[track_caller]
    pub fn is_untouched(&self) {
        assert_eq!(fs::read_to_string(self.directory.join("y")).unwrap(), self.word);
        assert_eq!(
            listing(&self.directory),
            ["d", "y"].map(PathBuf::from).into_iter().collect()
        );
    }
}

/// Every path below a directory. Something may be changing it meanwhile.
pub fn listing(directory: &Path) -> BTreeSet<PathBuf> {
    let (mut found, mut pending) = (BTreeSet::new(), vec![directory.to_owned()]);
    while let Some(next) = pending.pop() {
        for entry in fs::read_dir(next).into_iter().flatten().flatten() {
            let path = entry.path();
            found.insert(path.strip_prefix(directory).unwrap().to_owned());
            if path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()) {
                pending.push(path);
            }
        }
    }
    found
}

/// The files, names and links below a directory in which `word` stands.
pub fn holding(directory: &Path, word: &str) -> Vec<PathBuf> {
    let word = word.as_bytes();
    let holds = |bytes: &[u8]| bytes.windows(word.len()).any(|window| window == word);
    let mut found = Vec::new();
    for path in listing(directory) {
        let whole = directory.join(&path);
        let Ok(metadata) = whole.symlink_metadata() else {
            continue;
        };
        let content = match (metadata.is_file(), metadata.is_symlink()) {
            (true, _) => fs::read(&whole).unwrap_or_default(),
            (_, true) => fs::read_link(&whole)
                .unwrap_or_default()
                .into_os_string()
                .into_encoded_bytes(),
            _ => Vec::new(),
        };
        if holds(path.as_os_str().as_bytes()) || holds(&content) {
            found.push(path);
        }
    }
    found
}

/// A file in an archive that no `tar` would write.
pub enum Entry<'a> {
    File(&'a str, &'a [u8]),
    Link(&'a str, &'a str),
    HardLink(&'a str, &'a str),
}

/// An archive of these, whatever they are called.
pub fn tar(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut archive = Vec::new();
    for entry in entries {
        let (name, kind, link, content): (_, _, _, &[u8]) = match *entry {
            Entry::File(name, content) => (name, b'0', "", content),
            Entry::HardLink(name, target) => (name, b'1', target, &[]),
            Entry::Link(name, target) => (name, b'2', target, &[]),
        };
        let mut header = [0u8; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, name.as_bytes());
        put(100, b"0000755\0");
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        put(124, format!("{:011o}\0", content.len()).as_bytes());
        put(136, b"00000000000\0");
        put(148, b"        ");
        put(156, &[kind]);
        put(157, link.as_bytes());
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        archive.extend(header);
        archive.extend(content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

/// An OCI layout with one image of these layers and this configuration.
pub fn layout(directory: &Path, layers: &[Vec<u8>], configuration: Value) {
    const OCI: &str = "application/vnd.oci.image";
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |kind: &str, bytes: &[u8]| {
        let digest = Digest::of(bytes).to_string();
        fs::write(blobs.join(digest.strip_prefix("sha256:").unwrap()), bytes).unwrap();
        json!({ "mediaType": format!("{OCI}.{kind}"), "digest": digest, "size": bytes.len() })
    };
    let layers: Vec<Value> = layers.iter().map(|layer| put("layer.v1.tar", layer)).collect();
    let digests: Vec<&Value> = layers.iter().map(|layer| &layer["digest"]).collect();
    let document = json!({
        "architecture": builder::oci::Platform::host().architecture, "os": "linux", "config": configuration,
        "rootfs": { "type": "layers", "diff_ids": digests },
    });
    let configuration = put("config.v1+json", &serde_json::to_vec(&document).unwrap());
    let manifest = json!({
        "schemaVersion": 2, "mediaType": format!("{OCI}.manifest.v1+json"), "config": configuration, "layers": layers,
    });
    let manifest = put("manifest.v1+json", &serde_json::to_vec(&manifest).unwrap());
    let index = json!({ "schemaVersion": 2, "mediaType": format!("{OCI}.index.v1+json"), "manifests": [manifest] });
    fs::write(directory.join("index.json"), serde_json::to_vec(&index).unwrap()).unwrap();
    fs::write(directory.join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}").unwrap();
}

/// A layer with a shell: the host's busybox, which is linked statically.
pub fn shell() -> Vec<u8> {
    let busybox = fs::read("/bin/busybox").unwrap();
    let names = ["bin/sh", "bin/env", "bin/cat", "bin/ls", "bin/id"];
    let mut entries = vec![Entry::File("bin/busybox", &busybox)];
    entries.extend(names.map(|name| Entry::Link(name, "busybox")));
    tar(&entries)
}

/// Processes of this machine whose command is exactly that.
pub fn processes(command: &str) -> usize {
    let found = Command::new("pgrep").args(["-fx", command]).output().unwrap();
    String::from_utf8_lossy(&found.stdout).lines().count()
}
