//! Semaphores and message queues of System V: they belong to the host, and nothing but the number of
//! whoever used one last tells whose they are.

use std::fs;

use super::refusals::Trouble;

/// A set of semaphores or a message queue, from its line under /proc/sysvipc (proc_sysvipc(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Object {
    what: &'static str,
    remove: &'static str,
    key: i32,
    id: i32,
    /// Who used it, each process once.
    users: Vec<i32>,
}

/// Refuses what a process of the tree used last; with the number of that process.
pub(crate) fn troubles(member: impl Fn(i32) -> bool) -> Vec<(Trouble, i32)> {
    let text = |file| fs::read_to_string(format!("/proc/sysvipc/{file}")).unwrap_or_default();
    let asked = |id, count| (0..count).filter_map(move |at| tracee::host::semaphore_user(id, at));
    let mut all = semaphores(&text("sem"), |id, count| asked(id, count).collect());
    all.extend(queues(&text("msg")));
    all.iter().filter_map(|object| judge(object, &member)).collect()
}

fn judge(object: &Object, member: impl Fn(i32) -> bool) -> Option<(Trouble, i32)> {
    let user = *object.users.iter().find(|user| member(**user))?;
    let place = format!("System V {} {} (key {:#x})", object.what, object.id, object.key);
    let others = object.users.iter().find(|user| !member(**user) && **user != 0);
    let reason = match others {
        Some(other) => format!("the tree uses it, and so does process {other} outside of it"),
        None => "the tree uses it; it belongs to the host and would stay behind".to_owned(),
    };
    Some((Trouble::new(place, reason).but(object.remove), user))
}

/// `key semid perms nsems …`; `users` asks who used each of a set.
fn semaphores(text: &str, users: impl Fn(i32, u32) -> Vec<i32>) -> Vec<Object> {
    let set = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let (key, id) = (words.first()?.parse().ok()?, words.get(1)?.parse().ok()?);
        let count = words.get(3)?.parse().ok()?;
        let remove = "remove it if nobody needs it any more (ipcrm -s)";
        Some(Object { what: "semaphores", remove, key, id, users: users(id, count) })
    };
    text.lines().skip(1).filter_map(set).collect()
}

/// `key msqid perms cbytes qnum lspid lrpid …`.
fn queues(text: &str) -> Vec<Object> {
    let queue = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let number = |at: usize| words.get(at)?.parse().ok();
        let remove = "remove it if nobody needs it any more (ipcrm -q)";
        let users = vec![number(5)?, number(6)?];
        Some(Object { what: "message queue", remove, key: number(0)?, id: number(1)?, users })
    };
    text.lines().skip(1).filter_map(queue).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_used_one_last_is_asked() {
        let sets = semaphores("heads\n 4711 3 600 2 0 0 0 0 0 0\n", |id, count| {
            vec![id, 70, count.cast_signed()]
        });
        assert_eq!((sets[0].key, sets[0].id, &sets[0].users[..]), (4711, 3, &[3, 70, 2][..]));
        let queue = queues("heads\n 5 1 600 9 1 70 80 0 0 0 0 0 0 0\n").remove(0);
        let told = |members: &[i32]| judge(&queue, |pid| members.contains(&pid));
        assert_eq!(told(&[]), None);
        let (trouble, user) = told(&[80]).expect("refused");
        assert_eq!((user, trouble.place.as_str()), (80, "System V message queue 1 (key 0x5)"));
        assert!(trouble.reason.contains("process 70 outside"), "{trouble:?}");
        let (trouble, user) = told(&[70, 80]).expect("refused");
        assert!(user == 70 && trouble.reason.contains("stay behind"), "{trouble:?}");
    }
}
