//! How a server is reached: through which socket, whom to trust there, and who we are to it.
//!
//! Owns the reading of certificates and keys: those of the configuration, and those in directories as docker
//! (`/etc/docker/certs.d/HOST[:PORT]`) and podman (`/etc/containers/certs.d/HOST[:PORT]`) keep them: `*.crt` are
//! authorities, `*.cert` with `*.key` is a client's certificate.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::RegistryError;

/// No file of certificates is read beyond this many bytes, and no directory beyond this many files.
const LARGEST_FILE: u64 = 16 << 20;
const MOST_FILES: usize = 1000;

/// How one server is reached.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Route {
    /// A Unix socket instead of the name and port of the URL.
    pub socket: Option<PathBuf>,
    /// A PEM file of authorities that are trusted besides the system's.
    pub authorities: Option<PathBuf>,
    /// The PEM files of a client's certificate and of its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Directories that may hold more of both: the first that exists is read.
    pub directories: Vec<PathBuf>,
    /// Whether the server's certificate counts.
    pub verification: Verification,
}

/// Whether a server must show who it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Verification {
    /// By a certificate of somebody who is trusted.
    #[default]
    Required,
    /// Any certificate will do.
    Waived,
}

/// What is read of certificates for one server.
struct Material {
    roots: RootCertStore,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

impl Route {
    /// The TLS configuration for this route; for servers of no route of their own, that of the default one.
    pub fn tls(&self) -> Result<ClientConfig, RegistryError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(RegistryError::Tls)?;
        let Material { roots, identity } = self.material()?;
        let builder = match self.verification {
            Verification::Required if roots.is_empty() => return Err(RegistryError::NoCertificates),
            Verification::Required => builder.with_root_certificates(roots),
            Verification::Waived => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anybody(provider))),
        };
        match identity {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(RegistryError::Tls),
            None => Ok(builder.with_no_client_auth()),
        }
    }

    /// A TLS configuration that trusts nobody, for connections without TLS.
    pub fn no_tls() -> Result<ClientConfig, RegistryError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(RegistryError::Tls)?;
        Ok(builder
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth())
    }

    fn material(&self) -> Result<Material, RegistryError> {
        let mut material = Material {
            roots: system_roots().clone(),
            identity: None,
        };
        if let Some(path) = &self.authorities {
            material.trust(path)?;
        }
        if let Some((certificate, key)) = &self.identity {
            material.present(certificate, key)?;
        }
        if let Some(directory) = self.directories.iter().find(|directory| directory.is_dir()) {
            material.read_directory(directory)?;
        }
        Ok(material)
    }
}

impl Material {
    /// Trusts the authorities in the file `path`.
    fn trust(&mut self, path: &Path) -> Result<(), RegistryError> {
        let certificates = certificates(path)?;
        for certificate in certificates {
            self.roots
                .add(certificate)
                .map_err(|_| unusable(path, io::ErrorKind::InvalidData.into()))?;
        }
        Ok(())
    }

    /// Shows the certificate in the file `certificate`, unless there is one already.
    fn present(&mut self, certificate: &Path, key: &Path) -> Result<(), RegistryError> {
        if self.identity.is_none() {
            let bytes = read(key)?;
            let key =
                PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| unusable(key, io::ErrorKind::InvalidData.into()))?;
            self.identity = Some((certificates(certificate)?, key));
        }
        Ok(())
    }

    fn read_directory(&mut self, directory: &Path) -> Result<(), RegistryError> {
        let listed = fs::read_dir(directory).map_err(|source| unusable(directory, source))?;
        let mut files: Vec<PathBuf> = listed.take(MOST_FILES).flatten().map(|entry| entry.path()).collect();
        files.sort();
        for path in &files {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => self.trust(path)?,
                Some("cert") => self.present(path, &path.with_extension("key"))?,
                _ => {}
            }
        }
        Ok(())
    }
}

/// The system's authorities, read once.
fn system_roots() -> &'static RootCertStore {
    static ROOTS: OnceLock<RootCertStore> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots
    })
}

/// The certificates in the file `path`: one at least.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, RegistryError> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(unusable(path, io::ErrorKind::InvalidData.into())),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, RegistryError> {
    let length = fs::metadata(path).map_err(|source| unusable(path, source))?.len();
    if length > LARGEST_FILE {
        return Err(unusable(path, io::ErrorKind::FileTooLarge.into()));
    }
    fs::read(path).map_err(|source| unusable(path, source))
}

fn unusable(path: &Path, source: io::Error) -> RegistryError {
    RegistryError::CertificateFile {
        path: path.to_owned(),
        source,
    }
}

/// Takes any certificate for that of the server; signatures must be right all the same.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
