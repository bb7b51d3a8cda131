//! The keys of `type=reapi`.

use std::path::PathBuf;

use url::Url;

use crate::cache::remote::{ReapiIdentity, ReapiOptions, Secret};
use crate::cli::fields::Fields;

/// Takes the options out of `fields`; `variable` looks into the environment, `file` reads a file.
pub(super) fn read(
    fields: &mut Fields,
    variable: &dyn Fn(&str) -> Option<String>,
    file: &dyn Fn(&str) -> std::io::Result<String>,
) -> Result<ReapiOptions, String> {
    let endpoint = address(&fields.need("endpoint", "grpc://HOST:PORT or grpcs://HOST:PORT")?)?;
    let mut headers = Vec::new();
    for header in fields.take_all("header") {
        let (name, value) = header.split_once(':').ok_or("header=: write NAME:VALUE")?;
        headers.push((name.trim().to_owned(), Secret::new(value.trim().to_owned())));
    }
    let bearer = |token: String| {
        (
            "authorization".to_owned(),
            Secret::new(format!("Bearer {}", token.trim())),
        )
    };
    if let Some(name) = fields.take("token_env") {
        let token = variable(&name).ok_or_else(|| format!("token_env={name}: there is no such variable"))?;
        headers.push(bearer(token));
    }
    if let Some(path) = fields.take("token_file") {
        headers.push(bearer(
            file(&path).map_err(|error| format!("token_file={path}: {error}"))?,
        ));
    }
    let [authorities, certificate, key] = ["cacert", "cert", "key"].map(|key| fields.take(key).map(PathBuf::from));
    let identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some(ReapiIdentity { certificate, key }),
        (None, None) => None,
        _ => return Err("cert and key go together".into()),
    };
    if endpoint.scheme() == "http" && (authorities.is_some() || identity.is_some()) {
        return Err("cacert, cert and key are for grpcs://".into());
    }
    Ok(ReapiOptions {
        endpoint,
        instance: instance(fields.take("instance").unwrap_or_default())?,
        headers,
        authorities,
        identity,
    })
}

/// The address of a service, as the library takes it.
fn address(text: &str) -> Result<Url, String> {
    let form = || "endpoint=: write grpc://HOST:PORT, or grpcs://HOST:PORT for TLS".to_owned();
    let (scheme, host) = text.split_once("://").ok_or_else(form)?;
    let scheme = match scheme {
        "grpc" => "http",
        "grpcs" => "https",
        _ => return Err(form()),
    };
    let url = Url::parse(&format!("{scheme}://{host}")).map_err(|_| form())?;
    let is_bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
    match is_bare && url.username().is_empty() && url.password().is_none() {
        true => Ok(url),
        false => Err(form()),
    }
}

/// An instance's name becomes part of the names of blobs.
fn instance(name: String) -> Result<String, String> {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/".contains(&byte);
    match name.bytes().all(is_part) {
        true => Ok(name),
        false => Err("instance=: a name has letters, digits, `-`, `.`, `_` and `/`".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ReapiOptions, String> {
        let mut fields = Fields::read(text).unwrap();
        let variable = |name: &str| (name == "SET").then(|| "hidden\n".to_owned());
        let file = |path: &str| match path {
            "/token" => Ok("hidden\n".to_owned()),
            _ => Err(std::io::ErrorKind::NotFound.into()),
        };
        let options = read(&mut fields, &variable, &file)?;
        fields.finish().map(|()| options)
    }

    #[test]
    fn keys_say_where_and_who() {
        let options = parse(
            "endpoint=grpcs://h:1,instance=a/b,header=x-key: hidden,header=y:z:z,token_env=SET,cacert=/ca,cert=/c,key=/k",
        )
        .unwrap();
        assert_eq!(options.endpoint.as_str(), "https://h:1/");
        let header = |name: &str, value: &str| (name.to_owned(), Secret::new(value.into()));
        assert_eq!(
            options.headers,
            [
                header("x-key", "hidden"),
                header("y", "z:z"),
                header("authorization", "Bearer hidden")
            ]
        );
        assert!(!format!("{options:?}").contains("hidden"));
        let identity = options.identity.unwrap();
        assert_eq!((identity.certificate, identity.key), ("/c".into(), "/k".into()));
        let plain = parse("endpoint=grpc://h:1,token_file=/token").unwrap();
        assert_eq!(
            (plain.endpoint.scheme(), plain.headers),
            ("http", vec![header("authorization", "Bearer hidden")])
        );
    }

    #[test]
    fn what_is_wrong_is_told_without_what_is_secret() {
        for (text, reason) in [
            ("instance=a", "it needs endpoint="),
            ("endpoint=h:1", "endpoint=: write grpc://"),
            ("endpoint=http://h:1", "endpoint=: write grpc://"),
            ("endpoint=grpc://user:hidden@h:1", "endpoint=: write grpc://"),
            ("endpoint=grpc://h:1/path", "endpoint=: write grpc://"),
            ("endpoint=grpc://h:1,header=hidden", "header=: write NAME:VALUE"),
            ("endpoint=grpc://h:1,token_env=UNSET", "there is no such variable"),
            ("endpoint=grpc://h:1,token_file=/none", "token_file=/none: "),
            ("endpoint=grpc://h:1,cacert=/ca", "are for grpcs://"),
            ("endpoint=grpcs://h:1,cert=/c", "go together"),
            ("endpoint=grpc://h:1,instance=a b", "instance=: a name"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
            assert!(!error.contains("hidden"), "{error}");
        }
    }
}
