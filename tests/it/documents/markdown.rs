//! Parses the code blocks, the headings and the links of a Markdown page.

use std::{collections::BTreeSet, fs, path::Path};

const SETUP: &str = "<!-- setup: ";
const PLAYED_AFTER: &str = "<!-- played after: ";
const END_OF_COMMENT: &str = " -->";

/// A fenced code block.
#[derive(Debug)]
pub struct Block {
    pub language: String,
    pub lines: Vec<String>,
    /// The line number of its opening fence.
    pub line: usize,
    /// The situation in which a new service starts, from the comment before the block.
    pub setup: Option<String>,
}

impl Block {
    pub fn is_session(&self) -> bool {
        self.language == "console"
    }
}

#[derive(Debug)]
pub struct Page {
    /// The path from the root of the repository.
    pub path: String,
    pub text: String,
    pub blocks: Vec<Block>,
    /// The anchors of its headings.
    pub anchors: BTreeSet<String>,
    /// Links into the repository, with their line numbers.
    pub links: Vec<(usize, String)>,
    /// The page whose sessions are executed before those of this one.
    pub played_after: Option<String>,
}

impl Page {
    pub fn read(root: &Path, path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        let path = path.strip_prefix(root).unwrap().display().to_string();
        let (blocks, anchors, links) = (Vec::new(), BTreeSet::new(), Vec::new());
        let mut page = Self { path, text: String::new(), blocks, anchors, links, played_after: None };
        page.parse(&text);
        page.text = text;
        page
    }

    fn parse(&mut self, text: &str) {
        let (mut open, mut setup): (Option<(Block, usize)>, Option<String>) = (None, None);
        for (line, number) in text.lines().zip(1..) {
            let fence = line.trim_start().strip_prefix("```");
            let indentation = line.len() - line.trim_start().len();
            match (&mut open, fence) {
                (None, Some(language)) => {
                    let (language, lines) = (language.trim().to_owned(), Vec::new());
                    open = Some((Block { language, lines, line: number, setup: setup.take() }, indentation));
                }
                (Some(_), Some("")) => self.blocks.extend(open.take().map(|(block, _)| block)),
                (Some((block, indentation)), _) => {
                    block.lines.push(line.get(*indentation..).unwrap_or_default().to_owned());
                }
                (None, None) => self.parse_prose(line, number, &mut setup),
            }
        }
        assert!(open.is_none(), "{}: a block that does not end", self.path);
    }

    fn parse_prose(&mut self, line: &str, number: usize, setup: &mut Option<String>) {
        let comment =
            |start: &str| Some(line.strip_prefix(start)?.strip_suffix(END_OF_COMMENT)?.trim().to_owned());
        if let Some(name) = comment(SETUP) {
            *setup = Some(name);
        }
        if let Some(page) = comment(PLAYED_AFTER) {
            self.played_after = Some(page);
        }
        if line.starts_with('#') {
            self.anchors.insert(anchor(line.trim_start_matches('#').trim()));
        }
        // Text between backquotes contains no links.
        let outside: String = line.split('`').step_by(2).collect();
        for link in outside.split("](").skip(1) {
            let target = link.split(')').next().unwrap();
            if !target.contains("://") && !target.starts_with("mailto:") {
                self.links.push((number, target.to_owned()));
            }
        }
    }
}

/// Returns the anchor that GitHub generates for a heading.
fn anchor(heading: &str) -> String {
    let kept = |character: &char| character.is_alphanumeric() || " -_".contains(*character);
    heading.to_lowercase().chars().filter(kept).map(|kept| if kept == ' ' { '-' } else { kept }).collect()
}

#[test]
fn a_page_is_taken_apart() {
    let text = "# A title: `x`\n\nSee [this](a.md#b), `[not](this)` and [that](https://example.org).\n\n\
                <!-- setup: diverged -->\n- ```console\n  $ date\n  ```\n";
    let mut page = Page {
        path: "page.md".to_owned(),
        text: String::new(),
        blocks: Vec::new(),
        anchors: BTreeSet::new(),
        links: Vec::new(),
        played_after: None,
    };
    page.parse(&text.replace("- ```console", "  ```console"));
    assert_eq!(page.anchors.iter().next().map(String::as_str), Some("a-title-x"));
    assert_eq!(page.links, [(3, "a.md#b".to_owned())]);
    let block = &page.blocks[0];
    assert_eq!((block.language.as_str(), &block.lines[..]), ("console", &["$ date".to_owned()][..]));
    assert_eq!(block.setup.as_deref(), Some("diverged"));
}
