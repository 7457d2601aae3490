//! How objects end: dropped one by one, so that one whose drop panics keeps none of the others from being dropped.

use super::magazine::Magazine;
use super::rack::Node;
use super::shard::Contents;
use super::stack::List;

/// What is known of the objects of a store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Objects {
    /// Drops the object and frees its node, the latter also if the drop panics.
    pub(crate) drop: unsafe fn(Node),
    /// Frees a blank.
    pub(crate) free: unsafe fn(Node),
}

impl Objects {
    fn drop(&self, node: Node) {
        // SAFETY: promised in `Store::new`; the callers own the node and its object.
        unsafe { (self.drop)(node) }
    }

    pub(super) fn free(&self, blank: Node) {
        // SAFETY: promised in `Store::new`; the callers own the blank.
        unsafe { (self.free)(blank) }
    }

    /// Frees the blanks in a magazine.
    pub(super) fn free_blanks(&self, magazine: &mut Magazine) {
        while let Some(blank) = magazine.pop_blank() {
            self.free(blank);
        }
    }

    /// Drops what is in a magazine.
    pub(super) fn dispose(&self, magazine: Magazine) {
        let mut disposal = Disposal::new(self);
        disposal.list.push(magazine);
        disposal.dispose();
    }
}

/// Objects that are to be dropped, together with those of a list that is not walked yet.
pub(super) struct Disposal<'a> {
    objects: &'a Objects,
    current: Option<Magazine>,
    list: List,
}

impl<'a> Disposal<'a> {
    pub(super) fn new(objects: &'a Objects) -> Self {
        Disposal { objects, current: None, list: List::new() }
    }

    pub(super) fn append(&mut self, list: List) {
        self.list.append(list);
    }

    /// Adds what was in a shard.
    pub(super) fn push_contents(&mut self, contents: Contents) {
        let objects = self.objects;
        contents.into_magazines(objects, |magazine| self.list.push(magazine));
    }

    /// How many objects there are.
    pub(super) fn len(&self) -> usize {
        self.list.objects() + self.current.as_ref().map_or(0, Magazine::objects)
    }

    /// Takes one node, with its object.
    fn pop(&mut self) -> Option<Node> {
        loop {
            if let Some(magazine) = &mut self.current {
                if let Some(node) = magazine.pop() {
                    return Some(node);
                }
                self.objects.free_blanks(magazine);
            }
            self.current = self.list.pop();
            self.current.as_ref()?;
        }
    }

    /// Drops all objects. If one panics, the others are dropped all the same, and the panic goes on.
    pub(super) fn dispose(self) {
        drop(self);
    }
}

impl Drop for Disposal<'_> {
    fn drop(&mut self) {
        // If a drop panics this goes on with the rest while the panic unwinds; a second panic aborts, as in `std`.
        struct Rest<'a, 'b>(&'a mut Disposal<'b>);
        impl Drop for Rest<'_, '_> {
            fn drop(&mut self) {
                while let Some(node) = self.0.pop() {
                    self.0.objects.drop(node);
                }
            }
        }
        let rest = Rest(self);
        while let Some(node) = rest.0.pop() {
            rest.0.objects.drop(node);
        }
    }
}

/// What was taken out of a store, node by node. Drops the rest.
pub(crate) struct Drain<'a>(pub(super) Disposal<'a>);

impl Drain<'_> {
    /// A node, with its object: the caller's from here on.
    pub(crate) fn next_node(&mut self) -> Option<Node> {
        self.0.pop()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Disposal<'_> {
    /// The magazines, which are not dropped.
    pub(super) fn into_magazines(mut self, mut take: impl FnMut(Magazine)) {
        while let Some(magazine) = self.current.take().or_else(|| self.list.pop()) {
            take(magazine);
        }
    }
}
