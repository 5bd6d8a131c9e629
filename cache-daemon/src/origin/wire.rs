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
use url::{Host, Url};

use super::error::OriginError;
use super::failure::{Notes, chain};

/// Time for a connection to be made: longer means that nobody is there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes clients whose replies are noted.
#[derive(Debug)]
pub struct NotingConnector {
    /// Without the proxies that the environment names: for servers on this machine, which no proxy can
    /// reach, and which `no_proxy` often forgets.
    pub direct: bool,
}

impl HttpConnector for NotingConnector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = match self.direct {
            false => ReqwestConnector::default().connect(options)?,
            true => HttpClient::new(direct()?),
        };
        Ok(HttpClient::new(Noting(client)))
    }
}

/// Whether `url` leads to this machine.
pub fn is_this_machine(url: &str) -> bool {
    match Url::parse(url).as_ref().map(Url::host) {
        Ok(Some(Host::Domain(name))) => name == "localhost",
        Ok(Some(Host::Ipv4(address))) => address.is_loopback(),
        Ok(Some(Host::Ipv6(address))) => address.is_loopback(),
        _ => false,
    }
}

/// What [`client_options`] make for plain HTTP, but for the proxies: object_store cannot turn those off.
fn direct() -> object_store::Result<reqwest::Client> {
    let builder = reqwest::Client::builder().no_proxy().http1_only().connect_timeout(CONNECT_TIMEOUT);
    let built = builder.tls_certs_only([]).build();
    built.map_err(|error| object_store::Error::Generic { store: "HTTP client", source: Box::new(error) })
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
        for direct in [false, true] {
            let made = NotingConnector { direct }.connect(&client_options(true));
            assert!(made.is_ok(), "{made:?}");
        }
    }
}
