//! Signatures of roots: where they stand, and whether one is of a key that is trusted. Verifying is left to `gpgv`, or to `sqv` where that
//! alone is installed.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use base64::Engine;
use rustix::fs::{MemfdFlags, memfd_create};

use crate::classify::Url;
use crate::os::process;

/// Longest keyring in bytes.
const KEYRING_MAX: u64 = 16 * 1024 * 1024;

const NO_PROGRAM: &str = "neither gpgv nor sqv is installed, and a keyring is configured: install one of them";

/// How long a verification may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a root's signature is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signature {
    /// In the root itself: `InRelease`.
    Within,
    /// In a file beside it.
    Beside(Url),
}

impl Signature {
    /// Of a root; `None`: of this family it cannot be verified here (Alpine's are of another kind).
    pub fn of(root: &Url) -> Option<Self> {
        let text = root.as_str();
        let name = text.rsplit('/').next()?;
        let beside = match name {
            "InRelease" => return Some(Self::Within),
            "Release" => format!("{text}.gpg"),
            "repomd.xml" => format!("{text}.asc"),
            _ if name.ends_with(".db") || name.contains(".db.tar") => format!("{text}.sig"),
            _ => return None,
        };
        Url::parse(&beside).ok().map(Self::Beside)
    }

    /// The root that a file may be the signature of.
    pub fn root_of(file: &Url) -> Option<Url> {
        let text = file.as_str();
        let root = [".gpg", ".asc", ".sig"].iter().find_map(|ending| text.strip_suffix(ending))?;
        let root = Url::parse(root).ok()?;
        (Self::of(&root) == Some(Self::Beside(file.clone()))).then_some(root)
    }
}

/// Verifies a root. Blocks while a program does that, for seconds at most.
///
/// # Errors
/// Why it cannot be trusted, for people.
pub fn verify(keyring: &Path, root: &[u8], signature: Option<&[u8]>) -> Result<(), String> {
    let keys = keys(keyring).map_err(|error| format!("the keyring {}: {error}", keyring.display()))?;
    if signature.is_none() {
        is_signed_whole(root)?;
    }
    let memory = |bytes: &[u8]| in_memory(bytes).map_err(|error| format!("no memory for the signature check: {error}"));
    let files = (memory(&keys)?, memory(root)?, signature.map(memory).transpose()?);
    let path = |file: &OwnedFd| format!("/proc/self/fd/{}", file.as_raw_fd());
    let (keys, root) = (path(&files.0), path(&files.1));
    let signature = files.2.as_ref().map(path);
    let mut gpgv = Command::new("gpgv");
    gpgv.args(["--quiet", "--keyring", &keys]).args(signature.iter()).arg(&root);
    let mut sqv = Command::new("sqv");
    sqv.args(["--keyring", &keys]);
    match &signature {
        Some(signature) => sqv.args([signature, &root]),
        None => sqv.args(["--cleartext", &root]),
    };
    for command in [&mut gpgv, &mut sqv] {
        let program = command.get_program().to_string_lossy().into_owned();
        match process::run(command, PATIENCE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("{program}: {error}")),
            Ok(ended) if ended.status.success() => return Ok(()),
            Ok(ended) => {
                let said = String::from_utf8_lossy(&ended.stderr).into_owned();
                let lines = said.lines().filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
                return Err(lines.chars().take(500).collect());
            }
        }
    }
    Err(NO_PROGRAM.into())
}

/// Can roots be verified with this keyring here? Blocks.
///
/// # Errors
/// Why not, for people.
pub fn examine(keyring: &Path) -> Result<(), String> {
    let keys = keys(keyring).map_err(|error| format!("the keyring {}: {error}", keyring.display()))?;
    if keys.is_empty() {
        return Err(format!("the keyring {} has no keys", keyring.display()));
    }
    let is_there = |program: &str| process::run(Command::new(program).arg("--version"), PATIENCE).is_ok();
    if ["gpgv", "sqv"].into_iter().any(is_there) { Ok(()) } else { Err(NO_PROGRAM.into()) }
}

/// Is there nothing before or after what is signed?
fn is_signed_whole(root: &[u8]) -> Result<(), String> {
    const BEGIN: &[u8] = b"-----BEGIN PGP SIGNED MESSAGE-----\n";
    const END: &[u8] = b"-----END PGP SIGNATURE-----";
    let count = |what: &[u8]| root.windows(what.len()).filter(|window| *window == what).count();
    let whole = root.starts_with(BEGIN) && root.trim_ascii_end().ends_with(END) && count(BEGIN) == 1 && count(END) == 1;
    if whole { Ok(()) } else { Err("it is not one signed text and nothing else".into()) }
}

fn in_memory(bytes: &[u8]) -> io::Result<OwnedFd> {
    // The program that verifies inherits it.
    let file = memfd_create("imirror", MemfdFlags::empty())?;
    File::from(file.try_clone()?).write_all(bytes)?;
    Ok(file)
}

/// A keyring as `gpgv` reads it, which knows no armour (RFC 9580 6.2).
fn keys(path: &Path) -> io::Result<Vec<u8>> {
    if std::fs::metadata(path)?.len() > KEYRING_MAX {
        return Err(io::Error::other("it is larger than any keyring"));
    }
    let bytes = std::fs::read(path)?;
    let Some(text) =
        std::str::from_utf8(&bytes).ok().filter(|text| text.contains("-----BEGIN PGP PUBLIC KEY BLOCK-----"))
    else {
        return Ok(bytes);
    };
    let mut keys = Vec::new();
    for block in text.split("-----BEGIN PGP PUBLIC KEY BLOCK-----").skip(1) {
        let body = block.split("-----END").next().unwrap_or_default();
        // Fields of the armour end with an empty line; the last line that begins with `=` is a checksum.
        let lines = body.lines().skip(1).map(str::trim).skip_while(|line| line.contains(':') || line.is_empty());
        let base64: String = lines.filter(|line| !line.starts_with('=')).collect();
        let decoded = base64::engine::general_purpose::STANDARD.decode(base64).map_err(io::Error::other)?;
        keys.extend(decoded);
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(&format!("http://example.org/{text}")).unwrap()
    }

    #[test]
    fn where_signatures_stand() {
        assert_eq!(Signature::of(&url("dists/s/InRelease")), Some(Signature::Within));
        for (root, beside) in [
            ("dists/s/Release", "dists/s/Release.gpg"),
            ("repodata/repomd.xml", "repodata/repomd.xml.asc"),
            ("core/os/core.db", "core/os/core.db.sig"),
        ] {
            assert_eq!(Signature::of(&url(root)), Some(Signature::Beside(url(beside))));
            assert_eq!(Signature::root_of(&url(beside)), Some(url(root)));
        }
        assert_eq!(Signature::of(&url("main/x86_64/APKINDEX.tar.gz")), None);
        for file in ["dists/s/Release", "pool/a_1.dsc.asc", "a-1-1-any.pkg.tar.zst.sig"] {
            assert_eq!(Signature::root_of(&url(file)), None, "{file}");
        }
    }

    #[test]
    fn one_signed_text_and_nothing_else() {
        let signed = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\na\n-----BEGIN PGP SIGNATURE-----\n\nx\n-----END PGP SIGNATURE-----\n";
        assert_eq!(is_signed_whole(signed.as_bytes()), Ok(()));
        for bad in [format!("SHA256: x\n{signed}"), format!("{signed}more"), signed.repeat(2), String::new()] {
            assert!(is_signed_whole(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn armour_is_taken_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let block = "-----BEGIN PGP PUBLIC KEY BLOCK-----\nComment: x\n\naGVs\nbG8=\n=AbCd\n-----END PGP PUBLIC KEY BLOCK-----\n";
        std::fs::write(&path, block.repeat(2)).unwrap();
        assert_eq!(keys(&path).unwrap(), b"hellohello");
        std::fs::write(&path, [0x99, 1, 2]).unwrap();
        assert_eq!(keys(&path).unwrap(), [0x99, 1, 2]);
        std::fs::write(&path, block.replace("aGVs", "!")).unwrap();
        assert!(keys(&path).is_err());
    }
}
