//! Pages arrive while the program still runs elsewhere, straight into the memory it will have here.
//!
//! ```text
//!  Manifest, images (─▶ a trunk ─▶ common pages ─▶ Progress) ─▶ a skeleton ─▶ { outline ─▶ room ─▶ pages ─▶ Progress ─▶ RoundEnd }… ─▶ Freezing
//! ```
//!
//! What comes in a round is in the order of its parts, though not of its streams: room is made before
//! a page is written, and the next round begins only when every page of this one is in place. So the
//! newest version of a page is always the last that is written.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use image::Heritage;
use image::heritage::HERITAGE;
use image::kept::Extent;
use image::outline::{LONGEST_OUTLINE, OUTLINE, Outline};
use image::state::Checkpoint;
use image::{ImageSetBuilder, Limits};
use pages::{ByteCount, PageCount, SpaceId};
use tokio::task::JoinSet;
use tracee::chaos;
use transport::event::{Event, Watch};
use transport::quic::{DestinationLink, Incoming, LinkError, PageReceiver};
use transport::session::destination::{AfterFilling, Checked, Filling};
use transport::stop::Stop;
use transport::wire::{Control, Manifest, Progress, SpaceTotal};

use crate::build::{Built, Grown, Sink, Trunk};
use crate::failure::Cause;
use crate::fill::{Fill, FillDoor, HANDFUL};
use crate::gather::complete;
use crate::skeleton::{BuildOptions, Skeleton};

/// A tree that has most of its pages, and what it was when it was made.
pub struct Early {
    grown: Grown,
    checkpoint: Checkpoint,
}

/// For no longer than this the program is kept waiting for its own clock.
const CLOCK_PATIENCE: Duration = Duration::from_secs(1);

impl Early {
    /// What was built early, as what the program has become; or all anew, if it is another tree by
    /// now: then the source sends everything again.
    pub(crate) fn into_built(
        self,
        from: &Checkpoint,
        options: BuildOptions,
    ) -> Result<Built, crate::Error> {
        if from.same_tree(&self.checkpoint) {
            let (begun, since) = (self.checkpoint.clocks.monotonic, self.grown.clocks_set());
            let built = self.grown.complete(from)?;
            // Its clock began to go here a moment after it was told, which a standstill makes up for,
            // unless it is shorter than the way of one message. A clock must never go back.
            let here = begun + since.elapsed();
            let behind = from.clocks.monotonic.saturating_sub(here);
            std::thread::sleep(behind.min(CLOCK_PATIENCE));
            return Ok(built);
        }
        drop(self);
        Skeleton::create(from, options)?.build(from)
    }
}

/// Takes rounds in until the program stands still; there may be none.
pub(crate) async fn rounds(
    link: &DestinationLink,
    checked: Checked,
    (options, extent): (BuildOptions, Extent),
    stop: &mut Stop,
    watch: &mut dyn Watch,
) -> Result<(Filling, Option<Early>), Cause> {
    let (mut filling, manifest) = match checked.receive(hear(link, stop).await?)? {
        AfterFilling::Outline(filling, manifest) => (filling, manifest),
        AfterFilling::Freezing(filling) => return Ok((filling, None)),
        AfterFilling::Aborted(abort) => return Err(Cause::PeerAborted(abort)),
        _ => return Err(Cause::UnexpectedLane),
    };
    let told = Instant::now();
    let images = receive_images(link, &filling, &manifest, stop).await?;
    let images = complete(images, &manifest)?;
    let mut checkpoint = Checkpoint::from_images(&images)?;
    let made = Instant::now();
    checkpoint.clocks.monotonic += made - told;
    checkpoint.clocks.boottime += made - told;
    let mut installed = PageCount(0);
    let (grown, checkpoint) = match images.get(HERITAGE) {
        None => (Skeleton::create_growing(&checkpoint, options)?.grow(extent), checkpoint),
        Some(told) => {
            let heritage = Heritage::from_bytes(told, &checkpoint)?;
            let mut trunk = Trunk::plant_growing(checkpoint, heritage, options)?;
            installed = common(link, &filling, &mut trunk, stop, watch).await?;
            let grown = trunk.into_grown(extent)?;
            link.send(&filling.progress(progress(installed))).await?;
            grown
        }
    };
    let mut early = Early { grown, checkpoint };
    chaos::point("destination:outlined")?;
    for number in 1_u64.. {
        installed = installed + round(link, &filling, &mut early, number, stop, watch).await?;
        link.send(&filling.progress(progress(installed))).await?;
        chaos::point("destination:round")?;
        filling = match filling.receive(hear(link, stop).await?)? {
            AfterFilling::RoundEnd(filling, _) => filling,
            AfterFilling::Freezing(filling) => return Ok((filling, Some(early))),
            AfterFilling::Aborted(abort) => return Err(Cause::PeerAborted(abort)),
            AfterFilling::Outline(..) | AfterFilling::Manifest(..) => {
                return Err(Cause::UnexpectedLane);
            }
        };
    }
    unreachable!("rounds have no last number")
}

fn progress(installed: PageCount) -> Progress {
    Progress { pages: installed, bytes: installed.bytes() }
}

/// Pages that several processes are born with; tells how many.
async fn common(
    link: &DestinationLink,
    filling: &Filling,
    trunk: &mut Trunk,
    stop: &mut Stop,
    watch: &mut dyn Watch,
) -> Result<PageCount, Cause> {
    let roaming = trunk.roam()?;
    let (space, sent) = trunk.due();
    let totals = [SpaceTotal { space, sent, owed: PageCount(0) }];
    let sinks = [(space, trunk.sink()?)].into();
    receive(link, filling, (&totals, sinks, None), stop, watch).await?;
    drop(roaming);
    Ok(sent)
}

async fn receive_images(
    link: &DestinationLink,
    filling: &Filling,
    manifest: &Manifest,
    stop: &mut Stop,
) -> Result<ImageSetBuilder, Cause> {
    let mut images = ImageSetBuilder::new(Limits::default());
    while images.len() < manifest.blobs().len() {
        let reading = async {
            match link.next_lane().await? {
                Incoming::Blob(blob) => {
                    let name = blob.name().clone();
                    let bytes = blob.read_all(ByteCount(images.room())).await?;
                    Ok::<_, Cause>((name, bytes))
                }
                _ => Err(Cause::UnexpectedLane),
            }
        };
        let (name, bytes) = tokio::select! {
            read = reading => read?,
            message = hear(link, stop) => return Err(only_abort(filling, message?)),
        };
        images.insert(name.as_str(), bytes)?;
    }
    Ok(images)
}

/// One round; tells how many pages it brought.
async fn round(
    link: &DestinationLink,
    filling: &Filling,
    early: &mut Early,
    number: u64,
    stop: &mut Stop,
    watch: &mut dyn Watch,
) -> Result<PageCount, Cause> {
    let mut bulk = None;
    let outline = tokio::select! {
        outline = read_outline(link, number, &mut bulk) => outline?,
        message = hear(link, stop) => return Err(only_abort(filling, message?)),
    };
    let mut totals = Vec::new();
    for space in &outline.spaces {
        early.grown.make_room(space.task, &space.room, &space.beside)?;
        early.grown.forget(space.task, &space.stale)?;
        let (space, sent) = (SpaceId::Process(space.task), space.pages);
        totals.push(SpaceTotal { space, sent, owed: PageCount(0) });
    }
    for object in &outline.shared {
        early.grown.make_object(object.id, &early.checkpoint)?;
        let (space, sent) = (SpaceId::Shared(object.id), object.pages);
        totals.push(SpaceTotal { space, sent, owed: PageCount(0) });
    }
    let total: PageCount = totals.iter().map(|total| total.sent).sum();
    if total.0 == 0 {
        return Ok(total);
    }
    let roaming = early.grown.roam()?;
    let sinks = totals.iter().map(|total| Ok((total.space, early.grown.sink(total.space)?)));
    let sinks = sinks.collect::<Result<HashMap<_, _>, crate::Error>>()?;
    receive(link, filling, (&totals, sinks, bulk), stop, watch).await?;
    drop(roaming);
    Ok(total)
}

/// All these pages, which come on one stream; it may have begun.
async fn receive(
    link: &DestinationLink,
    filling: &Filling,
    (totals, sinks, bulk): (&[SpaceTotal], HashMap<SpaceId, Sink>, Option<PageReceiver>),
    stop: &mut Stop,
    watch: &mut dyn Watch,
) -> Result<(), Cause> {
    let total: PageCount = totals.iter().map(|total| total.sent).sum();
    let (door, mut fill) = Fill::start(totals, sinks);
    let mut streams = JoinSet::new();
    if let Some(pages) = bulk {
        streams.spawn(pour(pages, door.clone()));
    }
    let counted = fill.installed();
    let mut tell = tokio::time::interval(crate::destination::TELL_EVERY);
    loop {
        tokio::select! {
            filled = fill.finished() => {
                filled?;
                break;
            }
            lane = link.next_lane() => match lane? {
                Incoming::Bulk(pages) if streams.is_empty() => {
                    streams.spawn(pour(pages, door.clone()));
                }
                _ => return Err(Cause::UnexpectedLane),
            },
            message = hear(link, stop) => return Err(only_abort(filling, message?)),
            _ = tell.tick() => {
                let done = counted.load(Ordering::Relaxed);
                watch.event(Event::Pages { done, total: total.0 });
            }
        }
    }
    // To its end, so that it never looks as if we had lost interest.
    while streams.join_next().await.is_some() {}
    Ok(())
}

/// The outline of round `number`; a stream of pages that begins before it is kept.
async fn read_outline(
    link: &DestinationLink,
    number: u64,
    bulk: &mut Option<PageReceiver>,
) -> Result<Outline, Cause> {
    loop {
        match link.next_lane().await? {
            Incoming::Blob(blob) if blob.name().as_str() == format!("{OUTLINE}{number}") => {
                let bytes = blob.read_all(ByteCount(LONGEST_OUTLINE as u64)).await?;
                return Ok(Outline::from_bytes(&bytes)?);
            }
            Incoming::Bulk(pages) if bulk.is_none() => *bulk = Some(pages),
            _ => return Err(Cause::UnexpectedLane),
        }
    }
}

async fn pour(mut pages: PageReceiver, door: FillDoor) -> Result<(), LinkError> {
    loop {
        let handful = pages.next_handful(HANDFUL).await?;
        if handful.is_empty() || !door.give(handful).await {
            return Ok(()); // at the end, or the fill itself says why
        }
    }
}

/// In the middle of a round the source has nothing to say but that it stops.
fn only_abort(filling: &Filling, message: Control) -> Cause {
    match filling.only_abort(message) {
        Ok(abort) => Cause::PeerAborted(abort),
        Err(wrong) => wrong.into(),
    }
}

async fn hear(link: &DestinationLink, stop: &mut Stop) -> Result<Control, Cause> {
    tokio::select! {
        message = link.recv() => Ok(message?),
        () = stop.ended() => Err(Cause::Interrupted),
    }
}
