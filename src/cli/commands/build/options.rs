//! What the plan is told: flags and environment as [`PlanOptions`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use super::Arguments;
use super::arguments::{Entitlement, Network, NoCacheFlag};
use super::{build_args, contexts};
use crate::cli::failure::Failure;
use crate::graph::{ExtraHost, HostAddress};
use crate::planner::{Confinement, HostNetwork, NoCache, PlanOptions};

/// The moment that the build pretends to happen at.
pub(super) const EPOCH: &str = "SOURCE_DATE_EPOCH";

pub(super) fn plan_options(arguments: &Arguments) -> Result<(PlanOptions, BTreeMap<String, PathBuf>), Failure> {
    let mut contexts = contexts::main_directory(arguments);
    let named_contexts = contexts::named(&pairs(&arguments.build_contexts, "--build-context")?, &mut contexts)?;
    let options = PlanOptions {
        target: arguments.target.clone(),
        build_args: with_epoch(build_args::read(arguments)?, arguments)?,
        labels: pairs(&arguments.labels, "--label")?,
        no_cache: match (arguments.no_cache, arguments.no_cache_filter.as_slice()) {
            _ if arguments.reproduction.verify => NoCache::All,
            (Some(NoCacheFlag::True | NoCacheFlag::Mounts), _) => NoCache::All,
            (Some(NoCacheFlag::False) | None, []) => NoCache::Never,
            (Some(NoCacheFlag::False) | None, stages) => NoCache::Stages(stages.to_vec()),
        },
        network: arguments.network.into(),
        extra_hosts: arguments
            .add_hosts
            .iter()
            .map(|text| extra_host(text))
            .collect::<Result<_, Failure>>()?,
        named_contexts,
        host_network: match arguments.allow.contains(&Entitlement::NetworkHost) || arguments.network == Network::Host {
            true => HostNetwork::Allowed,
            false => HostNetwork::Refused,
        },
        confinement: match arguments.allow.contains(&Entitlement::SecurityInsecure) {
            true => Confinement::Optional,
            false => Confinement::Required,
        },
        ..PlanOptions::default()
    };
    Ok((options, contexts))
}

fn pairs(values: &[String], flag: &str) -> Result<BTreeMap<String, String>, Failure> {
    let pair = |text: &String| match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(Failure::usage(format!("{flag} {text}: expected name=value"))),
    };
    values.iter().map(pair).collect()
}

pub(in crate::cli::commands) fn extra_host(text: &str) -> Result<ExtraHost, Failure> {
    let (name, address) = text
        .split_once(['=', ':'])
        .filter(|(name, _)| !name.is_empty() && !name.contains(char::is_whitespace))
        .ok_or_else(|| Failure::usage(format!("--add-host {text}: expected name:address")))?;
    let address = match (address, address.trim_matches(['[', ']']).parse::<IpAddr>()) {
        ("host-gateway", _) => HostAddress::Gateway,
        (_, Ok(address)) => HostAddress::Of(address),
        _ => {
            return Err(Failure::usage(format!(
                "--add-host {text}: `{address}` is not an IP address"
            )));
        }
    };
    Ok(ExtraHost {
        name: name.to_owned(),
        address,
    })
}

/// `SOURCE_DATE_EPOCH` counts as a build argument, as in buildx; `--reproducible` sets it where nobody did.
fn with_epoch(
    mut build_args: BTreeMap<String, String>,
    arguments: &Arguments,
) -> Result<BTreeMap<String, String>, Failure> {
    if let Ok(text) = std::env::var(EPOCH)
        && !text.is_empty()
    {
        build_args.entry(EPOCH.to_owned()).or_insert(text);
    }
    if arguments.reproduction.reproducible && build_args.get(EPOCH).is_none_or(String::is_empty) {
        let moment = match contexts::is_repository(arguments)? {
            true => contexts::MAIN,
            false => "0",
        };
        build_args.insert(EPOCH.to_owned(), moment.to_owned());
    }
    Ok(build_args)
}
