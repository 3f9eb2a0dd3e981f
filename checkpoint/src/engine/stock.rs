//! A stock CRIU as the engine.
//!
//! CRIU stops the tree, writes every image into memory, and asks whether the tree may die; that is all
//! that is wanted of it (see `standing`). It looks at its kernel first, for tens of milliseconds, which it
//! does while the destination is asked.

use std::cell::RefCell;

use criu::page_server::PageMaps;
use criu::{Connections, Container, Criu, DumpOptions, Dumping, Scratch};
use image::plan::{CHANGED_FILES, Plan, ROOT_FILES};
use tracee::HostPid;

use super::papers::Papers;
use super::standing::{self, ROOM};
use super::{Engine, Freezing, Still};
use crate::downtime::Downtime;
use crate::error::SurveyError;
use crate::failure::Cause;
use crate::files::{Files, Which};
use crate::rounds::Rounds;
use crate::survey::{self, SurveyOptions, TcpPolicy};

/// A CRIU of this host.
#[derive(Debug)]
pub struct Stock {
    criu: Criu,
    container: Option<Container>,
    /// Its root file system goes along.
    with_rootfs: bool,
    /// It waits for a word to begin.
    ready: RefCell<Option<Dumping<PageMaps>>>,
}

impl Stock {
    /// This one.
    pub fn new(criu: Criu) -> Self {
        Self { criu, container: None, with_rootfs: false, ready: RefCell::default() }
    }

    /// The same, as the servant of the runtime of a container.
    pub fn of_container(criu: Criu, container: Container) -> Self {
        let container = Some(container);
        Self { criu, container, with_rootfs: false, ready: RefCell::default() }
    }

    /// The same, and the container's root file system goes along.
    #[must_use]
    pub fn with_rootfs(self) -> Self {
        Self { with_rootfs: true, ..self }
    }
}

impl Engine for Stock {
    fn survey(&self, root: HostPid, options: &SurveyOptions) -> Result<Plan, SurveyError> {
        match &self.container {
            Some(container) => {
                let state = container.ask()?;
                let mut plan = survey::survey_container(root, (container, &state), options)?;
                let image = Some(state.image).filter(|image| !image.is_empty());
                plan.needs.extend(self.with_rootfs.then(|| ROOT_FILES.to_owned()));
                plan.needs.extend(image.map(|image| format!("{CHANGED_FILES}{image}")));
                Ok(plan)
            }
            None => survey::survey_for_criu(root, options),
        }
    }

    fn files(&self, root: HostPid) -> Result<Option<Files>, Cause> {
        let Some(container) = &self.container else { return Ok(None) };
        let state = container.ask()?;
        let (folder, which) = if self.with_rootfs {
            (criu::root_of(&state.bundle), Which::All)
        } else if container.is_kept() && !state.image.is_empty() {
            let mounted = container.mount()?;
            (mounted.folder().to_owned(), Which::Changed(container.clone(), Box::new(mounted)))
        } else {
            return Ok(None);
        };
        Ok(Some(Files::new(folder, which, root)))
    }

    fn pre_copies(&self) -> bool {
        false
    }

    /// If it cannot be started, it is started again, and that told, when there is something to do.
    fn get_ready(&self, root: HostPid, options: &SurveyOptions) {
        if self.container.is_none() {
            *self.ready.borrow_mut() = begin(&self.criu, None, asked(root, options)).ok();
        }
    }

    fn freeze<'a>(
        &'a self,
        root: HostPid,
        _: (&'a Plan, Option<&'a Rounds>),
        options: &'a SurveyOptions,
        downtime: &'a mut Downtime,
    ) -> Freezing<'a> {
        Box::pin(async move {
            let ready = self.ready.take();
            let papers = self.container.as_ref().map(Papers::of).transpose()?;
            let (criu, container) = (self.criu.clone(), self.container.clone());
            let asked = asked(root, options);
            let dump = move || {
                let dumping = match ready {
                    Some(ready) => ready,
                    None => begin(&criu, container.as_ref(), asked)?,
                };
                let (dumped, maps) = dumping.until_images()?;
                Ok((dumped, Some(maps)))
            };
            let (still, mut taken) = standing::stand(root, dump, downtime).await?;
            if let Some(papers) = papers {
                papers.lay(&still.images(), &mut taken.images)?;
            }
            Ok((Box::new(still) as Still, taken))
        })
    }
}

fn asked(root: HostPid, options: &SurveyOptions) -> DumpOptions {
    DumpOptions {
        root: root.0,
        shell_job: false,
        tcp: match options.tcp {
            TcpPolicy::Close => Connections::Closed,
            TcpPolicy::Keep => Connections::Kept,
            TcpPolicy::Refuse => Connections::Refused,
        },
        file_locks: true,
        ghost_limit: u32::try_from(options.ghost_limit.0).unwrap_or(u32::MAX),
    }
}

fn begin(
    criu: &Criu,
    container: Option<&Container>,
    asked: DumpOptions,
) -> criu::Result<Dumping<PageMaps>> {
    let images = Scratch::new(ROOM.saturating_add(asked.ghost_limit.into()))?;
    criu.dump(container, asked, images, PageMaps::default())
}
