//! How two preimages differ, part by part: why a step's result was not known.
//!
//! Works on the serialised form of an operation's definition, so that every field of every operation is compared, those
//! that are yet to come too. Owns no words: what is said of a difference is the command line's affair.

use serde::Serialize;
use serde_json::Value;

use super::key::{InputIdentity, InputKey, Preimage};

/// One thing that is otherwise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Difference {
    /// A part of the operation.
    Definition {
        /// Which: names of fields and numbers from 0, joined with dots, as in `graph::Op`: `args`, `mounts.0.target`.
        part: String,
        /// What it was; `None` where there was none.
        before: Option<String>,
        /// What it is.
        after: Option<String>,
    },
    /// A variable that the process sees, from ENV or ARG.
    Variable {
        /// Its name.
        name: String,
        /// Its value; `None` where it was not set.
        before: Option<String>,
        /// Its value now.
        after: Option<String>,
    },
    /// What the operation works on.
    Input {
        /// Its place among the inputs, from 0.
        index: usize,
        /// What stood for it; `None` where there was none.
        before: Option<InputIdentity>,
        /// What stands for it.
        after: Option<InputIdentity>,
    },
}

/// How far two preimages are from each other: the less, the nearer.
pub type Distance = (usize, usize);

/// The name of the operation in a definition: `Exec`.
fn operation(definition: &Value) -> Option<(&str, &Value)> {
    let (name, body) = definition.as_object()?.iter().next()?;
    Some((name, body))
}

/// What is otherwise in `after`; `None` where the two are no operations of one kind.
pub fn differences(before: &Preimage, after: &Preimage) -> Option<Vec<Difference>> {
    let parse = |preimage: &Preimage| serde_json::from_slice::<Value>(&preimage.definition).ok();
    let (old, new) = (parse(before)?, parse(after)?);
    let ((old_name, old_body), (new_name, new_body)) = (operation(&old)?, operation(&new)?);
    if old_name != new_name {
        return None;
    }
    let mut found = Vec::new();
    compare("", Some(old_body), Some(new_body), &mut found);
    let identity = |inputs: &[InputKey], index: usize| inputs.get(index).map(|input| input.identity);
    for index in 0..before.inputs.len().max(after.inputs.len()) {
        if before.inputs.get(index) != after.inputs.get(index) {
            found.push(Difference::Input {
                index,
                before: identity(&before.inputs, index),
                after: identity(&after.inputs, index),
            });
        }
    }
    Some(found)
}

fn compare(part: &str, before: Option<&Value>, after: Option<&Value>, found: &mut Vec<Difference>) {
    if before == after {
        return;
    }
    let inner = |name: &str| match part {
        "" => name.to_owned(),
        part => format!("{part}.{name}"),
    };
    match (before, after) {
        (Some(Value::Array(old)), Some(Value::Array(new))) if part == "env" => compare_variables(old, new, found),
        // The words of a command, the sources of a copy, the bytes of a file: one thing each.
        (Some(Value::Array(old)), Some(Value::Array(new))) if !is_one_thing(old) || !is_one_thing(new) => {
            for index in 0..old.len().max(new.len()) {
                compare(&inner(&index.to_string()), old.get(index), new.get(index), found);
            }
        }
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            let names = old.keys().chain(new.keys().filter(|name| !old.contains_key(*name)));
            for name in names {
                compare(&inner(name), old.get(name), new.get(name), found);
            }
        }
        _ => found.push(Difference::Definition {
            part: part.to_owned(),
            before: before.and_then(shown),
            after: after.and_then(shown),
        }),
    }
}

fn is_one_thing(values: &[Value]) -> bool {
    is_of_words(values) || bytes(values).is_some()
}

fn is_of_words(values: &[Value]) -> bool {
    values.iter().all(Value::is_string)
}

fn bytes(values: &[Value]) -> Option<Vec<u8>> {
    let byte = |value: &Value| u8::try_from(value.as_u64()?).ok();
    values.iter().map(byte).collect()
}

fn compare_variables(before: &[Value], after: &[Value], found: &mut Vec<Difference>) {
    fn pairs(values: &[Value]) -> impl Iterator<Item = (&str, &str)> {
        values.iter().filter_map(|value| value.as_str()?.split_once('='))
    }
    let value = |values, name: &str| {
        let mut all = pairs(values);
        all.find(|(other, _)| *other == name).map(|(_, value)| value.to_owned())
    };
    let names = pairs(before).chain(pairs(after).filter(|(name, _)| value(before, name).is_none()));
    let found_before = found.len();
    for (name, _) in names {
        let (before, after) = (value(before, name), value(after, name));
        if before != after {
            found.push(Difference::Variable {
                name: name.to_owned(),
                before,
                after,
            });
        }
    }
    // The same values in another order are another environment all the same.
    if found.len() == found_before {
        let all = |values: &[Value]| Some(pairs(values).map(|(name, _)| name).collect::<Vec<_>>().join(" "));
        found.push(Difference::Definition {
            part: "env".into(),
            before: all(before),
            after: all(after),
        });
    }
}

/// A value as a reader knows it: text without quotes, words side by side; `None` for nothing. Bytes of a file as text.
fn shown(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Array(values) if is_of_words(values) => {
            let words: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
            Some(words.join(" "))
        }
        Value::Array(values) => match bytes(values) {
            Some(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
            None => Some(value.to_string()),
        },
        other => Some(other.to_string()),
    }
}

/// How far `before` is from `after`: how many parts differ, and then how much of the text. `None` for another kind of
/// operation, and where one key is made of keys and the other of content.
pub fn distance(before: &Preimage, after: &Preimage) -> Option<Distance> {
    let unlike = |(one, other): &(&InputKey, &InputKey)| {
        std::mem::discriminant(&one.identity) != std::mem::discriminant(&other.identity)
    };
    if before.inputs.iter().zip(&after.inputs).any(|pair| unlike(&pair)) {
        return None;
    }
    let parts = differences(before, after)?.len();
    let (old, new) = (&before.definition, &after.definition);
    let same = |(one, other): &(&u8, &u8)| one == other;
    let prefix = old.iter().zip(new).take_while(same).count();
    let suffix = old.iter().rev().zip(new.iter().rev()).take_while(same).count();
    let longest = old.len().max(new.len());
    Some((parts, longest.saturating_sub(prefix + suffix)))
}

/// Whether two operations do the same, as far as a reader of the Dockerfile sees at once: the same command, the same
/// destinations.
pub fn is_same_deed(one: &Preimage, other: &Preimage) -> bool {
    let deed = |preimage: &Preimage| {
        let definition: Value = serde_json::from_slice(&preimage.definition).ok()?;
        let (name, body) = operation(&definition)?;
        let actions = body["actions"].as_array().map_or(&[][..], Vec::as_slice);
        let goes_to = |action: &Value| {
            let (_, action) = operation(action)?;
            Some((action["destination"].clone(), action["path"].clone()))
        };
        let places: Vec<_> = actions.iter().map(goes_to).collect();
        Some((
            name.to_owned(),
            body["args"].clone(),
            body["destination"].clone(),
            places,
        ))
    };
    deed(one).is_some_and(|one| deed(other) == Some(one))
}

/// What an operation uses an input for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It changes it.
    Base,
    /// It copies from it.
    Copied,
    /// It sees it there.
    MountedAt(String),
    /// It is the layer that a `COPY --link` made.
    Layer,
}

/// What the operation of `preimage` uses its input `index` for, above all; `None` where it names no such input.
pub fn role(preimage: &Preimage, index: usize) -> Option<Role> {
    let definition: Value = serde_json::from_slice(&preimage.definition).ok()?;
    let (_, body) = operation(&definition)?;
    let is = |value: &Value| value.as_u64() == Some(index as u64);
    if is(&body["base"]) {
        return Some(Role::Base);
    }
    if is(&body["layer"]) {
        return Some(Role::Layer);
    }
    let mounts = body["mounts"].as_array().map_or(&[][..], Vec::as_slice);
    let mounted = mounts
        .iter()
        .find(|mount| ["Bind", "Cache"].iter().any(|kind| is(&mount["kind"][kind]["input"])));
    if let Some(mount) = mounted {
        return Some(Role::MountedAt(mount["target"].as_str()?.to_owned()));
    }
    let actions = body["actions"].as_array()?;
    let copied = actions.iter().any(|action| is(&action["Copy"]["input"]));
    copied.then_some(Role::Copied)
}

/// What an operation is, in a few words of a Dockerfile: `RUN make`, `COPY src /app/`.
pub fn summary(preimage: &Preimage) -> String {
    let definition: Value = serde_json::from_slice(&preimage.definition).unwrap_or_default();
    let Some((name, body)) = operation(&definition) else {
        return "a step".into();
    };
    let words = |value: &Value| shown(value).unwrap_or_default();
    let text = match name {
        "Exec" => match body["args"].as_array().map(Vec::as_slice) {
            Some([_, flag, command]) if flag == "-c" => format!("RUN {}", words(command)),
            _ => format!("RUN {}", words(&body["args"])),
        },
        "File" => file_summary(body),
        "Merge" => format!("COPY --link … {}", words(&body["destination"])),
        "Source" => source_summary(body),
        other => other.to_owned(),
    };
    match text.split_once('\n') {
        Some((first, _)) => format!("{first} …"),
        None => text,
    }
}

fn file_summary(body: &Value) -> String {
    let action = &body["actions"][0];
    let words = |value: &Value| shown(value).unwrap_or_default();
    if let Some(copy) = action.get("Copy") {
        return format!("COPY {} {}", words(&copy["sources"]), words(&copy["destination"]));
    }
    if let Some(file) = action.get("MakeFile") {
        return format!("COPY <<{} {}", words(&file["name"]), words(&file["destination"]));
    }
    format!("WORKDIR {}", words(&action["MakeDirectory"]["path"]))
}

fn source_summary(body: &Value) -> String {
    let words = |value: &Value| shown(value).unwrap_or_default();
    match operation(body) {
        Some(("Image", image)) => format!("an image with the layers {}", short(&image["chain"])),
        Some(("Http", file)) => format!("the file {} ({})", words(&file["name"]), short(&file["digest"])),
        Some(("Git", commit)) => format!("commit {}", short(&commit["commit"])),
        Some(("Archive", archive)) => format!("an archive ({})", short(&archive["digest"])),
        _ => "a source".into(),
    }
}

/// As many digits of a digest as tell it from others.
fn short(digest: &Value) -> String {
    let digest = shown(digest).unwrap_or_default();
    let (_, digits) = digest.split_once(':').unwrap_or(("", &digest));
    digits.chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preimage(definition: &str, inputs: &[u8]) -> Preimage {
        Preimage {
            definition: definition.into(),
            inputs: inputs.iter().map(|byte| InputKey::content([*byte; 32])).collect(),
        }
    }

    fn parts(before: &str, after: &str) -> Vec<String> {
        let found = differences(&preimage(before, &[]), &preimage(after, &[])).unwrap();
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
        found
            .iter()
            .map(|difference| match difference {
                Difference::Definition { part, before, after } => format!("{part}: {} > {}", text(before), text(after)),
                Difference::Variable { name, before, after } => format!("${name}: {} > {}", text(before), text(after)),
                Difference::Input { index, .. } => format!("input {index}"),
            })
            .collect()
    }

    #[test]
    fn each_part_is_told_with_both_values() {
        let run = r#"{"Exec":{"args":["sh","-c","make"],"env":["A=1","B=2"],"user":"","hostname":null,"mounts":[]}}"#;
        for (from, to, told) in [
            ("make", "make all", "args: sh -c make > sh -c make all"),
            ("A=1", "A=2", "$A: 1 > 2"),
            (r#""A=1","#, "", "$A: 1 > -"),
            (r#""B=2""#, r#""B=2","C=3""#, "$C: - > 3"),
            (r#""A=1","B=2""#, r#""B=2","A=1""#, "env: A B > B A"),
            (r#""user":"""#, r#""user":"me""#, "user:  > me"),
            ("null", r#""here""#, "hostname: - > here"),
            (
                r#""mounts":[]"#,
                r#""mounts":[{"target":"/x"}]"#,
                r#"mounts.0: - > {"target":"/x"}"#,
            ),
        ] {
            assert_eq!(parts(run, &run.replacen(from, to, 1)), [told], "{to}");
        }
        assert!(parts(run, run).is_empty());
    }

    #[test]
    fn files_in_the_dockerfile_are_text() {
        let file =
            |content: &[u8]| format!(r#"{{"File":{{"base":0,"actions":[{{"MakeFile":{{"content":{content:?}}}}}]}}}}"#);
        assert_eq!(
            parts(&file(b"one"), &file(b"two")),
            ["actions.0.MakeFile.content: one > two"]
        );
    }

    #[test]
    fn inputs_are_compared_by_place() {
        let one = preimage(r#"{"Merge":{}}"#, &[1, 2]);
        let two = preimage(r#"{"Merge":{}}"#, &[1, 3, 4]);
        let found = differences(&one, &two).unwrap();
        assert_eq!(
            found,
            [
                Difference::Input {
                    index: 1,
                    before: Some(InputIdentity::Content([2; 32])),
                    after: Some(InputIdentity::Content([3; 32])),
                },
                Difference::Input {
                    index: 2,
                    before: None,
                    after: Some(InputIdentity::Content([4; 32])),
                },
            ]
        );
        assert_eq!(differences(&one, &preimage(r#"{"Exec":{}}"#, &[])), None);
    }

    #[test]
    fn the_nearest_is_what_differs_in_the_fewest_parts_and_then_the_least_text() {
        let run =
            |text: &str, input: u8| preimage(&format!(r#"{{"Exec":{{"args":["{text}"],"user":"a"}}}}"#), &[input]);
        let new = run("make all", 1);
        let order = [
            run("make all", 2),
            run("make al", 1),
            run("test", 1),
            run("make all", 1),
        ];
        let mut sorted = order.to_vec();
        sorted.sort_by_key(|old| distance(old, &new));
        assert_eq!(
            sorted,
            [order[3].clone(), order[0].clone(), order[1].clone(), order[2].clone()]
        );
    }

    #[test]
    fn a_step_is_named_in_a_few_words() {
        for (definition, expected) in [
            (r#"{"Exec":{"args":["/bin/sh","-c","make\nmore"]}}"#, "RUN make …"),
            (r#"{"Exec":{"args":["make","x"]}}"#, "RUN make x"),
            (
                r#"{"File":{"actions":[{"Copy":{"sources":["a","b"],"destination":"/c/"}}]}}"#,
                "COPY a b /c/",
            ),
            (
                r#"{"File":{"actions":[{"MakeDirectory":{"path":"/w"}}]}}"#,
                "WORKDIR /w",
            ),
            (
                r#"{"Source":{"Image":{"chain":"sha256:123456789abcdef"}}}"#,
                "an image with the layers 123456789abc",
            ),
            ("junk", "a step"),
        ] {
            assert_eq!(summary(&preimage(definition, &[])), expected);
        }
    }
}
