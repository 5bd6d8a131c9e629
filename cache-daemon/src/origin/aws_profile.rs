//! Profiles of the AWS command line: `~/.aws/config` and `~/.aws/credentials`.
//!
//! object_store reads neither. We read static keys, session token, region and endpoint of one profile.
//! Profiles that get their credentials elsewhere (SSO, a process, an assumed role) are refused with a
//! sentence that says how to go on, rather than ignored: the user would get "access denied" instead.
//!
//! The files are read once: temporary keys in them end with their session, roles and metadata do not.
//!
//! Precedence is that of the AWS tools: a profile named on the command line, then the environment's
//! keys, then the profile of AWS_PROFILE or `default`. Within a profile the credentials file wins.

use std::path::PathBuf;

use configparser::ini::Ini;

use super::environment::Environment;
use super::error::OriginError;

/// What a profile says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AwsProfile {
    /// Access key and secret key, if static.
    pub keys: Option<(String, String)>,
    /// Session token that belongs to the keys.
    pub session_token: Option<String>,
    /// Region of the buckets.
    pub region: Option<String>,
    /// Endpoint of an S3-compatible server.
    pub endpoint: Option<String>,
}

/// Settings by which a profile gets credentials in ways that we do not support.
const ELSEWHERE: [&str; 6] = [
    "sso_session",
    "sso_start_url",
    "credential_process",
    "role_arn",
    "web_identity_token_file",
    "login_session",
];

impl AwsProfile {
    /// Reads profile `named`, or the one that `environment` names, or `default`.
    ///
    /// # Errors
    /// A named profile that is not there, an unreadable file, or credentials of an unsupported kind that
    /// are `needed` (there are no others).
    pub fn read(named: Option<&str>, needed: bool, environment: &Environment) -> Result<Self, OriginError> {
        let asked =
            named.map(str::to_owned).or_else(|| environment.first(&["AWS_PROFILE", "AWS_DEFAULT_PROFILE"]));
        let profile = asked.clone().unwrap_or_else(|| "default".to_owned());
        let config = file(environment, "AWS_CONFIG_FILE", ".aws/config");
        let credentials = file(environment, "AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials");
        let [config, credentials] = [config, credentials].map(|path| load(&profile, path));
        let sections = Sections { config: config?, credentials: credentials?, profile };
        if !sections.is_there() {
            return match asked {
                Some(_) => Err(sections.error("not found in ~/.aws/config or ~/.aws/credentials: check its name, AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE")),
                None => Ok(Self::default()),
            };
        }
        sections.profile(needed)
    }

    /// What the texts of the two files say of profile `name`: for fuzzing, which has no files.
    pub(crate) fn of_texts(name: &str, config: &str, credentials: &str) -> Result<Self, OriginError> {
        let [config, credentials] = [config, credentials].map(|text| parse(text.to_owned()).ok());
        Sections { config, credentials, profile: name.to_owned() }.profile(true)
    }
}

struct Sections {
    config: Option<Ini>,
    credentials: Option<Ini>,
    profile: String,
}

impl Sections {
    fn is_there(&self) -> bool {
        let has = |ini: &Option<Ini>, section: &str| {
            ini.as_ref().is_some_and(|ini| ini.get_map_ref().contains_key(section))
        };
        has(&self.credentials, &self.profile) || has(&self.config, &self.config_section())
    }

    /// In the config file every profile but `default` is called `profile NAME`.
    fn config_section(&self) -> String {
        if self.profile == "default" { "default".to_owned() } else { format!("profile {}", self.profile) }
    }

    fn get(&self, key: &str) -> Option<String> {
        let credentials = self.credentials.as_ref().and_then(|ini| ini.get(&self.profile, key));
        let config = || self.config.as_ref().and_then(|ini| ini.get(&self.config_section(), key));
        credentials.or_else(config).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    fn profile(&self, needed: bool) -> Result<AwsProfile, OriginError> {
        let keys = match (self.get("aws_access_key_id"), self.get("aws_secret_access_key")) {
            (Some(id), Some(secret)) => Some((id, secret)),
            (None, None) => None,
            _ => {
                return Err(self
                    .error("it has only one of aws_access_key_id and aws_secret_access_key: add the other"));
            }
        };
        let elsewhere = ELSEWHERE.iter().find(|key| self.get(key).is_some());
        if let (None, true, Some(elsewhere)) = (&keys, needed, elsewhere) {
            let why = format!(
                "its `{elsewhere}` is not supported: export temporary keys instead, \
                 eval \"$(aws configure export-credentials --profile {} --format env)\"",
                self.profile
            );
            return Err(self.error(&why));
        }
        Ok(AwsProfile {
            session_token: keys.as_ref().and_then(|_| self.get("aws_session_token")),
            keys,
            region: self.get("region"),
            endpoint: self.get("endpoint_url"),
        })
    }

    fn error(&self, why: &str) -> OriginError {
        OriginError::Profile { profile: self.profile.clone(), why: why.to_owned() }
    }
}

fn file(environment: &Environment, variable: &str, below_home: &str) -> Option<PathBuf> {
    match environment.get(variable) {
        Some(path) => Some(PathBuf::from(path)),
        None => Some(PathBuf::from(environment.get("HOME")?).join(below_home)),
    }
}

fn load(profile: &str, path: Option<PathBuf>) -> Result<Option<Ini>, OriginError> {
    let Some(path) = path else { return Ok(None) };
    let error = |why: String| OriginError::Profile { profile: profile.to_owned(), why };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(failed) if failed.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(failed) => return Err(error(format!("cannot read {}: {failed}", path.display()))),
    };
    match parse(text) {
        Ok(ini) => Ok(Some(ini)),
        Err(failed) => Err(error(format!("cannot parse {}: {failed}", path.display()))),
    }
}

fn parse(text: String) -> Result<Ini, String> {
    // Names of profiles are case-sensitive; a secret key may contain `#` and `;`.
    let mut ini = Ini::new_cs();
    ini.set_inline_comment_symbols(Some(&[]));
    ini.set_default_section("(before the first section)");
    ini.read(text)?;
    Ok(ini)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Home(tempfile::TempDir);

    impl Home {
        fn with(config: &str, credentials: &str) -> Self {
            let home = tempfile::tempdir().unwrap();
            std::fs::create_dir(home.path().join(".aws")).unwrap();
            std::fs::write(home.path().join(".aws/config"), config).unwrap();
            std::fs::write(home.path().join(".aws/credentials"), credentials).unwrap();
            Self(home)
        }

        fn read(&self, named: Option<&str>) -> Result<AwsProfile, OriginError> {
            AwsProfile::read(named, true, &Environment::from([("HOME", self.0.path().to_str().unwrap())]))
        }
    }

    const CONFIG: &str = "# a comment\n[default]\nregion = eu-west-1\n\n[profile lab]\nregion=us-west-2\nendpoint_url = http://10.0.0.1:9000\naws_access_key_id = FROM_CONFIG\naws_secret_access_key = x\ns3 =\n  addressing_style = path\n\n[profile sso]\nsso_session = corp\nregion = eu-north-1\n";
    const CREDENTIALS: &str = "[default]\naws_access_key_id = AKID\naws_secret_access_key = s3#cr;t/+=\naws_session_token = tok==\n\n[lab]\naws_access_key_id = LAB\naws_secret_access_key = y\n";

    #[test]
    fn keys_region_and_endpoint_come_from_both_files_and_credentials_win() {
        let home = Home::with(CONFIG, CREDENTIALS);
        let default = home.read(None).unwrap();
        assert_eq!(default.keys, Some(("AKID".into(), "s3#cr;t/+=".into())));
        assert_eq!(default.session_token.as_deref(), Some("tok=="));
        assert_eq!(default.region.as_deref(), Some("eu-west-1"));
        let lab = home.read(Some("lab")).unwrap();
        assert_eq!(lab.keys, Some(("LAB".into(), "y".into())));
        assert_eq!((lab.session_token, lab.endpoint.as_deref()), (None, Some("http://10.0.0.1:9000")));
    }

    #[test]
    fn profiles_that_are_missing_or_unsupported_say_what_to_do() {
        let home = Home::with(CONFIG, CREDENTIALS);
        assert!(home.read(Some("Lab")).unwrap_err().to_string().contains("not found"));
        assert!(home.read(Some("sso")).unwrap_err().to_string().contains("export-credentials --profile sso"));
        let half = Home::with("", "[default]\naws_access_key_id = A\n");
        assert!(half.read(None).unwrap_err().to_string().contains("only one of"));
    }

    #[test]
    fn without_files_and_without_a_name_there_is_no_profile() {
        let none = AwsProfile::read(None, true, &Environment::from([("HOME", "/nonexistent")])).unwrap();
        assert_eq!(none, AwsProfile::default());
        let named = Environment::from([("HOME", "/nonexistent"), ("AWS_PROFILE", "lab")]);
        assert!(AwsProfile::read(None, true, &named).is_err());
    }

    #[test]
    fn an_unsupported_profile_still_gives_its_region_if_there_are_other_keys() {
        let home = Home::with(CONFIG, "");
        let environment = Environment::from([("HOME", home.0.path().to_str().unwrap())]);
        let sso = AwsProfile::read(Some("sso"), false, &environment).unwrap();
        assert_eq!(sso.region.as_deref(), Some("eu-north-1"));
    }
}
