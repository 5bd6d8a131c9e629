//! Alibaba OSS: S3 settings from the OSS_* variables.
//!
//! OSS speaks S3's protocol at `https://s3.oss-REGION.aliyuncs.com`, with the bucket in the host name
//! only and with signatures (V4) for the region's id, `cn-hangzhou`. Inside a region's own network
//! the host is `s3.oss-REGION-internal.aliyuncs.com`. See "Accessing OSS with the AWS SDK",
//! <https://help.aliyun.com/en/oss/developer-reference/use-aws-sdks-to-access-oss>.

use super::OriginOptions;
use super::environment::Environment;
use super::error::OriginError;
use super::s3::S3Settings;

/// The settings for OSS that `options` and `environment` give.
///
/// # Errors
/// Neither an endpoint nor a region, or only half of the credentials.
pub fn settings(options: &OriginOptions, environment: &Environment) -> Result<S3Settings, OriginError> {
    let region = options.region.clone().or_else(|| environment.get("OSS_REGION"));
    let region = region.map(|region| region.trim_start_matches("oss-").to_owned());
    let endpoint = options.endpoint.clone().or_else(|| environment.get("OSS_ENDPOINT"));
    let endpoint = match (endpoint, &region) {
        (Some(endpoint), _) => with_scheme(&endpoint),
        (None, Some(region)) => format!("https://s3.oss-{region}.aliyuncs.com"),
        (None, None) => return Err(OriginError::Settings(
            "oss:// needs to know where the bucket is: give --endpoint https://s3.oss-cn-hangzhou.aliyuncs.com, or set OSS_ENDPOINT or OSS_REGION".to_owned(),
        )),
    };
    let keys = match (environment.get("OSS_ACCESS_KEY_ID"), environment.get("OSS_ACCESS_KEY_SECRET")) {
        (Some(id), Some(secret)) => Some((id, secret)),
        (None, None) if options.anonymous => None,
        _ => return Err(OriginError::Settings(
            "oss:// needs credentials: set OSS_ACCESS_KEY_ID and OSS_ACCESS_KEY_SECRET (and OSS_SESSION_TOKEN for temporary ones)".to_owned(),
        )),
    };
    Ok(S3Settings {
        region: region.or_else(|| region_of(&endpoint)).unwrap_or_else(|| "cn-hangzhou".to_owned()),
        // A host of Alibaba's has no buckets in its paths; another (a test server's) may.
        path_style: options.path_style.unwrap_or(!endpoint.contains(".aliyuncs.com")),
        endpoint,
        keys,
        session_token: environment.get("OSS_SESSION_TOKEN"),
        anonymous: options.anonymous,
        allow_http: options.allow_http,
        other: Vec::new(),
    })
}

/// Endpoints are often given as a bare host.
fn with_scheme(endpoint: &str) -> String {
    let endpoint = endpoint.trim_end_matches('/');
    if endpoint.contains("://") { endpoint.to_owned() } else { format!("https://{endpoint}") }
}

/// `cn-hangzhou` of `https://s3.oss-cn-hangzhou-internal.aliyuncs.com`.
fn region_of(endpoint: &str) -> Option<String> {
    let host = endpoint.split("://").last()?;
    let label = host.split('.').find_map(|label| label.strip_prefix("oss-"))?;
    Some(label.trim_end_matches("-internal").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [(&str, &str); 2] = [("OSS_ACCESS_KEY_ID", "id"), ("OSS_ACCESS_KEY_SECRET", "secret")];

    #[test]
    fn an_endpoint_gives_the_region_and_a_region_the_endpoint() {
        let options = OriginOptions {
            endpoint: Some("s3.oss-cn-beijing-internal.aliyuncs.com".into()),
            ..OriginOptions::default()
        };
        let settings_of = |options: &OriginOptions, more: (&str, &str)| {
            settings(options, &Environment::from([KEYS[0], KEYS[1], more])).unwrap()
        };
        let found = settings_of(&options, ("X", "x"));
        assert_eq!(found.endpoint, "https://s3.oss-cn-beijing-internal.aliyuncs.com");
        assert_eq!((&*found.region, found.path_style), ("cn-beijing", false));
        let found = settings_of(&OriginOptions::default(), ("OSS_REGION", "oss-cn-shanghai"));
        assert_eq!(found.endpoint, "https://s3.oss-cn-shanghai.aliyuncs.com");
        assert_eq!(&*found.region, "cn-shanghai");
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = settings(&OriginOptions::default(), &Environment::from(KEYS)).unwrap_err();
        assert!(error.to_string().contains("OSS_ENDPOINT"));
        let error =
            settings(&OriginOptions::default(), &Environment::from([("OSS_REGION", "x")])).unwrap_err();
        assert!(error.to_string().contains("OSS_ACCESS_KEY_SECRET"));
    }
}
