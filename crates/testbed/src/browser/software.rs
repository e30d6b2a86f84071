//! Where Chromium comes from.
//!
//! Got from Debian's packages, it runs with the libraries of its own folder but with the system's C library and loader: it starts
//! its own executable again for each of its processes, which would be the loader otherwise.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::cache::{Shelf, progress};
use crate::packages::{self, PrivateRoot};
use crate::process::{find_program, run};

const VARIABLE: &str = "OUTBOX_TESTBED_CHROMIUM";
const SUITE: &str = "bookworm";
/// A browser without anything to look at, and letters to draw.
const PACKAGES: [&str; 2] = ["chromium-headless-shell", "fonts-dejavu-core"];
const PROGRAM: &str = "usr/lib/chromium/chromium-headless-shell";
/// Programs that are as good, if they are there.
const KNOWN: [&str; 4] = ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"];
/// Libraries that are not where the others are.
const ASIDE: &str = "pulseaudio";
/// Written anew, since the package's own names the system's folders.
const FONTS: &str = "fonts.conf";
/// The C library's own files begin so.
const C_LIBRARY: [&str; 16] = [
    "ld-",
    "libBrokenLocale",
    "libanl.",
    "libc.",
    "libc_malloc_debug.",
    "libdl.",
    "libm.",
    "libmemusage.",
    "libmvec.",
    "libnsl.",
    "libnss_",
    "libpcprofile.",
    "libpthread.",
    "libresolv.",
    "librt.",
    "libutil.",
];

/// Of drivers, which are never used.
const DRIVERS: [&str; 2] = ["libLLVM", "libz3"];

/// A Chromium.
#[derive(Debug)]
pub(super) struct Software {
    pub(super) path: PathBuf,
    pub(super) environment: Vec<(&'static str, OsString)>,
    /// Whether it has a window unless told otherwise.
    pub(super) wants_headless: bool,
}

impl Software {
    /// Finds a browser, or gets it. Blocks while downloading.
    pub(super) fn get() -> Result<Self> {
        let named = env::var_os(VARIABLE).map(PathBuf::from);
        if let Some(named) = named.filter(|path| !path.as_os_str().is_empty()) {
            if !named.is_file() {
                bail!("{VARIABLE} names {}, which is no file", named.display());
            }
            return Ok(Self::installed(named));
        }
        if let Some(found) = KNOWN.into_iter().find_map(find_program) {
            return Ok(Self::installed(found));
        }
        private().with_context(|| {
            format!(
                "no Chromium: put `chromium` on PATH, or name one in {VARIABLE}, or use a machine whose apt can reach Debian's archive \
                 and whose C library is glibc 2.36 or newer"
            )
        })
    }

    fn installed(path: PathBuf) -> Self {
        let wants_headless = !path.to_string_lossy().contains("headless");
        Self { path, environment: Vec::new(), wants_headless }
    }

    fn unpacked(folder: &Path) -> Result<Self> {
        let mut libraries = vec![folder.join("usr/lib/chromium")];
        for base in ["usr/lib", "lib"] {
            for entry in fs::read_dir(folder.join(base)).into_iter().flatten() {
                let path = entry?.path();
                if path.to_string_lossy().ends_with("-linux-gnu") {
                    libraries.extend([path.join(ASIDE), path]);
                }
            }
        }
        let environment = vec![
            ("LD_LIBRARY_PATH", env::join_paths(libraries)?),
            ("FONTCONFIG_FILE", folder.join(FONTS).into_os_string()),
        ];
        Ok(Self { path: folder.join(PROGRAM), environment, wants_headless: false })
    }
}

/// Gets it, and says where it is.
pub(crate) fn prefetch() -> Result<PathBuf> {
    Ok(Software::get()?.path)
}

fn private() -> Result<Software> {
    let place = Shelf::open("chromium")?.entry(SUITE, |folder| {
        progress(&format!("getting Chromium from Debian's packages ({SUITE}), about 160 MB"));
        packages::unpack(SUITE, &PACKAGES, folder)?;
        prune(folder)?;
        let Software { path, environment, .. } = Software::unpacked(folder)?;
        run(Command::new(path).arg("--version").envs(environment))?;
        Ok(())
    })?;
    // Not before it stands at its place, which stands in it.
    let fonts = format!(
        "<?xml version=\"1.0\"?>\n<!DOCTYPE fontconfig SYSTEM \"fonts.dtd\">\n<fontconfig><dir>{}</dir><cachedir>{}</cachedir></fontconfig>\n",
        place.join("usr/share/fonts").display(),
        place.join("fonts-cache").display()
    );
    let path = place.join(FONTS);
    if fs::read_to_string(&path).ok().as_deref() != Some(&*fonts) {
        fs::write(path, fonts)?;
    }
    Software::unpacked(&place)
}

/// Removes the C library, and drivers and programs that are never used and larger than all the rest.
fn prune(folder: &Path) -> Result<()> {
    for needless in ["usr/bin", "usr/sbin", "usr/share/icons", "usr/share/X11", "etc"] {
        remove(&folder.join(needless))?;
    }
    for library in PrivateRoot::open(folder)?.libraries() {
        remove(&library.join("dri"))?;
        for entry in fs::read_dir(library)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let begins = |start: &&str| name.starts_with(*start);
            if C_LIBRARY.iter().chain(&DRIVERS).any(begins) {
                remove(&entry.path())?;
            }
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path)?,
        Ok(_) => fs::remove_file(path)?,
        Err(_) => {}
    }
    Ok(())
}
