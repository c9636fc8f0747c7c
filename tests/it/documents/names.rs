//! Values that differ between runs: ids, times and hashes. Those on a page stand for those that the
//! program generated.

use std::collections::HashMap;

const UUID: usize = 36;
const HASH: usize = 44;

/// A line whose ids, times and hashes are replaced by placeholders.
#[derive(Debug, PartialEq, Eq)]
pub struct Shape {
    /// The line with the placeholders.
    pub text: String,
    /// The replaced values, in order.
    pub values: Vec<String>,
}

impl Shape {
    pub fn of(line: &str) -> Self {
        let (mut text, mut values) = (String::new(), Vec::new());
        let mut rest = line;
        while let Some(next) = rest.chars().next() {
            // A value does not start in the middle of a word.
            let begins = !text.chars().next_back().is_some_and(|before| before.is_ascii_alphanumeric());
            let taken = if begins { length(rest) } else { None };
            match taken {
                Some((mark, length)) => {
                    let (value, after) = rest.split_at(length);
                    text.push_str(mark);
                    values.push(value.to_owned());
                    rest = after;
                }
                None => {
                    text.push(next);
                    rest = &rest[next.len_utf8()..];
                }
            }
        }
        Self { text, values }
    }
}

/// Returns the kind and the length of the value at the start of `text`, if there is one that
/// differs between runs.
fn length(text: &str) -> Option<(&'static str, usize)> {
    if fits(text, "hhhhhhhh-hhhh-hhhh-hhhh-hhhhhhhhhhhh") {
        return Some(("<id>", UUID));
    }
    if ["dddd-dd-ddTdd:dd:dd", "dddd-dd-dd dd:dd:dd"].iter().any(|form| fits(text, form)) {
        let seconds = "dddd-dd-dd dd:dd:dd".len();
        let more = text[seconds..].bytes().take_while(|byte| byte.is_ascii_digit() || b".Z".contains(byte));
        return Some(("<time>", seconds + more.count()));
    }
    let is_hash = |hash: &str| {
        let (digits, end) = hash.split_at(HASH - 1);
        end == "=" && digits.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/".contains(&byte))
    };
    text.get(..HASH).filter(|hash| is_hash(hash)).map(|_| ("<hash>", HASH))
}

/// `h` stands for a hexadecimal digit and `d` for a decimal one.
fn fits(text: &str, form: &str) -> bool {
    text.len() >= form.len()
        && text.bytes().zip(form.bytes()).all(|(byte, form)| match form {
            b'h' => byte.is_ascii_hexdigit(),
            b'd' => byte.is_ascii_digit(),
            form => byte == form,
        })
}

/// The real value of each printed one.
#[derive(Debug, Default)]
pub struct Names(HashMap<String, String>);

impl Names {
    /// Replaces the printed values in a command by the real ones.
    pub fn in_command(&self, command: &str) -> String {
        self.0.iter().fold(command.to_owned(), |command, (printed, real)| command.replace(printed, real))
    }

    /// Records the real values. A printed value always stands for the same real one.
    pub fn bind(&mut self, printed: &Shape, real: &Shape) -> Result<(), String> {
        for (printed, real) in printed.values.iter().zip(&real.values) {
            let bound = self.0.entry(printed.clone()).or_insert_with(|| real.clone());
            if bound != real {
                return Err(format!("{printed} stood for {bound} before, and is {real} now"));
            }
        }
        Ok(())
    }
}

#[test]
fn values_are_taken_out() {
    let id = "2ac40ea0-5ec1-4722-9e94-33876d162baa";
    let shape = Shape::of(&format!("\"eventId\": \"{id}\", 2026-11-26T09:03:45.630292161Z|x"));
    assert_eq!(shape.text, "\"eventId\": \"<id>\", <time>|x");
    assert_eq!(shape.values, [id, "2026-11-26T09:03:45.630292161Z"]);
    let shape = Shape::of("\"chainHash\": \"n1VlSWUoNFBoRMuwblxkcwxJvZmFmaRTKWRPdJYo0Uw=\"");
    assert_eq!(shape.text, "\"chainHash\": \"<hash>\"");
    assert_eq!(Shape::of("storage/log.given-up-1").values, Vec::<String>::new());
}

#[test]
fn a_value_stands_for_one_thing() {
    let (first, second) = ("2ac40ea0-5ec1-4722-9e94-33876d162baa", "00000000-5ec1-4722-9e94-33876d162baa");
    let mut names = Names::default();
    assert!(names.bind(&Shape::of(first), &Shape::of(second)).is_ok());
    assert_eq!(names.in_command(&format!("get {first}")), format!("get {second}"));
    assert!(names.bind(&Shape::of(first), &Shape::of(first)).is_err());
}
