//! Pages of lists, and the tokens that continue them.

use crate::{event::AggregateId, grpc::violations::Violations, world::read_models::lists::Page};

/// A page as the client requests it.
pub(super) struct PageRequest {
    /// The path to the last object of the previous page. Empty if there is none.
    pub after: Vec<String>,
    pub count: usize,
}

impl PageRequest {
    pub(super) fn new(size: u32, token: &str, steps_max: usize, wrong: &mut Violations) -> Option<Self> {
        const PAGE_MAX: u32 = 1000;
        const PAGE_DEFAULT: u32 = 100;
        if size > PAGE_MAX {
            wrong.add("page_size", format!("is {size}; at most {PAGE_MAX} is allowed"));
        }
        let after = match token {
            "" => Some(Vec::new()),
            token => token_way(token).filter(|way| way.len() <= steps_max),
        };
        if after.is_none() {
            wrong.add("page_token", "is not a token of this list");
        }
        let count = if size == 0 { PAGE_DEFAULT } else { size };
        Some(Self { after: after?, count: count as usize })
    }

    pub(super) fn after_id(&self) -> &str {
        self.after.last().map_or("", String::as_str)
    }
}

/// Separates the ids of a path. Ids have no line breaks.
const STEP: &str = "\n";

pub(super) fn next_token(page: &Page) -> String {
    page.next.as_ref().map(|way| hex::encode(way.join(STEP))).unwrap_or_default()
}

fn token_way(token: &str) -> Option<Vec<String>> {
    let text = String::from_utf8(hex::decode(token).ok()?).ok()?;
    text.split(STEP).map(|id| Some(AggregateId::new(id).ok()?.as_str().to_owned())).collect()
}
