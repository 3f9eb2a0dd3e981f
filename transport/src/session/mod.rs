//! Who may say what, when. No sockets, no clock: messages go in and come out, time is an argument.
//!
//! ```text
//!            source                                        destination
//!            ──────                                        ───────────
//!            Offering      Hello ───────────────────────▶  Answering
//!            Greeted       ◀─────────── HelloReply/Refuse  Greeted
//!                          plan (a blob) ───────────────▶
//!            Agreed        ◀──────────────── Ready/Refuse  Checked
//!            Precopy       Manifest, blobs (once) ──────▶  Filling
//!                          pages, RoundEnd ─────────────▶
//!            Frozen<G>     Freezing, pages, blobs ──────▶
//!                          Manifest ────────────────────▶  Building
//!                          ◀────────────────────── Staged  Staged<G>
//!  ══ the one-way door ═══════════════════════════════════════════════════════════
//!            Committed<G>  Handoff ─────────────────────▶  Entrusted<G>
//!            Serving<G>    ◀───────────────────── Running  Running
//!            Finished<G>   ◀───────────────────── Drained  Draining, Finished
//! ```
//!
//! A state is a struct, and moving on consumes it: a round cannot start after [`source::Agreed`]
//! was frozen, because no value is left that has the method. `G` is *the right to run*: on the
//! source the proof that every thread is stopped, on the destination the built tree. The session
//! never looks into it; it only decides who holds it and who gets it back.
//!
//! # Who runs: why one message cannot be enough, and what we do
//!
//! Exactly one host may run the program. At some moment the right must cross a network that can
//! swallow any message, and no number of acknowledgements makes both ends certain at the same time:
//! whoever sends the last message never knows that it arrived (the two generals). So there is
//! always a moment when an end does not know. The obvious answers differ in what they do in it:
//!
//! - *The source resumes when it hears nothing for a while.* Then a slow answer is a second copy:
//!   two programs write to the same database. Silence is not a "no".
//! - *The destination starts as soon as it is ready, and tells the source.* The same, mirrored: the
//!   source may have given up and resumed a moment before.
//! - *Whoever fails first kills its copy.* Then a cut cable can kill both, and the program is gone.
//! - *A third machine decides.* Then it must be reachable, and migration is a cluster.
//!
//! We give up certainty where it costs least. The order of preference is: never two; before
//! hand-off never none; after hand-off perhaps none *for a while*, until a link exists again.
//!
//! 1. **Before [`Handoff`](crate::wire::Control::Handoff) the source decides alone.** The
//!    destination may not run, whatever it suspects. So the source may resume at any time without
//!    asking: a lost link simply ends in [`source::Frozen::abort`], which gives `G` back.
//! 2. **Sending it is the door.** [`source::Frozen::commit`] needs a [`source::StagedProof`], which
//!    only a decoded `Staged` message yields, so there was someone able to receive. From here on
//!    the *destination* decides alone, and the source may not resume, whatever it suspects.
//! 3. **The destination decides once.** The first of three events moves it out of
//!    [`destination::Staged`], irrevocably: the hand-off arrives ([`destination::Entrusted`]), the
//!    source asks for the right back (`Release`), or the link stays lost for longer than the grace
//!    time. In the latter two it destroys its tree *first*, and only then does a value exist
//!    ([`destination::Gone`]) that can say `Released`.
//! 4. **The source asks until it is told.** With the link lost after hand-off it keeps its stopped
//!    copy, connects again and says `Resume`. `Staged` means: not arrived, and the source may
//!    repeat the hand-off or ask for the right back. `Running` means it has moved. `Released` means
//!    that the other copy does not exist any more: this, said by the destination, is the only thing
//!    that turns a [`source::Committed`] back into a right to run. "No such session" is not an
//!    answer: a restarted destination cannot know what its forerunner started.
//!
//! Messages of an old link that arrive late change nothing, because each question is answered by
//! the destination's one state: a `Handoff` that reaches [`destination::Gone`] is answered
//! `Released`, a `Release` that reaches [`destination::Running`] is answered `Running`. That is why
//! repeating either is safe, and why the source may change its mind between them.
//!
//! What remains is the source whose destination never answers again. It is *stranded*: it keeps the
//! stopped copy, says truthfully that it does not know, and leaves the decision to a person
//! ([`source::Committed::give_up`]). No clever rule can do better; rule 4 makes it rare.

/// States that hold a tree, or the right to run one, print their names only.
macro_rules! debug_as_name {
    ($($state:ident $name:literal),*) => {$(
        impl<G> std::fmt::Debug for $state<G> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str($name)
            }
        }
    )*};
}

pub mod destination;
pub mod report;
pub mod source;

#[cfg(test)]
mod tests;

use crate::error::{Kinds, PeerMisbehaved};
use crate::wire::{Control, Kind};

pub use report::{Outcome, Part, Parts, Report, RunsOn};

fn out_of_turn(state: &'static str, allowed: &'static [Kind], got: &Control) -> PeerMisbehaved {
    PeerMisbehaved::OutOfTurn { state, expected: Kinds(allowed), got: got.kind() }
}
