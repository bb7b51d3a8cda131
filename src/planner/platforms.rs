//! Platforms in a plan: what an image says it is for, and how steps name theirs.

use crate::oci::Platform;

use super::environment::Environment;

/// Whether steps name their platforms.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PlatformNames {
    /// They do not: the build is for one platform.
    #[default]
    Hidden,
    /// They do: `[linux/arm64 build 2/5] RUN make`.
    Shown,
}

/// What the image is for. What was asked for counts; variant and version of the system stay the base's where nothing
/// else was asked for and the base is of the same kind.
pub(super) fn of_image(asked: Option<&Platform>, own: Platform) -> Platform {
    let Some(asked) = asked else {
        return own.normalized();
    };
    let same_kind = (&own.os, &own.architecture) == (&asked.os, &asked.architecture);
    let mut platform = own;
    platform.os.clone_from(&asked.os);
    platform.architecture.clone_from(&asked.architecture);
    if asked.variant.is_some() || !same_kind {
        platform.variant.clone_from(&asked.variant);
    }
    if !same_kind {
        platform.other.clear();
    }
    platform.other.extend(asked.other.clone());
    platform.normalized()
}

/// The platform of a step that runs on `own`: `linux/amd64`, or `linux/amd64->arm64` where its variables say that it
/// makes something for another.
pub(super) fn shown(own: &Platform, scope: Option<&Environment>) -> String {
    let Some(made_for) = scope.and_then(|scope| made_for(own, scope)) else {
        return own.to_string();
    };
    if made_for.os != own.os {
        return format!("{own}->{made_for}");
    }
    if made_for.architecture == own.architecture {
        return own.to_string();
    }
    match &made_for.variant {
        Some(variant) => format!("{own}->{}/{variant}", made_for.architecture),
        None => format!("{own}->{}", made_for.architecture),
    }
}

fn made_for(own: &Platform, scope: &Environment) -> Option<Platform> {
    if let Some(Ok(platform)) = scope.get("TARGETPLATFORM").map(str::parse) {
        return Some(platform);
    }
    let [os, architecture, variant] =
        ["TARGETOS", "TARGETARCH", "TARGETVARIANT"].map(|name| scope.get(name).filter(|value| !value.is_empty()));
    os.or(architecture).or(variant)?;
    let mut platform = Platform::new(os.unwrap_or(&own.os), architecture.unwrap_or(&own.architecture));
    platform.variant = variant.map(str::to_owned);
    Some(platform.normalized())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn an_image_is_for_what_was_asked_for() {
        let base = Platform {
            variant: Some("v2".into()),
            ..platform("windows(10.0.1)/amd64")
        };
        assert_eq!(of_image(None, base.clone()).to_string(), "windows(10.0.1)/amd64/v2");
        let of = |asked: &str| of_image(Some(&platform(asked)), base.clone()).to_string();
        assert_eq!(of("windows/amd64"), "windows(10.0.1)/amd64/v2");
        assert_eq!(of("windows(10.0.2)/amd64/v3"), "windows(10.0.2)/amd64/v3");
        assert_eq!(of("linux/arm64"), "linux/arm64");
    }

    #[test]
    fn cross_compilation_is_shown() {
        let own = platform("linux/amd64");
        let shown = |pairs: &[(&str, &str)]| {
            let mut scope = Environment::default();
            for (name, value) in pairs {
                scope.set(name, value).unwrap();
            }
            super::shown(&own, Some(&scope))
        };
        assert_eq!(shown(&[]), "linux/amd64");
        assert_eq!(shown(&[("TARGETARCH", "amd64")]), "linux/amd64");
        assert_eq!(shown(&[("TARGETARCH", "arm64")]), "linux/amd64->arm64");
        assert_eq!(shown(&[("TARGETPLATFORM", "linux/arm/v7")]), "linux/amd64->arm/v7");
        assert_eq!(shown(&[("TARGETOS", "windows")]), "linux/amd64->windows/amd64");
        assert_eq!(super::shown(&own, None), "linux/amd64");
    }
}
