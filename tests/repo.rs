//! Rules of this repository, so that a plain `cargo test` says what a reviewer would.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

const LINES_MAX: usize = 700;

/// Crates that wait, listen or ask the system. A core is a function of its inputs.
const IMPURE_CRATES: [&str; 3] = ["tokio", "mio", "socket2"];

/// Modules of `std` that reach outside the process.
const IMPURE_MODULES: [&str; 3] = ["fs", "net", "env"];

/// Calls that read a clock.
const CLOCKS: [&str; 2] = ["Instant::now", "SystemTime::now"];

/// Who needs which other members, apart from tests: the arrows of ARCHITECTURE.md. Who is named needs only who is
/// named before it.
const NEEDS: [(&str, &[&str]); 23] = [
    ("midge-identity", &[]),
    ("mqtt-proto", &[]),
    ("midge-policy", &["midge-identity", "mqtt-proto"]),
    ("midge-policy-tools", &["midge-identity", "midge-policy", "mqtt-proto"]),
    ("broker-core", &["midge-identity", "midge-policy", "mqtt-proto"]),
    ("issuer-core", &["midge-identity"]),
    ("bridge-core", &["midge-identity"]),
    ("audit-core", &["midge-identity"]),
    ("midge-api", &["issuer-core", "midge-identity"]),
    ("midge-runtime", &["midge-identity"]),
    ("midge-store", &[]),
    ("midge-pki", &["issuer-core", "midge-identity"]),
    ("midge-audit", &["audit-core", "midge-identity", "midge-pki", "midge-runtime"]),
    (
        "midge-issuer",
        &[
            "issuer-core",
            "midge-api",
            "midge-identity",
            "midge-pki",
            "midge-policy",
            "midge-runtime",
            "midge-store",
        ],
    ),
    (
        "midge-broker",
        &[
            "broker-core",
            "midge-audit",
            "midge-identity",
            "midge-pki",
            "midge-policy",
            "midge-runtime",
            "midge-store",
            "mqtt-proto",
        ],
    ),
    ("midge-agent", &["issuer-core", "midge-api", "midge-identity", "midge-pki", "midge-runtime"]),
    (
        "cloud-bridge",
        &[
            "bridge-core",
            "issuer-core",
            "midge-identity",
            "midge-issuer",
            "midge-pki",
            "midge-runtime",
            "midge-store",
        ],
    ),
    ("event-bus", &["bridge-core", "midge-identity", "midge-pki", "midge-runtime", "midge-store"]),
    ("mapper-sdk", &["bridge-core", "midge-identity", "midge-pki", "midge-runtime"]),
    ("light-mapper", &["mapper-sdk", "midge-runtime"]),
    ("midge-fuzz", &["audit-core", "broker-core", "midge-identity", "midge-policy", "mqtt-proto"]),
    ("midge-bench", &["midge-agent", "midge-api"]),
    (
        "midge",
        &[
            "bridge-core",
            "broker-core",
            "cloud-bridge",
            "event-bus",
            "issuer-core",
            "light-mapper",
            "mapper-sdk",
            "midge-agent",
            "midge-api",
            "midge-audit",
            "midge-broker",
            "midge-identity",
            "midge-issuer",
            "midge-pki",
            "midge-policy",
            "midge-policy-tools",
            "midge-runtime",
            "midge-store",
            "mqtt-proto",
        ],
    ),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A member of the workspace.
struct Member {
    /// Folder, from the root.
    folder: PathBuf,
    /// Members it depends on, apart from its tests.
    needs: Vec<String>,
}

impl Member {
    fn is_pure(&self) -> bool {
        self.folder.starts_with("crates")
    }
}

fn members() -> BTreeMap<String, Member> {
    let json = cargo(&["metadata", "--offline", "--no-deps", "--format-version", "1"]);
    let metadata: serde_json::Value = serde_json::from_str(&json).unwrap();
    let root = root().canonicalize().unwrap();
    let mut members = BTreeMap::new();
    for package in metadata["packages"].as_array().unwrap() {
        let manifest = Path::new(package["manifest_path"].as_str().unwrap()).canonicalize().unwrap();
        let folder = manifest.parent().unwrap().strip_prefix(&root).unwrap().to_owned();
        let dependencies = package["dependencies"].as_array().unwrap();
        let needs = dependencies
            .iter()
            .filter(|dependency| dependency["path"].is_string() && dependency["kind"] != "dev")
            .map(|dependency| dependency["name"].as_str().unwrap().to_owned())
            .collect();
        members.insert(package["name"].as_str().unwrap().to_owned(), Member { folder, needs });
    }
    assert!(members.len() > 10 && members.contains_key("midge"), "the workspace is read whole");
    members
}

/// Rust files of a folder, deeply.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Sources that are not tests: `src/` without test modules in files of their own.
fn production_sources(member: &Member) -> Vec<PathBuf> {
    let is_test = |path: &PathBuf| {
        path.components().any(|part| ["tests", "tests.rs"].map(Some).contains(&part.as_os_str().to_str()))
    };
    let folder = root().join(&member.folder).join("src");
    sources(&folder)
        .into_iter()
        .filter(|path| !is_test(&path.strip_prefix(&folder).unwrap().to_owned()))
        .collect()
}

/// The part of a file before its tests.
fn before_tests(text: &str) -> &str {
    let mut at = 0;
    let mut lines = text.split_inclusive('\n').peekable();
    while let Some(line) = lines.next() {
        let opens_module =
            lines.peek().is_some_and(|next| next.trim_end().ends_with('{') && next.contains("mod "));
        if line.trim() == "#[cfg(test)]" && opens_module {
            break;
        }
        at += line.len();
    }
    text.get(..at).unwrap()
}

/// What a core must not spell, with its line.
fn impurities(text: &str) -> Vec<(usize, String)> {
    let code: Vec<&str> =
        before_tests(text).lines().map(|line| line.split_once("//").map_or(line, |(code, _)| code)).collect();
    let mut found = Vec::new();
    for (number, line) in (1..).zip(&code) {
        let modules = IMPURE_MODULES.map(|module| format!("std::{module}"));
        let spelled = CLOCKS.iter().map(|clock| (*clock).to_owned()).chain(modules);
        found.extend(spelled.filter(|what| has_path(line, what)).map(|what| (number, what)));
    }
    let whole = code.join("\n");
    for (at, opening) in whole.match_indices("std::{") {
        let rest = whole.get(at + opening.len()..).unwrap();
        let line = whole.get(..at).unwrap().lines().count().max(1);
        let modules = IMPURE_MODULES.iter().filter(|module| imports(rest, module));
        found.extend(modules.map(|module| (line, format!("std::{module}"))));
    }
    found
}

/// Tells whether the path stands there by itself, not as the start of a longer word.
fn has_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let next = line.get(at + path.len()..).and_then(|rest| rest.chars().next());
        !next.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

/// Tells whether an import group names the module at its own level.
fn imports(group: &str, module: &str) -> bool {
    let mut depth = 0_usize;
    let mut item = String::new();
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if names(&item, module) {
                    return true;
                }
                item.clear();
            }
            _ if depth == 0 => item.push(c),
            _ => {}
        }
    }
    names(&item, module)
}

fn names(item: &str, module: &str) -> bool {
    item.split("::").next().and_then(|first| first.split_whitespace().next()) == Some(module)
}

fn report(faults: &[String], remedy: &str) {
    assert!(faults.is_empty(), "{}\n{remedy}", faults.join("\n"));
}

#[test]
fn cores_depend_on_no_runtime_and_no_socket() {
    let mut faults = Vec::new();
    for (name, member) in members().iter().filter(|(_, member)| member.is_pure()) {
        let tree = cargo(&["tree", "-p", name, "-e", "normal", "--prefix", "none", "--offline"]);
        assert!(tree.starts_with(name.as_str()), "{tree}");
        let reached = tree.lines().filter_map(|line| line.split_whitespace().next());
        let mut banned: Vec<&str> = reached.filter(|reached| IMPURE_CRATES.contains(reached)).collect();
        banned.sort_unstable();
        banned.dedup();
        faults.extend(banned.iter().map(|banned| {
            format!(
                "{}: reaches {banned}; see `cargo tree -p {name} -e normal -i {banned}`",
                member.folder.display()
            )
        }));
    }
    report(
        &faults,
        "Turn the feature off that brings it, or move the code into a shell; a core gets bytes and time as arguments.",
    );
}

#[test]
fn cores_read_no_clock_file_socket_or_environment() {
    let mut faults = Vec::new();
    for member in members().values().filter(|member| member.is_pure()) {
        for path in production_sources(member) {
            let text = std::fs::read_to_string(&path).unwrap();
            let shown = path.strip_prefix(root()).unwrap().display().to_string();
            faults.extend(impurities(&text).iter().map(|(line, what)| format!("{shown}:{line}: {what}")));
        }
    }
    report(
        &faults,
        "Take the value as an argument and let a shell read it (time: `UnixMillis` or a `Duration` since start).",
    );
}

#[test]
fn files_are_short_enough_to_read() {
    let mut faults = Vec::new();
    for path in members().values().flat_map(production_sources) {
        let lines = before_tests(&std::fs::read_to_string(&path).unwrap()).lines().count();
        if lines > LINES_MAX {
            let shown = path.strip_prefix(root()).unwrap().display().to_string();
            faults.push(format!("{shown}: {lines} lines before its tests, {LINES_MAX} at most"));
        }
    }
    report(&faults, "Find the second thing the file owns and give it a file of its own.");
}

#[test]
fn files_say_what_they_own() {
    let mut faults = Vec::new();
    for path in members().values().flat_map(production_sources) {
        if !std::fs::read_to_string(&path).unwrap().starts_with("//! ") {
            faults.push(path.strip_prefix(root()).unwrap().display().to_string());
        }
    }
    report(&faults, "Begin it with `//!`: what the file owns and what it leaves to others.");
}

#[test]
fn arrows_point_down() {
    let members = members();
    let mut faults = Vec::new();
    let mut above: BTreeSet<&str> = BTreeSet::new();
    for (name, needs) in NEEDS {
        let Some(member) = members.get(name) else {
            faults.push(format!("{name}: no such member"));
            continue;
        };
        let folder = member.folder.display();
        let (written, needed): (BTreeSet<_>, BTreeSet<_>) =
            (needs.iter().copied().collect(), member.needs.iter().map(String::as_str).collect());
        faults.extend(needed.difference(&written).map(|new| format!("{folder}: depends on {new}")));
        faults.extend(written.difference(&needed).map(|gone| format!("{folder}: depends no more on {gone}")));
        faults.extend(
            needed.difference(&above).map(|after| format!("{folder}: depends on {after}, named after it")),
        );
        let shells = needed.iter().filter(|needed| member.is_pure() && !members[**needed].is_pure());
        faults.extend(shells.map(|shell| format!("{folder}: depends on the shell {shell}")));
        above.insert(name);
    }
    let unnamed = members.keys().filter(|name| !above.contains(name.as_str()));
    faults.extend(unnamed.map(|name| format!("{name}: is not in NEEDS")));
    report(
        &faults,
        "Declare a trait below and implement it above. An arrow that ARCHITECTURE.md wants belongs into NEEDS.",
    );
}

#[test]
fn members_take_their_lints_from_the_workspace() {
    let faults: Vec<String> = members()
        .values()
        .map(|member| member.folder.join("Cargo.toml"))
        .filter(|manifest| {
            !std::fs::read_to_string(root().join(manifest)).unwrap().contains("[lints]\nworkspace = true\n")
        })
        .map(|manifest| format!("{}: has lints of its own or none", manifest.display()))
        .collect();
    report(&faults, "Write `[lints]` and `workspace = true` into it.");
}

#[test]
fn planted_impurities_are_found() {
    let text = "use std::{\n    fmt,\n    fs,\n    sync::{Arc, env},\n};\nfn f() { let _ = Instant::now(); }\n\
        use std::net::IpAddr;\nuse std::environment;\n// std::fs in a comment\n#[cfg(test)]\nmod tests {\n    use std::env;\n}\n";
    let found: Vec<String> =
        impurities(text).into_iter().map(|(line, what)| format!("{line} {what}")).collect();
    assert_eq!(found, ["6 Instant::now", "7 std::net", "1 std::fs"]);
    assert!(impurities("use std::{net::IpAddr as Ip};").len() == 1);
    assert!(impurities("use std::{collections::BTreeMap, sync::Arc};").is_empty());
}

#[test]
fn tests_are_told_from_what_they_test() {
    let text = "a\n#[cfg(test)]\nuse b;\nc\n#[cfg(test)]\nmod tests {\n    d\n}\n";
    assert_eq!(before_tests(text), "a\n#[cfg(test)]\nuse b;\nc\n");
    assert_eq!(before_tests("a\n#[cfg(test)]\nmod tests;\nb\n"), "a\n#[cfg(test)]\nmod tests;\nb\n");
}

/// Names of the tests below a folder.
fn tests_in(folder: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for path in sources(&root().join(folder)) {
        let text = std::fs::read_to_string(path).unwrap();
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            if let Some(rest) = line.strip_prefix("fn ").or_else(|| line.strip_prefix("async fn ")) {
                if is_test {
                    names.insert(rest.split('(').next().unwrap().to_owned());
                }
                is_test = false;
            } else if line == "#[test]" || line.starts_with("#[tokio::test") {
                is_test = true;
            }
        }
    }
    names
}

#[test]
fn every_flaw_class_of_the_threat_model_has_tests_that_exist() {
    let mut tests = BTreeSet::new();
    for folder in ["crates", "pki", "broker", "midge", "tests"] {
        tests.extend(tests_in(folder));
    }
    let text = std::fs::read_to_string(root().join("docs/threat-model.md")).unwrap();
    let rows: Vec<Vec<&str>> = text
        .lines()
        .filter(|line| line.starts_with("| F"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let numbers: Vec<&str> = rows.iter().map(|row| row[0]).collect();
    let expected: Vec<String> = (1..=34).map(|number| format!("F{number}")).collect();
    assert_eq!(numbers, expected);
    for row in &rows {
        let named: Vec<&str> = row[2].split(", ").map(|name| name.trim_matches('`')).collect();
        let missing: Vec<_> = named.iter().filter(|name| !tests.contains(**name)).collect();
        assert!(missing.is_empty(), "{}: no such test: {missing:?}", row[0]);
    }
    let listed: BTreeSet<&str> = rows.iter().map(|row| row[2]).collect();
    let unlisted = tests_in("crates/broker-core/tests/broker/flaws");
    let unlisted: Vec<_> = unlisted
        .iter()
        .filter(|name| !listed.iter().any(|cell| cell.contains(&format!("`{name}`"))))
        .collect();
    assert!(unlisted.is_empty(), "not in docs/threat-model.md: {unlisted:?}");
}
