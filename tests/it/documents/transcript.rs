//! Parses a printed session, and compares its output with the output of the commands. A line `…`
//! stands for any number of lines, and `…` in a line for any text.

use super::names::{Names, Shape};

const ANYTHING: char = '…';

/// A command with its printed output.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    pub command: String,
    pub output: Vec<String>,
}

/// Returns the commands of a session. A here-document belongs to its command.
pub fn steps(lines: &[String]) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut here: Option<String> = None;
    for line in lines {
        if let (Some(end), Some(step)) = (&here, steps.last_mut()) {
            step.command.push_str(&format!("\n{line}"));
            if line == end {
                here = None;
            }
        } else if let Some(command) = line.strip_prefix("$ ") {
            here = command.rsplit_once("<<").map(|(_, end)| end.trim().trim_matches('\'').to_owned());
            steps.push(Step { command: command.to_owned(), output: Vec::new() });
        } else {
            steps.last_mut().expect("a session starts with a command").output.push(line.clone());
        }
    }
    assert!(here.is_none(), "a here-document that does not end: {here:?}");
    steps
}

/// Returns an error with the first difference between the printed and the real output.
pub fn compare(printed: &[String], real: &[String], names: &mut Names) -> Result<(), String> {
    let printed: Vec<Shape> = printed.iter().map(|line| Shape::of(line.trim())).collect();
    let real: Vec<Shape> = real.iter().map(|line| Shape::of(line.trim())).collect();
    let parts: Vec<&[Shape]> = printed.split(|line| line.text == ANYTHING.to_string()).collect();
    let (mut at, last) = (0, parts.len() - 1);
    for (number, part) in parts.into_iter().enumerate() {
        let found = if number == last && number > 0 {
            real.len().checked_sub(part.len()).filter(|start| *start >= at && is_at(part, &real, *start))
        } else if number == 0 {
            is_at(part, &real, 0).then_some(0)
        } else {
            (at..=real.len()).find(|start| is_at(part, &real, *start))
        };
        let Some(start) = found else {
            let line =
                part.iter().zip(real.get(at..).unwrap_or_default()).find(|(one, other)| !same(one, other));
            return Err(match line {
                Some((printed, real)) => format!("printed: {}\n  found: {}", printed.text, real.text),
                None => "one of the two ends earlier".to_owned(),
            });
        };
        for (printed, real) in part.iter().zip(&real[start..]) {
            if !printed.text.contains(ANYTHING) {
                names.bind(printed, real)?;
            }
        }
        at = start + part.len();
    }
    if at == real.len() { Ok(()) } else { Err(format!("not printed: {}", real[at].text)) }
}

fn is_at(part: &[Shape], real: &[Shape], start: usize) -> bool {
    real.get(start..start + part.len())
        .is_some_and(|real| part.iter().zip(real).all(|(printed, real)| same(printed, real)))
}

fn same(printed: &Shape, real: &Shape) -> bool {
    let mut parts = printed.text.split(ANYTHING);
    let Some(mut rest) = parts.next().and_then(|first| real.text.strip_prefix(first)) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    fn fits(printed: &str, real: &str) -> bool {
        compare(&lines(printed), &lines(real), &mut Names::default()).is_ok()
    }

    #[test]
    fn a_session_is_taken_apart() {
        let steps = steps(&lines("$ cat <<'END'\none\nEND\none\n$ date"));
        let [cat, date] = &steps[..] else { panic!("{steps:?}") };
        assert_eq!(
            (cat.command.as_str(), &cat.output[..]),
            ("cat <<'END'\none\nEND", &["one".to_owned()][..])
        );
        assert_eq!((date.command.as_str(), date.output.len()), ("date", 0));
    }

    #[test]
    fn what_is_left_out_may_be_anything_and_all_else_has_to_be_there() {
        for (printed, real) in [
            ("a\nb", "a\nb"),
            ("…", "a\nb"),
            ("…", ""),
            ("a\n…", "a\nb\nc"),
            ("a\n…\nc", "a\nb\nb\nc"),
            ("…\nc", "a\nc\nc"),
            ("a … c", "a b c"),
            ("seconds: …", "seconds: 0.1"),
        ] {
            assert!(fits(printed, real), "{printed:?} {real:?}");
        }
        for (printed, real) in [
            ("a", "a\nb"),
            ("a\nb", "a"),
            ("", "a"),
            ("a\n…\nc", "a\nb"),
            ("a\n…\nc", "a\nc\nb"),
            ("…\nb\n…\nb", "b"),
            ("a … c", "a b d"),
        ] {
            assert!(!fits(printed, real), "{printed:?} {real:?}");
        }
    }
}
