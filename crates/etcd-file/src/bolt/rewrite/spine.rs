//! The right edge of a tree: the branches from its root to its last leaf.

use super::error::{MAX_BYTES, RewriteError};
use super::pages::{Child, Leaf, NewPages};
use crate::bolt::page::{Kind, Page, PageError};
use crate::bolt::{Bolt, CursorError, MAX_DEPTH};

/// Adds an element in a leaf of its own after all others. Returns the new root of the tree.
pub(super) fn append(
    bolt: &Bolt<'_>,
    new: &mut NewPages,
    root: u64,
    leaf: Leaf,
) -> Result<u64, RewriteError> {
    let (mut branches, mut page) = right_edge(bolt, root)?;
    let id = page.id;
    let ends = match page.count.checked_sub(1) {
        Some(last) => Some((key(bolt, &mut page, 0)?, key(bolt, &mut page, last)?)),
        None => None,
    };
    let not_last = || RewriteError::NotLast {
        bucket: String::new(),
    };
    if ends.as_ref().is_some_and(|(_, last)| *last >= leaf.key) {
        return Err(not_last());
    }
    // The lowest branch whose last key is not before the new one would hide it.
    let hidden = |children: &Vec<Child>| children.last().is_some_and(|last| last.key >= leaf.key);
    if branches.iter().any(hidden) {
        return Err(not_last());
    }
    let added = Child {
        key: leaf.key.clone(),
        page: new.leaf(std::slice::from_ref(&leaf))?,
    };
    // What stands in the place of the last child of the branch above.
    let mut replacement = match ends {
        Some((first, _)) => vec![
            Child {
                key: first,
                page: id,
            },
            added,
        ],
        // An empty leaf is left out.
        None => vec![added],
    };
    while let Some(mut children) = branches.pop() {
        children.pop();
        children.extend(replacement);
        replacement = new.branch_level(&children)?;
    }
    new.branches(replacement)
}

/// The last key of a tree; nothing if its last leaf is empty.
pub(super) fn last_key(bolt: &Bolt<'_>, root: u64) -> Result<Option<Vec<u8>>, RewriteError> {
    let (_, mut page) = right_edge(bolt, root)?;
    match page.count.checked_sub(1) {
        Some(last) => Ok(Some(key(bolt, &mut page, last)?)),
        None => Ok(None),
    }
}

/// The children of the branches from the root down, and the last leaf.
fn right_edge(bolt: &Bolt<'_>, root: u64) -> Result<(Vec<Vec<Child>>, Page), RewriteError> {
    let mut branches = Vec::new();
    let mut page = Page::default();
    let mut id = root;
    loop {
        load(bolt, &mut page, id, branches.len())?;
        if page.kind != Some(Kind::Branch) {
            return Ok((branches, page));
        }
        let children = children(bolt, &mut page)?;
        // A branch without children is refused when it is loaded.
        id = children.last().map_or(0, |last| last.page);
        branches.push(children);
    }
}

fn load(bolt: &Bolt<'_>, page: &mut Page, id: u64, depth: usize) -> Result<(), RewriteError> {
    let problem = if depth >= MAX_DEPTH {
        format!("the tree is deeper than {MAX_DEPTH} pages")
    } else if !(2..bolt.meta.high_water_mark).contains(&id) {
        format!(
            "a tree refers to this page, expected a page from 2 to below the high-water mark {}",
            bolt.meta.high_water_mark
        )
    } else {
        return page.load(bolt, id).map_err(|error| on(bolt, id, error));
    };
    Err(on(bolt, id, PageError::Damaged(problem)))
}

fn on(bolt: &Bolt<'_>, id: u64, error: PageError) -> RewriteError {
    CursorError::on(id, bolt.offset_of(id), error).into()
}

fn children(bolt: &Bolt<'_>, page: &mut Page) -> Result<Vec<Child>, RewriteError> {
    if page.end - page.start > MAX_BYTES {
        return Err(RewriteError::TooLarge {
            what: format!("page {}", page.id),
        });
    }
    (0..page.count)
        .map(|index| {
            let element = page
                .element(bolt, index)
                .map_err(|error| on(bolt, page.id, error))?;
            Ok(Child {
                key: key(bolt, page, index)?,
                page: element.child,
            })
        })
        .collect()
}

fn key(bolt: &Bolt<'_>, page: &mut Page, index: u64) -> Result<Vec<u8>, RewriteError> {
    let id = page.id;
    let damaged = |error| on(bolt, id, error);
    let element = page.element(bolt, index).map_err(damaged)?;
    let (key, _) = page.key_and_value(bolt, &element).map_err(damaged)?;
    Ok(key.to_vec())
}
