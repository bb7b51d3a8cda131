//! What a step's mounts are made of: views of snapshots, copies of contexts, caches, secrets, agents.
//!
//! Owns what must live as long as the process, and lets go of all of it when the process has ended; how it gets into the
//! root is the sandbox's affair.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::agent::Forwarding;
use super::cache_mount::{self, CacheMountError, Opening, Wanted};
use super::exec::{ExecError, ExecTask};
use super::file::{FileError, Input, copy_aside};
use super::sandbox::{Bytes, Isolation, SandboxSpec};
use crate::graph::{
    Access, CacheMount, CopyAction, FileAction, FileOp, Mount, MountKind, SecretMount, Sharing, SshMount, Unpack,
};
use crate::snapshot::{ActiveSnapshot, ContainerPath, Owner, Rootfs};
use crate::store::{CacheMountIdentity, CacheMountName, CacheMountSeed, SnapshotId, User};

/// Where in a root of its own a part of a context or snapshot is copied to.
const COPY: &str = "source";

/// What must live as long as the process: locks of cache mounts, files whose changes are thrown away, agents' sockets.
#[derive(Default)]
pub(super) struct Scene {
    /// By name: two mounts of one cache in one step are one, however it is shared.
    caches: Vec<(CacheMountName, cache_mount::Held)>,
    /// Which of them a mount is, by its place among the operation's.
    cache_names: BTreeMap<usize, CacheMountName>,
    /// Thrown away, unless the step fails and is to be looked at.
    pub(super) changed: Vec<Changed>,
    views: Vec<Rootfs>,
    /// The caches that are lent, and not mounted.
    lent: Vec<CacheMountName>,
    agents: Vec<Forwarding>,
    /// The flags that give what the step can do without and was not given.
    pub(super) lacking: Vec<String>,
}

/// What a bind mount takes.
enum BindSource {
    /// What nobody can change.
    View(Rootfs),
    /// Files of this step alone, and where in them.
    Copy(Box<ActiveSnapshot>, String),
}

/// What a process may have changed of something that it was lent.
pub(super) struct Changed {
    /// The mount's place among the operation's.
    pub(super) mount: usize,
    /// The files.
    pub(super) files: Box<ActiveSnapshot>,
    /// The part of them that was mounted.
    pub(super) path: String,
}

impl ExecTask<'_> {
    /// Adds the operation's mounts to `spec`, in their order.
    pub(super) fn mount_all(&self, user: Owner, spec: &mut SandboxSpec, scene: &mut Scene) -> Result<(), ExecError> {
        self.open_caches(user, scene)?;
        self.op
            .mounts
            .iter()
            .enumerate()
            .try_for_each(|(place, mount)| self.mount(place, mount, spec, scene))
    }

    /// Opens all caches before anything is mounted, in the order of their names: two steps that want the same two for
    /// themselves do not wait for each other.
    fn open_caches(&self, user: Owner, scene: &mut Scene) -> Result<(), ExecError> {
        let mut caches: BTreeMap<CacheMountName, Wanted<'_>> = BTreeMap::new();
        for (place, mount) in self.op.mounts.iter().enumerate() {
            if let MountKind::Cache(cache) = &mount.kind {
                let identity = self.cache_identity(cache, user);
                let name = identity.name(0);
                scene.cache_names.insert(place, name);
                let wanted = caches.entry(name).or_insert_with(|| Wanted {
                    cache,
                    identity,
                    sharing: cache.sharing,
                    seed: None,
                    step: self.name,
                });
                wanted.sharing = stricter(wanted.sharing, cache.sharing);
            }
        }
        for (name, mut wanted) in caches {
            let cache = wanted.cache;
            let seed = |new: &Path| self.seed(cache, new);
            if cache.input.is_some() {
                wanted.seed = Some(&seed);
            }
            // One that is lent, and not mounted, is in one place at a time.
            if self.resources.isolation == Isolation::Chroot && wanted.sharing == Sharing::Shared {
                wanted.sharing = Sharing::Locked;
            }
            let waiting = |users: &[User]| self.say(&waiting_for(wanted.identity.shown(), users));
            let opening = Opening {
                store: self.store,
                mounts: self.mounts,
                cancel: self.cancel,
                waiting: &waiting,
            };
            let held = cache_mount::open(opening, &wanted)?;
            scene.caches.push((name, held));
        }
        Ok(())
    }

    /// What tells a cache from others. A new one belongs to the step's user where nothing else is said; what it starts from
    /// has owners of its own.
    fn cache_identity(&self, cache: &CacheMount, user: Owner) -> CacheMountIdentity {
        let seed = self.seed_identity(cache).map(|identity| CacheMountSeed {
            identity,
            source: cache.source.clone(),
        });
        let follows = seed.is_none() && cache.uid.is_none() && cache.gid.is_none();
        let user = if follows { user } else { Owner::default() };
        CacheMountIdentity {
            id: cache.id.clone(),
            uid: cache.uid.unwrap_or(user.uid),
            gid: cache.gid.unwrap_or(user.gid),
            mode: cache.mode,
            seed,
        }
    }

    /// What stands for that which a new cache starts from.
    fn seed_identity(&self, cache: &CacheMount) -> Option<[u8; 32]> {
        let mut hash = blake3::Hasher::new_derive_key("builder 1 seed of a cache mount");
        match self.inputs.get(cache.input?)? {
            Input::Snapshot(None) => {}
            Input::Snapshot(Some(snapshot)) => drop(hash.update(&snapshot.to_bits().to_le_bytes())),
            Input::Context(context) => {
                let directory = rustix::fs::fstat(context.root()).ok()?;
                hash.update(&directory.st_dev.to_le_bytes())
                    .update(&directory.st_ino.to_le_bytes());
            }
        }
        Some(hash.finalize().into())
    }

    /// Makes `new` what the cache's `source` is in its input: a copy, since a cache changes and an input does not.
    fn seed(&self, cache: &CacheMount, new: &Path) -> Result<(), FileError> {
        let Some(input) = cache.input else {
            return Ok(());
        };
        let copy = self.copy_of(input, &cache.source)?;
        let root = copy.mount()?;
        let made = ContainerPath::new(COPY)?;
        if let Input::Snapshot(snapshot) = &self.inputs[input]
            && let (Ok(own), Ok(directory)) = (
                self.snapshotter
                    .view(*snapshot)?
                    .stat(&ContainerPath::new(&cache.source)?),
                root.open_directory(&made),
            )
        {
            // What is copied is the directory's content; the cache stands for the directory itself.
            let given = rustix::fs::fchown(
                &directory,
                Some(rustix::fs::Uid::from_raw(own.st_uid)),
                Some(rustix::fs::Gid::from_raw(own.st_gid)),
            );
            let mode = rustix::fs::Mode::from_raw_mode(own.st_mode & 0o7777);
            let given = given.and_then(|()| rustix::fs::fchmod(&directory, mode));
            // A user with a single id has one owner to give.
            if let Err(errno) = given
                && errno != rustix::io::Errno::INVAL
            {
                return Err(refused("give an owner to", &cache.source, errno.into()));
            }
        }
        drop(root);
        std::fs::rename(copy.overlay().upper.join(COPY), new).map_err(|error| refused("keep", &cache.source, error))
    }

    fn mount(&self, place: usize, mount: &Mount, spec: &mut SandboxSpec, scene: &mut Scene) -> Result<(), ExecError> {
        match &mount.kind {
            MountKind::Bind { input, source, access } => {
                let (view, path) = match self.bind_source(*input, source, *access)? {
                    BindSource::View(view) => (view, source.clone()),
                    BindSource::Copy(files, path) => {
                        let view = files.mount()?;
                        let (mount, shown) = (place, path.clone());
                        scene.changed.push(Changed { mount, files, path });
                        (view, shown)
                    }
                };
                let copy = view.try_clone().map_err(|error| refused("open", source, error))?;
                spec.bind_part(mount.target.clone(), copy.into_fd(), part(&path), *access);
                // It may be a tree that goes with its last user.
                scene.views.push(view);
            }
            MountKind::Cache(cache) => {
                let name = scene.cache_names.get(&place).copied();
                let held = scene.caches.iter().find(|(known, _)| Some(*known) == name);
                let Some((name, held)) = held else {
                    unreachable!("all caches were opened before")
                };
                let path = if cache.input.is_some() { "/" } else { &cache.source };
                let target = mount.target.clone();
                match (spec.isolation, cache.access) {
                    (Isolation::Sandbox, access) => spec.bind_part(target, held.tree()?, part(path), access),
                    (Isolation::Chroot, Access::ReadOnly) => {
                        spec.bind_part(target, held.directory()?, part(path), Access::ReadOnly);
                    }
                    (Isolation::Chroot, Access::ReadWrite) => {
                        if scene.lent.contains(name) {
                            return Err(CacheMountError::Twice(cache.id.clone()).into());
                        }
                        let (directory, part) = held.part(path)?;
                        spec.lend(target, directory, part);
                        scene.lent.push(*name);
                    }
                }
            }
            MountKind::Tmpfs { size, access } => spec.tmpfs(mount.target.clone(), *size, *access),
            MountKind::Secret(secret) => self.secret(&mount.target, secret, spec, scene)?,
            MountKind::Ssh(ssh) => self.agent(&mount.target, ssh, spec, scene)?,
            MountKind::File { content, mode } => {
                spec.file(mount.target.clone(), content.clone(), *mode, (0, 0), Access::ReadOnly);
            }
        }
        Ok(())
    }

    /// What a bind mount takes. Where the process may write, it writes to a copy that is thrown away.
    fn bind_source(&self, input: usize, source: &str, access: Access) -> Result<BindSource, ExecError> {
        let snapshot = match &self.inputs[input] {
            Input::Snapshot(snapshot) => *snapshot,
            // What the ignore file leaves out is not seen, and nothing of the user's directory is within the process's
            // reach: a copy of this one path, which goes when the step has ended.
            Input::Context(_) => {
                let copy = self.copy_of(input, source)?;
                return Ok(BindSource::Copy(Box::new(copy), format!("/{COPY}")));
            }
        };
        Ok(match access {
            Access::ReadOnly => BindSource::View(self.snapshotter.view(snapshot)?),
            Access::ReadWrite => BindSource::Copy(Box::new(self.snapshotter.prepare(snapshot)?), source.to_owned()),
        })
    }

    /// What an input has at `source`, copied into a root of its own that nothing keeps.
    fn copy_of(&self, input: usize, source: &str) -> Result<ActiveSnapshot, FileError> {
        let copy = CopyAction {
            input,
            sources: vec![source.to_owned()],
            destination: format!("/{COPY}"),
            owner: None,
            mode: None,
            exclude: Vec::new(),
            parents: false,
            unpack: Unpack::Never,
        };
        let op = FileOp {
            base: None,
            actions: vec![FileAction::Copy(copy)],
        };
        copy_aside(&op, self.inputs, self.snapshotter, self.cancel)
    }

    /// The value is in memory only: in a file that no disk holds, in a variable of the process.
    fn secret(
        &self,
        target: &str,
        secret: &SecretMount,
        spec: &mut SandboxSpec,
        scene: &mut Scene,
    ) -> Result<(), ExecError> {
        let value = self.secrets.read(&secret.id)?;
        if value.is_none() && secret.required {
            return Err(ExecError::NoSecret(secret.id.clone()));
        }
        if value.is_none() {
            scene.lacking.push(format!("--secret id={0},src=FILE", secret.id));
        }
        if let Some(name) = &secret.env {
            // A variable that was asked for is there, if only with nothing in it: BuildKit's way.
            let value = value.as_deref().unwrap_or_default();
            if value.contains(&0) {
                return Err(ExecError::SecretVariable(secret.id.clone()));
            }
            spec.env.push(Bytes([name.as_bytes(), b"=", value].concat()));
        }
        if let (Some(value), true) = (value, secret.file) {
            spec.file(target, value, secret.mode, (secret.uid, secret.gid), Access::ReadOnly);
        }
        Ok(())
    }

    /// A socket of this step alone, behind which the user's agent answers. An agent that is not there is no mount.
    fn agent(&self, target: &str, ssh: &SshMount, spec: &mut SandboxSpec, scene: &mut Scene) -> Result<(), ExecError> {
        let Some(agent) = self.agents.0.get(&ssh.id) else {
            if ssh.required {
                return Err(ExecError::NoAgent(ssh.id.clone()));
            }
            scene.lacking.push(format!("--ssh {}", ssh.id));
            return Ok(());
        };
        let forwarding = Forwarding::start(self.store, ssh, agent)?;
        match spec.isolation {
            Isolation::Sandbox => spec.bind(target, forwarding.tree()?, Access::ReadWrite),
            Isolation::Chroot => {
                let (directory, name) = forwarding.place()?;
                spec.lend(target, directory, name);
            }
        }
        scene.agents.push(forwarding);
        Ok(())
    }

    /// The snapshot that is input `index`; `None` for an empty one.
    pub(super) fn snapshot(&self, index: usize) -> Option<SnapshotId> {
        match &self.inputs[index] {
            Input::Snapshot(snapshot) => *snapshot,
            Input::Context(_) => None,
        }
    }
}

/// What two mounts of one cache in one step are together.
fn stricter(one: Sharing, other: Sharing) -> Sharing {
    match (one, other) {
        (Sharing::Locked, _) | (_, Sharing::Locked) => Sharing::Locked,
        (Sharing::Private, _) | (_, Sharing::Private) => Sharing::Private,
        (Sharing::Shared, Sharing::Shared) => Sharing::Shared,
    }
}

/// Who has a cache mount that a step waits for, and who else waits.
fn waiting_for(id: &str, users: &[User]) -> String {
    let shown = |user: &User| format!("{} (process {})", user.what, user.process);
    let (waiting, having): (Vec<&User>, Vec<&User>) = users.iter().partition(|user| user.waits);
    let having: Vec<String> = having.into_iter().map(shown).collect();
    // The last of those who wait is this step.
    let before = match waiting.len().saturating_sub(1) {
        0 => String::new(),
        count => format!("; {count} more before this step"),
    };
    format!(
        "waiting for cache mount `{id}`, which is in use by {}{before}",
        having.join(", ")
    )
}

fn refused(action: &'static str, path: &str, source: io::Error) -> FileError {
    FileError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

/// The part of a tree that is mounted: an empty path and `/` are all of it.
fn part(path: &str) -> Option<Vec<u8>> {
    (!path.trim_matches('/').is_empty()).then(|| path.as_bytes().to_vec())
}
