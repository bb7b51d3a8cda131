//! The client of the OCI distribution specification: images in and out of registries; and single files behind any URL.
//!
//! Owns connections, mirrors, authentication, retries and the verification of everything that arrives. Blocking on the
//! outside; the only module that is asynchronous inside. Knows nothing of the store or of how an image is made, and
//! reads no environment variable of its own (the library that finds the system's certificate authorities honours
//! `SSL_CERT_FILE` and `SSL_CERT_DIR`; credential helpers inherit the environment). `docs/registry.md` is its guide.

mod auth;
mod challenge;
mod client;
mod config;
mod credential_file;
mod credential_helper;
mod credentials;
mod download;
mod engine;
mod error;
mod file;

mod login;
mod manifest;
mod pages;
mod proxy;
mod referrers;
mod retry;
mod route;
mod session;
mod token;
mod transport;
mod upload;

pub use client::Client;
pub use config::{HostConfig, Mirror, MirrorError, RegistryConfig, Security};
pub use credential_file::{CredentialFile, Kept};
pub use credentials::{Credential, CredentialError, Credentials, Secret};
pub use download::BlobReader;
pub use engine::{Engine, EngineAddress, EngineCertificates, EngineError, EngineKind, LoadError};
pub use error::{Answer, Presented, RegistryError, ShownUrl};
pub use file::{Conditions, FileAnswer, FileReader, FileRequest};
pub use login::Login;
pub use proxy::{Proxies, ProxyError};
pub use retry::Patience;
pub use upload::{Make, Offer, Open, Place, StreamError, Streamed, Uploaded};
