//! A row of nodes: first those that hold an object, then the *blanks*, whose object was moved out and which wait for another.
//!
//! An object that is taken by value leaves its node where it is, as a blank, and one that is put by value moves into the
//! blank that comes next: neither moves a pointer. An object that is taken with its node leaves a gap, which the last blank
//! fills.

use std::ptr;

/// A pointer to a node, of which nothing is known here. Null in places that have never held one.
pub(crate) type Node = *mut ();

/// See the head of the file. `objects <= nodes <= places.len()`.
#[derive(Debug)]
pub(super) struct Rack<'a> {
    pub(super) places: &'a mut [Node],
    /// How many nodes hold an object: the first ones.
    pub(super) objects: usize,
    /// How many nodes there are.
    pub(super) nodes: usize,
}

impl Rack<'_> {
    pub(super) fn blanks(&self) -> usize {
        self.nodes - self.objects
    }

    /// Takes the node whose object was put last.
    pub(super) fn pop(&mut self) -> Option<Node> {
        let last = self.objects.checked_sub(1)?;
        let node = self.places[last];
        self.places[last] = self.places[self.nodes - 1];
        self.objects -= 1;
        self.nodes -= 1;
        Some(node)
    }

    /// Puts a node with an object. Gives it back if there is no free place: a blank does not make way.
    pub(super) fn push(&mut self, node: Node) -> Result<(), Node> {
        if self.nodes == self.places.len() {
            return Err(node);
        }
        self.places[self.nodes] = self.places[self.objects];
        self.places[self.objects] = node;
        self.objects += 1;
        self.nodes += 1;
        Ok(())
    }

    /// Takes a blank.
    pub(super) fn pop_blank(&mut self) -> Option<Node> {
        if self.blanks() == 0 {
            return None;
        }
        self.nodes -= 1;
        Some(self.places[self.nodes])
    }

    /// Puts a blank. Gives it back if there is no place.
    pub(super) fn push_blank(&mut self, node: Node) -> Result<(), Node> {
        let Some(place) = self.places.get_mut(self.nodes) else { return Err(node) };
        *place = node;
        self.nodes += 1;
        Ok(())
    }

    /// Moves the objects that were put last, at most `most` and as many as there is room for; in exchange for blanks, as far as
    /// there are any.
    pub(super) fn give_newest(&mut self, to: &mut Rack<'_>, most: usize) {
        let moved = most.min(self.objects).min(to.places.len() - to.objects);
        let exchanged = moved.min(to.blanks());
        let start = self.objects - moved;
        let middle = start + exchanged;
        self.places[start..middle].swap_with_slice(&mut to.places[to.objects..to.objects + exchanged]);
        to.objects += exchanged;
        let copied = moved - exchanged;
        if copied > 0 {
            // There are no blanks over there any more, and the last of ours fill the gap.
            to.places[to.objects..to.objects + copied].copy_from_slice(&self.places[middle..self.objects]);
            to.objects += copied;
            to.nodes += copied;
            let fill = copied.min(self.blanks());
            self.places.copy_within(self.nodes - fill..self.nodes, middle);
            self.nodes -= copied;
        }
        self.objects = start;
    }

    /// As `give_newest`, but those that have been here for the longest time.
    pub(super) fn give_oldest(&mut self, to: &mut Rack<'_>, most: usize) {
        let moved = most.min(self.objects).min(to.places.len() - to.objects);
        if moved < self.objects {
            self.places[..self.objects].rotate_left(moved);
        }
        self.give_newest(to, moved);
    }

    /// Moves the blanks, as many as there is room for.
    pub(super) fn give_blanks(&mut self, to: &mut Rack<'_>) {
        let moved = self.blanks().min(to.places.len() - to.nodes);
        to.places[to.nodes..to.nodes + moved].copy_from_slice(&self.places[self.nodes - moved..self.nodes]);
        to.nodes += moved;
        self.nodes -= moved;
    }
}

/// Places that have never held a node.
pub(super) const fn no_nodes<const N: usize>() -> [Node; N] {
    [ptr::null_mut(); N]
}

#[cfg(all(test, not(cenote_loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(number: usize) -> Node {
        ptr::without_provenance_mut(number)
    }

    /// A rack of its own memory, and what should be in it: the objects in order, the blanks in any.
    #[derive(Debug)]
    struct Model {
        places: Vec<Node>,
        objects: Vec<usize>,
        blanks: Vec<usize>,
    }

    impl Model {
        fn new(capacity: usize, objects: usize, blanks: usize, first: usize) -> Self {
            let objects: Vec<_> = (first..first + objects.min(capacity)).collect();
            let room = capacity - objects.len();
            let blanks: Vec<_> = (first + 100..first + 100 + blanks.min(room)).collect();
            let mut places = vec![ptr::null_mut(); capacity];
            for (place, number) in places.iter_mut().zip(objects.iter().chain(&blanks)) {
                *place = node(*number);
            }
            Model { places, objects, blanks }
        }

        fn with<R>(&mut self, work: impl FnOnce(&mut Rack<'_>) -> R) -> (R, usize, usize) {
            let (objects, nodes) = (self.objects.len(), self.objects.len() + self.blanks.len());
            let mut rack = Rack { places: &mut self.places, objects, nodes };
            let result = work(&mut rack);
            (result, rack.objects, rack.nodes)
        }

        fn check(&self, objects: usize, nodes: usize) {
            let numbers: Vec<usize> = self.places[..nodes].iter().map(|node| node.addr()).collect();
            assert_eq!(numbers[..objects], self.objects);
            let (mut found, mut expected) = (numbers[objects..].to_vec(), self.blanks.clone());
            found.sort_unstable();
            expected.sort_unstable();
            assert_eq!(found, expected);
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Pop,
        Push,
        PopBlank,
        PushBlank,
        Newest(usize),
        Oldest(usize),
        Blanks,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            Just(Step::Pop),
            Just(Step::Push),
            Just(Step::PopBlank),
            Just(Step::PushBlank),
            (0usize..9).prop_map(Step::Newest),
            (0usize..9).prop_map(Step::Oldest),
            Just(Step::Blanks),
        ];
        proptest::collection::vec(step, 0..30)
    }

    proptest! {
        #[test]
        fn no_node_is_lost_doubled_or_takes_a_blank_for_an_object(
            a in (1usize..9, 0usize..9, 0usize..9),
            b in (1usize..9, 0usize..9, 0usize..9),
            steps in steps(),
        ) {
            let (mut from, mut to) = (Model::new(a.0, a.1, a.2, 1000), Model::new(b.0, b.1, b.2, 2000));
            let mut next = 3000;
            for step in steps {
                match step {
                    Step::Pop => {
                        let (popped, objects, nodes) = from.with(|rack| rack.pop());
                        prop_assert_eq!(popped.map(|node| node.addr()), from.objects.pop());
                        from.check(objects, nodes);
                    }
                    Step::Push => {
                        next += 1;
                        let (pushed, objects, nodes) = from.with(|rack| rack.push(node(next)));
                        if pushed.is_ok() {
                            from.objects.push(next);
                        } else {
                            prop_assert_eq!(from.objects.len() + from.blanks.len(), from.places.len());
                        }
                        from.check(objects, nodes);
                    }
                    Step::PopBlank => {
                        let (popped, objects, nodes) = from.with(|rack| rack.pop_blank());
                        match popped {
                            None => prop_assert!(from.blanks.is_empty()),
                            Some(node) => from.blanks.retain(|blank| *blank != node.addr()),
                        }
                        from.check(objects, nodes);
                    }
                    Step::PushBlank => {
                        next += 1;
                        let (pushed, objects, nodes) = from.with(|rack| rack.push_blank(node(next)));
                        if pushed.is_ok() {
                            from.blanks.push(next);
                        }
                        from.check(objects, nodes);
                    }
                    Step::Newest(most) | Step::Oldest(most) => {
                        let newest = matches!(step, Step::Newest(_));
                        let moved = most.min(from.objects.len()).min(to.places.len() - to.objects.len());
                        let exchanged = moved.min(to.blanks.len());
                        let before = (from.objects.len() + from.blanks.len(), to.objects.len() + to.blanks.len());
                        let (((), objects, nodes), there) = {
                            let (to_objects, to_nodes) = (to.objects.len(), before.1);
                            let mut rack = Rack { places: &mut to.places, objects: to_objects, nodes: to_nodes };
                            let here = from.with(|from| {
                                if newest { from.give_newest(&mut rack, most) } else { from.give_oldest(&mut rack, most) }
                            });
                            (here, (rack.objects, rack.nodes))
                        };
                        let moving: Vec<usize> = if newest {
                            from.objects.split_off(from.objects.len() - moved)
                        } else {
                            from.objects.drain(..moved).collect()
                        };
                        to.objects.extend(moving);
                        // The blanks that came in exchange: whichever they are, none is lost.
                        let here: Vec<usize> = from.places[objects..nodes].iter().map(|node| node.addr()).collect();
                        let mut all: Vec<usize> = from.blanks.iter().chain(&to.blanks).copied().collect();
                        from.blanks = here.clone();
                        all.retain(|blank| !here.contains(blank));
                        to.blanks = all;
                        from.check(objects, nodes);
                        to.check(there.0, there.1);
                        prop_assert_eq!(nodes, before.0 - (moved - exchanged));
                        prop_assert_eq!(there.1, before.1 + (moved - exchanged));
                    }
                    Step::Blanks => {
                        let (to_objects, to_nodes) = (to.objects.len(), to.objects.len() + to.blanks.len());
                        let mut rack = Rack { places: &mut to.places, objects: to_objects, nodes: to_nodes };
                        let ((), objects, nodes) = from.with(|from| from.give_blanks(&mut rack));
                        let there = (rack.objects, rack.nodes);
                        let here: Vec<usize> = from.places[objects..nodes].iter().map(|node| node.addr()).collect();
                        let (stay, go): (Vec<_>, Vec<_>) = from.blanks.iter().partition(|blank| here.contains(blank));
                        from.blanks = stay;
                        to.blanks.extend(go);
                        from.check(objects, nodes);
                        to.check(there.0, there.1);
                    }
                }
            }
        }
    }
}
