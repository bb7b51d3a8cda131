//! TLS for the registry of the tests. Authority, certificate and key were made for these tests and protect nothing.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

/// The file of the authority that signed the registry's certificate.
pub const AUTHORITY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/registry/tls/authority.pem");

/// A certificate that the registry takes from its clients, and its key.
pub const CLIENT: (&str, &str) = (
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/registry/tls/client.pem"),
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/registry/tls/client.key"),
);

/// Anybody may connect.
pub fn configuration() -> Arc<ServerConfig> {
    configuration_for(WebPkiClientVerifier::no_client_auth())
}

/// Only those who show the certificate [`CLIENT`].
pub fn configuration_for_clients() -> Arc<ServerConfig> {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(include_bytes!("tls/clients.pem")).unwrap();
    roots.add(authority).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    configuration_for(
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .unwrap(),
    )
}

fn configuration_for(clients: Arc<dyn ClientCertVerifier>) -> Arc<ServerConfig> {
    let certificate = CertificateDer::from_pem_slice(include_bytes!("tls/localhost.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("tls/localhost.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap();
    Arc::new(
        builder
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![certificate], key)
            .unwrap(),
    )
}

pub fn accept<S: Read + Write>(configuration: Arc<ServerConfig>, stream: S) -> StreamOwned<ServerConnection, S> {
    StreamOwned::new(ServerConnection::new(configuration).unwrap(), stream)
}
