//! Rounds that are made when somebody asks for them: pre-dump, pre-dump, …, dump.
//!
//! One session is kept for all of them. The first round is made at once; then the tree runs, watched,
//! for as long as nobody asks; in the end it goes on like any other pre-copy.

use std::time::Duration;

use tokio::sync::{Mutex, mpsc, oneshot};

use crate::converge::Round;

/// What somebody asks for.
pub enum Ask {
    /// Another round; tell what it was.
    Round(oneshot::Sender<Made>),
    /// As many as it takes, and then the end.
    Finish,
}

/// A round that was made.
#[derive(Clone, Copy, Debug)]
pub struct Made {
    /// Counted from 1.
    pub number: usize,
    /// How it was.
    pub round: Round,
    /// How long the tree would stand still if it were stopped now.
    pub predicted: Duration,
}

/// Hears what is asked for.
pub struct Asks(Mutex<mpsc::Receiver<Ask>>);

/// More that are not answered yet wait.
const WAITING: usize = 8;

impl Asks {
    /// With whom to ask.
    pub fn pair() -> (mpsc::Sender<Ask>, Self) {
        let (asker, asks) = mpsc::channel(WAITING);
        (asker, Self(Mutex::new(asks)))
    }

    /// What is asked for next. May be given up and taken up again. If nobody is left to ask, it is
    /// the end.
    pub(crate) async fn next(&self) -> Ask {
        self.0.lock().await.recv().await.unwrap_or(Ask::Finish)
    }
}
