//! The names in the API can be written as they are in the code that is generated from it.
//!
//! A generator renames what its language cannot have, for example `from` in Python. It does not
//! rename what hides a method, for example `hash` in Ruby. The rules here are those of the
//! generators for Python, Ruby, Java, Go, C#, PHP and Swift.

use std::collections::BTreeMap;

use aethyr_event_store::grpc::wire;
use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor, OneofDescriptor};
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorProto, OneofDescriptorProto,
    field_descriptor_proto::{Label, Type},
};

use crate::tidy::files;

/// The packages of the API and of the records: in lowercase as in `aethyr.eventstore.v1`, and as in
/// names of types. The descriptors of the records are not in `wire`, since no client needs them.
const PACKAGES: [(&str, &str); 3] =
    [("eventstore", "EventStore"), ("storage", "Storage"), ("world", "World")];

/// All keywords. A keyword cannot be the name of an attribute or of an argument.
const PYTHON: &str = "\
    False None True and as assert async await break class continue def del elif else except finally \
    for from global if import in is lambda nonlocal not or pass raise return try while with yield";

/// The public methods of `BasicObject`, `Kernel` and `Object`, of `Google::Protobuf::Message`, and
/// of the base of gRPC stubs. Names with a `?` or a `=` are left out: no field can have them.
const RUBY: &str = "\
    __id__ __send__ instance_eval instance_exec \
    class clone define_singleton_method display dup enum_for extend freeze hash inspect \
    instance_variable_get instance_variable_set instance_variables itself method methods object_id \
    private_methods protected_methods public_method public_methods public_send \
    remove_instance_variable send singleton_class singleton_method singleton_methods tap then to_enum \
    to_s yield_self \
    descriptor method_missing to_h to_hash to_json to_proto \
    bidi_streamer client_streamer request_response server_streamer";

/// Methods without arguments of `java.lang.Object` and of every generated message.
const JAVA: &str = "\
    getAllFields getClass getDefaultInstance getDefaultInstanceForType getDescriptor \
    getDescriptorForType getInitializationErrorString getParserForType getSerializedSize \
    getUnknownFields";

/// Methods of every generated message, and names that the generator keeps free for older code.
const GO: &str = "\
    Descriptor ExtensionMap ExtensionRangeArray Marshal ProtoMessage ProtoReflect Reset String \
    Unmarshal";

/// Members of every generated message.
const CSHARP: &str = "\
    CalculateSize Clone Descriptor Equals GetHashCode MergeFrom OnConstruction Parser ToString Types \
    WriteTo";

/// All keywords, in lowercase since PHP ignores case. A keyword cannot be the name of a class or of
/// a constant.
const PHP_KEYWORDS: &str = "\
    abstract and array as break callable case catch class clone const continue declare default die do \
    echo else elseif empty enddeclare endfor endforeach endif endswitch endwhile eval exit extends final \
    finally fn for foreach function global goto if implements include include_once instanceof insteadof \
    interface isset list match namespace new or print private protected public require require_once \
    return static switch throw trait try unset use var while xor yield";

/// Other names that no class can have.
const PHP_TYPES: &str = "\
    bool false float int iterable mixed never null object parent readonly self string true void";

/// A method of `Google\Protobuf\Internal\Message` in lowercase, and its private properties. A field
/// may have the name of such a property, but a oneof would overwrite it.
const PHP: &str = "hasoneof $desc $unknown";

/// Public methods of `Grpc\BaseStub` and of the generated base of a service, in lowercase.
const PHP_CALLS: &str = "\
    close getconnectivitystate getdefaultchannel getmethoddescriptors gettarget waitforready";

/// Names that have a meaning of their own after a dot. Backticks are enough for other keywords.
const SWIFT: &str = "Protocol Type self";

/// A language, and what its generator does with the fields and the oneofs of a message.
struct Language {
    name: &'static str,
    /// The names that every message has already, or that the language does not allow.
    taken: &'static str,
    /// Whether a member of a type cannot have the name of the type.
    own_name_is_taken: bool,
    /// Returns the names that a field or a oneof becomes.
    spelled: fn(&Member) -> Vec<String>,
}

const LANGUAGES: [Language; 7] = [
    Language { name: "Python", taken: PYTHON, own_name_is_taken: false, spelled: python },
    Language { name: "Ruby", taken: RUBY, own_name_is_taken: false, spelled: ruby },
    Language { name: "Java", taken: JAVA, own_name_is_taken: false, spelled: java },
    Language { name: "Go", taken: GO, own_name_is_taken: false, spelled: go },
    Language { name: "C#", taken: CSHARP, own_name_is_taken: true, spelled: csharp },
    Language { name: "PHP", taken: PHP, own_name_is_taken: false, spelled: php },
    Language { name: "Swift", taken: SWIFT, own_name_is_taken: false, spelled: swift },
];

enum Member {
    Field(FieldDescriptor),
    Oneof(OneofDescriptor),
}

impl Member {
    fn name(&self) -> &str {
        match self {
            Self::Field(field) => field.name(),
            Self::Oneof(oneof) => oneof.name(),
        }
    }
}

fn members(message: &MessageDescriptor) -> Vec<Member> {
    // An `optional` field is in a oneof of its own that no generator shows.
    let oneofs = message.oneofs().filter(|oneof| !oneof.is_synthetic()).map(Member::Oneof);
    message.fields().map(Member::Field).chain(oneofs).collect()
}

/// Returns `chain_hash` as `ChainHash`. A letter after a digit becomes a capital, too.
fn pascal(name: &str) -> String {
    let mut capital = true;
    let mut out = String::new();
    for letter in name.chars() {
        if letter != '_' {
            out.push(if capital { letter.to_ascii_uppercase() } else { letter });
        }
        capital = letter == '_' || letter.is_ascii_digit();
    }
    out
}

/// Returns `chain_hash` and `CHAIN_HASH` as `chainHash`.
fn camel(name: &str) -> String {
    let pascal = pascal(&name.to_ascii_lowercase());
    pascal[..1].to_ascii_lowercase() + &pascal[1..]
}

/// Returns `ChainHash` as `chain_hash`.
fn snake(name: &str) -> String {
    let mut out = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

fn is_taken(taken: &str, name: &str) -> bool {
    taken.split_ascii_whitespace().any(|word| word == name)
}

/// Returns each pattern with `name` in place of the `*`.
fn with(name: &str, patterns: &[&str]) -> Vec<String> {
    patterns.iter().map(|pattern| pattern.replace('*', name)).collect()
}

/// A oneof is no attribute: `WhichOneof` takes its name as a string.
fn python(member: &Member) -> Vec<String> {
    match member {
        Member::Field(field) => with(field.name(), &["*"]),
        Member::Oneof(_) => Vec::new(),
    }
}

fn ruby(member: &Member) -> Vec<String> {
    with(member.name(), &["*"])
}

/// The getters. Other accessors follow the same patterns.
fn java(member: &Member) -> Vec<String> {
    let Member::Field(field) = member else { return with(&pascal(member.name()), &["get*Case"]) };
    let mut patterns = vec!["get*"];
    if field.is_map() {
        patterns.extend(["contains*", "get*Count", "get*Map", "get*OrDefault", "get*OrThrow"]);
    } else if field.is_list() {
        patterns.extend(["get*Count", "get*List"]);
    } else if field.supports_presence() {
        patterns.push("has*");
    }
    match field.kind() {
        Kind::String => patterns.push("get*Bytes"),
        Kind::Enum(_) if field.is_list() => patterns.extend(["get*Value", "get*ValueList"]),
        Kind::Enum(_) => patterns.push("get*Value"),
        Kind::Message(_) if field.is_list() => {
            patterns.extend(["get*Builder", "get*BuilderList", "get*OrBuilder", "get*OrBuilderList"]);
        }
        Kind::Message(_) if !field.is_map() => patterns.extend(["get*Builder", "get*OrBuilder"]),
        _ => {}
    }
    with(&pascal(field.name()), &patterns)
}

fn go(member: &Member) -> Vec<String> {
    with(&pascal(member.name()), &["*", "Get*"])
}

fn csharp(member: &Member) -> Vec<String> {
    let name = pascal(member.name());
    match member {
        Member::Oneof(_) => with(&name, &["*Case", "*OneofCase", "Clear*"]),
        Member::Field(field) if field.supports_presence() && field.kind().as_message().is_none() => {
            with(&name, &["*", "*FieldNumber", "Clear*", "Has*"])
        }
        Member::Field(_) => with(&name, &["*", "*FieldNumber"]),
    }
}

/// The methods in lowercase, and the property of a oneof.
fn php(member: &Member) -> Vec<String> {
    let name = pascal(member.name()).to_ascii_lowercase();
    match member {
        Member::Oneof(oneof) => [with(&name, &["get*"]), with(oneof.name(), &["$*"])].concat(),
        Member::Field(field) if field.supports_presence() => with(&name, &["get*", "set*", "has*", "clear*"]),
        Member::Field(_) => with(&name, &["get*", "set*"]),
    }
}

fn swift(member: &Member) -> Vec<String> {
    with(&camel(member.name()), &["*"])
}

/// Returns what is wrong with the names of the fields and the oneofs of a message.
fn problems(message: &MessageDescriptor) -> Vec<String> {
    let mut found = Vec::new();
    for language in &LANGUAGES {
        let mut owners = BTreeMap::new();
        for member in members(message) {
            let place = format!("{}: {}.{}", language.name, message.full_name(), member.name());
            for name in (language.spelled)(&member) {
                let is_own_name = language.own_name_is_taken && name == message.name();
                if is_own_name || is_taken(language.taken, &name) {
                    found.push(format!("{place} becomes `{name}`, which is taken"));
                }
                if let Some(other) = owners.insert(name.clone(), member.name().to_owned()) {
                    found.push(format!("{place} becomes `{name}`, and so does {other}"));
                }
            }
        }
    }
    found
}

/// Returns the languages that have other uses for the name of a message, an enum or a service.
fn refusing_type(name: &str) -> Vec<&'static str> {
    let php = name.to_ascii_lowercase();
    refusing(&[
        ("Python", PYTHON, name),
        ("PHP", PHP_KEYWORDS, php.as_str()),
        ("PHP", PHP_TYPES, php.as_str()),
        ("Swift", SWIFT, name),
    ])
}

/// Returns the languages that have other uses for the name of a value. Swift leaves out the name of
/// the enum.
fn refusing_value(of: &str, name: &str) -> Vec<&'static str> {
    let prefix = snake(of).to_ascii_uppercase() + "_";
    let short = camel(name.strip_prefix(&prefix).unwrap_or(name));
    let php = name.to_ascii_lowercase();
    refusing(&[
        ("Python", PYTHON, name),
        ("PHP", PHP_KEYWORDS, php.as_str()),
        ("Swift", SWIFT, short.as_str()),
    ])
}

/// Returns the languages that have other uses for the name of a call.
fn refusing_call(name: &str) -> Vec<&'static str> {
    let php = name.to_ascii_lowercase();
    let ruby = snake(name);
    refusing(&[("Python", PYTHON, name), ("Ruby", RUBY, ruby.as_str()), ("PHP", PHP_CALLS, php.as_str())])
}

fn refusing(spelled: &[(&'static str, &str, &str)]) -> Vec<&'static str> {
    let refusing = spelled.iter().filter(|(_, taken, name)| is_taken(taken, name));
    refusing.map(|(language, ..)| *language).collect()
}

fn pool() -> DescriptorPool {
    DescriptorPool::decode(wire::DESCRIPTORS).unwrap()
}

/// Returns the entry of `PACKAGES` if the package is one of ours.
fn ours(package: &str) -> Option<(&'static str, &'static str)> {
    PACKAGES.into_iter().find(|(short, _)| package == format!("aethyr.{short}.v1"))
}

#[test]
fn every_name_of_the_api_can_be_written_in_every_language() {
    let pool = pool();
    let (mut found, mut fields) = (Vec::new(), 0);
    let mut check = |name: &str, refusing: Vec<&str>| {
        found.extend(refusing.into_iter().map(|language| format!("{language}: {name} is taken")));
    };
    let mut in_messages = Vec::new();
    for message in pool.all_messages().filter(|message| ours(message.package_name()).is_some()) {
        check(message.full_name(), refusing_type(message.name()));
        in_messages.extend(problems(&message));
        fields += message.fields().len();
    }
    for of in pool.all_enums().filter(|of| ours(of.package_name()).is_some()) {
        check(of.full_name(), refusing_type(of.name()));
        for value in of.values() {
            check(value.full_name(), refusing_value(of.name(), value.name()));
        }
    }
    let mut calls = 0;
    for service in pool.services().filter(|service| ours(service.package_name()).is_some()) {
        check(service.full_name(), refusing_type(service.name()));
        for call in service.methods() {
            check(call.full_name(), refusing_call(call.name()));
            calls += 1;
        }
    }
    found.extend(in_messages);
    assert!(found.is_empty(), "{found:#?}");
    assert!(fields > 200 && calls > 15, "only {fields} fields and {calls} calls were checked");
}

/// Returns the options of a file, and those that it should have.
fn options(text: &str) -> (Vec<&str>, Vec<String>) {
    let package = text.lines().find_map(|line| line.strip_prefix("package ")).unwrap_or_default();
    let (short, name) = ours(package.trim_end_matches(';')).unwrap_or_else(|| panic!("package {package}"));
    let expected = [
        format!("option csharp_namespace = \"Aethyr.{name}.V1\";"),
        format!("option go_package = \"github.com/aethyr/event-store/clients/go/{short}v1;{short}v1\";"),
        "option java_multiple_files = true;".to_owned(),
        format!("option java_package = \"com.aethyr.{short}.v1\";"),
        format!("option php_namespace = \"Aethyr\\\\{name}\\\\V1\";"),
        format!("option ruby_package = \"Aethyr::{name}::V1\";"),
        format!("option swift_prefix = \"Aethyr{name}\";"),
    ];
    (text.lines().filter(|line| line.starts_with("option ")).collect(), expected.to_vec())
}

#[test]
fn every_file_has_a_package_in_every_language() {
    let files = files("proto/aethyr", "proto");
    for (path, text) in &files {
        let (found, expected) = options(text);
        assert_eq!(found, expected, "{path}");
    }
    for (short, _) in PACKAGES {
        let folder = format!("proto/aethyr/{short}/v1/");
        assert!(files.iter().any(|(path, _)| path.starts_with(&folder)), "no file in {folder}");
    }
}

#[test]
fn a_file_without_a_package_in_a_language_is_refused() {
    let head = "syntax = \"proto3\";\n\npackage aethyr.storage.v1;\n\n";
    let (_, expected) = options(head);
    assert!(expected[4].contains(r"Aethyr\\Storage\\V1"), "{}", expected[4]);
    let text = head.to_owned() + &expected.join("\n");
    let (found, expected) = options(&text);
    assert_eq!(found, expected);
    for option in &expected {
        let without = text.replace(option.as_str(), "");
        assert_ne!(options(&without).0, expected, "{option}");
    }
    let other = text.replace("AethyrStorage", "AethyrWorld");
    assert_ne!(options(&other).0, expected);
}

/// Returns a message `Sample` with these fields, which are in `oneof` if it is given.
fn sample(fields: &[(&str, Label)], oneof: Option<&str>) -> MessageDescriptor {
    let field = |(number, (name, label)): (i32, &(&str, Label))| FieldDescriptorProto {
        name: Some((*name).to_owned()),
        number: Some(number),
        label: Some((*label).into()),
        r#type: Some(Type::String.into()),
        oneof_index: oneof.map(|_| 0),
        ..FieldDescriptorProto::default()
    };
    let declared =
        |name: &str| OneofDescriptorProto { name: Some(name.to_owned()), ..OneofDescriptorProto::default() };
    let message = DescriptorProto {
        name: Some("Sample".to_owned()),
        field: (1..).zip(fields).map(field).collect(),
        oneof_decl: oneof.map(declared).into_iter().collect(),
        ..DescriptorProto::default()
    };
    let file = FileDescriptorProto {
        name: Some("sample.proto".to_owned()),
        message_type: vec![message],
        syntax: Some("proto3".to_owned()),
        ..FileDescriptorProto::default()
    };
    let mut pool = DescriptorPool::new();
    pool.add_file_descriptor_proto(file).unwrap();
    pool.get_message_by_name("Sample").unwrap()
}

#[test]
fn names_that_cannot_be_written_are_refused() {
    let one = |name: &'static str| (name, Label::Optional);
    let many = |name: &'static str| (name, Label::Repeated);
    for (fields, expected) in [
        (vec![one("from")], vec!["Python: Sample.from becomes `from`, which is taken"]),
        (vec![one("hash")], vec!["Ruby: Sample.hash becomes `hash`, which is taken"]),
        (vec![one("method")], vec!["Ruby: Sample.method becomes `method`, which is taken"]),
        (
            vec![one("class")],
            vec![
                "Python: Sample.class becomes `class`, which is taken",
                "Ruby: Sample.class becomes `class`, which is taken",
                "Java: Sample.class becomes `getClass`, which is taken",
            ],
        ),
        (
            vec![many("damaged"), one("damaged_count")],
            vec!["Java: Sample.damaged_count becomes `getDamagedCount`, and so does damaged"],
        ),
        (
            vec![one("name"), one("name_bytes")],
            vec!["Java: Sample.name_bytes becomes `getNameBytes`, and so does name"],
        ),
        (vec![one("string")], vec!["Go: Sample.string becomes `String`, which is taken"]),
        (vec![one("x"), one("get_x")], vec!["Go: Sample.get_x becomes `GetX`, and so does x"]),
        (vec![one("sample")], vec!["C#: Sample.sample becomes `Sample`, which is taken"]),
        (vec![one("parser")], vec!["C#: Sample.parser becomes `Parser`, which is taken"]),
        (vec![one("self")], vec!["Swift: Sample.self becomes `self`, which is taken"]),
    ] {
        assert_eq!(problems(&sample(&fields, None)), expected);
    }
    for (field, oneof, expected) in [
        ("oneof", "choice", "PHP: Sample.oneof becomes `hasoneof`, which is taken"),
        ("value", "unknown", "PHP: Sample.unknown becomes `$unknown`, which is taken"),
    ] {
        assert_eq!(problems(&sample(&[one(field)], Some(oneof))), [expected]);
    }
    assert_eq!(refusing_type("None"), ["Python"]);
    assert_eq!(refusing_type("Type"), ["Swift"]);
    assert_eq!(refusing_type("List"), ["PHP"]);
    assert_eq!(refusing_type("Object"), ["PHP"]);
    assert_eq!(refusing_value("State", "STATE_SELF"), ["Swift"]);
    assert_eq!(refusing_value("State", "None"), ["Python"]);
    assert_eq!(refusing_value("State", "NEW"), ["PHP"]);
    assert_eq!(refusing_call("PublicSend"), ["Ruby"]);
    assert_eq!(refusing_call("Close"), ["PHP"]);
}

#[test]
fn names_that_can_be_written_are_accepted() {
    let one = |name: &'static str| (name, Label::Optional);
    for fields in [
        vec![one("chain_hash")],
        vec![one("since"), one("until")],
        vec![("damaged", Label::Repeated), one("damaged_total")],
        // `type` and `object` are builtins of Python and not keywords, so an attribute or an
        // argument may have the name. `Object#type` was deprecated in Ruby 1.8, and later versions
        // do not have it.
        vec![one("type")],
        vec![one("object")],
        // The Swift generator appends `_p`, because messages have a `description` of their own. The
        // field stays writable, and every other language takes the name as it is.
        vec![one("description")],
    ] {
        assert_eq!(problems(&sample(&fields, None)), Vec::<String>::new());
    }
    assert_eq!(refusing_type("RecordedEvent"), Vec::<&str>::new());
    assert_eq!(refusing_value("State", "STATE_COPYING"), Vec::<&str>::new());
    assert_eq!(refusing_call("Subscribe"), Vec::<&str>::new());
}
