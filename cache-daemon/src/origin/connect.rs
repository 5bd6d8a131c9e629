//! From a URL and options to the store behind it.
//!
//! Nothing is sent here: whether the bucket exists and the credentials are right is for
//! `Origin::check`. gs, az and http get two clients, one for reads with object_store's retries off
//! (ours are around it) and one for its listing, whose pages only it can repeat.

use std::path::PathBuf;
use std::sync::Arc;

use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::memory::InMemory;
use object_store::{ObjectStore, RetryConfig};

use super::directory::Directory;
use super::environment::Environment;
use super::error::OriginError;
use super::location::{Location, Scheme};
use super::s3::{S3, S3Settings};
use super::store::Backend;
use super::wire::{NotingConnector, build_error, client_options, is_this_machine};
use super::{OriginOptions, oss};

/// The store at `location`.
pub fn connect(
    location: &Location,
    options: &OriginOptions,
    environment: &Environment,
) -> Result<Backend, OriginError> {
    let url = location.canonical();
    let url = url.as_str();
    let root = location.root.as_str();
    match location.scheme {
        Scheme::S3 => {
            let settings = S3Settings::of_aws(root, options, environment)?;
            Ok(Backend::S3(Box::new(S3::open(url, root, &settings)?)))
        }
        Scheme::Oss => Ok(Backend::S3(Box::new(S3::open(url, root, &oss::settings(options, environment)?)?))),
        Scheme::File => directory(url, PathBuf::from(root)),
        Scheme::Memory => Ok(Backend::over(Arc::new(InMemory::new()))),
        Scheme::Gs => two(|retries| google(url, root, options, retries)),
        Scheme::Az => two(|retries| azure(url, root, options, retries)),
        Scheme::Http | Scheme::Https => {
            let plain = location.scheme == Scheme::Http;
            let server = format!("{}://{root}", if plain { "http" } else { "https" });
            two(|retries| http(url, &server, plain, retries))
        }
    }
}

fn directory(url: &str, root: PathBuf) -> Result<Backend, OriginError> {
    if !root.is_dir() {
        let what = format!("the directory {}", root.display());
        return Err(OriginError::Missing { url: url.to_owned(), what, hint: "" });
    }
    Ok(Backend::Directory(Directory { root }))
}

/// A client without retries for reads and one with them for listings.
fn two<S: ObjectStore>(make: impl Fn(RetryConfig) -> Result<S, OriginError>) -> Result<Backend, OriginError> {
    let reads = make(RetryConfig { max_retries: 0, ..RetryConfig::default() })?;
    let listing = make(RetryConfig::default())?;
    Ok(Backend::Other { reads: Arc::new(reads), listing: Arc::new(listing) })
}

fn google(
    url: &str,
    bucket: &str,
    options: &OriginOptions,
    retries: RetryConfig,
) -> Result<impl ObjectStore + use<>, OriginError> {
    let mut builder = GoogleCloudStorageBuilder::from_env()
        .with_bucket_name(bucket)
        .with_retry(retries)
        .with_client_options(client_options(is_plain(options)))
        .with_http_connector(NotingConnector { direct: false });
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_base_url(endpoint);
    }
    if options.anonymous {
        builder = builder.with_skip_signature(true);
    }
    builder.build().map_err(|error| build_error(url, &error))
}

fn azure(
    url: &str,
    container: &str,
    options: &OriginOptions,
    retries: RetryConfig,
) -> Result<impl ObjectStore + use<>, OriginError> {
    let mut builder = MicrosoftAzureBuilder::from_env()
        .with_retry(retries)
        .with_client_options(client_options(is_plain(options)))
        .with_http_connector(NotingConnector { direct: false });
    // `container@account.dfs.core.windows.net` names its account; `container` takes it from the variables.
    builder = match container.contains('@') {
        true => builder.with_url(format!("abfss://{container}")),
        false => builder.with_container_name(container),
    };
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    if options.anonymous {
        builder = builder.with_skip_signature(true);
    }
    builder.build().map_err(|error| match build_error(url, &error) {
        OriginError::Url { why, .. } if why.contains("Account must be specified") => OriginError::Settings(
            format!("{url}: whose container? Set AZURE_STORAGE_ACCOUNT_NAME, or write az://container@account.dfs.core.windows.net/prefix"),
        ),
        error => error,
    })
}

fn http(
    url: &str,
    server: &str,
    plain: bool,
    retries: RetryConfig,
) -> Result<impl ObjectStore + use<>, OriginError> {
    HttpBuilder::new()
        .with_url(server)
        .with_retry(retries)
        .with_client_options(client_options(plain))
        .with_http_connector(NotingConnector { direct: plain && is_this_machine(server) })
        .build()
        .map_err(|error| build_error(url, &error))
}

fn is_plain(options: &OriginOptions) -> bool {
    options.endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://"))
}
