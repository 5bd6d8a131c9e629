//! Origins that speak S3: settings, the object_store client, and signed requests of our own.
//!
//! Reads go through object_store. Listings do not, because its `Path` refuses keys like `a//b` and one
//! of them fails the whole listing; `list/s3.rs` sends ListObjectsV2 through [`S3::get`], signed with
//! object_store's own credentials and authorizer, so roles and tokens work there too.

use object_store::RetryConfig;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, AwsAuthorizer};
use object_store::client::{HttpClient, HttpConnector, HttpRequest, HttpRequestBody};
use url::Url;

use super::OriginOptions;
use super::aws_profile::AwsProfile;
use super::environment::Environment;
use super::error::OriginError;
use super::failure::{Cause, Failure, chain};
use super::wire::{NotingConnector, build_error, client_options, is_this_machine, retry_after};

/// Everything that a client of an S3 bucket needs to know but the bucket.
#[derive(Clone, PartialEq, Eq)]
pub struct S3Settings {
    /// Scheme and host, without the bucket.
    pub endpoint: String,
    /// Region that requests are signed for.
    pub region: String,
    /// Static keys; without them object_store asks the instance's or container's role.
    pub keys: Option<(String, String)>,
    /// Session token of the keys.
    pub session_token: Option<String>,
    /// The bucket is in the path, not in the host name.
    pub path_style: bool,
    /// Requests are not signed.
    pub anonymous: bool,
    /// Plain HTTP is accepted for hosts other than this one.
    pub allow_http: bool,
    /// Further settings for object_store: roles, metadata endpoint, requester pays.
    pub other: Vec<(AmazonS3ConfigKey, String)>,
}

/// Variables of object_store that are taken over as they are.
const OTHER: [AmazonS3ConfigKey; 9] = [
    AmazonS3ConfigKey::ImdsV1Fallback,
    AmazonS3ConfigKey::MetadataEndpoint,
    AmazonS3ConfigKey::ContainerCredentialsRelativeUri,
    AmazonS3ConfigKey::ContainerCredentialsFullUri,
    AmazonS3ConfigKey::ContainerAuthorizationTokenFile,
    AmazonS3ConfigKey::WebIdentityTokenFile,
    AmazonS3ConfigKey::RoleArn,
    AmazonS3ConfigKey::RoleSessionName,
    AmazonS3ConfigKey::StsEndpoint,
];

/// Secrets are not for logs.
impl std::fmt::Debug for S3Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { endpoint, region, path_style, anonymous, .. } = self;
        write!(f, "S3Settings({endpoint}, {region}, path_style: {path_style}, anonymous: {anonymous})")
    }
}

impl S3Settings {
    /// The settings for `bucket` that `options`, `environment` and the AWS files give, in this order.
    ///
    /// # Errors
    /// Those of the profile, or half of the keys.
    pub fn of_aws(
        bucket: &str,
        options: &OriginOptions,
        environment: &Environment,
    ) -> Result<Self, OriginError> {
        let environment_keys = environment_keys(environment)?;
        let has_role = environment.get("AWS_WEB_IDENTITY_TOKEN_FILE").is_some();
        let named = options.profile.as_deref();
        let needed = named.is_some() || (environment_keys.is_none() && !has_role);
        let profile = AwsProfile::read(named, needed && !options.anonymous, environment)?;
        let (keys, session_token) = match environment_keys {
            Some(keys) if named.is_none() => {
                (Some(keys), environment.first(&["AWS_SESSION_TOKEN", "AWS_TOKEN"]))
            }
            _ if has_role && named.is_none() => (None, None),
            _ => (profile.keys, profile.session_token),
        };
        let region = options.region.clone();
        let region = region.or_else(|| environment.first(&["AWS_REGION", "AWS_DEFAULT_REGION"]));
        let region = region.or(profile.region).unwrap_or_else(|| "us-east-1".to_owned());
        let endpoint = options.endpoint.clone();
        let endpoint = endpoint
            .or_else(|| environment.first(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]))
            .or(profile.endpoint);
        // Amazon's certificates cover one label before `s3`, so a bucket with dots goes into the path.
        let path_style = options.path_style.unwrap_or(endpoint.is_some() || bucket.contains('.'));
        Ok(Self {
            endpoint: endpoint.unwrap_or_else(|| amazon(&region)),
            region,
            keys,
            session_token,
            path_style,
            anonymous: options.anonymous || environment.is_true("AWS_SKIP_SIGNATURE"),
            allow_http: options.allow_http || environment.is_true("AWS_ALLOW_HTTP"),
            other: OTHER.iter().filter_map(|key| Some((*key, environment.get(&variable(key))?))).collect(),
        })
    }

    /// The URL under which the keys of `bucket` are.
    fn bucket_url(&self, bucket: &str) -> String {
        let endpoint = self.endpoint.trim_end_matches('/');
        match endpoint.split_once("://") {
            Some((scheme, host)) if !self.path_style => {
                // Some users give the endpoint with the bucket already in it.
                let host = host.strip_prefix(&format!("{bucket}.")).unwrap_or(host);
                format!("{scheme}://{bucket}.{host}")
            }
            _ => format!("{endpoint}/{bucket}"),
        }
    }

    fn is_plain(&self) -> Result<bool, OriginError> {
        let url = Url::parse(&self.endpoint).map_err(|_| self.bad_endpoint())?;
        match url.scheme() {
            "https" if url.has_host() => Ok(false),
            "http" if self.allow_http || is_this_machine(&self.endpoint) => Ok(true),
            "http" if url.has_host() => Err(OriginError::Settings(format!(
                "endpoint {}: over plain HTTP anyone on the way can read and change the data: use https://, or give --allow-http",
                self.endpoint
            ))),
            _ => Err(self.bad_endpoint()),
        }
    }

    fn bad_endpoint(&self) -> OriginError {
        OriginError::Settings(format!("endpoint `{}` is not a URL: write https://host[:port]", self.endpoint))
    }
}

fn amazon(region: &str) -> String {
    let china = if region.starts_with("cn-") { ".cn" } else { "" };
    format!("https://s3.{region}.amazonaws.com{china}")
}

fn variable(key: &AmazonS3ConfigKey) -> String {
    key.as_ref().to_ascii_uppercase()
}

fn environment_keys(environment: &Environment) -> Result<Option<(String, String)>, OriginError> {
    match (environment.get("AWS_ACCESS_KEY_ID"), environment.get("AWS_SECRET_ACCESS_KEY")) {
        (Some(id), Some(secret)) => Ok(Some((id, secret))),
        (None, None) => Ok(None),
        _ => Err(OriginError::Settings(
            "only one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY is set: set both or neither".to_owned(),
        )),
    }
}

/// A bucket that speaks S3.
#[derive(Debug)]
pub struct S3 {
    /// object_store's client of the bucket.
    pub store: AmazonS3,
    bucket_url: String,
    region: String,
    signed: bool,
    client: HttpClient,
}

impl S3 {
    /// The bucket `bucket`; nothing is sent yet.
    ///
    /// # Errors
    /// An endpoint that is no URL or insecure, or no certificates.
    pub fn open(url: &str, bucket: &str, settings: &S3Settings) -> Result<Self, OriginError> {
        let plain = settings.is_plain()?;
        let connector = || NotingConnector { direct: plain && is_this_machine(&settings.endpoint) };
        let bucket_url = settings.bucket_url(bucket);
        // object_store takes it for granted when it signs.
        Url::parse(&bucket_url).map_err(|_| settings.bad_endpoint())?;
        let endpoint = if settings.path_style { settings.endpoint.clone() } else { bucket_url.clone() };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(bucket)
            .with_region(&settings.region)
            .with_endpoint(endpoint)
            .with_virtual_hosted_style_request(!settings.path_style)
            .with_skip_signature(settings.anonymous)
            .with_client_options(client_options(plain))
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
            .with_http_connector(connector());
        for (key, value) in &settings.other {
            builder = builder.with_config(*key, value);
        }
        if let Some((id, secret)) = &settings.keys {
            builder = builder.with_access_key_id(id).with_secret_access_key(secret);
        }
        if let Some(token) = &settings.session_token {
            builder = builder.with_token(token);
        }
        let failed = |error: object_store::Error| build_error(url, &error);
        Ok(Self {
            store: builder.build().map_err(failed)?,
            client: connector().connect(&client_options(plain)).map_err(failed)?,
            bucket_url,
            region: settings.region.clone(),
            signed: !settings.anonymous,
        })
    }

    /// GETs the bucket itself with `query` (encoded): the body of a 200, or what the error says.
    pub async fn get(&self, query: &str) -> Result<bytes::Bytes, Failure> {
        let request = self.request(query).await?;
        let reply = self.client.execute(request).await.map_err(|error| Failure::of_http(&error, false))?;
        let status = reply.status();
        let asked = retry_after(&reply);
        let region = reply.headers().get("x-amz-bucket-region").and_then(|value| value.to_str().ok());
        let region = region.map(str::to_owned);
        let body = reply.into_body().bytes().await.map_err(|error| Failure::of_http(&error, true))?;
        if status.is_success() {
            return Ok(body);
        }
        Err(refusal(status.as_u16(), asked, region, &body))
    }

    async fn request(&self, query: &str) -> Result<HttpRequest, Failure> {
        // A host alone has the path `/`, and signatures cover it.
        let slash = if self.bucket_url.matches('/').count() > 2 { "" } else { "/" };
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        let uri = format!("{}{slash}?{query}", self.bucket_url);
        *request.uri_mut() =
            uri.parse().map_err(|error| Failure::new(Cause::Refused, format!("{uri}: {error}")))?;
        if self.signed {
            let credential = self.store.credentials().get_credential().await;
            let credential = credential.map_err(|error| Failure {
                code: Some(NO_CREDENTIALS.to_owned()),
                ..Failure::new(Cause::Denied, chain(&error))
            })?;
            AwsAuthorizer::new(&credential, "s3", &self.region)
                .try_authorize(&mut request, None)
                .map_err(|error| Failure::new(Cause::Refused, chain(&error)))?;
        }
        Ok(request)
    }
}

/// Our own [`Failure::code`]: no place had credentials for us.
pub const NO_CREDENTIALS: &str = "NoCredentials";

/// Our own [`Failure::code`] for a bucket elsewhere: this and the region's name.
pub const WRONG_REGION: &str = "WrongRegion:";

fn refusal(
    status: u16,
    retry_after: Option<std::time::Duration>,
    region: Option<String>,
    body: &[u8],
) -> Failure {
    let told = super::list::xml::error(body);
    let mut cause = Cause::of_status(status);
    if told.code == "RequestTimeout" {
        cause = Cause::Timeout;
    }
    let mut code = told.code.clone();
    // 301 PermanentRedirect, or 400 AuthorizationHeaderMalformed and 403 with the right region named.
    let elsewhere = matches!(&*code, "PermanentRedirect" | "AuthorizationHeaderMalformed") || status == 301;
    if let (true, Some(region)) = (elsewhere, region.or(told.region)) {
        code = format!("{WRONG_REGION}{region}");
    }
    let words = [format!("HTTP {status}"), told.code, told.message];
    let mut failure = Failure::new(cause, words.join(" "));
    failure.code = (!code.is_empty()).then_some(code);
    failure.retry_after = retry_after;
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(options: OriginOptions, environment: Environment) -> S3Settings {
        S3Settings::of_aws("bucket", &options, &environment).unwrap()
    }

    const ENVIRONMENT: [(&str, &str); 3] =
        [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "secret"), ("HOME", "/nonexistent")];

    #[test]
    fn amazon_gets_the_bucket_in_the_host_and_other_endpoints_in_the_path() {
        let [a, b, c] = ENVIRONMENT;
        let found =
            settings(OriginOptions::default(), Environment::from([a, b, c, ("AWS_REGION", "eu-west-1")]));
        assert_eq!(found.bucket_url("bucket"), "https://bucket.s3.eu-west-1.amazonaws.com");
        let options =
            OriginOptions { endpoint: Some("http://127.0.0.1:9000/".into()), ..OriginOptions::default() };
        let found = settings(options.clone(), Environment::from(ENVIRONMENT));
        assert_eq!(found.bucket_url("bucket"), "http://127.0.0.1:9000/bucket");
        let hosted = S3Settings { path_style: false, ..found };
        assert_eq!(hosted.bucket_url("bucket"), "http://bucket.127.0.0.1:9000");
        let china = settings(
            OriginOptions { region: Some("cn-north-1".into()), ..OriginOptions::default() },
            Environment::from(ENVIRONMENT),
        );
        assert_eq!(china.endpoint, "https://s3.cn-north-1.amazonaws.com.cn");
    }

    #[test]
    fn options_beat_the_environment_and_the_environment_beats_the_files() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("credentials");
        std::fs::write(&file, "[default]\naws_access_key_id=F\naws_secret_access_key=f\nregion=file-1\n[p]\naws_access_key_id=P\naws_secret_access_key=p\n").unwrap();
        let [a, b, c] = ENVIRONMENT;
        let files = ("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap());
        let key = |found: S3Settings| (found.keys.unwrap().0, found.region);
        assert_eq!(
            key(settings(OriginOptions::default(), Environment::from([c, files]))),
            ("F".into(), "file-1".into())
        );
        assert_eq!(
            key(settings(OriginOptions::default(), Environment::from([a, b, c, files]))),
            ("id".into(), "file-1".into())
        );
        let options = OriginOptions {
            profile: Some("p".into()),
            region: Some("here".into()),
            ..OriginOptions::default()
        };
        assert_eq!(key(settings(options, Environment::from([a, b, c, files]))), ("P".into(), "here".into()));
    }

    #[test]
    fn plain_http_beyond_this_machine_has_to_be_allowed() {
        let with = |endpoint: &str, allow_http| {
            let options =
                OriginOptions { endpoint: Some(endpoint.into()), allow_http, ..OriginOptions::default() };
            settings(options, Environment::from(ENVIRONMENT)).is_plain()
        };
        assert!(with("http://localhost:9000", false).unwrap());
        assert!(with("http://[::1]:9000", false).unwrap());
        assert!(with("http://10.0.0.1", true).unwrap());
        assert!(with("http://10.0.0.1", false).unwrap_err().to_string().contains("--allow-http"));
        assert!(!with("https://h", false).unwrap());
        assert!(with("http://[bad", false).unwrap_err().to_string().contains("not a URL"));
        assert!(with("h:9000", false).unwrap_err().to_string().contains("not a URL"));
    }

    #[test]
    fn a_bucket_elsewhere_is_told_by_its_region() {
        let body = b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-1</Region></Error>";
        assert_eq!(refusal(400, None, None, body).code.as_deref(), Some("WrongRegion:eu-1"));
        let body = b"<Error><Code>PermanentRedirect</Code></Error>";
        assert_eq!(refusal(301, None, Some("us-2".into()), body).code.as_deref(), Some("WrongRegion:us-2"));
        let denied = refusal(403, None, Some("us-2".into()), b"<Error><Code>AccessDenied</Code></Error>");
        assert_eq!((denied.cause, denied.code.as_deref()), (Cause::Denied, Some("AccessDenied")));
    }
}
