use netns_tests::*; use std::process::Command;
type Outcome = Result<(), Box<dyn std::error::Error>>;
#[test] fn a() -> Outcome { let lab=Lab::two_hosts()?; let p=Subject::new("heartbeat").start(&lab,lab.src())?; 
 for s in ["ls -l /proc/10000/fd; cat /proc/10000/fdinfo/*; cat /proc/10000/mountinfo", "cat /proc/self/mountinfo", "mkdir /run/qmig-lab/i; /opt/qmig-criu/sbin/criu dump -t 10000 -D /run/qmig-lab/i -v4 -o /dev/stdout | tail -150"] { let mut c=Command::new("sh"); c.args(["-c",s]); println!("{}", String::from_utf8_lossy(&lab.src().run(c)?.stdout)); } drop(p); Ok(()) }
