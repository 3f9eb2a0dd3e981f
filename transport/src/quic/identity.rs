//! Keys: who we are, and how a peer's key is named.

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::ParsedCertificate;

use crate::wire::SessionId;

/// The name of a key: SHA-256 of its public half (the DER of SubjectPublicKeyInfo).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyFingerprint(pub [u8; 32]);

/// Not the text of a fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no key: expected qmig-key: and 52 letters and digits")]
pub struct BadFingerprint(pub String);

const FINGERPRINT_PREFIX: &str = "qmig-key:";

impl KeyFingerprint {
    /// The fingerprint of a certificate's key. Says nothing about whether the peer holds the key.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Result<Self, rustls::Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        Ok(Self::of_public_key(&parsed.subject_public_key_info()))
    }

    fn of_public_key(spki: &[u8]) -> Self {
        let digest = digest::digest(&digest::SHA256, spki);
        Self(digest.as_ref().try_into().expect("SHA-256 is 32 bytes"))
    }
}

impl fmt::Display for KeyFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{FINGERPRINT_PREFIX}{}", BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
    }
}

impl fmt::Debug for KeyFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for KeyFingerprint {
    type Err = BadFingerprint;

    fn from_str(text: &str) -> Result<Self, BadFingerprint> {
        text.strip_prefix(FINGERPRINT_PREFIX)
            .and_then(|rest| BASE32_NOPAD.decode(rest.to_ascii_uppercase().as_bytes()).ok())
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or_else(|| BadFingerprint(text.to_owned()))
    }
}

/// A key pair and the self-signed certificate that carries its public half through TLS. The
/// certificate says nothing else: peers pin the key.
pub struct Identity {
    key: PrivatePkcs8KeyDer<'static>,
    certificate: CertificateDer<'static>,
    fingerprint: KeyFingerprint,
}

/// An identity could not be had.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file could not be read or written.
    #[error("{act} {path}")]
    File {
        /// What was tried.
        act: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why it did not work.
        source: io::Error,
    },
    /// Others may read the file.
    #[error("{path} can be read by others (mode {mode:03o}); run chmod 600 {path}")]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The file holds no private key.
    #[error("{path} holds no private key in PEM (PKCS#8)")]
    NoKey {
        /// Which file.
        path: PathBuf,
    },
    /// The key could not be used or made.
    #[error("unusable key")]
    Key(#[from] rcgen::Error),
    /// The certificate made from the key was not understood.
    #[error("unusable certificate")]
    Certificate(#[from] rustls::Error),
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    NoRandomness,
}

impl Identity {
    /// A new identity, kept nowhere.
    pub fn generate() -> Result<Self, IdentityError> {
        Self::from_key_pair(&rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519)?)
    }

    /// The identity in a file made by [`Identity::load_or_create`].
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let fail = |act| move |source| IdentityError::File { act, path: path.to_owned(), source };
        let mode = fs::metadata(path).map_err(fail("read"))?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(IdentityError::Exposed { path: path.to_owned(), mode });
        }
        let pem = fs::read(path).map_err(fail("read"))?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(&pem)
            .map_err(|_| IdentityError::NoKey { path: path.to_owned() })?;
        Self::from_key_pair(&rcgen::KeyPair::try_from(&key)?)
    }

    /// The identity in a file, made now if there is none: mode 0600, in a directory of mode 0700.
    pub fn load_or_create(path: &Path) -> Result<Self, IdentityError> {
        match Self::load(path) {
            Err(IdentityError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                match Self::create(path) {
                    // Somebody else made it meanwhile: theirs is as good.
                    Err(IdentityError::File { source, .. })
                        if source.kind() == io::ErrorKind::AlreadyExists =>
                    {
                        Self::load(path)
                    }
                    made => made,
                }
            }
            loaded => loaded,
        }
    }

    /// Writes a new identity. The file appears complete or not at all.
    fn create(path: &Path) -> Result<Self, IdentityError> {
        let fail = |act| move |source| IdentityError::File { act, path: path.to_owned(), source };
        if let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .map_err(fail("make the directory of"))?;
        }
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
        let made = Self::from_key_pair(&pair)?;
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(format!(".{}", std::process::id()));
        let unfinished = PathBuf::from(unfinished);
        let write = || {
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&unfinished)?;
            file.write_all(pair.serialize_pem().as_bytes())?;
            file.sync_all()?;
            // Unlike a rename, this fails if the name is taken.
            fs::hard_link(&unfinished, path)
        };
        let written = write();
        let _ = fs::remove_file(&unfinished);
        written.map_err(fail("write"))?;
        Ok(made)
    }

    /// The identity of an Ed25519 seed: the same seed yields the same key.
    pub(super) fn from_seed(seed: &[u8; 32]) -> Result<Self, IdentityError> {
        // PKCS#8 version 1 around a bare Ed25519 seed, RFC 8410 section 7.
        const PREFIX: [u8; 16] = [
            0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22,
            0x04, 0x20,
        ];
        let der = [&PREFIX[..], seed].concat();
        let key = PrivatePkcs8KeyDer::from(der);
        let pair = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&key, &rcgen::PKCS_ED25519)?;
        Self::from_key_pair(&pair)
    }

    fn from_key_pair(pair: &rcgen::KeyPair) -> Result<Self, IdentityError> {
        let certificate =
            rcgen::CertificateParams::new(vec!["qmig".to_owned()])?.self_signed(pair)?;
        let certificate = certificate.der().clone();
        let fingerprint = KeyFingerprint::of_certificate(&certificate)?;
        Ok(Self { key: PrivatePkcs8KeyDer::from(pair.serialize_der()), certificate, fingerprint })
    }

    /// The name of this key, to be told to peers.
    pub const fn fingerprint(&self) -> KeyFingerprint {
        self.fingerprint
    }

    pub(super) fn credentials(&self) -> Credentials {
        Credentials {
            chain: vec![self.certificate.clone()],
            key: PrivateKeyDer::Pkcs8(self.key.clone_key()),
            fingerprint: self.fingerprint,
        }
    }
}

/// Names the key and keeps it secret.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.fingerprint)
    }
}

/// What TLS shows to the peer, and the key that proves it.
pub(super) struct Credentials {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    pub(super) fingerprint: KeyFingerprint,
}

impl SessionId {
    /// A new migration's number.
    pub fn random() -> Result<Self, IdentityError> {
        Ok(Self(random()?))
    }
}

pub(super) fn random<const N: usize>() -> Result<[u8; N], IdentityError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| IdentityError::NoRandomness)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_file_is_private_and_stays_the_same() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("qmig").join("identity");
        let made = Identity::load_or_create(&path).expect("made");
        let again = Identity::load_or_create(&path).expect("loaded");
        assert_eq!(made.fingerprint(), again.fingerprint());
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().expect("a parent")), 0o700);
        let inside = fs::read_dir(path.parent().expect("a parent")).expect("a directory").count();
        assert_eq!(inside, 1, "nothing unfinished is left");

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("chmod");
        let error = Identity::load_or_create(&path).expect_err("others may read it");
        assert!(error.to_string().contains("mode 640"), "{error}");
    }

    #[test]
    fn a_broken_file_is_an_error_and_not_overwritten() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("identity");
        let mut file = fs::OpenOptions::new();
        let mut file = file.write(true).create(true).mode(0o600).open(&path).expect("a file");
        file.write_all(b"hello").expect("written");
        assert!(matches!(Identity::load_or_create(&path), Err(IdentityError::NoKey { .. })));
        assert_eq!(fs::read(&path).expect("read"), b"hello");
    }

    #[test]
    fn fingerprints_come_back_from_their_text() {
        let fingerprint = Identity::from_seed(&[7; 32]).expect("a key").fingerprint();
        assert_eq!(fingerprint, Identity::from_seed(&[7; 32]).expect("a key").fingerprint());
        assert_ne!(fingerprint, Identity::from_seed(&[8; 32]).expect("a key").fingerprint());
        let text = fingerprint.to_string();
        assert_eq!(text.parse(), Ok(fingerprint));
        assert!(text[..text.len() - 1].parse::<KeyFingerprint>().is_err());
        assert!(text.replace("qmig-key", "ssh-key").parse::<KeyFingerprint>().is_err());
    }
}
