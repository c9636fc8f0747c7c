//! Formats numbers and tables.

/// Formats a rate, rounded to its significant digits, with spaces between thousands.
pub fn rate(number: f64) -> String {
    if !number.is_finite() {
        return NONE.to_owned();
    }
    if number < 100.0 {
        return format!("{number:.1}");
    }
    let step = if number < 10_000.0 { 1.0 } else { 10.0 };
    grouped(((number / step).round() * step) as u64)
}

pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// Formats milliseconds with three significant digits.
pub fn milliseconds(number: f64) -> String {
    match number {
        number if number < 1.0 => format!("{number:.3}"),
        number if number < 10.0 => format!("{number:.2}"),
        number if number < 100.0 => format!("{number:.1}"),
        number => grouped(number.round() as u64),
    }
}

pub fn mebibytes(bytes: u64) -> String {
    grouped(bytes.div_ceil(1 << 20))
}

/// Stands for a missing value.
pub const NONE: &str = "—";

/// Formats a Markdown table. The first column is left-aligned, the others are right-aligned.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let rule: String =
        head.iter().enumerate().map(|(at, _)| if at == 0 { "---|" } else { "---:|" }).collect();
    let mut text = format!("| {} |\n|{rule}\n", head.join(" | "));
    for row in rows {
        text.push_str(&format!("| {} |\n", row.join(" | ")));
    }
    text
}
