//! The steps of a build, as BuildKit writes operations in JSON (`solver/pb/ops.proto`).

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::BuildFacts;
use crate::graph::{
    Access, CopyAction, Exec, FileAction, FileOp, HostAddress, ModeChange, Mount, MountKind, NetworkMode, Op, Owner,
    SecurityMode, Sharing, Source, Unpack, Vertex, VertexId, without_secrets,
};
use crate::oci::{Digest, Platform};

/// The steps that an image needs, in the order of the graph.
pub(super) struct Steps<'a> {
    facts: &'a BuildFacts<'a>,
    vertices: Vec<(VertexId, &'a Vertex)>,
}

fn reachable(facts: &BuildFacts<'_>, from: Option<VertexId>) -> BTreeSet<VertexId> {
    let mut found = BTreeSet::new();
    let mut pending: Vec<VertexId> = from.into_iter().collect();
    while let Some(id) = pending.pop() {
        if found.insert(id) {
            pending.extend(&facts.graph[id].inputs);
        }
    }
    found
}

impl<'a> Steps<'a> {
    pub(super) fn of(facts: &'a BuildFacts<'a>) -> Self {
        let needed = reachable(facts, facts.result);
        let vertices = needed.into_iter().map(|id| (id, &facts.graph[id])).collect();
        Self { facts, vertices }
    }

    /// What was used, and nothing of it is in the image.
    pub(super) fn sources_besides(&self) -> impl Iterator<Item = &'a Source> {
        let facts = self.facts;
        reachable(facts, facts.generated)
            .into_iter()
            .filter_map(|id| match &facts.graph[id].op {
                Op::Source(source) => Some(source),
                _ => None,
            })
    }

    pub(super) fn sources(&self) -> impl Iterator<Item = &'a Source> {
        self.vertices.iter().filter_map(|(_, vertex)| match &vertex.op {
            Op::Source(source) => Some(source),
            _ => None,
        })
    }

    pub(super) fn execs(&self) -> impl Iterator<Item = &'a Exec> {
        self.vertices.iter().filter_map(|(_, vertex)| match &vertex.op {
            Op::Exec(exec) => Some(exec),
            _ => None,
        })
    }

    /// The names of the user's directories that are read.
    pub(super) fn locals(&self) -> impl Iterator<Item = &'a str> {
        self.sources().filter_map(|source| match source {
            Source::Local(local) => Some(local.name.as_str()),
            _ => None,
        })
    }

    /// The step whose result is the image.
    pub(super) fn result(&self) -> Option<String> {
        self.facts.result.and_then(|id| self.name(id))
    }

    fn name(&self, id: VertexId) -> Option<String> {
        let place = self.vertices.iter().position(|(own, _)| *own == id)?;
        Some(format!("step{place}"))
    }

    /// All steps, and which step has which digest.
    pub(super) fn definition(&self) -> Value {
        let (mut digests, mut mapping, mut steps): (Vec<Digest>, _, _) = (Vec::new(), Map::new(), Vec::new());
        for (place, (_, vertex)) in self.vertices.iter().enumerate() {
            let inputs: Vec<usize> = vertex.inputs.iter().filter_map(|input| self.place(*input)).collect();
            let op = self.operation(vertex);
            let below: Vec<Digest> = inputs.iter().map(|input| digests[*input]).collect();
            let digest = Digest::of(json!([op, below]).to_string().as_bytes());
            mapping.insert(digest.to_string(), format!("step{place}").into());
            digests.push(digest);
            let mut step = json!({ "id": format!("step{place}"), "op": op });
            if !inputs.is_empty() {
                step["inputs"] = inputs.iter().map(|input| format!("step{input}:0")).collect();
            }
            steps.push(step);
        }
        json!({ "llbDefinition": steps, "digestMapping": mapping })
    }

    fn place(&self, id: VertexId) -> Option<usize> {
        self.vertices.iter().position(|(own, _)| *own == id)
    }

    /// Which lines of the Dockerfile each step comes from.
    pub(super) fn locations(&self) -> Value {
        let mut locations = Map::new();
        for (place, (_, vertex)) in self.vertices.iter().enumerate() {
            if let Some((first, last)) = vertex.label.lines {
                let range = json!({ "start": { "line": first }, "end": { "line": last } });
                locations.insert(format!("step{place}"), json!({ "locations": [{ "ranges": [range] }] }));
            }
        }
        Value::Object(locations)
    }

    fn operation(&self, vertex: &Vertex) -> Value {
        let (op, platform) = match &vertex.op {
            Op::Source(source) => (json!({ "source": self.source(source) }), source_platform(source)),
            Op::Exec(exec) => (json!({ "exec": process(exec) }), Some(&exec.platform)),
            Op::File(file) => (json!({ "file": file_operation(file) }), None),
            Op::Merge(merge) => (json!({ "merge": { "inputs": [merge.base, merge.layer] } }), None),
        };
        let mut whole = json!({ "Op": op, "constraints": {} });
        if let Some(platform) = platform {
            let mut shown = json!({ "OS": platform.os, "Architecture": platform.architecture });
            if let Some(variant) = &platform.variant {
                shown["Variant"] = json!(variant);
            }
            whole["platform"] = shown;
        }
        whole
    }

    fn source(&self, source: &Source) -> Value {
        match source {
            Source::Image(image) => {
                let manifest = (self.facts.manifest_of)(image);
                let pinned = match manifest.filter(|_| image.reference.digest().is_none()) {
                    Some(manifest) => format!("docker-image://{}@{manifest}", image.reference),
                    None => format!("docker-image://{}", image.reference),
                };
                json!({ "identifier": pinned })
            }
            Source::Local(local) => json!({ "identifier": format!("local://{}", local.name) }),
            Source::Http(file) => json!({
                "identifier": file.url,
                "attrs": { "http.checksum": file.digest, "http.filename": file.name },
            }),
            Source::Git(commit) => {
                let bare = commit
                    .remote
                    .split_once("://")
                    .map_or(commit.remote.as_str(), |(_, rest)| rest);
                let bare = bare.rsplit_once('@').map_or(bare, |(_, rest)| rest);
                let directory = match commit.subdir.as_str() {
                    "" => String::new(),
                    directory => format!(":{directory}"),
                };
                json!({
                    "identifier": format!("git://{bare}#{}{directory}", commit.commit),
                    "attrs": { "git.fullurl": commit.remote },
                })
            }
            // Of an archive BuildKit would show the unpacking; here that is one step.
            Source::Archive(archive) => json!({ "identifier": format!("archive://{}", archive.digest) }),
        }
    }
}

fn source_platform(source: &Source) -> Option<&Platform> {
    match source {
        Source::Image(image) => Some(&image.platform),
        _ => None,
    }
}

fn process(exec: &Exec) -> Value {
    let mut meta = json!({ "args": exec.args, "env": exec.env, "cwd": exec.working_dir });
    if !exec.user.is_empty() {
        meta["user"] = json!(exec.user);
    }
    if let Some(hostname) = &exec.hostname {
        meta["hostname"] = json!(hostname);
    }
    if !exec.extra_hosts.is_empty() {
        let host = |host: &crate::graph::ExtraHost| {
            let address = match host.address {
                HostAddress::Of(address) => address.to_string(),
                HostAddress::Gateway => "host-gateway".to_owned(),
            };
            json!({ "Host": host.name, "IP": address })
        };
        meta["extraHosts"] = exec.extra_hosts.iter().map(host).collect();
    }
    let root = match exec.base {
        Some(input) => json!({ "dest": "/", "input": input }),
        None => json!({ "dest": "/", "input": -1 }),
    };
    let mounts: Vec<Value> = [root].into_iter().chain(exec.mounts.iter().filter_map(mount)).collect();
    let mut process = json!({ "meta": meta, "mounts": mounts });
    let variables: Vec<Value> = exec.mounts.iter().filter_map(secret_variable).collect();
    if !variables.is_empty() {
        process["secretenv"] = Value::Array(variables);
    }
    match exec.network {
        NetworkMode::Default => {}
        NetworkMode::Host => process["network"] = json!(1),
        NetworkMode::None => process["network"] = json!(2),
    }
    if exec.security == SecurityMode::Insecure {
        process["security"] = json!(1);
    }
    process
}

/// A mount; `None` for a secret that is a variable alone.
fn mount(mount: &Mount) -> Option<Value> {
    let mut shown = json!({ "dest": mount.target, "input": -1 });
    let access = |shown: &mut Value, access: Access| {
        if access == Access::ReadOnly {
            shown["readonly"] = json!(true);
        }
    };
    match &mount.kind {
        MountKind::Bind {
            input,
            source,
            access: own,
        } => {
            shown["input"] = json!(input);
            shown["selector"] = json!(source);
            access(&mut shown, *own);
        }
        MountKind::Cache(cache) => {
            let sharing = match cache.sharing {
                Sharing::Shared => 0,
                Sharing::Private => 1,
                Sharing::Locked => 2,
            };
            shown["mountType"] = json!(3);
            shown["cacheOpt"] = json!({ "ID": cache.id, "sharing": sharing });
            if let Some(input) = cache.input {
                shown["input"] = json!(input);
            }
            access(&mut shown, cache.access);
        }
        MountKind::Tmpfs { size, access: own } => {
            shown["mountType"] = json!(4);
            if let Some(size) = size {
                shown["TmpfsOpt"] = json!({ "size": size });
            }
            access(&mut shown, *own);
        }
        MountKind::Secret(secret) if secret.file => {
            shown["mountType"] = json!(1);
            shown["secretOpt"] = json!({
                "ID": secret.id, "uid": secret.uid, "gid": secret.gid, "mode": secret.mode, "optional": !secret.required,
            });
        }
        MountKind::Secret(_) => return None,
        MountKind::Ssh(agent) => {
            shown["mountType"] = json!(2);
            shown["SSHOpt"] = json!({
                "ID": agent.id, "uid": agent.uid, "gid": agent.gid, "mode": agent.mode, "optional": !agent.required,
            });
        }
        MountKind::File { content, mode } => {
            shown["readonly"] = json!(true);
            shown["data"] = encoded(content);
            shown["mode"] = json!(mode);
        }
    }
    Some(shown)
}

fn secret_variable(mount: &Mount) -> Option<Value> {
    let MountKind::Secret(secret) = &mount.kind else {
        return None;
    };
    let name = secret.env.as_ref()?;
    Some(json!({ "ID": secret.id, "name": name, "optional": !secret.required }))
}

fn file_operation(file: &FileOp) -> Value {
    let base = file.base.map_or(-1, |base| i64::try_from(base).unwrap_or(-1));
    let last = file.actions.len().saturating_sub(1);
    let actions = file.actions.iter().enumerate().map(|(place, action)| {
        let (secondary, shown) = match action {
            FileAction::Copy(copy) => (i64::try_from(copy.input).unwrap_or(-1), json!({ "copy": copied(copy) })),
            FileAction::MakeFile {
                name,
                destination,
                content,
                mode,
                owner,
            } => {
                let path = match destination.ends_with('/') {
                    true => format!("{destination}{name}"),
                    false => destination.clone(),
                };
                let made = json!({ "path": path, "mode": mode, "data": encoded(content), "timestamp": -1 });
                (-1, json!({ "mkfile": owned(made, owner.as_ref()) }))
            }
            FileAction::MakeDirectory { path, mode, owner } => {
                let made = json!({ "path": path, "mode": mode, "makeParents": true, "timestamp": -1 });
                (-1, json!({ "mkdir": owned(made, owner.as_ref()) }))
            }
        };
        // Each action goes on from the one before it; only the last one's result leaves the operation.
        let output = if place == last { 0 } else { -1 };
        json!({ "Action": shown, "input": base, "secondaryInput": secondary, "output": output })
    });
    json!({ "actions": actions.collect::<Vec<Value>>() })
}

fn copied(copy: &CopyAction) -> Value {
    let mut shown = json!({
        "src": copy.sources, "dest": copy.destination, "mode": -1, "timestamp": -1, "followSymlink": true,
        "dirCopyContents": true, "createDestPath": true, "allowWildcard": true, "allowEmptyWildcard": true,
    });
    match &copy.mode {
        Some(ModeChange::Octal(bits)) => shown["mode"] = json!(bits),
        Some(change @ ModeChange::Symbolic(_)) => shown["modeStr"] = json!(change)["Symbolic"].take(),
        None => {}
    }
    if copy.unpack == Unpack::Archives {
        shown["attemptUnpackDockerCompatibility"] = json!(true);
    }
    if !copy.exclude.is_empty() {
        shown["excludePatterns"] = json!(copy.exclude);
    }
    owned(shown, copy.owner.as_ref())
}

fn owned(mut shown: Value, owner: Option<&Owner>) -> Value {
    let by_name = |text: &str| match text.parse::<u32>() {
        Ok(id) => json!({ "User": { "byID": id } }),
        Err(_) => json!({ "User": { "byName": { "name": text } } }),
    };
    if let Some(owner) = owner {
        shown["owner"] = json!({ "user": by_name(&owner.user) });
        if let Some(group) = &owner.group {
            shown["owner"]["group"] = by_name(group);
        }
    }
    shown
}

/// A file's content, without users and passwords of URLs in it.
fn encoded(content: &[u8]) -> Value {
    let text = std::str::from_utf8(content).map(without_secrets);
    let content = text.as_ref().map_or(content, String::as_bytes);
    STANDARD.encode(content).into()
}
