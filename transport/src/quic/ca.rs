//! Trust by certificate authority, for fleets: `--cacert`, `--cert` and `--key`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::identity::{Credentials, KeyFingerprint};

/// A certificate, its key, and the authority that peers' certificates must come from.
pub struct CaFiles {
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    fingerprint: KeyFingerprint,
}

/// A PEM file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// It could not be read, or is no PEM.
    #[error("read {what} from {path}")]
    Read {
        /// What it should hold.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why it did not work.
        source: pem::Error,
    },
    /// It holds nothing of what it should.
    #[error("{path} holds no {what} in PEM")]
    Empty {
        /// What it should hold.
        what: &'static str,
        /// Which file.
        path: PathBuf,
    },
    /// A certificate was not understood.
    #[error("use a certificate from {path}")]
    Certificate {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::Error,
    },
}

impl CaFiles {
    /// Reads the three files.
    pub fn load(cacert: &Path, cert: &Path, key: &Path) -> Result<Self, CaError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates("authority", cacert)? {
            roots
                .add(certificate)
                .map_err(|source| CaError::Certificate { path: cacert.to_owned(), source })?;
        }
        let chain = certificates("certificate", cert)?;
        let key = PrivateKeyDer::from_pem_file(key).map_err(|source| CaError::Read {
            what: "private key",
            path: key.to_owned(),
            source,
        })?;
        let fingerprint = KeyFingerprint::of_certificate(&chain[0])
            .map_err(|source| CaError::Certificate { path: cert.to_owned(), source })?;
        Ok(Self { roots: Arc::new(roots), chain, key, fingerprint })
    }

    /// The authorities.
    pub(super) const fn roots(&self) -> &Arc<RootCertStore> {
        &self.roots
    }

    pub(super) fn credentials(&self) -> Credentials {
        Credentials {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
            fingerprint: self.fingerprint,
        }
    }
}

impl std::fmt::Debug for CaFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CaFiles({})", self.fingerprint)
    }
}

/// All certificates of a file; at least one.
fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, CaError> {
    let read = |source| CaError::Read { what, path: path.to_owned(), source };
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(read)?
        .collect::<Result<_, _>>()
        .map_err(read)?;
    if found.is_empty() {
        return Err(CaError::Empty { what, path: path.to_owned() });
    }
    Ok(found)
}
