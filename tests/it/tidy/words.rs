//! The language of the sources: banned phrases and old names must not return, and comments must not
//! be too wide to read.

use std::{collections::BTreeMap, fs, path::Path};

use super::files;
use crate::phrases::{BANNED, OLD_NAMES, banned_in};

/// The maximum width of a line that has a comment.
const COLUMNS_MAX: usize = 100;
/// Contains the banned phrases.
const LIST: &str = "tests/it/phrases.rs";
/// Directories with Rust code.
const RUST: [&str; 5] = ["src", "tests", "benches", "examples", "fuzz"];
/// Other files to check: directories with an extension, and single files.
const OTHERS: [(&str, &str); 5] =
    [("tests", "sh"), ("tests", "go"), ("benches", "go"), ("conf", "yml"), (".github", "yml")];
const SINGLE: [&str; 9] = [
    ".ci/run",
    ".env.example",
    "Cargo.toml",
    "Dockerfile",
    "buf.gen.yaml",
    "buf.yaml",
    "deny.toml",
    "docker-compose.yml",
    "justfile",
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Code,
    Comment,
    Literal,
}

/// A part of a source, which starts at the byte `at`.
struct Part<'t> {
    kind: Kind,
    at: usize,
    text: &'t str,
}

fn single(path: &str) -> (String, String) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    (path.to_owned(), fs::read_to_string(root.join(path)).unwrap())
}

/// Returns all Rust files, by path.
fn rust() -> Vec<(String, String)> {
    let mut rust: Vec<(String, String)> = RUST.into_iter().flat_map(|folder| files(folder, "rs")).collect();
    rust.push(single("build.rs"));
    for folder in RUST {
        assert!(rust.iter().any(|(path, _)| path.starts_with(folder)), "no sources in {folder}");
    }
    rust
}

/// Returns all texts to check, by path.
fn texts() -> Vec<(String, String)> {
    let mut texts = files("proto/aethyr", "proto");
    assert!(texts.len() > 5, "no schemas in proto/aethyr");
    texts.extend(rust());
    for (folder, extension) in OTHERS {
        let found = files(folder, extension);
        assert!(!found.is_empty(), "no *.{extension} in {folder}");
        texts.extend(found);
    }
    texts.extend(SINGLE.into_iter().map(single));
    texts
}

/// Returns what starts a comment in a file.
fn marker(path: &str) -> &'static str {
    if [".rs", ".proto", ".go"].iter().any(|extension| path.ends_with(extension)) { "//" } else { "#" }
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Splits a source in Rust, Protocol Buffers or Go.
fn parts(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let (mut start, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text[at..];
        let found = match rest.starts_with("//") {
            true => Some((Kind::Comment, rest.find('\n').unwrap_or(rest.len()))),
            false => literal(rest).map(|length| (Kind::Literal, length)),
        };
        let Some((kind, length)) = found else {
            at += step(rest);
            continue;
        };
        parts.push(Part { kind: Kind::Code, at: start, text: &text[start..at] });
        parts.push(Part { kind, at, text: &rest[..length] });
        at += length;
        start = at;
    }
    parts.push(Part { kind: Kind::Code, at: start, text: &text[start..] });
    parts
}

/// Returns the length of the string literal at the start of `text`, if there is one.
fn literal(text: &str) -> Option<usize> {
    if let Some(inside) = text.strip_prefix('"') {
        let mut is_escaped = false;
        let end = inside.find(|character: char| {
            let is_end = character == '"' && !is_escaped;
            is_escaped = character == '\\' && !is_escaped;
            is_end
        });
        return Some(end.map_or(text.len(), |end| end + 2));
    }
    if let Some(inside) = text.strip_prefix('`') {
        return Some(inside.find('`').map_or(text.len(), |end| end + 2));
    }
    let is_raw = |after: &&str| after.trim_start_matches('#').starts_with('"');
    let after = ["r", "br", "cr"].into_iter().find_map(|raw| text.strip_prefix(raw).filter(is_raw))?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let inside = &after[hashes + 1..];
    let end = format!("\"{}", "#".repeat(hashes));
    let length = inside.find(&end).map_or(inside.len(), |at| at + end.len());
    Some(text.len() - inside.len() + length)
}

/// Returns the length of the word, the character literal or the character at the start of `code`.
fn step(code: &str) -> usize {
    match code.find(|character: char| !is_word(character)) {
        None => return code.len(),
        Some(0) => {}
        Some(length) => return length,
    }
    let inside = code.strip_prefix('\'').unwrap_or_default();
    if inside.starts_with('\\') {
        return inside[2..].find('\'').map_or(code.len(), |at| at + 4);
    }
    let mut characters = inside.chars();
    match (characters.next(), characters.next()) {
        (Some(character), Some('\'')) => character.len_utf8() + 2,
        // A lifetime, or not a quote.
        _ => code.chars().next().map_or(1, char::len_utf8),
    }
}

/// Returns the comments and the strings, each with its first byte. Successive comments are one
/// comment. A file with `#` comments is returned as a whole, including the words of its names.
fn prose(path: &str, text: &str) -> Vec<(usize, String)> {
    if marker(path) == "#" {
        return vec![(0, text.replace(['#', '_'], " "))];
    }
    let mut prose: Vec<(usize, String)> = Vec::new();
    let mut comment: Option<(usize, String)> = None;
    for Part { kind, at, text } in parts(text) {
        match kind {
            Kind::Comment => {
                let (_, lines) = comment.get_or_insert((at, String::new()));
                lines.push_str(text.trim_start_matches(['/', '!']));
            }
            Kind::Code if text.trim().is_empty() => {}
            Kind::Code => prose.extend(comment.take()),
            Kind::Literal => {
                prose.extend(comment.take());
                prose.push((at, text.replace("\\\n", " ").replace("\\n", " ")));
            }
        }
    }
    prose.extend(comment);
    prose
}

/// Returns the names in the code of a source, each with its first byte.
fn names(text: &str) -> BTreeMap<&str, usize> {
    let mut names = BTreeMap::new();
    for part in parts(text).into_iter().filter(|part| part.kind == Kind::Code) {
        let mut at = part.at;
        for piece in part.text.split_inclusive(|character: char| !is_word(character)) {
            let name = piece.trim_end_matches(|character: char| !is_word(character));
            if !name.is_empty() {
                names.entry(name).or_insert(at);
            }
            at += piece.len();
        }
    }
    names
}

/// Returns `chain_hash` and `ChainHash` as two words.
fn words(name: &str) -> String {
    let (mut words, mut before) = (String::new(), '_');
    let mut characters = name.chars().peekable();
    while let Some(character) = characters.next() {
        let ends_capitals =
            before.is_uppercase() && characters.peek().is_some_and(|next| next.is_lowercase());
        if character.is_uppercase() && (!before.is_uppercase() || ends_capitals) {
            words.push(' ');
        }
        words.push(if character == '_' { ' ' } else { character });
        before = character;
    }
    words
}

fn line(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

fn banned(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, prose) in prose(path, text) {
        for phrase in banned_in(&prose) {
            found.push(format!("{path}:{}: {phrase}", line(text, at)));
        }
    }
    found
}

fn banned_names(path: &str, text: &str) -> Vec<String> {
    if marker(path) == "#" {
        return Vec::new();
    }
    let names = names(text);
    // One search through all names is much faster than one for each name.
    let all: Vec<String> = names.keys().map(|name| words(name)).collect();
    if banned_in(&all.join(" . ")).is_empty() {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (name, at) in names {
        for phrase in banned_in(&words(name)) {
            found.push(format!("{path}:{}: {name}: {phrase}", line(text, at)));
        }
    }
    found
}

fn old_names(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for part in parts(text).into_iter().filter(|part| part.kind == Kind::Code) {
        for (number, code) in part.text.lines().enumerate() {
            let words = code.split(|character: char| !is_word(character));
            for name in words.filter(|word| OLD_NAMES.contains(word)) {
                found.push(format!("{path}:{}: {name}", line(text, part.at) + number));
            }
        }
    }
    found
}

fn wide_comments(path: &str, text: &str) -> Vec<String> {
    let columns = |line: &str| line.chars().count();
    let marker = marker(path);
    // In Rust, the formatter bounds the lines that have a comment after code.
    let after_code = if path.ends_with(".rs") { None } else { Some(format!(" {marker} ")) };
    let has_comment = |line: &str| {
        line.trim_start().starts_with(marker) || after_code.as_ref().is_some_and(|after| line.contains(after))
    };
    let is_wide = |line: &str| has_comment(line) && columns(line) > COLUMNS_MAX;
    let wide = text.lines().enumerate().filter(|(_, line)| is_wide(line));
    wide.map(|(number, line)| format!("{path}:{}: {} columns", number + 1, columns(line))).collect()
}

#[test]
fn no_comment_and_no_string_has_a_banned_phrase() {
    let texts = texts();
    let found = texts.iter().filter(|(path, _)| path != LIST).flat_map(|(path, text)| banned(path, text));
    assert_eq!(found.collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn no_name_has_a_banned_phrase() {
    let found = texts().into_iter().flat_map(|(path, text)| banned_names(&path, &text));
    assert_eq!(found.collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn no_old_name_returns() {
    let found = rust().into_iter().flat_map(|(path, text)| old_names(&path, &text));
    assert_eq!(found.collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn comments_are_narrow() {
    let found = texts().into_iter().flat_map(|(path, text)| wide_comments(&path, &text));
    assert_eq!(found.collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn a_banned_phrase_is_refused() {
    let (phrase, _) = BANNED[0];
    assert!(phrase.contains(' '), "the phrase has to be broken over lines");
    let broken = phrase.replace(' ', "\n    /// ");
    let joined = phrase.replace(' ', "_");
    for (path, text) in [
        ("a.rs", format!("fn f() {{\n    /// See {broken}.\n}}")),
        ("a.rs", format!("fn f<'a>(b: &'a str) -> char {{ '\"' }} // {phrase}")),
        ("a.rs", format!("f('\\'', \"b \\\"{phrase}\\\"\", c);")),
        ("a.rs", format!("f(br#\"\"{phrase}\"#, c);")),
        ("a.proto", format!("message A {{ // {phrase}")),
        ("a.go", format!("func f() {{\n\t// See {broken}.\n}}")),
        ("a.go", format!("f(\"b\", `\"{phrase}`)")),
        ("a.sh", format!("fail \"{phrase}\"")),
        ("a.sh", format!("is_{joined}=1")),
        ("a.yml", format!("a: 1  # {phrase}")),
    ] {
        assert_eq!(banned(path, &text).len(), 1, "{text}");
    }
    assert!(banned("a.rs", &format!("f();\n// {phrase}"))[0].starts_with("a.rs:2: "));
    assert_eq!(banned("a.rs", &format!("let {joined} = 1; // and no more")), Vec::<String>::new());
}

#[test]
fn a_banned_phrase_in_a_name_is_refused() {
    let (phrase, _) = BANNED[0];
    let snake = phrase.replace(' ', "_");
    let pascal: String = phrase.split(' ').map(|word| word[..1].to_uppercase() + &word[1..]).collect();
    for (path, text) in [
        ("a.rs", format!("let {snake} = 1;")),
        ("a.rs", format!("async fn is_{snake}_there() {{}}")),
        ("a.rs", format!("enum A {{ Is{pascal} }}")),
        ("a.rs", format!("const IS_{}: u8 = 1;", snake.to_uppercase())),
        ("a.go", format!("func (l *load) is{pascal}() {{}}")),
        ("a.proto", format!("  string {snake} = 1;")),
    ] {
        assert_eq!(banned_names(path, &text).len(), 1, "{text}");
    }
    assert!(banned_names("a.rs", &format!("f();\ng({snake})"))[0].starts_with(&format!("a.rs:2: {snake}: ")));
    let apart = phrase.replace(' ', ".");
    for text in [format!("// {snake}"), format!("f(\"{snake}\")"), format!("{snake}s()"), apart] {
        assert_eq!(banned_names("a.rs", &text), Vec::<String>::new(), "{text}");
    }
    assert_eq!(words("HTTPServer2Ready_now"), " HTTP Server2 Ready now");
}

#[test]
fn an_old_name_is_refused_in_code() {
    let name = OLD_NAMES[0];
    assert_eq!(old_names("a.rs", &format!("use a;\nstruct {name};")), [format!("a.rs:2: {name}")]);
    for text in [format!("struct {name}s;"), format!("// {name}"), format!("f(\"{name}\")")] {
        assert_eq!(old_names("a.rs", &text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn a_wide_comment_is_refused() {
    let [fits, wide] = [COLUMNS_MAX - 8, COLUMNS_MAX - 7].map(|columns| "ä".repeat(columns));
    assert_eq!(wide_comments("a.rs", &format!("\n    /// {wide}")), ["a.rs:2: 101 columns"]);
    for (path, text) in [
        ("a.yml", format!("  #     {wide}")),
        ("a.yml", format!("a: 1  # {wide}")),
        ("a.sh", format!("#       {wide}")),
        ("a.go", format!("\t\t//    {wide}")),
        ("a.go", format!("ab() // {wide}")),
    ] {
        assert_eq!(wide_comments(path, &text), [format!("{path}:1: 101 columns")], "{text}");
    }
    assert_eq!(wide_comments("a.sh", &format!("fail '{wide}{wide}'")), Vec::<String>::new());
    for text in [format!("    /// {fits}"), format!("    f(\"{wide}\");"), format!("    #[a = \"{wide}\"]")] {
        assert_eq!(wide_comments("a.rs", &text), Vec::<String>::new(), "{text}");
    }
}
