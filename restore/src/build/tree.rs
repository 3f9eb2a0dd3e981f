//! The order of forks, sessions and groups that makes a tree again. Pure: numbers in, steps out.
//!
//! A session can only be had by birth or by setsid(2), so *when* a child is born matters: children
//! that must stay in the parent's old session are born before the parent's setsid. A task that lost
//! its parent was given to a subreaper, and its session may be one its present parent was never in;
//! such a task is born of a sibling with CLONE_PARENT. Where the leader of a session or group has
//! died, a helper takes its number, lends it, and is removed before anything runs.

use std::collections::{BTreeSet, HashMap};

use image::state::Checkpoint;

use crate::error::ShapeError;

/// Deepest tree that is built; the planner recurses.
const DEEPEST: usize = 1000;

/// What the planner knows of a task. `None` as session or group is that of `qmig restore` itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) id: u32,
    pub(crate) parent: Option<u32>,
    pub(crate) group: Option<u32>,
    pub(crate) session: Option<u32>,
    pub(crate) zombie: bool,
}

/// One act of making the tree. The root exists already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// `by` makes `child`: its own child, or with `sibling` a child of its parent.
    Fork { by: u32, child: u32, sibling: bool },
    /// setsid(2).
    Setsid(u32),
    /// setpgid(2) of `task` by itself; `None` is the group of `qmig restore`.
    Join { task: u32, group: Option<u32> },
    /// A helper has served: it ends and `parent` reaps it.
    Remove { helper: u32, parent: u32 },
}

/// The shapes in a checkpoint; with `shell_job`, a session and group of the root that come from
/// outside the tree are replaced by those of `qmig restore`.
pub(crate) fn shapes(from: &Checkpoint, shell_job: bool) -> Result<Vec<Shape>, ShapeError> {
    let root = from.root();
    let outside = root.session != root.id;
    if outside && !shell_job {
        return Err(ShapeError::RootSession { session: root.session.0 });
    }
    let outer_group = outside.then_some(root.group.0);
    let outer_session = outside.then_some(root.session.0);
    Ok(from
        .tasks
        .iter()
        .map(|task| Shape {
            id: task.id.0,
            parent: task.parent.map(|parent| parent.0),
            group: Some(task.group.0).filter(|group| outer_group != Some(*group)),
            session: Some(task.session.0).filter(|session| outer_session != Some(*session)),
            zombie: task.living().is_none(),
        })
        .collect())
}

/// The steps that make `shapes` (parents before children, the root first) out of a lone root.
pub(crate) fn steps(shapes: &[Shape]) -> Result<Vec<Step>, ShapeError> {
    let mut planner = Planner::new(shapes)?;
    planner.grow(0, 0)?;
    planner.join_groups()?;
    planner.remove_helpers();
    Ok(planner.steps)
}

struct Planner<'a> {
    shapes: &'a [Shape],
    /// Indices of the children of each shape.
    kids: Vec<Vec<usize>>,
    by_id: HashMap<u32, usize>,
    /// Sessions a task could be born into, seen from below.
    wants: Vec<BTreeSet<Option<u32>>>,
    /// As it stands while steps are added; helpers too.
    session: HashMap<u32, Option<u32>>,
    group: HashMap<u32, Option<u32>>,
    /// (helper, parent), in order of making.
    helpers: Vec<(u32, u32)>,
    steps: Vec<Step>,
}

impl<'a> Planner<'a> {
    fn new(shapes: &'a [Shape]) -> Result<Self, ShapeError> {
        let mut by_id = HashMap::new();
        let mut kids = vec![Vec::new(); shapes.len()];
        for (at, shape) in shapes.iter().enumerate() {
            if by_id.insert(shape.id, at).is_some() {
                return Err(ShapeError::Twice { id: shape.id });
            }
            if shape.session == Some(shape.id) && shape.group != Some(shape.id) {
                let group = shape.group.unwrap_or_default();
                return Err(ShapeError::LeaderGroup { task: shape.id, group });
            }
            let parent = shape.parent.unwrap_or_default();
            match by_id.get(&parent) {
                Some(parent) if at > 0 && !shapes[*parent].zombie => kids[*parent].push(at),
                None if at == 0 && shape.parent.is_none() => {}
                _ => return Err(ShapeError::Parent { task: shape.id, parent }),
            }
        }
        let mut wants = vec![BTreeSet::new(); shapes.len()];
        for (at, shape) in shapes.iter().enumerate().rev() {
            wants[at] = if shape.session == Some(shape.id) {
                let below = kids[at].iter().flat_map(|kid: &usize| wants[*kid].iter().copied());
                below.filter(|session| *session != Some(shape.id)).collect()
            } else {
                BTreeSet::from([shape.session])
            };
        }
        let Some(root) = shapes.first() else {
            return Err(ShapeError::Parent { task: 0, parent: 0 });
        };
        Ok(Self {
            shapes,
            kids,
            by_id,
            wants,
            session: HashMap::from([(root.id, None)]),
            group: HashMap::from([(root.id, None)]),
            helpers: Vec::new(),
            steps: Vec::new(),
        })
    }

    /// Adds `child`, which is in the session and group of `by`.
    fn fork(&mut self, by: u32, child: u32, sibling: bool) {
        self.session.insert(child, self.session[&by]);
        self.group.insert(child, self.group[&by]);
        self.steps.push(Step::Fork { by, child, sibling });
    }

    fn setsid(&mut self, task: u32) {
        self.session.insert(task, Some(task));
        self.group.insert(task, Some(task));
        self.steps.push(Step::Setsid(task));
    }

    fn join(&mut self, task: u32, group: Option<u32>) {
        self.group.insert(task, group);
        self.steps.push(Step::Join { task, group });
    }

    /// Makes everything below shape `at`, which exists and is in the session it was born into.
    fn grow(&mut self, at: usize, depth: usize) -> Result<(), ShapeError> {
        if depth > DEEPEST {
            return Err(ShapeError::TooDeep { limit: DEEPEST });
        }
        let shape = self.shapes[at];
        let born = self.session[&shape.id];
        let leader = shape.session == Some(shape.id);
        if !leader && shape.session != born {
            let session = shape.session.unwrap_or_default();
            return Err(ShapeError::Session { task: shape.id, session });
        }
        let kids = self.kids[at].clone();
        let (early, late): (Vec<usize>, Vec<usize>) =
            kids.into_iter().partition(|kid| leader && self.wants[*kid].contains(&born));
        for kid in early {
            self.fork(shape.id, self.shapes[kid].id, false);
            self.grow(kid, depth + 1)?;
        }
        if leader {
            self.setsid(shape.id);
        }
        let now = self.session[&shape.id];
        let (natural, orphans): (Vec<usize>, Vec<usize>) = late.into_iter().partition(|kid| {
            let kid = self.shapes[*kid];
            kid.session == now || kid.session == Some(kid.id)
        });
        for kid in natural {
            self.fork(shape.id, self.shapes[kid].id, false);
            self.grow(kid, depth + 1)?;
        }
        for kid in orphans {
            let by = self.lender(at, kid)?;
            self.fork(by, self.shapes[kid].id, true);
            self.grow(kid, depth + 1)?;
        }
        Ok(())
    }

    /// A child of shape `parent` that is in the session shape `orphan` must be born into.
    fn lender(&mut self, parent: usize, orphan: usize) -> Result<u32, ShapeError> {
        let (parent_id, orphan) = (self.shapes[parent].id, self.shapes[orphan]);
        let siblings = self.kids[parent].iter().map(|kid| self.shapes[*kid].id);
        let helpers = self.helpers.iter().filter(|(_, of)| *of == parent_id).map(|(id, _)| *id);
        let lender = siblings
            .chain(helpers)
            .find(|sibling| self.session.get(sibling) == Some(&orphan.session));
        if let Some(lender) = lender {
            return Ok(lender);
        }
        match orphan.session {
            Some(session) if !self.session.contains_key(&session) && !self.in_tree(session) => {
                self.fork(parent_id, session, false);
                self.setsid(session);
                self.helpers.push((session, parent_id));
                Ok(session)
            }
            session => {
                let session = session.unwrap_or_default();
                Err(ShapeError::Session { task: orphan.id, session })
            }
        }
    }

    fn in_tree(&self, id: u32) -> bool {
        self.by_id.contains_key(&id)
    }

    fn join_groups(&mut self) -> Result<(), ShapeError> {
        for shape in self.movers() {
            let Some(group) = shape.group else { continue };
            if self.group.get(&group) == Some(&Some(group)) {
                continue;
            }
            if !self.session.contains_key(&group) {
                self.fork(shape.id, group, false);
                self.helpers.insert(0, (group, shape.id));
            }
            self.join(group, Some(group));
        }
        // Those who lent their number to a group they are not in themselves leave it last.
        let (lenders, members): (Vec<Shape>, Vec<Shape>) =
            self.movers().into_iter().partition(|shape| self.group[&shape.id] == Some(shape.id));
        for shape in members.into_iter().chain(lenders) {
            if let Some(group) = shape.group
                && self.session.get(&group) != self.session.get(&shape.id)
            {
                return Err(ShapeError::Group { task: shape.id, group });
            }
            self.join(shape.id, shape.group);
        }
        Ok(())
    }

    /// Tasks that are not in their group yet.
    fn movers(&self) -> Vec<Shape> {
        let shapes = self.shapes.iter().copied();
        shapes.filter(|shape| self.group[&shape.id] != shape.group).collect()
    }

    fn remove_helpers(&mut self) {
        for (helper, parent) in &self.helpers {
            self.steps.push(Step::Remove { helper: *helper, parent: *parent });
        }
    }
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
