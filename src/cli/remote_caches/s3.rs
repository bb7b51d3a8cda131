//! The keys of `type=s3`, as buildx has them, and what stands in for those that are not given: AWS's variables.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use url::{Host, Url};

use crate::cache::remote::{S3Credentials, S3Options, S3Style, Secret};
use crate::cli::fields::Fields;

/// Parts of a blob that are sent at the same time, where nothing is said.
const PARALLELISM: &str = "4";

/// Takes the options out of `fields`; `variable` looks into the environment.
pub(super) fn read(
    fields: &mut Fields,
    variable: &dyn Fn(&'static str) -> Option<String>,
) -> Result<S3Options, String> {
    let first = |names: [&'static str; 2]| names.into_iter().find_map(variable);
    let bucket = fields.take("bucket").or_else(|| variable("AWS_BUCKET"));
    let region = fields
        .take("region")
        .or_else(|| first(["AWS_REGION", "AWS_DEFAULT_REGION"]));
    let endpoint = fields.take("endpoint_url").filter(|endpoint| !endpoint.is_empty());
    let endpoint = endpoint.or_else(|| first(["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]));
    let endpoint = endpoint.as_deref().map(address).transpose()?;
    let style = style(fields.take_bool("use_path_style")?, endpoint.as_ref());
    let parallelism = fields.take("upload_parallelism").unwrap_or_else(|| PARALLELISM.into());
    let wrong = || format!("upload_parallelism={parallelism}: it is a number from 1 to 64");
    let upload_parallelism = parallelism.parse::<NonZeroUsize>().map_err(|_| wrong())?;
    if upload_parallelism.get() > 64 {
        return Err(wrong());
    }
    Ok(S3Options {
        bucket: bucket
            .filter(|bucket| is_bucket(bucket))
            .ok_or("it needs bucket=NAME")?,
        region,
        endpoint,
        style,
        prefix: prefix(fields.take("prefix"), ""),
        blobs_prefix: prefix(fields.take("blobs_prefix"), "blobs/"),
        manifests_prefix: prefix(fields.take("manifests_prefix"), "manifests/"),
        name: fields
            .take("name")
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "builder".into()),
        upload_parallelism,
        authorities: variable("AWS_CA_BUNDLE").map(PathBuf::from),
        credentials: credentials(fields, variable)?,
    })
}

/// Names as AWS allows them, and the ones of other services, but none that leads elsewhere.
fn is_bucket(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    !name.is_empty() && name.bytes().all(is_part) && !name.starts_with('.') && !name.contains("..")
}

fn prefix(given: Option<String>, otherwise: &str) -> String {
    let prefix = given.unwrap_or_else(|| otherwise.into());
    prefix.trim_start_matches('/').to_owned()
}

/// A service's address, which is not encrypted only where it says so.
fn address(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|_| "endpoint_url=: write http://HOST[:PORT] or https://HOST[:PORT]")?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err("endpoint_url=: it begins with http:// or https://".into());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("endpoint_url=: keys stand in access_key_id and secret_access_key, not in an address".into());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("endpoint_url=: an address has no `?` and no `#`".into());
    }
    Ok(url)
}

/// An address of digits has no room for a bucket's name, and neither has this machine's.
fn style(by_path: Option<bool>, endpoint: Option<&Url>) -> S3Style {
    let host = endpoint.and_then(Url::host);
    let has_room = !matches!(host, Some(Host::Ipv4(_) | Host::Ipv6(_) | Host::Domain("localhost")));
    match by_path.unwrap_or(false) || !has_room {
        true => S3Style::Path,
        false => S3Style::Host,
    }
}

/// Keys that are given, or those of the environment, or whatever the machine is known by.
fn credentials(
    fields: &mut Fields,
    variable: &dyn Fn(&'static str) -> Option<String>,
) -> Result<S3Credentials, String> {
    let given = ["access_key_id", "secret_access_key", "session_token"].map(|key| fields.take(key));
    let kept = || ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"].map(variable);
    let [id, key, token] = match given.iter().any(Option::is_some) {
        true => given,
        false => kept(),
    };
    match (id, key) {
        (Some(id), Some(key)) => {
            return Ok(S3Credentials::Keys {
                id: Secret::new(id),
                key: Secret::new(key),
                token: token.map(Secret::new),
            });
        }
        (None, None) => {}
        _ => return Err("access_key_id and secret_access_key go together".into()),
    }
    let file = |name| variable(name).map(PathBuf::from);
    if let (Some(role), Some(token_file)) = (variable("AWS_ROLE_ARN"), file("AWS_WEB_IDENTITY_TOKEN_FILE")) {
        return Ok(S3Credentials::WebIdentity {
            role,
            token_file,
            session: variable("AWS_ROLE_SESSION_NAME"),
        });
    }
    if let Some(path) = variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") {
        return Ok(S3Credentials::Container { path });
    }
    let token_file = file("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
    if let (Some(url), Some(token_file)) = (variable("AWS_CONTAINER_CREDENTIALS_FULL_URI"), token_file) {
        return Ok(S3Credentials::Pod { url, token_file });
    }
    Ok(S3Credentials::Instance)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, variables: &'static [(&'static str, &'static str)]) -> Result<S3Options, String> {
        let mut fields = Fields::read(text).unwrap();
        let look = |name: &'static str| {
            variables
                .iter()
                .find(|(own, _)| *own == name)
                .map(|(_, value)| (*value).to_owned())
        };
        let options = read(&mut fields, &look)?;
        fields.finish().map(|()| options)
    }

    #[test]
    fn keys_are_buildxs() {
        let options = parse(
            "bucket=b,region=eu-1,name=n,prefix=/p/,blobs_prefix=x/,manifests_prefix=y/,endpoint_url=http://127.0.0.1:1,\
             access_key_id=A,secret_access_key=B,session_token=C,upload_parallelism=2",
            &[("AWS_ACCESS_KEY_ID", "other")],
        );
        let expected = S3Options {
            bucket: "b".into(),
            region: Some("eu-1".into()),
            endpoint: Some("http://127.0.0.1:1".parse().unwrap()),
            style: S3Style::Path,
            prefix: "p/".into(),
            blobs_prefix: "x/".into(),
            manifests_prefix: "y/".into(),
            name: "n".into(),
            upload_parallelism: NonZeroUsize::new(2).unwrap(),
            authorities: None,
            credentials: S3Credentials::Keys {
                id: Secret::new("A".into()),
                key: Secret::new("B".into()),
                token: Some(Secret::new("C".into())),
            },
        };
        assert_eq!(options, Ok(expected));
    }

    #[test]
    fn what_is_not_given_is_awss() {
        let options = parse(
            "bucket=b",
            &[
                ("AWS_DEFAULT_REGION", "r"),
                ("AWS_ENDPOINT_URL", "https://s3.example"),
                ("AWS_ROLE_ARN", "role"),
                ("AWS_WEB_IDENTITY_TOKEN_FILE", "/token"),
            ],
        )
        .unwrap();
        assert_eq!(options.region.as_deref(), Some("r"));
        assert_eq!(options.style, S3Style::Host);
        assert!(matches!(options.credentials, S3Credentials::WebIdentity { .. }));
        assert_eq!(
            parse("region=r", &[("AWS_BUCKET", "b")]).unwrap().credentials,
            S3Credentials::Instance
        );
        let by_path = parse("bucket=b,use_path_style=true,endpoint_url=https://s3.example", &[]).unwrap();
        assert_eq!(by_path.style, S3Style::Path);
    }

    #[test]
    fn what_is_wrong_is_told_without_what_is_secret() {
        for (text, reason) in [
            ("region=r", "it needs bucket=NAME"),
            ("bucket=../b", "it needs bucket=NAME"),
            ("bucket=b,access_key_id=hidden", "go together"),
            ("bucket=b,endpoint_url=ftp://h", "begins with http:// or https://"),
            ("bucket=b,endpoint_url=h", "endpoint_url=: write http://"),
            ("bucket=b,endpoint_url=http://user:hidden@h", "not in an address"),
            ("bucket=b,upload_parallelism=0", "a number from 1 to 64"),
            ("bucket=b,use_path_style=perhaps", "it is true or false"),
        ] {
            let error = parse(text, &[]).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
            assert!(!error.contains("hidden"), "{error}");
        }
        let options = parse(
            "bucket=b,access_key_id=hidden,secret_access_key=hidden,session_token=hidden",
            &[],
        );
        assert!(!format!("{options:?}").contains("hidden"));
    }
}
