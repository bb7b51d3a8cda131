//! Files behind URLs.
//!
//! A file with a checksum is known without asking anybody; of any other the content is the identity, so that it is
//! fetched when the build is planned, or found to be unchanged.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, Timespec, Timestamps};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use url::Url;

use super::error::host;
use super::known::{Known, name_of};
use super::{Fetcher, SourceError};
use crate::graph::{HttpRequest, HttpSource};
use crate::oci::{Digest, Timestamp};
use crate::progress::Event;
use crate::registry::{Conditions, FileAnswer, FileReader, FileRequest, RegistryError, Secret, ShownUrl};
use crate::snapshot::{ContainerPath, Limits, Owner, set_owner_of_open};
use crate::store::{SnapshotId, StoreError};

/// Permission bits of what has none of its own.
const MODE: u32 = 0o600;
/// Times that a file is begun anew when it changes or breaks off on its way.
const ATTEMPTS: usize = 3;
/// How often progress is told, in bytes.
const NEWS: u64 = 4 << 20;
/// Bytes that are moved at a time.
const BUFFER: usize = 128 << 10;

impl Fetcher<'_> {
    /// Finds out what a URL stands for. Without a checksum the content is in the store then.
    ///
    /// # Errors
    /// When the server does not give it.
    pub fn http(&self, request: &HttpRequest) -> Result<HttpSource, SourceError> {
        let source = |digest, modified| HttpSource {
            digest,
            name: request.name.clone(),
            mode: MODE,
            uid: 0,
            gid: 0,
            modified,
            url: request.url.clone(),
        };
        if let Some(checksum) = request.checksum {
            return Ok(source(checksum, None));
        }
        // Another process may be fetching the same: then its content serves.
        let lock = format!("download {}", name_of(&request.url));
        let _fetching = self.store.lock(&lock, self.cancel)?;
        let known = self.fetch(&request.url)?;
        Ok(source(known.digest, modified(&known)))
    }

    /// Sees to it that a file's content is in the store: that of one with a checksum was not asked for yet.
    ///
    /// # Errors
    /// When the server does not give it, or gives something else.
    pub fn bring(&self, file: &HttpSource) -> Result<(), SourceError> {
        self.content(file).map(drop)
    }

    /// A snapshot with the file alone.
    pub(super) fn make_file(&self, file: &HttpSource) -> Result<SnapshotId, SourceError> {
        let (content, modified) = self.content(file)?;
        let active = self.snapshotter.prepare(None)?;
        let root = active.mount()?;
        let path = ContainerPath::new(&file.name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let mut target = File::from(root.open(&path, flags, Mode::RUSR | Mode::WUSR)?);
        let failed = || host("write", std::path::Path::new(&file.name));
        let mut content = content;
        io::copy(&mut content, &mut target).map_err(failed())?;
        let owner = Owner {
            uid: file.uid,
            gid: file.gid,
        };
        set_owner_of_open(target.as_fd(), owner, self.snapshotter.ids()).map_err(|errno| failed()(errno.into()))?;
        let finished = rustix::fs::fchmod(&target, Mode::from_raw_mode(file.mode))
            .and_then(|()| rustix::fs::futimens(&target, &times(modified.unwrap_or(0))));
        finished.map_err(|errno| failed()(errno.into()))?;
        drop(target);
        drop(root);
        Ok(active.commit()?)
    }

    /// The file's content and its time, from the store or from its server.
    pub(super) fn content(&self, file: &HttpSource) -> Result<(File, Option<i64>), SourceError> {
        // Its content becomes part of an image: one that was damaged since is fetched again.
        self.store.check_blob(&file.digest)?;
        match self.store.open_blob(&file.digest) {
            Ok(content) => {
                let known = self.known(&file.url)?.filter(|known| known.digest == file.digest);
                let modified = file.modified.or_else(|| known.as_ref().and_then(modified));
                return Ok((content, modified));
            }
            Err(StoreError::NoBlob(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let known = self.download(&file.url, &Conditions::default())?;
        let known = known.expect("a request without conditions is answered with content");
        if known.digest != file.digest {
            let (url, expected, actual) = (ShownUrl::of_text(&file.url), file.digest, known.digest);
            return Err(match file.modified {
                None => SourceError::WrongChecksum { url, expected, actual },
                Some(_) => SourceError::Changed { url, expected, actual },
            });
        }
        let modified = file.modified.or_else(|| modified(&known));
        Ok((self.store.open_blob(&file.digest)?, modified))
    }

    fn fetch(&self, url: &str) -> Result<Known, SourceError> {
        if let Some(known) = self.known(url)? {
            return Ok(self.download(url, &known.conditions())?.unwrap_or(known));
        }
        let fetched = self.download(url, &Conditions::default())?;
        Ok(fetched.expect("a request without conditions is answered with content"))
    }

    /// Downloads into the store; `None` where the conditions still hold.
    fn download(&self, url: &str, conditions: &Conditions) -> Result<Option<Known>, SourceError> {
        let request = FileRequest {
            url: url.to_owned(),
            authorization: self.http_authorization(url)?,
            conditions: conditions.clone(),
            limit: Limits::default().bytes,
        };
        let mut attempt = 1;
        loop {
            let reader = match self.client.file(&request)? {
                FileAnswer::Unchanged => return Ok(None),
                FileAnswer::Content(reader) => reader,
            };
            match self.receive(url, reader) {
                Err(SourceError::Transfer { source, .. }) if attempt < ATTEMPTS && may_pass(&source) => attempt += 1,
                Err(SourceError::Transfer { url, source }) => {
                    return Err(match RegistryError::inside(source) {
                        Ok(RegistryError::Cancelled) => SourceError::Cancelled,
                        Ok(error) => error.into(),
                        Err(source) => SourceError::Transfer { url, source },
                    });
                }
                result => return result.map(Some),
            }
        }
    }

    fn receive(&self, url: &str, mut reader: FileReader) -> Result<Known, SourceError> {
        let shown = ShownUrl::of_text(url);
        let failed = |source| SourceError::Transfer {
            url: ShownUrl::of_text(url),
            source,
        };
        let label: Arc<str> = format!("downloading {shown}").into();
        let total = reader.length();
        let mut blob = self.store.blob_writer()?;
        let mut buffer = vec![0; BUFFER];
        let (mut done, mut told) = (0, 0);
        loop {
            let length = match reader.read(&mut buffer).map_err(failed)? {
                0 => break,
                length => length,
            };
            blob.write_all(&buffer[..length]).map_err(failed)?;
            done += length as u64;
            if done - told >= NEWS {
                told = done;
                let label = label.clone();
                self.progress.report(Event::Transfer { label, done, total });
            }
        }
        let (digest, size) = blob.finish(None)?;
        let (done, total) = (size, Some(size));
        self.progress.report(Event::Transfer { label, done, total });
        let Conditions { etag, last_modified } = reader.conditions().clone();
        let known = Known {
            digest,
            etag,
            last_modified,
        };
        self.remember(url, &known)?;
        Ok(known)
    }

    /// What the build's secrets say for the URL's host.
    fn http_authorization(&self, url: &str) -> Result<Option<Secret>, SourceError> {
        let Some(host) = Url::parse(url)
            .ok()
            .and_then(|url| url.host_str().map(|host| host.trim_matches(['[', ']']).to_owned()))
        else {
            return Ok(None);
        };
        for separator in ['_', '.'] {
            if let Some(token) = self.secret(&format!("HTTP_AUTH_TOKEN{separator}{host}"))? {
                return Ok(Some(Secret::new(format!("Bearer {token}"))));
            }
            if let Some(header) = self.secret(&format!("HTTP_AUTH_HEADER{separator}{host}"))? {
                return Ok(Some(Secret::new(header)));
            }
        }
        Ok(None)
    }

    /// Whether the file with this content is an archive.
    ///
    /// # Errors
    /// When it is not in the store.
    pub fn is_archive(&self, digest: &Digest) -> Result<bool, SourceError> {
        let mut file = self.store.open_blob(digest)?;
        let found = crate::snapshot::compressed::detect(&mut file);
        Ok(found.map_err(host("read", self.store.root()))?.is_some())
    }
}

/// Whether a file that broke off is to be begun anew.
fn may_pass(error: &io::Error) -> bool {
    let inside = error
        .get_ref()
        .and_then(|inside| inside.downcast_ref::<RegistryError>());
    matches!(
        inside,
        Some(RegistryError::Changed { .. } | RegistryError::Unreachable { .. } | RegistryError::TimedOut { .. })
    )
}

/// `Last-Modified` in seconds since 1970, where it says something that can be kept. RFC 9110, section 5.6.7.
fn modified(known: &Known) -> Option<i64> {
    let text = known.last_modified.as_deref()?.trim().replace("GMT", "+0000");
    let seconds = OffsetDateTime::parse(&text, &Rfc2822).ok()?.unix_timestamp();
    (0..=Timestamp::LATEST).contains(&seconds).then_some(seconds)
}

fn times(seconds: i64) -> Timestamps {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
