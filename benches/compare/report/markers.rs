//! The generated sections of the page.

const END: &str = "<!-- end -->";

/// Replaces the text between `<!-- measured: name -->` and the next `<!-- end -->` by `body`.
/// Returns `None` if there is no such marker.
pub fn replace(page: &str, name: &str, body: &str) -> Option<String> {
    let marker = format!("<!-- measured: {name} -->");
    let (before, rest) = page.split_once(&marker)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{marker}\n\n{}\n\n{END}{after}", body.trim_end()))
}
