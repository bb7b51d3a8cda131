//! The lists of the registry of the tests: tags and referrers, in pages.

use super::{Answer, Request, State};

/// `tags/list`.
pub fn tags(state: &State, request: &Request, repository: &str) -> Answer {
    let mut tags: Vec<String> = state
        .manifests
        .keys()
        .filter(|(own, name)| own == repository && !name.contains(':'))
        .map(|(_, name)| name.clone())
        .collect();
    tags.sort();
    if tags.is_empty() {
        return Answer::error(404, "NAME_UNKNOWN");
    }
    let (page, next) = page(state, request, tags);
    let body = serde_json::json!({"name": repository, "tags": page});
    json(
        "application/json",
        &body,
        next.map(|last| format!("</v2/{repository}/tags/list?last={last}>; rel=\"next\"")),
    )
}

/// `referrers/<digest>`, where the registry has it.
pub fn referrers(state: &State, request: &Request, repository: &str, digest: &str) -> Answer {
    if !state.referrers {
        return Answer::error(404, "NOT_FOUND");
    }
    let wanted = request.query("artifactType");
    let mut entries: Vec<(String, serde_json::Value)> = state
        .manifests
        .iter()
        .filter(|((own, name), _)| own == repository && name.contains(':'))
        .filter_map(|((_, name), (kind, bytes))| {
            let document: serde_json::Value = serde_json::from_slice(bytes).ok()?;
            (document["subject"]["digest"] == digest).then_some(())?;
            let artifact = document.get("artifactType").unwrap_or(&document["config"]["mediaType"]);
            let entry = serde_json::json!({"mediaType": kind, "digest": name, "size": bytes.len(), "artifactType": artifact,
                "annotations": document.get("annotations").unwrap_or(&serde_json::json!({}))});
            Some((name.clone(), entry))
        })
        .collect();
    entries.sort_by(|left, right| left.0.cmp(&right.0));
    if let Some(wanted) = &wanted {
        entries.retain(|(_, entry)| entry["artifactType"] == wanted.as_str());
    }
    let (page, next) = page(state, request, entries.iter().map(|(name, _)| name.clone()).collect());
    let shown: Vec<_> = entries
        .iter()
        .filter(|(name, _)| page.contains(name))
        .map(|(_, entry)| entry)
        .collect();
    let kind = "application/vnd.oci.image.index.v1+json";
    let body = serde_json::json!({"schemaVersion": 2, "mediaType": kind, "manifests": shown});
    let link = next.map(|last| format!("<{}?last={last}>; rel=\"next\"", request.path()));
    let answer = json(kind, &body, link);
    match wanted {
        Some(_) => answer.with("OCI-Filters-Applied", "artifactType"),
        None => answer,
    }
}

/// What comes after `last`, as much as fits, and after what the next page begins.
fn page(state: &State, request: &Request, names: Vec<String>) -> (Vec<String>, Option<String>) {
    let last = request.query("last").unwrap_or_default();
    let rest: Vec<String> = names.into_iter().filter(|name| *name > last).collect();
    let page: Vec<String> = rest.iter().take(state.page).cloned().collect();
    let next = page.last().filter(|_| rest.len() > page.len()).cloned();
    (page, next)
}

fn json(kind: &str, body: &serde_json::Value, link: Option<String>) -> Answer {
    let answer = Answer {
        body: body.to_string().into_bytes(),
        ..Answer::new(200).with("Content-Type", kind)
    };
    match link {
        Some(link) => answer.with("Link", link),
        None => answer,
    }
}
