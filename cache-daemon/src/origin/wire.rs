//! The HTTP client under every origin that speaks HTTP: reqwest, made to tell what it saw.
//!
//! object_store takes any `HttpService`. This one passes requests on to reqwest (which sets TCP_NODELAY
//! and keeps a pool of connections) and writes the reply's status and Retry-After into the request's
//! [`Notes`]. Timeouts and retries are ours (`retry.rs`), so those of the client are off.

use std::time::Duration;

use async_trait::async_trait;
use http::header::RETRY_AFTER;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};

use super::error::OriginError;
use super::failure::{Notes, chain};

/// Time for a connection to be made: longer means that nobody is there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes clients whose replies are noted.
#[derive(Debug, Default)]
pub struct NotingConnector(ReqwestConnector);

impl HttpConnector for NotingConnector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Noting(self.0.connect(options)?)))
    }
}

#[derive(Debug)]
struct Noting(HttpClient);

#[async_trait]
impl HttpService for Noting {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let notes = request.extensions().get::<Notes>().cloned();
        let reply = self.0.execute(request).await?;
        if let Some(notes) = notes {
            notes.write(reply.status().as_u16(), retry_after(&reply));
        }
        Ok(reply)
    }
}

/// The seconds of `Retry-After`; its other form, a date, is used by no object store.
pub fn retry_after(reply: &HttpResponse) -> Option<Duration> {
    let seconds = reply.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Options of the client for an endpoint that is plain HTTP (`plain`) or HTTPS.
///
/// For plain HTTP the system's certificates are not loaded: on a machine without any (a slim container)
/// rustls's platform verifier refuses to make a client at all.
pub fn client_options(plain: bool) -> ClientOptions {
    ClientOptions::new()
        .with_timeout_disabled()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_allow_http(plain)
        .with_no_system_certificates(plain)
}

/// What a client or store of `url` that cannot be built says to the user.
pub fn build_error(url: &str, error: &object_store::Error) -> OriginError {
    let text = chain(error);
    if text.contains("No CA certificates") {
        return OriginError::NoCertificates;
    }
    OriginError::Url { url: url.to_owned(), why: super::error::one_line(&text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_needs_no_certificates_of_the_system() {
        let made = NotingConnector::default().connect(&client_options(true));
        assert!(made.is_ok(), "{made:?}");
    }
}
