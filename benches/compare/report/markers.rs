//! The places in the page that are written by the program.

const END: &str = "<!-- end -->";

/// Puts `body` between `<!-- measured: name -->` and the next `<!-- end -->`. `None`: there is no such place.
pub fn replace(page: &str, name: &str, body: &str) -> Option<String> {
    let marker = format!("<!-- measured: {name} -->");
    let (before, rest) = page.split_once(&marker)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{marker}\n\n{}\n\n{END}{after}", body.trim_end()))
}
