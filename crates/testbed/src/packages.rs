//! Debian packages, unpacked into a folder of their own and run from there.
//!
//! apt does the work, with folders of its own instead of the system's: it resolves the dependencies as for an empty
//! machine, checks signatures and hashes, and goes through the mirror, proxy and certificates that the machine is
//! configured for. Nothing is installed and no root rights are needed. The programs run through the loader and the C
//! library of their own folder, so that a package may be newer or older than the system.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::process::{find_program, run};

/// Names a Debian archive, for machines that have apt but no Debian source, such as Ubuntu.
const ARCHIVE_VARIABLE: &str = "OUTBOX_TESTBED_DEBIAN_ARCHIVE";

/// Where the packages `debian-archive-keyring` of different releases put the archive's keys.
const KEYRINGS: [&str; 2] =
    ["/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp"];

/// Documentation and the like, which the servers never read.
const NEEDLESS: [&str; 4] = ["usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/perl"];

/// A folder with unpacked packages and all that they depend on.
#[derive(Debug, Clone)]
pub(crate) struct PrivateRoot {
    folder: PathBuf,
    loader: PathBuf,
    libraries: Vec<PathBuf>,
}

impl PrivateRoot {
    /// Opens a folder that [`unpack`] has filled.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        // Debian 12's C library lives in `lib`, later ones in `usr/lib`.
        let mut libraries = Vec::new();
        for base in ["usr/lib", "lib"] {
            let Ok(entries) = fs::read_dir(folder.join(base)) else { continue };
            for entry in entries {
                let path = entry?.path();
                if path.is_dir() && path.to_string_lossy().ends_with("-linux-gnu") {
                    libraries.push(path);
                }
            }
        }
        let loader = libraries
            .iter()
            .flat_map(|library| fs::read_dir(library).into_iter().flatten().flatten())
            .map(|entry| entry.path())
            .find(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with("ld-linux") || name.starts_with("ld64.so")
            })
            .with_context(|| format!("no program loader under {}", folder.display()))?;
        Ok(Self { folder: folder.to_owned(), loader, libraries })
    }

    /// The folders with the libraries.
    pub(crate) fn libraries(&self) -> &[PathBuf] {
        &self.libraries
    }

    /// A path inside this folder.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.folder.join(inside)
    }

    /// A command that runs a program of this folder, given by its path inside.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut library_path = OsString::new();
        for library in &self.libraries {
            if !library_path.is_empty() {
                library_path.push(":");
            }
            library_path.push(library);
        }
        let mut command = Command::new(&self.loader);
        command.arg("--library-path").arg(library_path).arg(self.path(program));
        // OpenSSL would otherwise look for its modules where the system keeps its own.
        if let Some(modules) =
            self.libraries.iter().map(|library| library.join("ossl-modules")).find(|path| path.is_dir())
        {
            command.env("OPENSSL_MODULES", modules);
        }
        command
    }
}

/// Gets `packages` of a Debian `suite` with all dependencies and unpacks them into `folder`.
pub(crate) fn unpack(suite: &str, packages: &[&str], folder: &Path) -> Result<()> {
    for tool in ["apt-get", "dpkg"] {
        if find_program(tool).is_none() {
            bail!("getting the Debian packages {packages:?} needs `{tool}`, which is not on PATH");
        }
    }
    let architecture = run(Command::new("dpkg").arg("--print-architecture"))?;
    let mut failures = Vec::new();
    for archive in archives()? {
        let apt = Apt::new()?;
        let got = apt
            .configure(&archive, suite, architecture.trim())
            .and_then(|()| apt.get(packages))
            .and_then(|()| apt.unpack(folder));
        match got {
            Ok(()) => {
                for needless in NEEDLESS {
                    let path = folder.join(needless);
                    if path.exists() {
                        fs::remove_dir_all(path)?;
                    }
                }
                return Ok(());
            }
            Err(err) => failures.push(format!("from {}: {err:#}", archive.uri)),
        }
    }
    Err(anyhow!("cannot get the Debian packages {packages:?} of {suite}\n{}", failures.join("\n")))
}

/// apt with folders of its own, removed on drop.
struct Apt {
    folder: tempfile::TempDir,
}

impl Apt {
    fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("outbox-testbed-apt-").tempdir()?;
        for inside in ["lists/partial", "archives/partial", "empty"] {
            fs::create_dir_all(folder.path().join(inside))?;
        }
        // An empty list of installed packages: whatever the machine has is of no use to the private root.
        fs::write(folder.path().join("status"), "")?;
        Ok(Self { folder })
    }

    fn configure(&self, archive: &Archive, suite: &str, architecture: &str) -> Result<()> {
        // `target=Packages` leaves out translations, icons and the like.
        let mut options = format!("target=Packages arch={architecture}");
        if let Some(keyring) = archive.keyring() {
            options.push_str(&format!(" signed-by={keyring}"));
        }
        let source = format!("deb [{options}] {} {suite} main\n", archive.uri);
        fs::write(self.folder.path().join("sources.list"), source)?;
        let folder = self.folder.path().to_str().context("the path of the temporary folder is not UTF-8")?;
        // Hooks belong to the machine's own apt. apt's unprivileged download user cannot reach our folder.
        let configuration = format!(
            r##"
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear APT::Default-Release;
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "{folder}/empty";
Dir::Etc::preferences "{folder}/none";
Dir::Etc::preferencesparts "{folder}/empty";
Dir::State "{folder}";
Dir::State::lists "{folder}/lists";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}";
Dir::Cache::archives "{folder}/archives";
Dir::Log "{folder}";
APT::Sandbox::User "root";
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::Retries "3";
"##
        );
        Ok(fs::write(self.folder.path().join("apt.conf"), configuration)?)
    }

    fn get(&self, packages: &[&str]) -> Result<()> {
        run(self.command().arg("update"))?;
        run(self.command().args(["--yes", "--download-only", "install"]).args(packages))?;
        Ok(())
    }

    fn unpack(&self, folder: &Path) -> Result<()> {
        for entry in fs::read_dir(self.folder.path().join("archives"))? {
            let package = entry?.path();
            if package.extension().is_some_and(|extension| extension == "deb") {
                run(Command::new("dpkg").arg("-x").arg(&package).arg(folder))?;
            }
        }
        Ok(())
    }

    fn command(&self) -> Command {
        let mut command = Command::new("apt-get");
        command.arg("--config-file").arg(self.folder.path().join("apt.conf")).arg("--quiet");
        command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
        command
    }
}

/// A Debian archive: where it is, and the keyring its source names.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Archive {
    uri: String,
    signed_by: Option<String>,
}

impl Archive {
    fn keyring(&self) -> Option<&str> {
        let default = || KEYRINGS.into_iter().find(|keyring| Path::new(keyring).exists());
        self.signed_by.as_deref().or_else(default)
    }
}

/// The Debian archives that this machine's apt knows, best first, and the one that the environment names.
fn archives() -> Result<Vec<Archive>> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
        let mut parts = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        parts.sort();
        files.extend(parts);
    }
    let mut found: Vec<Archive> = Vec::new();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        let archives = match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => archives_of_list(&text),
            Some("sources") => archives_of_deb822(&text),
            _ => continue,
        };
        found.extend(archives);
    }
    if let Ok(uri) = std::env::var(ARCHIVE_VARIABLE) {
        found.push(Archive { uri, signed_by: None });
    }
    if found.is_empty() {
        bail!(
            "apt knows no Debian archive on this machine: set {ARCHIVE_VARIABLE} to the address of one, or install the servers \
             and put them on PATH"
        );
    }
    let mut distinct: Vec<Archive> = Vec::new();
    for archive in found {
        if !distinct.iter().any(|known| known.uri == archive.uri) {
            distinct.push(archive);
        }
    }
    Ok(distinct)
}

/// The Debian archives in a file of one-line sources.
fn archives_of_list(text: &str) -> Vec<Archive> {
    let archive = |line: &str| {
        let rest = line.trim().strip_prefix("deb")?;
        let rest = rest.strip_prefix(|c: char| c.is_whitespace())?.trim_start();
        let (options, rest) = match rest.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?,
            None => ("", rest),
        };
        let mut words = rest.split_whitespace();
        let (uri, suite) = (words.next()?, words.next()?);
        let signed_by = options
            .split_whitespace()
            .find_map(|option| option.strip_prefix("signed-by="))
            .filter(|keyring| keyring.starts_with('/'))
            .map(str::to_owned);
        let mut components = words.take_while(|word| !word.starts_with('#'));
        is_debian(uri, suite, components.any(|word| word == "main"))
            .then(|| Archive { uri: uri.to_owned(), signed_by })
    };
    text.lines().filter_map(archive).collect()
}

/// The Debian archives in a file of deb822 sources.
fn archives_of_deb822(text: &str) -> Vec<Archive> {
    let mut found = Vec::new();
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    for paragraph in lines.split(|line| line.trim().is_empty()) {
        let field = |name: &str| {
            paragraph.iter().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim())
            })
        };
        let words = |name: &str| field(name).unwrap_or_default().split_whitespace();
        let enabled = field("Enabled").is_none_or(|value| value != "no");
        if !enabled || !words("Types").any(|word| word == "deb") {
            continue;
        }
        let main = words("Components").any(|word| word == "main");
        let signed_by = field("Signed-By").filter(|keyring| keyring.starts_with('/')).map(str::to_owned);
        for uri in words("URIs") {
            if words("Suites").any(|suite| is_debian(uri, suite, main)) {
                found.push(Archive { uri: uri.to_owned(), signed_by: signed_by.clone() });
            }
        }
    }
    found
}

/// Whether a source is Debian's own main archive, or a mirror of it, rather than somebody's packages for Debian.
fn is_debian(uri: &str, suite: &str, main: bool) -> bool {
    let path_says_so = uri.split('/').any(|segment| {
        segment.starts_with("debian") && !segment.starts_with("debian-") && !segment.contains(':')
    });
    let host_says_so = uri.contains(".debian.org/");
    let whole_suite = !suite.contains(['/', '-']);
    main && whole_suite && (path_says_so || host_says_so) && !uri.contains("security")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(uri: &str, signed_by: Option<&str>) -> Archive {
        Archive { uri: uri.to_owned(), signed_by: signed_by.map(str::to_owned) }
    }

    #[test]
    fn reads_one_line_sources() {
        let text = "
# deb http://commented.example/debian bookworm main
deb-src http://mirror.example/debian bookworm main
deb http://mirror.example/debian bookworm main contrib # the archive
deb [arch=amd64 signed-by=/keys/d.gpg] https://other.example/pub/debian/ sid main
deb http://mirror.example/debian-security bookworm-security main
deb https://download.docker.com/linux/debian bookworm stable
deb https://packages.example/apt bookworm main
";
        assert_eq!(
            archives_of_list(text),
            [
                archive("http://mirror.example/debian", None),
                archive("https://other.example/pub/debian/", Some("/keys/d.gpg")),
            ]
        );
    }

    #[test]
    fn reads_deb822_sources() {
        let text = "Types: deb
# a comment inside
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: sid
Components: main

types: deb deb-src
uris: mirror+file:/etc/apt/mirrors/debian.list
suites: trixie
components: main non-free
";
        assert_eq!(
            archives_of_deb822(text),
            [
                archive(
                    "http://mirror.example/debian",
                    Some("/usr/share/keyrings/debian-archive-keyring.gpg")
                ),
                archive("mirror+file:/etc/apt/mirrors/debian.list", None),
            ]
        );
    }
}
