//! The words that this project does not use, and the terms to use instead.
//!
//! Most are the private English of an earlier age of the project. `documents` checks the pages
//! against them, and `tidy` the sources.

/// Phrases in lower case, with their replacements.
pub const BANNED: &[(&str, &str)] = &[
    ("a person", "the operator"),
    ("adopt", "restore"),
    ("adopted", "restored"),
    ("adopting", "restoring"),
    ("adopts", "restores"),
    ("anew", "again, or from the start"),
    ("as they come", "as they arrive"),
    ("asks for a person", "requires the operator"),
    ("be had", "be available"),
    ("be told apart", "be distinguished"),
    ("be told which", "be determined"),
    ("by itself alone", "alone"),
    ("can't be had", "is not available"),
    ("ended well", "succeeded"),
    ("ends well", "succeeds"),
    ("for ever", "forever"),
    ("give way", "yield"),
    ("gives up its", "releases its, or loses its"),
    ("gives way", "yields"),
    ("go before", "precede, or take precedence over"),
    ("goes before", "precedes, or takes precedence over"),
    ("happening", "event, or signal"),
    ("hears", "is notified, or receives"),
    ("in force", "in effect"),
    ("in other company", "with others"),
    ("in vain", "without success"),
    ("is asked for", "is requested"),
    ("is of the machine", "is local"),
    ("is still so", "has not changed"),
    ("is told and", "is reported, or is notified"),
    ("is told of", "is notified of"),
    ("it is told", "it is reported, or it is notified"),
    ("kept to the byte", "kept exactly"),
    ("lies in what", "is contained in"),
    ("look-up", "lookup"),
    ("look-ups", "lookups"),
    ("made again", "created again, or rebuilt"),
    ("made anew", "rebuilt"),
    ("made whole", "completed"),
    ("mark of immudb", "replication mark"),
    ("nobody waits for", "is abandoned"),
    ("nothing any more", "nothing"),
    ("nothing is taken", "no writes are accepted"),
    ("of so many", "of this number of"),
    ("of today", "current"),
    ("on and on", "repeatedly"),
    ("one way through", "the only implementation"),
    ("other company", "others"),
    ("put aside", "set aside, or renamed"),
    ("somebody elses", "of another program"),
    ("standing", "state"),
    ("stranger", "another program, or foreign"),
    ("strangers", "other programs"),
    ("take nothing", "accept no writes"),
    ("takes nothing", "accepts no writes"),
    ("tell of it", "report it"),
    ("tells of it", "reports it"),
    ("torn end", "torn tail"),
    ("unhurried", "throttled"),
    ("warn of nowhere", "report dangling exits"),
    ("what it had", "its former contents"),
    ("what is asked for", "the request"),
    ("what is in force", "the effective configuration"),
    ("whoever", "the client that, or the operator who"),
    ("worked off", "processed"),
];

/// Former names of types, fields and functions, which have been replaced by terms of the field.
pub const OLD_NAMES: &[&str] = &[
    "Adopt",
    "AdoptError",
    "AdoptSnapshot",
    "AdoptedTransaction",
    "AloneEnd",
    "AnotherPrograms",
    "Bodies",
    "COMPANY_MAX",
    "COMPANY_MIN",
    "Company",
    "Doubt",
    "Earlier",
    "Happening",
    "LeftBehind",
    "Life",
    "Located",
    "Misfits",
    "Mistake",
    "Nobodys",
    "OBJECTS_WEIGHT_MAX",
    "Ours",
    "OutOfReach",
    "PAGE_WEIGHT",
    "Patience",
    "Ration",
    "ReadRun",
    "RecordPlace",
    "Settled",
    "Standing",
    "Surroundings",
    "Told",
    "TooWide",
    "Turns",
    "Unpacking",
    "WEIGHT_MAX",
    "Watched",
    "Whose",
    "admit_resend",
    "adopt",
    "adopt_append",
    "adopt_snapshot",
    "await_company",
    "be_absent",
    "be_there",
    "be_there_for_reading",
    "be_there_with",
    "become_like",
    "begin_anew",
    "begins_anew",
    "bring_live_up",
    "bring_up",
    "check_weight",
    "fill_or_give_up",
    "follow_now_and_then",
    "give_way",
    "has_mended",
    "into_misfits",
    "is_of_the_machine",
    "is_still_so",
    "known_weight",
    "knows_its_history",
    "left_behind",
    "make_room",
    "mend_what_is_damaged",
    "misfits",
    "notes_misfits",
    "own_place_of_list",
    "passes_over",
    "places_and_bytes",
    "places_of_all",
    "project_anew",
    "put_aside",
    "repaired_count",
    "rest_behind",
    "take_stock",
    "take_stock_of_snapshots",
    "take_what_happened",
    "to_be_repaired",
    "unfitting",
    "unhurried",
    "warn_of_nowhere",
    "warning_count",
    "weight_at_most",
];

/// Returns the banned phrases in a text, each with its replacement. A phrase consists of whole
/// words in any case, and may be broken over lines.
pub fn banned_in(text: &str) -> Vec<String> {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
    let found = BANNED.iter().filter(|(phrase, _)| has_words(&text, phrase));
    found.map(|(phrase, replacement)| format!("\"{phrase}\" (use \"{replacement}\")")).collect()
}

fn has_words(text: &str, phrase: &str) -> bool {
    let is_inside = |next: Option<char>| next.is_some_and(char::is_alphanumeric);
    text.match_indices(phrase).any(|(at, _)| {
        !is_inside(text[..at].chars().next_back()) && !is_inside(text[at + phrase.len()..].chars().next())
    })
}

#[test]
fn banned_phrases_are_found_as_whole_words() {
    for text in ["Whoever asks", "for whoever", "nothing\n    any more.", "`anew`", "(Made  again)"] {
        assert_eq!(banned_in(text).len(), 1, "{text}");
    }
    for text in ["", "a personal note", "renewed", "outstanding", "adoption", "happenings"] {
        assert_eq!(banned_in(text), Vec::<String>::new(), "{text}");
    }
    assert_eq!(banned_in("in vain"), ["\"in vain\" (use \"without success\")"]);
}
