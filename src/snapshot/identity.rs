//! Who a container's process is, and whom a copied file belongs to: `USER` and `--chown`, looked up in the image's own
//! `/etc/passwd` and `/etc/group`.
//!
//! Owns the reading of these files, which are hostile: regular files inside the root only, at most 10 MiB, line by line.
//! Source: Dockerfile reference, "USER" and "COPY --chown"; passwd(5), group(5).

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStringExt;

use super::path::{ContainerPath, shown};
use super::rootfs::{Owner, Rootfs, RootfsError};

/// No honest user database is larger.
const LARGEST_DATABASE: u64 = 10 << 20;
/// Docker takes ids up to this: the largest positive 32-bit number.
const LARGEST_ID: u32 = i32::MAX as u32;
/// Linux, `NGROUPS_MAX`.
const MOST_GROUPS: usize = 65536;

/// The identity of a container's process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups; the primary one is always among them, so that a file that refuses its group refuses us.
    pub groups: Vec<u32>,
    /// The home directory, for `HOME`.
    pub home: OsString,
}

/// A user or a group that cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// No such user.
    #[error("unable to find user `{0}`: no such name in the image's /etc/passwd")]
    NoUser(String),
    /// No such group.
    #[error("unable to find group `{0}`: no such name in the image's /etc/group")]
    NoGroup(String),
    /// A number that is no id.
    #[error("`{0}` is not a user or group id: expected 0 to {LARGEST_ID}")]
    OutOfRange(String),
    /// A database that cannot be read.
    #[error("cannot look up users and groups of the image")]
    Database(#[from] RootfsError),
}

/// What `user` or `group` is in `user:group`.
enum Name<'a> {
    Text(&'a str),
    Id(u32),
}

/// A line of `/etc/passwd`.
struct User {
    name: Vec<u8>,
    uid: u32,
    gid: u32,
    home: Vec<u8>,
}

/// The process that `USER user[:group]` asks for; root when `spec` is empty.
///
/// # Errors
/// A name that the image does not have; a number that is no id; a database that is not a regular file or too large.
pub fn lookup(rootfs: &Rootfs, spec: &str) -> Result<Identity, IdentityError> {
    let (user, group) = split(spec);
    if spec.is_empty() {
        // The default needs no database: one that cannot be read adds nothing to it.
        let found = find_user(rootfs, &Name::Id(0)).ok().flatten();
        return Ok(identity(rootfs, 0, None, found).unwrap_or_else(|_| bare(0, 0)));
    }
    let user = if user.is_empty() { Name::Id(0) } else { parse(user)? };
    let group = group.filter(|group| !group.is_empty()).map(parse).transpose()?;
    if let (Name::Id(uid), Some(Name::Id(gid))) = (&user, &group) {
        let home = find_user(rootfs, &user).ok().flatten().map(|user| user.home);
        return Ok(Identity {
            home: home_of(home),
            ..bare(*uid, *gid)
        });
    }
    let found = find_user(rootfs, &user)?;
    let uid = match (&found, user) {
        (Some(found), _) => found.uid,
        (None, Name::Id(uid)) => uid,
        (None, Name::Text(name)) => return Err(IdentityError::NoUser(shown(name.as_bytes()))),
    };
    identity(rootfs, uid, group, found)
}

/// The owner that `--chown=user[:group]` asks for. A number alone stands for both ids; a name alone brings its group.
///
/// # Errors
/// As [`lookup`].
pub fn lookup_owner(rootfs: &Rootfs, spec: &str) -> Result<Owner, IdentityError> {
    owner_of(rootfs, spec, Unknown::Refused)
}

/// The owner `user[:group]`, where a user that the image does not have stands for root, and a group that it does not
/// have for the user's own.
///
/// # Errors
/// As [`lookup_owner`], but for unknown names.
pub fn lookup_owner_or_root(rootfs: &Rootfs, spec: &str) -> Result<Owner, IdentityError> {
    owner_of(rootfs, spec, Unknown::Root)
}

/// What a name that the image does not have comes to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unknown {
    Refused,
    Root,
}

fn owner_of(rootfs: &Rootfs, spec: &str, unknown: Unknown) -> Result<Owner, IdentityError> {
    let (user, group) = split(spec);
    let user = parse(user)?;
    let group = group.filter(|group| !group.is_empty()).map(parse).transpose()?;
    let (uid, own_gid) = match user {
        Name::Id(uid) => (uid, uid),
        Name::Text(name) => match find_user(rootfs, &user)? {
            Some(user) => (user.uid, user.gid),
            None if unknown == Unknown::Root => (0, 0),
            None => return Err(IdentityError::NoUser(shown(name.as_bytes()))),
        },
    };
    let gid = match group.map_or(Ok(own_gid), |group| find_group(rootfs, group)) {
        Err(IdentityError::NoGroup(_)) if unknown == Unknown::Root => own_gid,
        found => found?,
    };
    Ok(Owner { uid, gid })
}

fn split(spec: &str) -> (&str, Option<&str>) {
    match spec.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (spec, None),
    }
}

fn parse(name: &str) -> Result<Name<'_>, IdentityError> {
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(Name::Text(name));
    }
    match name.parse::<u32>() {
        Ok(id) if id <= LARGEST_ID => Ok(Name::Id(id)),
        _ => Err(IdentityError::OutOfRange(shown(name.as_bytes()))),
    }
}

fn bare(uid: u32, gid: u32) -> Identity {
    Identity {
        uid,
        gid,
        groups: vec![gid],
        home: home_of(None),
    }
}

fn home_of(home: Option<Vec<u8>>) -> OsString {
    match home {
        Some(home) if !home.is_empty() => OsString::from_vec(home),
        _ => "/".into(),
    }
}

fn identity(
    rootfs: &Rootfs,
    uid: u32,
    group: Option<Name<'_>>,
    found: Option<User>,
) -> Result<Identity, IdentityError> {
    let mut groups = Vec::new();
    let gid = match (group, &found) {
        (Some(group), _) => find_group(rootfs, group)?,
        (None, Some(user)) => {
            groups = member_groups(rootfs, &user.name)?;
            user.gid
        }
        (None, None) => 0,
    };
    if !groups.contains(&gid) {
        groups.insert(0, gid);
    }
    Ok(Identity {
        uid,
        gid,
        groups,
        home: home_of(found.map(|user| user.home)),
    })
}

fn find_user(rootfs: &Rootfs, wanted: &Name<'_>) -> Result<Option<User>, IdentityError> {
    let mut found = None;
    each_line(rootfs, "/etc/passwd", |fields| {
        let (Some(uid), Some(gid)) = (id(fields.get(2)), id(fields.get(3))) else {
            return true;
        };
        let fits = match wanted {
            Name::Text(name) => fields[0] == name.as_bytes(),
            Name::Id(id) => uid == *id,
        };
        if fits {
            found = Some(User {
                name: fields[0].to_vec(),
                uid,
                gid,
                home: fields.get(5).map_or_else(Vec::new, |home| home.to_vec()),
            });
        }
        !fits
    })?;
    match (found, wanted) {
        // An image without a database has root all the same.
        (None, Name::Text("root")) => Ok(Some(User {
            name: b"root".to_vec(),
            uid: 0,
            gid: 0,
            home: b"/root".to_vec(),
        })),
        (found, _) => Ok(found),
    }
}

fn find_group(rootfs: &Rootfs, wanted: Name<'_>) -> Result<u32, IdentityError> {
    let name = match wanted {
        Name::Id(gid) => return Ok(gid),
        Name::Text(name) => name,
    };
    let mut found = (name == "root").then_some(0);
    each_line(rootfs, "/etc/group", |fields| {
        let fits = fields[0] == name.as_bytes();
        if let (true, Some(gid)) = (fits, id(fields.get(2))) {
            found = Some(gid);
        }
        !fits
    })?;
    found.ok_or_else(|| IdentityError::NoGroup(shown(name.as_bytes())))
}

/// The groups that name `user` as a member, in the order of the database.
fn member_groups(rootfs: &Rootfs, user: &[u8]) -> Result<Vec<u32>, IdentityError> {
    let mut groups = Vec::new();
    each_line(rootfs, "/etc/group", |fields| {
        let members = fields.get(3).copied().unwrap_or_default();
        if let Some(gid) = id(fields.get(2))
            && members.split(|byte| *byte == b',').any(|member| member == user)
            && !groups.contains(&gid)
        {
            groups.push(gid);
        }
        groups.len() < MOST_GROUPS - 1
    })?;
    Ok(groups)
}

fn id(field: Option<&&[u8]>) -> Option<u32> {
    let id: u32 = std::str::from_utf8(field?).ok()?.parse().ok()?;
    (id <= LARGEST_ID).then_some(id)
}

/// Hands the fields of each line to `take`, until that says false. A file that is not there has no lines.
fn each_line(rootfs: &Rootfs, path: &'static str, mut take: impl FnMut(&[&[u8]]) -> bool) -> Result<(), IdentityError> {
    let path = ContainerPath::new(path).expect("a constant without NUL");
    let file = match rootfs.open_regular(&path) {
        Err(error) if error.is_not_found() => return Ok(()),
        result => result?,
    };
    let mut lines = BufReader::new(file.take(LARGEST_DATABASE + 1));
    let (mut line, mut total) = (Vec::new(), 0);
    loop {
        line.clear();
        let count = lines
            .read_until(b'\n', &mut line)
            .map_err(|source| RootfsError::Access {
                action: "read",
                path: path.clone(),
                source,
            })?;
        total += count as u64;
        if total > LARGEST_DATABASE {
            return Err(RootfsError::TooLarge {
                path,
                limit: LARGEST_DATABASE,
            }
            .into());
        }
        let text = line.trim_ascii();
        if count == 0 || (!text.is_empty() && !take(&text.split(|byte| *byte == b':').collect::<Vec<_>>())) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::Path;

    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\nbroken\nnext:x:4294967295:0::/:\n\
                          app:x:1000:1001:App:/srv/app:/bin/sh\nhomeless:x:1002:1002::\n";
    const GROUP: &str = "root:x:0:\nbin:x:1:root,daemon\napp:x:1001:\nextra:x:2000:other,app\ndocker:x:2001:app\n";

    fn image(passwd: &[u8], group: &[u8]) -> (tempfile::TempDir, Rootfs) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("etc")).unwrap();
        std::fs::write(directory.path().join("etc/passwd"), passwd).unwrap();
        std::fs::write(directory.path().join("etc/group"), group).unwrap();
        let rootfs = Rootfs::open_host_directory(directory.path()).unwrap();
        (directory, rootfs)
    }

    fn found(spec: &str) -> (u32, u32, Vec<u32>, String) {
        let (_directory, rootfs) = image(PASSWD.as_bytes(), GROUP.as_bytes());
        let identity = lookup(&rootfs, spec).unwrap();
        (
            identity.uid,
            identity.gid,
            identity.groups,
            identity.home.into_string().unwrap(),
        )
    }

    #[test]
    fn users_are_found_as_the_reference_says() {
        let root = (0, 0, vec![0, 1], "/root".to_owned());
        assert_eq!(found(""), root);
        assert_eq!(found("root"), root);
        assert_eq!(found("0"), root);
        let app = (1000, 1001, vec![1001, 2000, 2001], "/srv/app".to_owned());
        assert_eq!(found("app"), app);
        assert_eq!(found("1000"), app);
        assert_eq!(found("homeless").3, "/");
        // A group that is given is the only one.
        assert_eq!(found("app:extra"), (1000, 2000, vec![2000], "/srv/app".to_owned()));
        assert_eq!(found("app:7"), (1000, 7, vec![7], "/srv/app".to_owned()));
        assert_eq!(found("1000:1001"), (1000, 1001, vec![1001], "/srv/app".to_owned()));
        assert_eq!(found("77"), (77, 0, vec![0], "/".to_owned()));
        assert_eq!(found("77:app"), (77, 1001, vec![1001], "/".to_owned()));
    }

    #[test]
    fn cve_2023_25173_the_primary_group_is_among_the_groups() {
        for spec in ["", "0", "app", "app:extra", "5:6", "9"] {
            let (_, gid, groups, _) = found(spec);
            assert!(groups.contains(&gid), "{spec}");
        }
    }

    #[test]
    fn who_is_unknown_is_an_error() {
        let (_directory, rootfs) = image(PASSWD.as_bytes(), GROUP.as_bytes());
        for spec in [
            "nobody",
            "ap",
            "next",
            "app:nogroup",
            "broken",
            " app",
            "4294967295",
            "2147483648:0",
            "-1",
            "0:-1",
        ] {
            assert!(lookup(&rootfs, spec).is_err(), "{spec}");
        }
        assert!(matches!(lookup_owner(&rootfs, "nobody"), Err(IdentityError::NoUser(_))));
        assert!(matches!(lookup_owner(&rootfs, ""), Err(IdentityError::NoUser(_))));
    }

    #[test]
    fn chown_takes_a_number_for_both_ids() {
        let (_directory, rootfs) = image(PASSWD.as_bytes(), GROUP.as_bytes());
        let lenient = |spec: &str| lookup_owner_or_root(&rootfs, spec).map(|owner| (owner.uid, owner.gid));
        assert_eq!(lenient("nobody-here").unwrap(), (0, 0));
        assert_eq!(lenient("5:nobody-here").unwrap(), (5, 5));
        let owner = |spec: &str| lookup_owner(&rootfs, spec).map(|owner| (owner.uid, owner.gid)).unwrap();
        assert_eq!(owner("55"), (55, 55));
        assert_eq!(owner("1000"), (1000, 1000));
        assert_eq!(owner("app"), (1000, 1001));
        assert_eq!(owner("app:docker"), (1000, 2001));
        assert_eq!(owner("55:56"), (55, 56));
    }

    #[test]
    fn an_image_without_databases_has_root_only() {
        let directory = tempfile::tempdir().unwrap();
        let rootfs = Rootfs::open_host_directory(directory.path()).unwrap();
        assert_eq!(lookup(&rootfs, "").unwrap(), bare(0, 0));
        assert_eq!(lookup(&rootfs, "root").unwrap().uid, 0);
        assert_eq!(lookup(&rootfs, "12").unwrap(), bare(12, 0));
        assert!(matches!(lookup(&rootfs, "app"), Err(IdentityError::NoUser(_))));
    }

    /// An image whose `/etc/passwd` is what `make` puts there.
    fn image_with_passwd(make: impl FnOnce(&Path)) -> (tempfile::TempDir, Rootfs) {
        let (directory, rootfs) = image(b"", b"");
        let passwd = directory.path().join("etc/passwd");
        std::fs::remove_file(&passwd).unwrap();
        make(&passwd);
        (directory, rootfs)
    }

    #[test]
    fn cve_2024_9676_a_passwd_that_is_no_regular_file_is_neither_read_nor_waited_for() {
        let make = |what: &str, path: &Path| match what {
            "fifo" => rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::from_raw_mode(0o644)).unwrap(),
            "socket" => drop(std::os::unix::net::UnixListener::bind(path).unwrap()),
            _ => std::fs::create_dir(path).unwrap(),
        };
        for what in ["fifo", "socket", "directory"] {
            let (_directory, rootfs) = image_with_passwd(|path| make(what, path));
            let refused = lookup(&rootfs, "app");
            assert!(
                matches!(refused, Err(IdentityError::Database(RootfsError::NotRegular(_)))),
                "{what}: {refused:?}"
            );
            // What needs no database works without.
            assert_eq!(lookup(&rootfs, "1:2").unwrap(), bare(1, 2), "{what}");
            assert_eq!(lookup(&rootfs, "").unwrap().uid, 0, "{what}");
        }
    }

    #[test]
    fn cve_2024_9676_a_passwd_that_links_to_the_host_is_not_found() {
        for target in [
            "/dev/zero",
            "/etc/passwd",
            "../../../../../../etc/passwd",
            "/proc/self/environ",
        ] {
            let (_directory, rootfs) = image_with_passwd(|path| std::os::unix::fs::symlink(target, path).unwrap());
            assert!(lookup(&rootfs, "daemon").is_err(), "{target}");
        }
    }

    #[test]
    fn ghsa_72x6_4j93_7w86_a_giant_passwd_is_refused() {
        for line in [&b"x:x:1:1:::\n"[..], &[b'a'; 64]] {
            let (_directory, rootfs) = image_with_passwd(|path| {
                let mut file = std::fs::File::create(path).unwrap();
                for _ in 0..(LARGEST_DATABASE as usize / line.len() + 2) / 1000 + 1 {
                    file.write_all(&line.repeat(1000)).unwrap();
                }
            });
            let refused = lookup(&rootfs, "app");
            assert!(matches!(
                refused,
                Err(IdentityError::Database(RootfsError::TooLarge { .. }))
            ));
        }
    }
}
