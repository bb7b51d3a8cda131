//! The ports that EXPOSE takes: `port[-port][/tcp|udp|sctp]`, before which an address and a port of the host may stand.

use super::error::Problem;

/// One argument of EXPOSE.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Exposed {
    /// `port/protocol`, a range's ports one by one.
    pub(super) ports: Vec<String>,
    /// The protocol was not written in small letters.
    pub(super) odd_case: bool,
    /// An address or a port of the host stands before it.
    pub(super) mapping: bool,
}

/// Reads one argument, variables replaced.
pub(super) fn parse(text: &str) -> Result<Exposed, Problem> {
    let error = |reason| Problem::Port {
        text: text.to_owned(),
        reason,
    };
    let (host, rest) = match text.rsplit_once(':') {
        Some((host, rest)) => (Some(host), rest),
        None => (None, text),
    };
    let (range, protocol) = rest.split_once('/').unwrap_or((rest, ""));
    let lower = protocol.to_ascii_lowercase();
    let protocol_name = match lower.as_str() {
        "" | "tcp" => "tcp",
        known @ ("udp" | "sctp") => known,
        _ => return Err(error("the protocol is none of tcp, udp and sctp")),
    };
    let (first, last) = parse_range(range).map_err(error)?;
    if let Some(host) = host {
        check_mapping(host, last - first).map_err(error)?;
    }
    Ok(Exposed {
        ports: (first..=last).map(|port| format!("{port}/{protocol_name}")).collect(),
        odd_case: protocol != lower,
        mapping: host.is_some_and(|host| !host.is_empty()),
    })
}

fn parse_range(text: &str) -> Result<(u16, u16), &'static str> {
    let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse::<u16>().map_err(|_| "a port is a number from 0 to 65535"),
        false => Err("a port is a number from 0 to 65535"),
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    match first <= last {
        true => Ok((first, last)),
        false => Err("the range ends before it begins"),
    }
}

/// `[address:]port[-port]` of the host: of no use in an image, but accepted as long as it makes sense.
fn check_mapping(text: &str, length: u16) -> Result<(), &'static str> {
    let (address, range) = text.rsplit_once(':').unwrap_or(("", text));
    let address = address.trim_start_matches('[').trim_end_matches(']');
    if !address.is_empty() && address.parse::<std::net::IpAddr>().is_err() {
        return Err("what stands before the ports is not an address");
    }
    if range.is_empty() {
        return Ok(());
    }
    let (first, last) = parse_range(range)?;
    match last - first == length || length == 0 {
        true => Ok(()),
        false => Err("the ranges of the host's and the container's ports differ in length"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_ranges_and_protocols() {
        for (given, expected) in [
            ("80", vec!["80/tcp"]),
            ("53/UDP", vec!["53/udp"]),
            ("7000-7002/sctp", vec!["7000/sctp", "7001/sctp", "7002/sctp"]),
            ("127.0.0.1:80:8080", vec!["8080/tcp"]),
            ("[::1]:80:8080", vec!["8080/tcp"]),
        ] {
            assert_eq!(parse(given).unwrap().ports, expected, "{given}");
        }
        assert!(parse("53/UDP").unwrap().odd_case && parse("1:2").unwrap().mapping);
        for bad in [
            "",
            "/tcp",
            "65536",
            "9-8",
            "80/http",
            "x",
            "+80",
            "1-2:3-5",
            "host:80:80",
            "-",
            "80-",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
