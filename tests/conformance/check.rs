//! Holds the catalogues of normative statements against the standards' numbers and against the tests.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Sections of MQTT 3.1.1, Appendix B, and how many statements each has.
const V311: &str = "1.5.3:3 2.2.2:2 2.3.1:7 3.1.0:2 3.1.2:24 3.1.3:11 3.1.4:5 3.2.0:1 3.2.2:6 3.3.1:12 3.3.2:3 \
    3.3.4:1 3.3.5:2 3.6.1:1 3.8.1:1 3.8.3:4 3.8.4:6 3.9.3:2 3.10.1:1 3.10.3:2 3.10.4:6 3.12.4:1 3.14.1:1 3.14.4:3 \
    4.1.0:2 4.3.1:1 4.3.2:2 4.3.3:2 4.4.0:1 4.5.0:2 4.6.0:6 4.7.1:3 4.7.2:1 4.7.3:4 4.8.0:2 6.0.0:4 7.0.0:2 7.1.1:1 \
    7.1.2:1";

/// Sections of MQTT 5.0, Appendix B, and how many statements each has.
const V5: &str = "1.5.4:3 1.5.5:1 1.5.7:1 2.1.3:1 2.2.1:6 2.2.2:1 3.1.0:2 3.1.2:30 3.1.3:12 3.1.4:6 3.2.0:2 3.2.2:22 \
    3.3.1:13 3.3.2:20 3.3.4:10 3.4.2:3 3.5.2:3 3.6.1:1 3.6.2:3 3.7.2:3 3.8.1:1 3.8.3:5 3.8.4:8 3.9.2:2 3.9.3:2 3.10.1:1 \
    3.10.3:2 3.10.4:6 3.11.2:2 3.11.3:2 3.12.4:1 3.14.0:1 3.14.1:1 3.14.2:4 3.14.4:3 3.15.1:1 3.15.2:3 4.1.0:2 4.2.0:1 \
    4.3.1:1 4.3.2:5 4.3.3:13 4.4.0:2 4.5.0:2 4.6.0:6 4.7.0:1 4.7.1:2 4.7.2:1 4.7.3:4 4.8.2:6 4.9.0:3 4.12.0:7 4.12.1:2 \
    4.13.1:1 4.13.2:1 6.0.0:4";

/// Numbers the counting would give and the standard does not.
const SKIPPED: [&str; 1] = ["2.2.1-1"];

const STANDARDS: [(&str, &str, usize); 2] = [("mqtt-3.1.1.md", V311, 141), ("mqtt-5.0.md", V5, 251)];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_default()
}

fn numbers(sections: &str) -> Vec<String> {
    let counted = sections.split_whitespace().flat_map(|section| {
        let (section, count) = section.split_once(':').unwrap();
        (1..=count.parse::<u32>().unwrap()).map(move |n| format!("{section}-{n}"))
    });
    counted.filter(|number| !SKIPPED.contains(&number.as_str())).collect()
}

/// One line of a catalogue.
struct Statement<'a> {
    number: &'a str,
    says: &'a str,
    proof: &'a str,
}

impl Statement<'_> {
    /// The tests it names.
    fn tests(&self) -> impl Iterator<Item = &str> {
        self.proof.split('`').skip(1).step_by(2).filter(|name| name.contains("::"))
    }
}

fn statements(catalogue: &str) -> Vec<Statement<'_>> {
    let rows = catalogue.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let cells = rows.map(|row| row.split(" | ").collect::<Vec<_>>());
    cells
        .filter_map(|cells| match cells.as_slice() {
            [number, says, proof] if number.starts_with(|c: char| c.is_ascii_digit()) => {
                Some(Statement { number, says, proof })
            }
            _ => None,
        })
        .collect()
}

/// The README's table: short names, and the files they stand for.
fn short_names(readme: &str) -> BTreeMap<&str, &str> {
    let rows = readme.lines().filter_map(|line| line.strip_prefix("| `")?.strip_suffix("` |"));
    rows.filter_map(|row| row.split_once("` | `")).collect()
}

/// Tells whether a file has this test.
fn has_test(source: &str, name: &str) -> bool {
    let definition = format!("fn {name}(");
    let mut lines = source.lines().collect::<Vec<_>>();
    while let Some(at) = lines.iter().rposition(|line| line.contains(&definition)) {
        lines.truncate(at);
        let attributes = lines.iter().rev().take_while(|line| {
            let line = line.trim_start();
            line.starts_with('#') || line.starts_with("//")
        });
        if attributes.into_iter().any(|line| line.contains("test]") || line.contains("test(")) {
            return true;
        }
    }
    false
}

fn faults_of_numbers(statements: &[Statement<'_>], expected: &[String]) -> Vec<String> {
    let mut faults = Vec::new();
    let found: Vec<&str> = statements.iter().map(|statement| statement.number).collect();
    for number in expected.iter().filter(|number| !found.contains(&number.as_str())) {
        faults.push(format!("{number} is missing"));
    }
    let mut seen = BTreeSet::new();
    for number in &found {
        if !seen.insert(*number) {
            faults.push(format!("{number} is there twice"));
        }
        if !expected.iter().any(|expected| expected == number) {
            faults.push(format!("{number} is no number of the standard"));
        }
    }
    if faults.is_empty() && found != *expected {
        faults.push("the numbers are out of order".into());
    }
    faults
}

fn faults_of_proofs(statements: &[Statement<'_>], file_of: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut faults = Vec::new();
    for statement in statements {
        let Statement { number, says, proof } = statement;
        if says.len() < 10 {
            faults.push(format!("{number} says nothing"));
        }
        if statement.tests().next().is_none() && !(proof.len() > 10 && proof.ends_with('.')) {
            faults.push(format!("{number} has neither a test nor a sentence that says why there is none"));
        }
        for test in statement.tests() {
            let (file, name) = test.split_once("::").unwrap();
            match file_of(file) {
                None => faults.push(format!("{number}: the README knows no `{file}`")),
                Some(source) if !has_test(&source, name) => {
                    faults.push(format!("{number}: there is no test `{test}`"));
                }
                Some(_) => {}
            }
        }
    }
    faults
}

/// Every number that a comment cites, with its file.
fn cited(folder: &Path, into: &mut Vec<(PathBuf, String)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            cited(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let citations = text.split("[MQTT-").skip(1).filter_map(|rest| rest.split_once(']'));
            let citations = citations.filter(|(number, _)| number.starts_with(|c: char| c.is_ascii_digit()));
            into.extend(citations.map(|(number, _)| (path.clone(), number.to_owned())));
        }
    }
}

#[test]
fn every_statement_of_both_standards_has_its_proof() {
    let readme = read("tests/conformance/README.md");
    let names = short_names(&readme);
    let source = |file: &str| {
        let path = names.get(file).map(|path| (*path).to_owned()).or_else(|| {
            let (folder, module) = file.split_once('/')?;
            Some(names.get(format!("{folder}/*").as_str())?.replace('*', module))
        })?;
        Some(read(&path))
    };
    let mut faults = Vec::new();
    for (file, sections, count) in STANDARDS {
        let catalogue = read(&format!("tests/conformance/{file}"));
        let statements = statements(&catalogue);
        let expected = numbers(sections);
        assert_eq!(expected.len(), count, "{file}");
        let found = faults_of_numbers(&statements, &expected).into_iter();
        let found = found.chain(faults_of_proofs(&statements, source));
        faults.extend(found.map(|fault| format!("{file}: {fault}")));
        let proven = statements.iter().filter(|statement| statement.proof.starts_with('`')).count();
        let rest = count - proven;
        println!("{file}: {proven} of {count} proven by tests; {rest} bind clients or are not the case here");
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn comments_cite_numbers_that_exist() {
    let known: BTreeSet<String> = STANDARDS.iter().flat_map(|(_, sections, _)| numbers(sections)).collect();
    let mut found = Vec::new();
    for folder in ["crates", "broker", "midge", "tests/acceptance", "tests/bench"] {
        cited(&root().join(folder), &mut found);
    }
    assert!(found.len() > 100, "the sources are read");
    let unknown = found.iter().filter(|(_, number)| !known.contains(number));
    let faults: Vec<_> = unknown.map(|(path, number)| format!("{}: {number}", path.display())).collect();
    assert!(faults.is_empty(), "neither standard has\n{}", faults.join("\n"));
}

#[test]
fn planted_faults_are_found() {
    let expected = numbers("2.2.1:2 3.1.0:2");
    assert_eq!(expected, ["2.2.1-2", "3.1.0-1", "3.1.0-2"]);
    let numbers_of = |catalogue: &str| faults_of_numbers(&statements(catalogue), &expected);
    let row = |number: &str| format!("| {number} | says something | Binds clients. |\n");
    let whole = ["2.2.1-2", "3.1.0-1", "3.1.0-2"].map(row).concat();
    assert_eq!(numbers_of(&whole), [""; 0]);
    assert_eq!(
        numbers_of(&whole.replace("3.1.0-1", "3.1.0-2")),
        ["3.1.0-1 is missing", "3.1.0-2 is there twice"]
    );
    assert_eq!(numbers_of(&(whole.clone() + &row("2.2.1-1"))), ["2.2.1-1 is no number of the standard"]);
    assert_eq!(
        numbers_of(&["3.1.0-1", "2.2.1-2", "3.1.0-2"].map(row).concat()),
        ["the numbers are out of order"]
    );
    let source = "#[test]\nfn proven() {\n}\nfn helper() {\n}\n    #[tokio::test(flavor = \"multi_thread\")]\n    // why\n    async fn slow() {\n";
    let proofs_of = |proof: &str| {
        let row = format!("| 1.0.0-1 | says something | {proof} |\n");
        faults_of_proofs(&statements(&row), |file| (file == "a/b").then(|| source.to_owned()))
    };
    assert_eq!(proofs_of("`a/b::proven`, `a/b::slow`"), [""; 0]);
    assert_eq!(proofs_of("`a/b::helper`"), ["1.0.0-1: there is no test `a/b::helper`"]);
    assert_eq!(proofs_of("`a/b::prove`"), ["1.0.0-1: there is no test `a/b::prove`"]);
    assert_eq!(proofs_of("`a/c::proven`"), ["1.0.0-1: the README knows no `a/c`"]);
    assert_eq!(proofs_of("why"), ["1.0.0-1 has neither a test nor a sentence that says why there is none"]);
}
