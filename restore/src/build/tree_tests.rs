use super::*;

/// Runs the steps on a model of fork, setsid and setpgid and returns (parent, group, session).
type Kin = (Option<u32>, Option<u32>, Option<u32>);

fn play(shapes: &[Shape], steps: &[Step]) -> HashMap<u32, Kin> {
    let mut tasks = HashMap::from([(shapes[0].id, (None, None, None))]);
    for step in steps {
        match *step {
            Step::Fork { by, child, sibling } => {
                let (parent, group, session) = tasks[&by];
                let parent = if sibling { parent } else { Some(by) };
                assert!(tasks.insert(child, (parent, group, session)).is_none(), "{child} twice");
            }
            Step::Setsid(task) => {
                let (_, group, _) = tasks[&task];
                assert_ne!(group, Some(task), "setsid by a group leader");
                assert!(tasks.values().all(|(_, group, _)| *group != Some(task)));
                let task_now = tasks.get_mut(&task).expect("exists");
                (task_now.1, task_now.2) = (Some(task), Some(task));
            }
            Step::Join { task, group } => {
                let session = tasks[&task].2;
                assert_ne!(session, Some(task), "a session leader stays in its group");
                let there = tasks.values().any(|(_, have, of)| *have == group && *of == session);
                assert!(group == Some(task) || there, "{task} joins {group:?}");
                tasks.get_mut(&task).expect("exists").1 = group;
            }
            Step::Remove { helper, parent } => {
                let (real, ..) = tasks.remove(&helper).expect("exists");
                assert_eq!(real, Some(parent));
                assert!(tasks.values().all(|(parent, ..)| *parent != Some(helper)));
            }
        }
    }
    tasks
}

fn shape(id: u32, parent: u32, group: u32, session: u32) -> Shape {
    let some = |number| (number != 0).then_some(number);
    Shape { id, parent: some(parent), group: some(group), session: some(session), zombie: false }
}

fn check(shapes: &[Shape]) -> Vec<Step> {
    let steps = steps(shapes).expect("buildable");
    let made = play(shapes, &steps);
    assert_eq!(made.len(), shapes.len(), "helpers remain: {made:?}");
    for shape in shapes {
        let wanted = (shape.parent, shape.group, shape.session);
        assert_eq!(made[&shape.id], wanted, "task {} by {steps:?}", shape.id);
    }
    steps
}

#[test]
fn a_lone_session_leader_needs_one_step() {
    assert_eq!(check(&[shape(10, 0, 10, 10)]), [Step::Setsid(10)]);
}

#[test]
fn children_of_the_old_session_are_born_before_setsid() {
    // 11 was born before its parent 12's setsid; 13 after it.
    check(&[
        shape(10, 0, 10, 10),
        shape(12, 10, 12, 12),
        shape(11, 12, 10, 10),
        shape(13, 12, 12, 12),
    ]);
    // A leader two generations down still passes the old session on.
    check(&[
        shape(10, 0, 10, 10),
        shape(20, 10, 20, 20),
        shape(30, 20, 30, 30),
        shape(31, 30, 10, 10),
        shape(32, 30, 20, 20).with_session(10, 10),
    ]);
}

impl Shape {
    fn with_session(self, group: u32, session: u32) -> Self {
        Self { group: Some(group), session: Some(session), ..self }
    }
}

#[test]
fn a_shell_pipeline_gets_its_groups_leader_first() {
    check(&[
        shape(10, 0, 10, 10),
        shape(20, 10, 20, 10),
        shape(21, 10, 20, 10),
        shape(22, 10, 20, 10),
        shape(30, 10, 31, 10),
        shape(31, 10, 31, 10),
    ]);
}

#[test]
fn a_shell_job_stays_in_the_session_of_the_restorer() {
    let steps = check(&[shape(10, 0, 0, 0), shape(11, 10, 0, 0), shape(12, 10, 12, 0)]);
    assert!(!steps.iter().any(|step| matches!(step, Step::Setsid(_))));
}

#[test]
fn orphans_are_born_of_a_sibling_in_their_session() {
    // 21 was a grandchild of the live session leader 20, reparented to the subreaper 10.
    let steps = check(&[shape(10, 0, 10, 10), shape(21, 10, 20, 20), shape(20, 10, 20, 20)]);
    assert!(steps.contains(&Step::Fork { by: 20, child: 21, sibling: true }), "{steps:?}");
}

#[test]
fn dead_leaders_are_stood_in_for() {
    // Session and group 20 have no leader any more; two daemons of it, one with a child.
    let steps = check(&[
        shape(10, 0, 10, 10),
        shape(21, 10, 20, 20),
        shape(22, 10, 20, 20),
        shape(23, 21, 20, 20),
    ]);
    assert_eq!(steps.last(), Some(&Step::Remove { helper: 20, parent: 10 }));
    // Group 30 alone.
    check(&[shape(10, 0, 10, 10), shape(31, 10, 30, 10), shape(32, 31, 30, 10)]);
    // A dead group leader within a dead session leader's session.
    check(&[shape(10, 0, 10, 10), shape(41, 10, 45, 40), shape(42, 10, 45, 40)]);
}

#[test]
fn a_leader_that_left_its_group_lends_its_number_first() {
    // 20 made group 20, 21 joined it, then 20 moved to group 10.
    check(&[shape(10, 0, 10, 10), shape(20, 10, 10, 10), shape(21, 10, 20, 10)]);
}

#[test]
fn what_cannot_be_made_is_refused_by_name() {
    let root = shape(10, 0, 10, 10);
    let refused = |shapes: &[Shape]| steps(shapes).expect_err("not buildable");
    assert_eq!(refused(&[root, root]), ShapeError::Twice { id: 10 });
    assert_eq!(
        refused(&[root, shape(12, 11, 10, 10)]),
        ShapeError::Parent { task: 12, parent: 11 }
    );
    let dead = Shape { zombie: true, ..shape(11, 10, 10, 10) };
    assert_eq!(
        refused(&[root, dead, shape(12, 11, 10, 10)]),
        ShapeError::Parent { task: 12, parent: 11 }
    );
    assert_eq!(
        refused(&[root, shape(11, 10, 10, 11)]),
        ShapeError::LeaderGroup { task: 11, group: 10 }
    );
    // Session 20 is led by a task that is neither ancestor nor sibling of 31.
    assert_eq!(
        refused(&[root, shape(11, 10, 10, 10), shape(20, 10, 20, 20), shape(31, 11, 20, 20)]),
        ShapeError::Session { task: 31, session: 20 }
    );
    assert_eq!(
        refused(&[root, shape(11, 10, 10, 10), shape(20, 10, 20, 20), shape(12, 10, 11, 20)]),
        ShapeError::Group { task: 12, group: 11 }
    );
}
