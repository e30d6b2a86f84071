//! The cache folder: where servers and data templates are kept between runs.
//!
//! Everything in it is made in a temporary folder beside its place and renamed, so what stands under its own name is
//! whole. A lock file for each kind keeps concurrent processes from doing the same work twice.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::version::Version;

const PARTIAL_PREFIX: &str = ".partial-";

/// The cache folder; see the crate's documentation for the variables.
pub(crate) fn root() -> Result<PathBuf> {
    let from = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(folder) = from("OUTBOX_TESTBED_CACHE") {
        return Ok(folder);
    }
    let base = from("XDG_CACHE_HOME")
        .or_else(|| from("HOME").map(|home| home.join(".cache")))
        .context("no cache folder: set OUTBOX_TESTBED_CACHE, or HOME")?;
    Ok(base.join("outbox-bridge-testbed"))
}

/// One kind of thing in the cache, such as `mysql` or `nats-server`: a folder with an entry for each version.
#[derive(Debug)]
pub(crate) struct Shelf {
    folder: PathBuf,
}

impl Shelf {
    pub(crate) fn open(kind: &str) -> Result<Self> {
        Self::open_in(&root()?, kind)
    }

    /// A kind of thing in another cache than the usual one.
    pub(crate) fn open_in(cache: &Path, kind: &str) -> Result<Self> {
        let folder = cache.join(kind);
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make the cache folder {}", folder.display()))?;
        Ok(Self { folder })
    }

    /// The entry with the newest version that passes `accept`.
    pub(crate) fn newest(&self, accept: impl Fn(Version) -> bool) -> Result<Option<PathBuf>> {
        let mut best: Option<(Version, PathBuf)> = None;
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let Ok(version) = name.parse::<Version>() else { continue };
            if accept(version) && best.as_ref().is_none_or(|(known, _)| version > *known) {
                best = Some((version, path));
            }
        }
        Ok(best.map(|(_, path)| path))
    }

    /// Finds an entry, or makes it under the lock of this shelf.
    ///
    /// `build` fills an empty folder and returns the name that the entry shall have.
    pub(crate) fn find_or_build(
        &self,
        find: impl Fn(&Self) -> Result<Option<PathBuf>>,
        build: impl FnOnce(&Path) -> Result<String>,
    ) -> Result<PathBuf> {
        if let Some(found) = find(self)? {
            return Ok(found);
        }
        let _lock = self.lock()?;
        if let Some(found) = find(self)? {
            return Ok(found);
        }
        self.remove_leftovers()?;
        let partial = tempfile::Builder::new().prefix(PARTIAL_PREFIX).tempdir_in(&self.folder)?;
        let place = self.folder.join(build(partial.path())?);
        if !place.exists() {
            fs::rename(partial.path(), &place)
                .with_context(|| format!("cannot move a new cache entry to {}", place.display()))?;
        }
        Ok(place)
    }

    /// The entry of this name, made if it is not there.
    pub(crate) fn entry(&self, name: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let place = self.folder.join(name);
        self.find_or_build(
            |_| Ok(place.exists().then(|| place.clone())),
            |folder| build(folder).map(|()| name.to_owned()),
        )
    }

    fn lock(&self) -> Result<File> {
        let path = self.folder.join(".lock");
        let file = File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
        if file.try_lock().is_err() {
            progress(&format!("waiting for another process that holds {}", path.display()));
            file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        }
        Ok(file)
    }

    /// Removes what a killed process left half made. Only to be called under the lock.
    fn remove_leftovers(&self) -> Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(PARTIAL_PREFIX) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }
}

/// Says what is going on, since getting a server takes long enough to wonder.
pub(crate) fn progress(message: &str) {
    eprintln!("testbed: {message}");
}
