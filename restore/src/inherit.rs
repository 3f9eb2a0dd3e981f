//! Receives the pages that several processes of a tree are born with, ahead of all others.

use image::Heritage;
use image::heritage::HERITAGE;
use image::state::Checkpoint;
use pages::PageCount;
use transport::quic::{DestinationLink, Incoming};
use transport::session::destination::Building;
use transport::stop::Stop;
use transport::wire::SpaceTotal;

use crate::build::Trunk;
use crate::failure::Cause;
use crate::fill::{Fill, HANDFUL};
use crate::gather::Gathered;
use crate::skeleton::BuildOptions;

/// The first process with those pages; `None` if the tree has none in common. The stream goes on
/// with all other pages.
pub(crate) async fn inherit(
    link: &DestinationLink,
    building: &Building,
    gathered: &mut Gathered,
    options: BuildOptions,
    stop: &mut Stop,
) -> Result<Option<Trunk>, Cause> {
    let Some(told) = gathered.images.get(HERITAGE) else { return Ok(None) };
    let checkpoint = Checkpoint::from_images(&gathered.images)?;
    let heritage = Heritage::from_bytes(told, &checkpoint)?;
    let mut trunk = Trunk::plant(checkpoint, heritage, options)?;
    let roaming = trunk.roam()?;
    let (space, sent) = trunk.due();
    let totals = [SpaceTotal { space, sent, owed: PageCount(0) }];
    let (door, mut fill) = Fill::start(&totals, [(space, trunk.sink()?)].into());
    let begun = gathered.bulk.take();
    let pouring = async move {
        let mut pages = match begun {
            Some(pages) => pages,
            None => match link.next_lane().await? {
                Incoming::Bulk(pages) => pages,
                _ => return Err(Cause::UnexpectedLane),
            },
        };
        let mut due = sent;
        while due.0 > 0 {
            let handful = pages.next_handful(due.min(HANDFUL)).await?;
            let taken: PageCount = handful.iter().map(|(run, _)| run.range().count()).sum();
            due = PageCount(due.0.saturating_sub(taken.0));
            if taken.0 == 0 || !door.give(handful).await {
                break; // at the end, or the fill itself says why
            }
        }
        drop(door);
        fill.finished().await?;
        Ok(pages)
    };
    let pages = tokio::select! {
        pages = pouring => pages?,
        message = link.recv() => return Err(Cause::PeerAborted(building.receive(message?)?)),
        () = stop.ended() => return Err(Cause::Interrupted),
    };
    gathered.bulk = Some(pages);
    drop(roaming);
    Ok(Some(trunk))
}
