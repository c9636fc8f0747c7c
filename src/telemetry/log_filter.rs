//! The syntax of `logging.level`, and the filter that it stands for.
//!
//! Also limits the output of libraries, unless `logging.level` names them.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

/// Parses a filter in the syntax of `tracing`'s env filter, with one restriction: a directive
/// without a module must be a level. Otherwise a misspelt level would be taken as the name of a
/// module and would silence all other modules. Returns `None` if `level` is not such a filter.
pub fn log_filter(level: &str) -> Option<EnvFilter> {
    let is_directive =
        |part: &str| part.contains(['=', '[', '{', '}', ']']) || part.trim().parse::<LevelFilter>().is_ok();
    if level.trim().is_empty() || !level.split(',').all(is_directive) {
        return None;
    }
    // At the same level, libraries log too much for operators. Also, h2 warns about malformed
    // frames, with which a client could fill the log.
    let quiet = ["h2=error", "hyper=warn", "tower=warn"];
    let unasked =
        quiet.into_iter().filter(|rule| !rule.split('=').take(1).any(|library| level.contains(library)));
    let all: Vec<&str> = std::iter::once(level).chain(unasked).collect();
    EnvFilter::try_new(all.join(",")).ok()
}
