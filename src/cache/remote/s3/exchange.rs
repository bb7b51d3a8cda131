//! How a bucket's service is spoken to: with the TLS and the roots of trust of the whole program, without redirects, and
//! with bounds for what it says.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};
use reqwest::Method;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::cache::remote::network::IDLE;

/// How long it may take until a connection stands.
const CONNECT: Duration = Duration::from_secs(5);
/// Bytes of an answer that is no object.
const LARGEST_ANSWER: usize = 1 << 20;
const USER_AGENT: &str = concat!("builder/", env!("CARGO_PKG_VERSION"));

/// Makes clients.
#[derive(Debug)]
pub(super) struct Connector {
    /// Certificate authorities to trust besides the system's.
    pub authorities: Option<PathBuf>,
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = self
            .client()
            .map_err(|source| object_store::Error::Generic { store: "S3", source })?;
        Ok(HttpClient::new(Exchange(client)))
    }
}

impl Connector {
    fn client(&self) -> Result<reqwest::Client, Box<dyn std::error::Error + Send + Sync>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(self.trusted()?)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .user_agent(USER_AGENT)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT)
            .read_timeout(IDLE)
            .http1_only()
            .no_proxy()
            .build()?;
        Ok(client)
    }

    fn trusted(&self) -> Result<RootCertStore, Box<dyn std::error::Error + Send + Sync>> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(path) = &self.authorities {
            let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
            let bytes = std::fs::read(path).map_err(|error| failed(&error))?;
            for certificate in CertificateDer::pem_slice_iter(&bytes) {
                let certificate = certificate.map_err(|error| failed(&error))?;
                roots.add(certificate).map_err(|error| failed(&error))?;
            }
        }
        Ok(roots)
    }
}

/// A client that does not let itself be talked to death.
#[derive(Debug)]
struct Exchange(reqwest::Client);

impl HttpService for Exchange {
    fn call<'exchange, 'answer>(
        &'exchange self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'answer>>
    where
        'exchange: 'answer,
        Self: 'answer,
    {
        Box::pin(async move {
            let is_object = request.method() == Method::GET && request.uri().query().is_none();
            let (parts, body) = HttpService::call(&self.0, request).await?.into_parts();
            if parts.status.is_success() && is_object {
                return Ok(HttpResponse::from_parts(parts, body));
            }
            let said = read(body).await?;
            let body = match parts.status.is_success() && error_code(&said).is_none() {
                true => said,
                // Only the code: the rest may repeat what was signed, and with what.
                false => error_code(&said).unwrap_or_default().into_bytes(),
            };
            Ok(HttpResponse::from_parts(parts, HttpResponseBody::from(body)))
        })
    }
}

async fn read(body: HttpResponseBody) -> Result<Vec<u8>, HttpError> {
    let (mut chunks, mut bytes) = (body.bytes_stream(), Vec::new());
    while let Some(chunk) = chunks.next().await {
        bytes.extend_from_slice(&chunk?);
        if bytes.len() > LARGEST_ANSWER {
            let error = std::io::Error::other("its answer has no end");
            return Err(HttpError::new(HttpErrorKind::Decode, error));
        }
    }
    Ok(bytes)
}

/// The code of the error that an answer is, such as `SignatureDoesNotMatch`.
fn error_code(answer: &[u8]) -> Option<String> {
    const LONGEST: usize = 64;
    let text = std::str::from_utf8(answer).ok()?;
    let (_, error) = text.split_once("<Error>")?;
    let (_, code) = error.split_once("<Code>")?;
    let (code, _) = code.split_once("</Code>")?;
    let is_code = code.len() <= LONGEST && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
    Some(match is_code {
        true => code.to_owned(),
        false => "Error".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_error_its_code_alone_is_kept() {
        let said =
            b"<?xml version=\"1.0\"?><Error><Code>SignatureDoesNotMatch</Code><StringToSign>x</StringToSign></Error>";
        assert_eq!(error_code(said).as_deref(), Some("SignatureDoesNotMatch"));
        assert_eq!(error_code(b"<Error><Code>a b</Code></Error>").as_deref(), Some("Error"));
        assert_eq!(error_code(b"<Result><Code>a</Code></Result>"), None);
        assert_eq!(error_code(b"\xff<Error><Code>a</Code></Error>"), None);
        assert_eq!(error_code(b"<Code>a</Code><Error>"), None);
    }
}
