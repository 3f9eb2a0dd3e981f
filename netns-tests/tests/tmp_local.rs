use netns_tests::programs::*; use netns_tests::*; use std::time::Duration;
type Outcome = Result<(), Box<dyn std::error::Error>>;
const SOON: Duration = Duration::from_secs(30);
#[test] fn redis() -> Outcome { rounds(|lab| { let src=lab.src();
 let t=std::time::Instant::now();
 let r=Redis::start(lab,src,10000)?; r.fill(src,200_000)?; println!("filled {:?}",t.elapsed());
 println!("{} {}", r.ask(lab.dst(),src,&["DBSIZE"])?, r.ask(src,src,&["DEBUG","DIGEST"])?);
 let c=r.busy(lab.dst(),src,0)?; let a=c.acknowledged()?; println!("{a} {}", r.hits(src,src)?);
 println!("{}", r.info(src,src,"run_id")?);
 println!("{}",r.ask(src,src,&["SAVE"])?); println!("{}",r.ask(src,src,&["DEBUG","RELOAD"])?);
 println!("{:?}", r.ask(src,src,&["SHUTDOWN","NOSAVE"])); r.running().wait(SOON)?; Ok(()) }) }
#[test] fn nginx() -> Outcome { rounds(|lab| { let src=lab.src(); let n=Nginx::start(lab,src,10000,"first")?; println!("{:?} {:?}",n.workers(src), src.pids()); n.reload(src,n.running(),"second")?; src.signal(n.pid(), nix::sys::signal::Signal::SIGQUIT)?; println!("{:?}", n.running().wait(SOON)?); Ok(()) }) }
#[test] fn sqlite() -> Outcome { rounds(|lab| { for locks in [true,false] { let t=Transaction::start(lab,lab.src(),10000,locks)?; println!("{:?}", lab.src().pids()); t.commit(lab.src(), t.running())?; } Ok(()) }) }
#[test] fn pipe() -> Outcome { rounds(|lab| { for leader in [true,false] { let p=Pipeline::start(lab,lab.src(),10000,leader)?; println!("{} {:?}", p.pid(), lab.src().pids()); let mut ps=std::process::Command::new("ps"); ps.args(["-eo","pid,ppid,pgid,sid,tty,comm"]); println!("{}", String::from_utf8_lossy(&lab.src().run(ps)?.stdout)); p.end()?; println!("{:?}", p.terminal().wait(SOON)?); println!("{:?}", counted([p.terminal(), p.terminal()])); } Ok(()) }) }
#[test] fn python() -> Outcome { rounds(|lab| { let p=Subject::python("children").start(lab,lab.src())?; println!("{:?}", lab.src().pids());println!("{}", p.ask(lab.src())?); Ok(()) }) }
#[test] fn python_bad() -> Outcome { rounds(|lab| { let p=Subject::python("children").sabotaged().start(lab,lab.src())?; println!("{}", p.ask(lab.src())?); Ok(()) }) }
#[test] fn java() -> Outcome { rounds(|lab| { let p=Subject::java("Threads").start(lab,lab.src())?; println!("{:?}", lab.src().pids());println!("{}", p.ask(lab.src())?); Ok(()) }) }
#[test] fn java_bad() -> Outcome { rounds(|lab| { let p=Subject::java("Threads").sabotaged().start(lab,lab.src())?; println!("{}", p.ask(lab.src())?); Ok(()) }) }
#[test] fn held() -> Outcome { rounds(|lab| { let f=lab.src().scratch().join("x"); std::fs::write(lab.src().path(&f),"hi")?; let p=Subject::new("heartbeat").holding(&f).start(lab,lab.src())?; println!("{:?}", std::fs::read_link(lab.src().path("/proc/10000/fd/9"))); println!("{}", p.ask(lab.src())?); Ok(()) }) }
#[test] fn criu() -> Outcome { rounds(|lab| { let c=Criu::installed().unwrap(); println!("{}", c.version()?);
 let d=lab.src().scratch().join("i"); let e=lab.dst().scratch().join("i"); std::fs::create_dir(lab.src().path(&d))?; std::fs::create_dir(lab.dst().path(&e))?;
 let p=Subject::new("filler").start(lab,lab.src())?; c.dump(lab.src(),p.pid(),&d,None)?; 
 for f in std::fs::read_dir(lab.src().path(&d))? { let f=f?; std::fs::copy(f.path(), lab.dst().path(&e).join(f.file_name()))?; }
 c.restore(lab.dst(),&e)?; println!("{}", p.ask_orphan(lab.dst(),p.pid())?);
 for tls in [None, Some(TlsKeys::make(lab,"k","10.77.0.2")?)] { 
   let (d,e)=(lab.src().scratch().join(format!("p{}",tls.is_some())),lab.dst().scratch().join(format!("p{}",tls.is_some()))); std::fs::create_dir(lab.src().path(&d))?; std::fs::create_dir(lab.dst().path(&e))?;
   let p=Subject::new("filler").start(lab,lab.src())?; let s=c.page_server(lab,&e,tls.as_ref())?; let t=std::time::Instant::now(); c.dump(lab.src(),p.pid(),&d,Some(("10.77.0.2",tls.as_ref())))?; println!("dump {:?}",t.elapsed()); s.wait(SOON)?;
 for f in std::fs::read_dir(lab.src().path(&d))? { let f=f?; std::fs::copy(f.path(), lab.dst().path(&e).join(f.file_name()))?; }
 c.restore(lab.dst(),&e)?; println!("{}", p.ask_orphan(lab.dst(),p.pid())?);
 }
 Ok(()) }) }
