//! The course of one exercise: traffic flows, a fault comes, is known, goes, everybody hears again, and the books are
//! closed.
//!
//! Owns the waits. Must never begin while the effects of the exercise before last.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::judge::{Evidence, judge};
use super::{Exercise, Spell, Trouble, fault};
use crate::drill::report::{Outcome, Tally};
use crate::drill::scrape::{Numbers, Scrape};
use crate::drill::stage::Stage;
use crate::drill::witnesses::{Books, Mark};
use crate::drill::{GLANCE, until};

/// Numbers that everybody has heard before a fault comes.
const WARM: Mark = Mark { plain: 50, log: 10 };
/// How long all is well before a fault comes: a link that broke sooner than `retry_max` (2 s) after it was established
/// waits longer before it is dialled again, and what comes alone is to be measured.
const CALM: Duration = Duration::from_millis(2500);
/// How long it may take until everybody hears before any fault.
const FLOW: Duration = Duration::from_secs(10);
/// How long anything else may take before the drill gives it up. Waits after a refusal are up to 10 s.
const PATIENCE: Duration = Duration::from_secs(45);
/// Between two looks at the metrics.
const LOOK: Duration = Duration::from_millis(20);

/// How everything stood when an exercise began.
struct Start {
    numbers: Numbers,
    published: Mark,
    books: Books,
}

/// Does it.
pub(super) async fn run(
    exercise: Exercise,
    stage: &mut Stage,
    mut outcome: Outcome,
) -> Result<Outcome, Trouble> {
    let start = begin(stage).await?;
    flow(exercise, stage).await?;
    stage.watch.begin();
    let spell = fault::bring(exercise, stage).await;
    // Whatever went wrong: what was changed is undone before anything else.
    let restored = stage.restore.carry_out().await;
    let spell = match (spell, restored) {
        (Ok(spell), Ok(())) => spell,
        (Err(trouble), _) => return give_up(stage, &start, trouble).await,
        (_, Err(why)) => return give_up(stage, &start, Trouble::Wrong(why)).await,
    };
    let settled = settle(stage, spell.back).await;
    let last = rest(stage).await?;
    if exercise != Exercise::Steady {
        time(stage, &spell, &mut outcome);
    }
    close(stage, &start, last, &mut outcome).await?;
    let evidence = Evidence {
        before: start.numbers,
        during: spell.during,
        after: Scrape::take(&mut stage.client).await.map(|scrape| scrape.numbers()),
        seen: stage.watch.seen(),
        last: stage.watch.last(),
        settled,
        ended: stage.witnesses.ended(&start.books),
    };
    judge(exercise, &evidence, &mut outcome);
    Ok(outcome)
}

/// Leaves a place for the next exercise in which nobody publishes, and nothing is owed.
async fn give_up(stage: &mut Stage, start: &Start, trouble: Trouble) -> Result<Outcome, Trouble> {
    until(PATIENCE, GLANCE, || stage.watch.last().is_well() && stage.witnesses.are_there()).await;
    let last = rest(stage).await?;
    stage.witnesses.close(&start.books, start.published, last);
    Err(trouble)
}

/// Everything as it stands, while nobody publishes.
async fn begin(stage: &mut Stage) -> Result<Start, Trouble> {
    let numbers = Scrape::take(&mut stage.client).await?.numbers();
    Ok(Start { numbers, published: stage.published(), books: stage.witnesses.books() })
}

/// Lets the publishers go, until everybody has heard a little, and all has been well for a while.
async fn flow(exercise: Exercise, stage: &Stage) -> Result<(), Trouble> {
    let began = Instant::now();
    let Mark { plain, log } = stage.published();
    let mark = Mark { plain: plain + WARM.plain, log: log + WARM.log };
    stage.plain.go();
    if let Some(log) = &stage.log {
        log.go();
    }
    if !until(FLOW, GLANCE, || stage.witnesses.have(mark)).await {
        let deaf = stage.witnesses.behind(mark);
        return Err(Trouble::Wrong(format!(
            "what is published is not heard before any fault, by {deaf}: does the gateway listen to this Redis, on {}?",
            stage.channel
        )));
    }
    if exercise != Exercise::Steady {
        tokio::time::sleep_until(began + CALM).await;
    }
    Ok(())
}

/// Waits until everything is well and everybody hears; what is missing.
async fn settle(stage: &mut Stage, back: Instant) -> Option<String> {
    let mark = Mark { plain: 0, log: stage.published().log + 2 * u64::from(stage.log.is_some()) };
    let hear = || stage.witnesses.heard_after(back).is_some() && stage.witnesses.have(mark);
    let all_well = || stage.watch.last().is_well() && stage.witnesses.are_there() && hear();
    if !until(PATIENCE, GLANCE, all_well).await {
        let (said, deaf) = (stage.watch.last().said(), stage.witnesses.behind(stage.published()));
        return Some(format!("{PATIENCE:?} later: {said}; behind: {deaf}"));
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let missing = match Scrape::take(&mut stage.client).await.map(|scrape| scrape.numbers()) {
            Ok(Numbers { wanted, confirmed, up, .. }) if wanted == confirmed && up == 1.0 => return None,
            Ok(Numbers { wanted, confirmed, .. }) => {
                format!("{confirmed} of {wanted} subscriptions confirmed")
            }
            Err(why) => why,
        };
        if Instant::now() > deadline {
            return Some(format!("{PATIENCE:?} later: {missing}"));
        }
        sleep(LOOK).await;
    }
}

/// Ends the traffic, and waits until the last number has come; the last numbers.
async fn rest(stage: &mut Stage) -> Result<Mark, Trouble> {
    let plain = stage.plain.rest(PATIENCE).await?;
    let log = match &mut stage.log {
        Some(log) => log.rest(PATIENCE).await?,
        None => 0,
    };
    let last = Mark { plain, log };
    // What does not come is lost, and is counted so.
    until(FLOW, GLANCE, || stage.witnesses.have(last)).await;
    Ok(last)
}

fn time(stage: &Stage, spell: &Spell, outcome: &mut Outcome) {
    let known = stage.watch.seen().known;
    outcome.known = known.map(|known| known.saturating_duration_since(spell.fault));
    (outcome.heard, outcome.heard_by_all) = stage.witnesses.heard_after(spell.back).unzip();
}

/// Closes the books.
async fn close(stage: &mut Stage, start: &Start, last: Mark, outcome: &mut Outcome) -> Result<(), Trouble> {
    outcome.accounts = stage.witnesses.close(&start.books, start.published, last);
    let tallies = outcome.accounts.iter().map(|account| account.tally);
    outcome.total = tallies.fold(Tally::default(), Tally::plus);
    if stage.crowd.channels() > 0 {
        let redis = stage.redis();
        outcome.crowd = Some(stage.crowd.hear(&redis, PATIENCE).await?);
    }
    Ok(())
}
