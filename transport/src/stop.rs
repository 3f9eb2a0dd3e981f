//! Being asked to stop: Ctrl-C or SIGTERM, seen by every wait.

use tokio::sync::watch;

/// What a person wants of a running migration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// That it goes on.
    #[default]
    GoOn,
    /// That it ends: roll back where that is possible, let go where it is not.
    End,
    /// After the hand-over only: that the stopped copy on the source runs again, because the person
    /// knows that nothing runs on the destination.
    TakeBack,
}

/// Hears the wish.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<Wish>);

/// Says it.
pub type Stopper = watch::Sender<Wish>;

impl Stop {
    /// A pair; nothing is wished yet.
    pub fn pair() -> (Stopper, Self) {
        let (sender, receiver) = watch::channel(Wish::GoOn);
        (sender, Self(receiver))
    }

    /// Nobody will ever wish anything.
    pub fn never() -> Self {
        Self::pair().1
    }

    /// Waits for a wish that was not heard yet.
    pub async fn next_wish(&mut self) -> Wish {
        match self.0.changed().await {
            Ok(()) => *self.0.borrow_and_update(),
            Err(_) => std::future::pending().await, // nobody is left to wish anything
        }
    }

    /// Waits until the end is wished. Before the hand-over there is nothing to take back.
    pub async fn ended(&mut self) {
        if self.0.wait_for(|wish| *wish == Wish::End).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
